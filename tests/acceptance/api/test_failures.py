"""API.md section 4: what the caller sees when something fails, line by line."""

from __future__ import annotations

from pathlib import Path

import pytest

from notebook_ext import exception
from tests.acceptance.api.surfaces import Lines

ORIGINAL = """
class MyError(Exception):
    def __init__(self, code, *, hint):
        super().__init__(code)
        self.code, self.hint = code, hint

@app.function
def fails(how):
    if how == 'own':
        raise MyError(7, hint='up')
    if how == 'cause':
        try:
            {}['missing']
        except KeyError as error:
            raise ValueError('no key') from error
    if how == 'context':
        try:
            1 / 0
        except ZeroDivisionError:
            raise ValueError('while dividing')
    if how == 'suppressed':
        try:
            1 / 0
        except ZeroDivisionError:
            raise ValueError('alone') from None
    if how == 'notes':
        error = ValueError('noted')
        error.add_note('look here')
        raise error
    if how == 'group':
        raise ExceptionGroup('several', [MyError(1, hint='a'), ExceptionGroup('in', [OSError(2)])])
    if how == 'large':
        raise ValueError('x' * (2 << 20))
    if how == 'recursion':
        def deeper(): return deeper()
        deeper()
    if how == 'exit':
        raise SystemExit(3)
    if how == 'interrupt':
        raise KeyboardInterrupt('by the user')
    if how == 'stop':
        raise StopIteration('early')
    if how == 'base':
        raise BaseException('rare')
    if how == 'syntax':
        exec('a b')
    if how == 'warning':
        import warnings
        warnings.simplefilter('error')
        warnings.warn('old', DeprecationWarning)

def caught(how):
    try:
        fails.remote(how)
    except BaseException as error:
        return error
"""


def test_the_original_exception_with_what_its_init_made(lines: Lines) -> None:
    lines.run(
        ORIGINAL
        + """
try:
    fails.remote('own')
except MyError as error:
    found = error.args, error.code, error.hint
"""
    )
    assert lines.value("found") == ((7,), 7, "up")


@pytest.mark.parametrize(
    ("how", "shown"),
    [
        ("cause", "(ValueError('no key'), KeyError('missing'), True)"),
        ("context", "(ValueError('while dividing'), None, False)"),
        ("suppressed", "(ValueError('alone'), None, True)"),
    ],
)
def test_cause_and_suppression_travel(cells: Lines, how: str, shown: str) -> None:
    cells.run(ORIGINAL + f"\ne = caught({how!r})")
    assert cells.run("print((e, e.__cause__, e.__suppress_context__))").strip() == shown


def test_context_travels(cells: Lines) -> None:
    cells.run(ORIGINAL + "\ne = caught('context')")
    assert cells.value("repr(e.__context__)") == "ZeroDivisionError('division by zero')"


def test_notes_travel(cells: Lines) -> None:
    cells.run(ORIGINAL + "\ne = caught('notes')")
    assert "look here" in cells.value("e.__notes__")


def test_groups_travel_with_all_that_is_in_them(cells: Lines) -> None:
    cells.run(ORIGINAL + "\ne = caught('group')")
    shown = "[type(each).__name__ for each in e.exceptions], e.exceptions[0].hint"
    assert cells.value(shown) == (["MyError", "ExceptionGroup"], "a")
    assert cells.value("repr(e.exceptions[1].exceptions[0])") == "OSError(2)"


@pytest.mark.parametrize(
    ("how", "name"),
    [
        ("recursion", "RecursionError"),
        ("exit", "SystemExit"),
        ("interrupt", "KeyboardInterrupt"),
        ("stop", "StopIteration"),
        ("base", "BaseException"),
        ("syntax", "SyntaxError"),
        ("warning", "DeprecationWarning"),
    ],
)
def test_whatever_is_raised_ends_the_input_and_nothing_else(
    cells: Lines, how: str, name: str
) -> None:
    cells.run(ORIGINAL + f"\ne = caught({how!r})")
    assert cells.value("type(e).__name__") == name
    cells.run("e = caught('notes')")
    assert cells.value("type(e).__name__") == "ValueError"


