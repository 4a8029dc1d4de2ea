"""Requests that arrive while a reply is sent, on every ipykernel that matters."""

from __future__ import annotations

import queue
import random
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from notebook_ext import shell_replies
from tests import ipykernels
from tests.plain_kernel import PlainKernel
from tests.waiting import PATIENCE

PAIRS = 400
"""Without the remedy a kernel of 7.0.1 or 7.2.0 is lost within the first hundred."""
APART_SECONDS = 3e-3
"""How far apart the two requests of a pair are at most: about as long as one takes."""


@pytest.mark.parametrize("version", ipykernels.VERSIONS)
def test_requests_that_overlap_are_all_answered(version: str, tmp_path: Path) -> None:
    kernel = ipykernels.start(version, tmp_path)
    try:
        assert answered(kernel, PAIRS) == PAIRS
    finally:
        kernel.close()


def test_another_kernel_stays_as_it_is() -> None:
    shell_replies.mend(None)
    newer = SimpleNamespace(
        shell_stream=object(), shell_channel_thread=SimpleNamespace(manager=SimpleNamespace())
    )
    shell_replies.mend(newer)
    assert vars(newer.shell_channel_thread.manager) == {}


def answered(kernel: PlainKernel, pairs: int) -> int:
    """Send that many pairs of requests; return how many were answered before one was not."""
    client, apart = kernel._client, random.Random(1)
    for done in range(pairs):
        waited = {client.kernel_info()}
        end = time.perf_counter() + apart.uniform(0, APART_SECONDS)
        while time.perf_counter() < end:
            pass
        waited.add(client.kernel_info())
        while waited:
            try:
                reply = client.get_shell_msg(timeout=10 * PATIENCE)
            except queue.Empty:
                return done
            waited.discard(reply["parent_header"]["msg_id"])
    return pairs
