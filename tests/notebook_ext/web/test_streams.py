from __future__ import annotations

import asyncio
import os
import secrets
import sys
from typing import Any

import pytest

from notebook_ext.web import streams
from notebook_ext.web.streams import Stream


def _name() -> str:
    return f"nbx-test-{secrets.token_hex(8)}"


def test_what_is_posted_is_read_in_order_whatever_its_size() -> None:
    async def run() -> None:
        name = _name()
        has_closed = asyncio.Event()

        async def echo(stream: Stream) -> None:
            while (message := await stream.read()) is not None:
                stream.post(message)
                await stream.drain()
            stream.close()
            has_closed.set()

        server = await streams.listen(name, echo)
        stream = await streams.dial(name)
        assert stream is not None
        messages: list[list[Any]] = [[1, {"body": b"x" * size}] for size in (0, 9, 3 << 20, 70_000)]
        for message in messages:
            stream.post(message)
        assert [await stream.read() for _ in messages] == messages
        stream.close()
        assert stream.is_closed
        await has_closed.wait()
        await asyncio.sleep(0)  # the loop closes what was closed
        server.close()

    asyncio.run(run())


def test_a_thread_asks_and_nobody_is_dialled_who_is_not_there() -> None:
    async def run() -> Any:
        name = _name()
        has_closed = asyncio.Event()

        async def answer(stream: Stream) -> None:
            message = await stream.read()
            assert message is not None
            stream.post([*message, "answered"])
            await stream.drain()
            stream.close()
            has_closed.set()

        server = await streams.listen(name, answer)
        answered = await asyncio.to_thread(streams.ask, name, "what", [1], 10)
        await has_closed.wait()
        await asyncio.sleep(0)  # the loop closes what was closed
        server.close()
        assert await streams.dial(_name()) is None
        with pytest.raises(OSError, match="refused"):
            streams.ask(_name(), "what", [], 10)
        return answered

    assert asyncio.run(run()) == [streams.ASK, "what", [1], "answered"]


@pytest.mark.parametrize("sent", [b"\0\0\0\1\xc1", b"\0\0\0\1\x01", b"\0\0\0\x09x", b"\0"])
def test_what_is_no_message_ends_the_stream(sent: bytes) -> None:
    async def run() -> None:
        found: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

        async def met(stream: Stream) -> None:
            message = await stream.read()
            stream.close()
            found.set_result(message)

        name = _name()
        server = await streams.listen(name, met)
        _, writer = await asyncio.open_unix_connection(f"\0{name}")
        writer.write(sent)
        writer.write_eof()
        assert await found is None
        writer.close()
        await asyncio.sleep(0)  # the loop closes what was closed
        server.close()

    asyncio.run(run())


_NOBODY = """
import os, socket, sys
os.setuid(65534)
end = socket.socket(socket.AF_UNIX)
end.connect("\\0" + sys.argv[1])
print(end.recv(1), flush=True)
server = socket.socket(socket.AF_UNIX)
server.bind("\\0" + sys.argv[1] + "-nobody")
server.listen()
print("listens", flush=True)
server.accept()
"""


@pytest.mark.skipif(os.getuid() != 0, reason="only root can be another user")
def test_another_user_is_hung_up_on() -> None:
    async def run() -> None:
        met = []

        async def meet(stream: Stream) -> None:
            met.append(stream)

        name = _name()
        server = await streams.listen(name, meet)
        nobody = await asyncio.create_subprocess_exec(
            sys.executable, "-c", _NOBODY, name, stdout=asyncio.subprocess.PIPE
        )
        assert nobody.stdout is not None
        assert await nobody.stdout.readline() == b"b''\n"
        assert met == []
        assert await nobody.stdout.readline() == b"listens\n"
        assert await streams.dial(f"{name}-nobody") is None
        await nobody.wait()
        server.close()

    asyncio.run(run())
