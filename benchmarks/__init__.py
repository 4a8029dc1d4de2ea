"""Side by side with peers: the same work on every system, in one run, on one machine.

`python -m benchmarks` measures calls and maps (see `benchmarks.__main__`), `python -m
benchmarks.footprint` what the system costs at rest and at its start. Nothing here is imported by
the packages that ship.
"""
