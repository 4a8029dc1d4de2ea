"""Payloads of a client on another machine: neither the broker nor its journal can read them.

The words that a payload has in it are looked for in the broker's memory and in all its files.
"""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

from tests.acceptance.test_elsewhere import HEAD, Laptop, Site, laptop, site
from tests.acceptance.test_intruders import contents
from tests.waiting import PATIENCE

__all__ = ["laptop", "site"]
SEALED, CLEAR = b"q7marker", b"r8marker"
"""Words that only payloads have in them: those of the far client, and of a local one."""
PUT_TOGETHER = """
WORD, MINE = "q7" + "marker", "r8" + "marker"
"""


def memory_has(pid: int, words: tuple[bytes, ...]) -> set[bytes]:
    """Return which of `words` lie in what a process has written to its memory."""
    found = set()
    with Path(f"/proc/{pid}/maps").open() as maps, Path(f"/proc/{pid}/mem").open("rb", 0) as memory:
        for line in maps:
            place, modes = line.split()[:2]
            if not modes.startswith("rw"):
                continue
            start, stop = (int(each, 16) for each in place.split("-"))
            memory.seek(start)
            try:
                content = memory.read(stop - start)
            except OSError:
                continue  # not there for reading
            found |= {word for word in words if word in content}
    return found


def files_have(site: Site, words: tuple[bytes, ...]) -> set[bytes]:
    data = Path(site.place.variables["NOTEBOOK_EXT_DATA_DIR"])
    texts = contents(site.place.runtime_dir, data).values()
    return {word for word in words for text in texts if word in text}


def runs_there(site: Site, code: str) -> str:
    """Run a script of the broker's own user, on the broker's machine."""
    script = site.home / "script.py"
    script.write_text(HEAD + PUT_TOGETHER + textwrap.dedent(code))
    done = subprocess.run(
        [sys.executable, str(script)],
        env=site.variables,
        cwd=site.home,
        capture_output=True,
        text=True,
        timeout=90 * PATIENCE,
        check=False,
    )
    assert not done.returncode, done.stderr
    return done.stdout


LOUD = 'print("q7" + "marker at the import")'
FUNCTIONS = """
import loud
import numpy as np

@app.function(secrets=[nb.Secret.from_dict({"TOKEN": WORD})])
def echo(x, **more):
    said = "q7marker, in the code of a function"
    assert os.environ["TOKEN"] in said
    return x

@app.function()
def imports():
    return loud.__name__

@app.function()
def fails(x):
    print(x, "was printed")
    raise ValueError(x)

@app.function()
def counts(x):
    for n in range(100):
        yield f"{x} {n}"

@app.function()
def below(xs):
    return list(echo.map(xs)), sorted(echo.map(xs, kwargs={"word": xs[0]}))

@app.function()
def below_large(count):
    return [int(each.sum()) for each in echo.map([np.full(50_000, n) for n in range(count)])]

@app.function(allow_concurrent_inputs=3)
def at_once(x):
    return x

@app.function()
@nb.batched(max_batch_size=2, wait_ms=1)
def grouped(xs):
    return xs

@app.cls()
class Kept:
    word: str = nb.parameter()

    @nb.enter()
    def enter(self):
        if "broken" in self.word:
            raise RuntimeError(self.word)
        self.word = echo.remote(self.word)

    @nb.method()
    def said(self, x):
        return self.word + x
"""
EVERYTHING = (
    PUT_TOGETHER
    + FUNCTIONS
    + """
put = nb.put([WORD, np.full(100_000, 7)])
captured = [WORD, "captured"]

@app.function()
def reads(handle):
    return handle[0] + captured[1], int(handle[1].sum())

def raised(make):
    try:
        make()
    except Exception as error:
        return type(error).__name__, WORD in str(error)

def whole(found):
    return [len(found), sum(found)]

spawned = echo.spawn(WORD)
logged = fails.spawn(WORD)
log_raises = raised(logged.get)
arrays = list(echo.map([np.full(50_000, n) for n in range(4)]))
os.environ["NAMES"] = "are not sealed"
print(json.dumps([
    echo.remote(WORD) == WORD,
    whole(list(echo.map(range(5000)))),
    [int(each[0]) for each in arrays],
    len(list(echo.starmap([(WORD * 20000,)] * 3))),
    raised(lambda: fails.remote(WORD)),
    len(list(counts.remote_gen(WORD))),
    len(list(counts.spawn(WORD).get_gen())),
    below.remote([WORD, WORD]) == ([WORD, WORD],) * 2,
    below_large.remote(3) == [0, 50_000, 100_000],
    list(at_once.map([WORD, "b"])) == [WORD, "b"],
    list(grouped.map([WORD, "b"])) == [WORD, "b"],
    Kept(word=WORD).said.remote("!") == WORD + "!",
    raised(lambda: Kept(word=WORD + " broken").said.remote("!")),
    imports.remote(),
    reads.remote(put) == (WORD + "captured", 700_000),
    spawned.get() == WORD,
    log_raises,
    WORD in str(logged.logs()),
    spawned.object_id,
    logged.object_id,
]))
"""
)


