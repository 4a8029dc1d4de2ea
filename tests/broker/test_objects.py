"""An object stays as long as somebody owns it."""

from __future__ import annotations

import pytest

from kernel_worker.broker.objects import ObjectStore
from kernel_worker.errors import ProtocolError
from kernel_worker.model import Digest, digest_of
from kernel_worker.wire.frames import MARK

CODE = digest_of(b"code")


def test_an_object_goes_with_its_last_owner() -> None:
    objects = ObjectStore()
    objects.add(CODE, b"code", "cl-1")
    objects.own("fc-1", (CODE, Digest("")))
    objects.disown("cl-1", (CODE,))
    assert objects.get(CODE) == b"code"
    assert objects.missing((Digest(""), CODE)) == ""
    objects.forget("fc-1")
    assert objects.get(CODE) is None
    assert objects.missing((CODE,)) == CODE
    assert len(objects) == 0
    objects.forget("fc-1")


def test_nobody_can_disown_what_is_anothers() -> None:
    objects = ObjectStore()
    objects.add(CODE, b"code", "cl-1")
    objects.add(CODE, b"code", "cl-2")
    objects.disown("cl-3", (CODE,))
    objects.forget("cl-2")
    assert objects.get(CODE) == b"code"


def test_of_what_is_sealed_the_last_one_counts() -> None:
    """Or else nobody could run a function again whose code was sealed with a key that is gone."""
    objects = ObjectStore()
    objects.add(CODE, MARK + b"old", "cl-1")
    objects.add(CODE, MARK + b"new", "cl-2")
    assert objects.get(CODE) == MARK + b"new"
    with pytest.raises(ProtocolError, match=CODE):
        objects.add(CODE, b"other", "cl-3")
    objects.add(CODE, b"code", "cl-3")
    objects.add(CODE, MARK + b"newer", "cl-1")
    assert objects.get(CODE) == b"code", "it needs no key, and is checked"


def test_contents_are_what_their_digest_says() -> None:
    objects = ObjectStore()
    with pytest.raises(ProtocolError, match=CODE):
        objects.add(CODE, b"other", "cl-1")
    assert len(objects) == 0
