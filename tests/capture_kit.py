"""A notebook's `__main__` and a process that stands for a worker, for tests of what travels."""

from __future__ import annotations

import linecache
import os
import pickle
import subprocess
import sys
import types
import zlib
from typing import IO, TYPE_CHECKING, Any, Self, cast

from kernel_worker.wire import failures, payload

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from notebook_ext.capture import Captured

_CHILD = """
import pickle, sys
from kernel_worker.wire import failures, payload
from kernel_worker.worker.binding import Binding
from notebook_ext import stored
commands, answers = sys.stdin.buffer, open(int(sys.argv[1]), "wb")
binding = None
while True:
    try:
        command, *arguments = pickle.load(commands)
    except EOFError:
        break
    try:
        if command == "load":
            binding, answer = Binding.load(*arguments), None
        elif command == "bind":
            snapshot, objects = arguments
            stored._fetched = lambda digest, label: objects[digest]
            answer = binding.bind(snapshot)
        else:
            args, kwargs = payload.loads(arguments[0])
            answer = binding.function(*args, **kwargs)
            if binding.is_async:
                import asyncio
                answer = asyncio.run(answer)
        reply = (True, [bytes(frame) for frame in payload.dumps(answer)])
    except BaseException as error:
        reply = (False, failures.capture(error))
    pickle.dump(reply, answers)
    answers.flush()
"""


class Child:
    """A worker's process as far as code and values go: loads a function, binds, calls."""

    def __init__(self, *, cwd: Path | None = None) -> None:
        """Start it; `cwd` is where it runs."""
        read, write = os.pipe()
        environment = {k: v for k, v in os.environ.items() if not k.startswith("COV_")}
        self._process = subprocess.Popen(
            [sys.executable, "-c", _CHILD, str(write)],
            stdin=subprocess.PIPE,
            pass_fds=(write,),
            cwd=cwd,
            env=environment,
        )
        os.close(write)
        self._answers = os.fdopen(read, "rb")
        self._commands = cast("IO[bytes]", self._process.stdin)
        self._code = self._snapshot = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._commands.close()
        self._process.wait(30)
        self._answers.close()

    def call(self, captured: Captured, *args: object, **kwargs: object) -> Any:
        """Run the captured function there; load and bind first what has changed."""
        if captured.code != self._code:
            self._ask("load", captured.objects[captured.code])
            self._code, self._snapshot = captured.code, ""
        if captured.snapshot != self._snapshot:
            self._ask("bind", captured.objects[captured.snapshot], dict(captured.stored))
            self._snapshot = captured.snapshot
        return self._ask("call", [bytes(frame) for frame in payload.dumps((args, kwargs))])

    def _ask(self, *command: object) -> Any:
        pickle.dump(command, self._commands)
        self._commands.flush()
        ok, answer = pickle.load(self._answers)
        if not ok:
            raise failures.rebuild(answer)
        return payload.loads(answer)


class Notebook:
    """A `__main__` into which cells are run, under file names such as a kernel gives them."""

    def __init__(self, pid: int = 4711) -> None:
        """Make an empty one; `pid` is in the file names."""
        self.module = types.ModuleType("__main__")
        self._pid = pid

    @property
    def names(self) -> dict[str, Any]:
        """What the cells have defined."""
        return vars(self.module)

    def __getitem__(self, name: str) -> Any:
        return self.names[name]

    def filename(self, cell: str) -> str:
        """Return the file name of a cell."""
        return f"/tmp/ipykernel_{self._pid}/{zlib.crc32(cell.encode())}.py"

    def run(self, cell: str, *, future: bool = False) -> Callable[..., Any]:
        """Run a cell; return the last thing that it defined."""
        name = self.filename(cell)
        text = f"from __future__ import annotations\n{cell}" if future else cell
        linecache.cache[name] = (len(text), None, text.splitlines(keepends=True), name)
        exec(compile(text, name, "exec", dont_inherit=True), self.names)  # noqa: S102
        return cast("Callable[..., Any]", list(self.names.values())[-1])