def test_a_message_of_2_mib_arrives_whole(cells: Lines) -> None:
    cells.run(ORIGINAL + "\ne = caught('large')")
    assert cells.value("len(str(e))") == 2 << 20


def test_the_traceback_shows_the_line_and_none_of_our_frames(lines: Lines) -> None:
    failed = lines.fails("@app.function\ndef f():\n    return [][1]  # this line\nf.remote()")
    assert failed.name == "IndexError"
    assert "# this line" in failed.traceback or "[][1]" in failed.traceback
    assert "kernel_worker" not in failed.traceback


def test_an_exception_that_cannot_be_rebuilt_is_an_execution_error_with_the_text(
    cells: Lines,
) -> None:
    cells.run(
        """
        class Odd(Exception):
            def __reduce__(self):
                raise TypeError('never')
        @app.function
        def odd():
            raise Odd('strange')
        """
    )
    failed = cells.fails("odd.remote()")
    assert failed.name in {"ExecutionError", "Odd"}
    assert "strange" in failed.message


def test_an_exception_with_an_attribute_that_cannot_travel_arrives_without_it(
    cells: Lines,
) -> None:
    cells.run(
        """
        import threading
        @app.function
        def locked():
            error = ValueError('locked')
            error.lock = threading.Lock()
            raise error
        """
    )
    failed = cells.fails("locked.remote()")
    assert "locked" in failed.message
    assert failed.name in {"ValueError", "ExecutionError"}


@pytest.mark.parametrize(
    ("arguments", "path"),
    [
        ("threading.Lock()", "args[0] (a _thread.lock)"),
        ("0, {'client': [threading.Lock()]}", "args[1]['client'][0] (a _thread.lock)"),
        ("0, table={'a': threading.Lock()}", "kwargs['table']['a'] (a _thread.lock)"),
    ],
)
def test_an_argument_that_cannot_be_pickled_is_named_by_its_path(
    cells: Lines, arguments: str, path: str
) -> None:
    cells.run("import threading\n@app.function\ndef f(*a, **k): pass")
    failed = cells.fails(f"f.remote({arguments})")
    assert failed.name == "SerializationError"
    assert path in failed.message


def test_a_captured_global_that_cannot_be_pickled_is_named(cells: Lines) -> None:
    cells.run("import threading\nlock = threading.Lock()\n@app.function\ndef f(): return lock")
    failed = cells.fails("f.remote()")
    assert failed.name == "SerializationError"
    assert "lock" in failed.message
    assert "_thread.lock" in failed.message


def test_a_closure_variable_that_cannot_be_pickled_is_named(cells: Lines) -> None:
    cells.run(
        """
        import threading
        def made():
            held = threading.Lock()
            def f(): return held
            return f
        f = app.function(made())
        """
    )
    failed = cells.fails("f.remote()")
    assert failed.name == "SerializationError"
    assert "held" in failed.message


def test_a_result_that_cannot_be_pickled_is_named(lines: Lines) -> None:
    lines.run("import threading\n@app.function\ndef f(): return {'key': threading.Lock()}")
    failed = lines.fails("f.remote()")
    assert failed.name == "SerializationError"
    assert "'key'" in failed.message


def test_an_argument_that_cannot_be_unpickled_there_says_so(cells: Lines) -> None:
    cells.run(
        """
        import os
        def only_here(pid):
            if os.getpid() != pid:
                raise RuntimeError('not here')
        class Local:
            def __reduce__(self): return only_here, (os.getpid(),)
        @app.function
        def f(x): return 1
        """
    )
    failed = cells.fails("f.remote(Local())")
    assert failed.name in {"DeserializationError", "RuntimeError"}
    assert "not here" in failed.message


