"""Datagrams between a host agent and its processes, open files beside them."""

from __future__ import annotations

import os

import pytest

from kernel_worker.model import LeaseId
from kernel_worker.wire import local


def test_messages_and_files_arrive_together() -> None:
    here, there = local.socket_pair()
    file = local.anonymous_file(b"content", "test")
    local.send(here, local.Load(("numpy",), has_code=True), file)
    os.close(file)
    received = local.receive(there, local.to_template)
    assert received is not None
    message, files = received
    assert message == local.Load(("numpy",), has_code=True)
    assert local.content_of(files[0]) == b"content"
    assert not os.get_inheritable(files[0])
    local.close_all(files)
    local.close_all(files)  # a second time changes nothing
    here.close()
    assert local.receive(there, local.to_template) is None
    there.close()


def test_the_other_side_is_gone() -> None:
    here, there = local.socket_pair()
    there.close()
    with pytest.raises(OSError, match="pipe"):
        local.send(here, local.TakeBack(LeaseId(1)))
    here.close()


def test_one_who_hangs_up_with_something_unread_has_hung_up() -> None:
    here, there = local.socket_pair()
    local.send(here, local.Stop())  # nobody reads it
    local.send(there, local.TakeBack(LeaseId(1)))
    there.close()
    said = local.receive(here, local.to_worker)
    assert said == (local.TakeBack(LeaseId(1)), [])
    assert local.receive(here, local.to_worker) is None
    here.close()


def test_an_empty_file() -> None:
    file = local.anonymous_file(b"", "test")
    assert local.content_of(file) == b""
    os.close(file)
