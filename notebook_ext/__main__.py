"""`python -m notebook_ext`: the command line, by the interpreter that is asked."""

from notebook_ext.cli import main

main(prog_name="notebook-ext")