def test_a_timeout_is_ours_and_not_the_builtin(lines: Lines) -> None:
    lines.run(
        """
        import builtins, time
        @app.function(timeout=0.2)
        def slow():
            time.sleep(60)
        try:
            slow.remote()
        except nb.exception.FunctionTimeoutError as error:
            kinds = nb.exception.TimeoutError, builtins.TimeoutError
            found = [isinstance(error, kind) for kind in kinds]
        """
    )
    assert lines.value("found") == [True, False]


def test_still_pending_is_both(lines: Lines) -> None:
    lines.run(
        """
        import builtins, time
        @app.function
        def slow():
            time.sleep(60)
        call = slow.spawn()
        try:
            call.get(timeout=0)
        except nb.exception.StillPendingError as error:
            kinds = nb.exception.TimeoutError, builtins.TimeoutError
            found = [isinstance(error, kind) for kind in kinds]
        call.cancel()
        """
    )
    assert lines.value("found") == [True, True]


def test_retries_are_as_many_as_they_say(lines: Lines, tmp_path: Path) -> None:
    lines.run(
        f"""
        import os
        log = {str(tmp_path / "log")!r}
        @app.function(retries=nb.Retries(max_retries=2, initial_delay=0))
        def unlucky():
            with open(log, 'a') as file:
                file.write('.')
            raise OSError('again')
        """
    )
    assert lines.fails("unlucky.remote()").name == "OSError"
    assert lines.value("os.path.getsize(log)") == 3


def test_a_worker_that_dies_under_an_input_three_times_is_an_internal_failure(
    lines: Lines,
) -> None:
    lines.run(
        """
        import os, signal
        @app.function(max_containers=1)
        def dies():
            os.kill(os.getpid(), signal.SIGSEGV)
        """
    )
    failed = lines.fails("dies.remote()")
    assert failed.name == "InternalFailure"
    assert "SIGSEGV" in failed.message


def test_an_input_with_rerun_on_crash_false_runs_at_most_once(cells: Lines, tmp_path: Path) -> None:
    cells.run(
        f"""
        import os, signal
        log = {str(tmp_path / "log")!r}
        @app.function(rerun_on_crash=False)
        def once():
            with open(log, 'a') as file:
                file.write('.')
            os.kill(os.getpid(), signal.SIGKILL)
        """
    )
    assert cells.fails("once.remote()").name == "InternalFailure"
    assert cells.value("os.path.getsize(log)") == 1


def test_an_import_that_fails_is_what_the_inputs_get(cells: Lines) -> None:
    cells.run("@app.function\ndef f():\n    import no_such_module_anywhere\n    return 1")
    assert cells.fails("f.remote()").name == "ModuleNotFoundError"


def test_the_note_of_a_maps_failure_names_index_and_arguments(lines: Lines) -> None:
    lines.run("@app.function\ndef f(x): return 1 // x\nfound = ''")
    lines.run(
        """
        try:
            list(f.map([2, 1, 0]))
        except ZeroDivisionError as error:
            found = error.__notes__[-1]
        """
    )
    note = lines.value("found")
    assert "2" in note
    assert "0" in note
    assert "map" in note


ERRORS = """
InvalidError NotFoundError AuthError ConnectionError ExecutionError RemoteError CallCancelledError
InternalFailure SerializationError DeserializationError TimeoutError FunctionTimeoutError
OutputExpiredError StillPendingError VersionError RequestSizeError ClientClosed
"""


@pytest.mark.parametrize("name", ERRORS.split())
def test_every_error_of_ours_is_in_the_tree(name: str) -> None:
    assert issubclass(getattr(exception, name), exception.Error)


def test_where_the_tree_branches() -> None:
    assert issubclass(exception.CallCancelledError, exception.RemoteError)
    for kind in (exception.FunctionTimeoutError, exception.OutputExpiredError):
        assert issubclass(kind, exception.TimeoutError)
        assert not issubclass(kind, TimeoutError)
    assert issubclass(exception.StillPendingError, exception.TimeoutError)
    assert issubclass(exception.StillPendingError, TimeoutError)
    assert not issubclass(exception.InputCancellation, Exception)
