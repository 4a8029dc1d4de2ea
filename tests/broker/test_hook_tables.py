from __future__ import annotations

import msgspec

from kernel_worker.broker.hook_tables import HookTables
from kernel_worker.broker.objects import ObjectStore
from kernel_worker.model import Digest, digest_of
from kernel_worker.wire import messages
from tests.broker.speaking import Client
from tests.core.simulation import make_spec

CONTENTS = {digest_of(each): each for each in (b"table 1", b"table 2", b"code")}
ONE, TWO, CODE = CONTENTS


def test_the_newest_table_is_kept_with_what_it_needs() -> None:
    objects = ObjectStore()
    for digest, content in CONTENTS.items():
        objects.add(digest, content, "client")
    tables = HookTables(objects)
    spec = msgspec.structs.replace(make_spec(), parameters=Digest("parameters"))
    assert tables.table_of(spec.pool) == ""
    tables.keep(make_spec(), ONE, ())  # no instance
    assert tables.table_of(spec.pool) == ""
    tables.keep(spec, ONE, (CODE,))
    tables.keep(spec, TWO, (CODE,))
    tables.keep(spec, Digest(""), ())  # who knows of no table changes nothing
    assert tables.table_of(spec.pool) == TWO
    objects.forget("client")
    assert (objects.get(ONE), objects.get(TWO), objects.get(CODE)) == (None, b"table 2", b"code")
    tables.forget(spec.pool)
    tables.forget(spec.pool)
    assert not len(objects)


def test_a_worker_asks_for_the_table_of_its_pool(client: Client) -> None:
    table = client.store(b"table")
    code, environment = client.store(b"code"), client.store(b"environment")
    spec = msgspec.structs.replace(
        make_spec(),
        code=code,
        environment=environment,
        parameters=client.store(b"parameters"),
    )
    client.say(messages.Define(spec, table=table))
    assert client.ask("hooks", spec.pool, str) == table
    assert client.ask("hooks", "po-unknown", str) == ""