def test_a_broker_holds_and_keeps_what_it_cannot_read(
    site: Site, laptop: Callable[..., Laptop]
) -> None:
    site.types("broker", "start", "--listen", site.address)
    client = laptop()
    (client.home / "loud.py").write_text(LOUD)
    *printed, said = client.runs(EVERYTHING).splitlines()
    *results, spawned, logged = json.loads(said)
    assert results == [
        True,
        [5000, 12497500],
        [0, 1, 2, 3],
        3,
        ["ValueError", True],
        100,
        100,
        True,
        True,
        True,
        True,
        True,
        ["RuntimeError", True],
        "loud",
        True,
        True,
        ["ValueError", True],
        True,
    ]
    assert any("q7marker was printed" in line for line in printed)
    assert sum("q7marker at the import" in line for line in printed) > 1, "here, and by workers"
    pid = site.place.broker_pid()
    assert memory_has(pid, (SEALED, b"Kept")) == {b"Kept"}, "names are in clear"
    assert files_have(site, (SEALED,)) == set()

    looked_up = f"""
    fc = nb.FunctionCall.from_id({spawned!r})
    failed = nb.FunctionCall.from_id({logged!r})
    try:
        failed.get()
    except ValueError as error:
        print(fc.get() == WORD, str(error) == WORD, WORD in str(failed.logs()))
    """
    assert client.runs(PUT_TOGETHER + textwrap.dedent(looked_up)) == "True True True\n"
    own = """
    @app.function()
    def local(x):
        return x
    mine = local.spawn(MINE)
    mine.get()
    """
    assert runs_there(site, looked_up + own) == "True True True\n"
    assert memory_has(pid, (SEALED, CLEAR)) == {CLEAR}, "what is not sealed is found"
    assert files_have(site, (SEALED, CLEAR)) == {CLEAR}


STATE = """
kept = nb.Dict.from_name("kept", create_if_missing=True)
line = nb.Queue.from_name("line", create_if_missing=True)

@app.function()
def uses(word):
    kept[word, 1.0] = word
    line.put(word * 2, partition=word)
    return kept["from afar"], list(kept.keys())

kept["from afar"] = WORD
print(uses.remote(WORD) == (WORD, ["from afar", (WORD, 1.0)]))
print(kept[WORD, 1], line.get(partition=WORD) == WORD * 2, kept.put(WORD, WORD))
line.put(WORD)
"""


def test_a_dict_and_a_queue_of_a_far_client_are_sealed(
    site: Site, laptop: Callable[..., Laptop]
) -> None:
    site.types("broker", "start", "--listen", site.address)
    client = laptop()
    assert client.runs(PUT_TOGETHER + STATE) == f"True\n{SEALED.decode()} True True\n"
    assert memory_has(site.place.broker_pid(), (SEALED,)) == set()
    assert files_have(site, (SEALED,)) == set()
    local = """
    kept = nb.Dict.from_name("kept")
    print(kept[WORD], nb.Queue.from_name("line").get(), len(list(kept.items())))
    nb.Dict.from_name("clear", create_if_missing=True)[MINE] = 1
    """
    assert runs_there(site, local) == f"{SEALED.decode()} {SEALED.decode()} 3\n"
    refused = """
    try:
        nb.Dict.from_name("clear")["r8" + "marker"]
    except nb.exception.InvalidError as error:
        print(error)
    """
    assert "made on the broker's own machine, in clear" in client.runs(refused)


def test_what_was_tampered_with_is_refused(site: Site, laptop: Callable[..., Laptop]) -> None:
    site.types("broker", "start", "--listen", site.address)
    client = laptop()
    spawned = client.runs(
        """
        @app.function()
        def twice(x):
            return 2 * x

        spawned = twice.spawn(b"x" * 100_000)
        assert spawned.get() == b"x" * 200_000
        print(spawned.object_id)
        """
    ).strip()
    site.types("broker", "stop")
    data = Path(site.place.variables["NOTEBOOK_EXT_DATA_DIR"])
    (journal,) = data.rglob("*.db")
    with sqlite3.connect(journal) as database:
        rows = database.execute(
            "SELECT rowid, piece FROM frames WHERE length(piece) > 200000"
        ).fetchall()
        for row, piece in rows:
            changed = piece[:100] + bytes([piece[100] ^ 1]) + piece[101:]
            database.execute("UPDATE frames SET piece = ? WHERE rowid = ?", (changed, row))
    database.close()
    assert rows
    site.types("broker", "start", "--listen", site.address)
    refused = f"""
try:
    nb.FunctionCall.from_id({spawned!r}).get()
except nb.exception.DeserializationError as error:
    print(error)
"""
    expected = f"the results of {spawned} cannot be opened: changed on their way"
    assert expected in client.runs(refused)
    assert expected in runs_there(site, refused)
    (key,) = data.rglob("payload.key")
    key.write_text("0" * 64)
    assert expected in runs_there(site, refused), "with another key"
    key.unlink()
    lost = refused.replace("DeserializationError", "AuthError")
    assert "cannot be opened" in runs_there(site, lost)
