from __future__ import annotations

import asyncio
from typing import Any

from notebook_ext.web.slots import MOST_SECONDS, Slots


class Stream:
    """Of a slot that serves nothing."""

    is_closed = False

    def close(self) -> None:
        self.is_closed = True


def test_slots_are_as_old_at_most_as_the_functions_timeout_says_now() -> None:
    async def run() -> list[float]:
        opened: asyncio.Queue[str] = asyncio.Queue()

        async def stay(slot: str) -> None:
            opened.put_nowait(slot)
            await asyncio.Event().wait()

        slots = Slots(stay, 300.0)
        found = [slots._most_seconds]
        slots.renew()
        slots.renew(1.0)
        found.append(slots._most_seconds)
        waiting = asyncio.ensure_future(slots.acquire())
        stream: Any = Stream()
        slots.dialled(await opened.get(), stream)
        slot = await waiting
        slot.born -= 0.2  # seconds ago
        slots.release(slot)
        assert stream.is_closed, "it is too old for another request"
        slots.close()
        await asyncio.sleep(0)
        return found

    assert asyncio.run(run()) == [MOST_SECONDS, 0.1]
