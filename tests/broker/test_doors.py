"""Clients of other machines come in by listed keys alone; who is cut off goes on."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import resource
import signal
import socket
import struct
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import zmq

from kernel_worker.broker import doors as doors_module
from kernel_worker.errors import AuthError, ProtocolError
from kernel_worker.far import Far
from kernel_worker.keys import Invitation, KeyPair, Keys
from kernel_worker.model import CallId
from kernel_worker.rendezvous import Connection, journal_path
from kernel_worker.wire import messages, resuming
from notebook_ext.inquiry import Inquiry
from tests.acceptance import test_intruders as intruders
from tests.broker import intruder
from tests.broker.far import LIMIT_SECONDS, Around, FarClient, Listening, port, to
from tests.broker.speaking import Client, Host, RunningBroker, Speaker, read
from tests.broker.test_sockets import resident_bytes
from tests.relay import Relay
from tests.waiting import wait_until


@pytest.fixture
def broker(short_dir: Path) -> Iterator[Listening]:
    made = Listening(short_dir, listen="tcp://127.0.0.1:0")
    yield made
    if made.is_alive():
        made.end()
    made.close_log()


@pytest.fixture
def log(broker: Listening) -> Callable[[], str]:
    """Give a function that returns the broker's log so far."""
    return broker.logged


@pytest.fixture
def known(broker: RunningBroker) -> Keys:
    return Keys(journal_path(broker.settings).parent)


@pytest.fixture
def invitation(broker: RunningBroker, known: Keys) -> Invitation:
    return known.invite("laptop", broker.connection.door)


@pytest.fixture
def dial(speakers: list[Speaker]) -> Callable[..., FarClient]:
    def connect(*args: Any, **fields: Any) -> FarClient:
        speakers.append(FarClient(*args, **fields))
        return speakers[-1]  # type: ignore[return-value]

    return connect


@pytest.fixture
def relay(broker: RunningBroker) -> Iterator[Relay]:
    with Relay(broker.connection.door) as made:
        yield made


def is_refused(connection: Connection, seconds: float = 2.0) -> str:
    """Return why a client is refused; empty where it just gets no answer."""
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    far = Far(context, connection, messages.Hello("client", "cl-stranger"))
    try:
        assert far.wait(seconds) is None
    except AuthError as error:
        return str(error)
    finally:
        far.close(0)
        context.term()
    return ""


def test_an_invited_client_makes_calls(
    invitation: Invitation, dial: Callable[..., FarClient], host: Host
) -> None:
    client = dial(to(invitation))
    client.define()
    client.submit([4])
    host.start_worker().work(lambda value: 10 * value)
    assert client.listen().values == [40]
    client.submit([1], call="fc-2", attached=False)
    assert client.hear(messages.Accepted).call == "fc-2"


def test_large_frames_pass_unchanged(
    invitation: Invitation,
    dial: Callable[..., FarClient],
    host: Host,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(resuming, "PIECE_BYTES", 1 << 16)  # of what the client says
    client = dial(to(invitation))
    client.define()
    large = os.urandom(3 << 20)
    client.submit([large])
    host.start_worker().work(lambda value: value + value)
    assert client.listen().values == [large + large]


def test_without_a_key_in_the_list_nobody_gets_in(
    broker: RunningBroker, known: Keys, log: Callable[[], str]
) -> None:
    stranger = KeyPair(*(key.decode() for key in zmq.curve_keypair()))
    server = known.server().public
    made_up = Invitation(broker.connection.door, server, stranger, "laptop")
    assert "does not let the key of 'laptop' in" in is_refused(to(made_up))
    expected = f"a connection from 127.0.0.1 is refused: its key, {stranger.public}, is not listed"
    wait_until(lambda: expected in log(), what="the log says so")
    assert stranger.secret not in log()


def test_who_does_not_prove_the_brokers_key_is_refused(
    broker: RunningBroker, invitation: Invitation, log: Callable[[], str], client: Client
) -> None:
    before = resident_bytes(broker.connection.pid)
    noted = 0

    def is_noted() -> bool:
        nonlocal noted
        known, noted = noted, log().count("is refused: it proves no listed key")
        return noted > known

    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    dealer = context.socket(zmq.DEALER)  # without any keys
    dealer.routing_id = b"cl-plain"
    dealer.connect(broker.connection.door)
    hello = messages.encode(messages.Hello("client", "cl-plain"))
    dealer.send(hello)
    dealer.send_multipart([resuming.Stream(1).greeting(), hello])
    wait_until(is_noted, what="the log")
    assert not dealer.poll(0)
    context.destroy(linger=0)
    other = zmq.curve_keypair()[0].decode()
    assert is_refused(to(msgspec.structs.replace(invitation, server=other)), 0.5) == ""
    wait_until(is_noted, what="the log")
    # What a CURVE client says first, and then a command of that length.
    curve = b"\xff" + bytes(8) + b"\x7f\x03\x00" + b"CURVE".ljust(20, b"\0") + bytes(32)
    curve += b"\x06" + struct.pack(">Q", 10 * 2**30) + b"the beginning"
    for said in (b"GET / HTTP/1.1\r\n\r\n" * 4, curve):
        place = "127.0.0.1", port(broker.connection.door)
        with socket.create_connection(place, LIMIT_SECONDS) as knocking:
            knocking.sendall(said)
            with contextlib.suppress(ConnectionResetError):
                while knocking.recv(256):
                    pass  # until it is cut
        wait_until(is_noted, what="the log says so")
    assert client.ask("status", "", messages.Status).clients == 1, "others are served"
    assert resident_bytes(broker.connection.pid) - before < 16 * 2**20


def test_a_revoked_key_is_cut_and_others_go_on(  # noqa: PLR0917  fixtures
    broker: RunningBroker,
    known: Keys,
    invitation: Invitation,
    dial: Callable[..., FarClient],
    host: Host,
    log: Callable[[], str],
) -> None:
    other = dial(to(known.invite("other", broker.connection.door)), "cl-other")
    revoked = dial(to(invitation))
    other.define()
    other.submit([1])
    worker = host.start_worker()
    revoked.define("po-2")
    revoked.submit([1], call="fc-revoked", pool="po-2")
    known.revoke("laptop")
    with Inquiry(broker.connection) as asking:
        assert asking.check_keys() == 1
    with pytest.raises(AuthError, match="revoked"):
        while True:
            revoked.far.wait(LIMIT_SECONDS)
    assert "does not let the key" in is_refused(to(invitation))
    worker.work(lambda value: value + 1)
    assert other.listen().values == [2], "its calls go on"
    calls = other.ask("status", "", messages.Status).calls
    assert [call.call for call in calls] == [], "those of the revoked client were cancelled"
    assert "its key" in log()


def test_who_is_revoked_without_word_is_found_out(
    broker: RunningBroker, known: Keys, invitation: Invitation, dial: Callable[..., FarClient]
) -> None:
    """Whoever removes the file by hand, or cannot reach the broker, need not tell it."""
    dial(to(invitation))
    known.revoke("laptop")
    assert "does not let the key" in is_refused(to(invitation)), "no new connection at once"


def frame_size(data: bytes | bytearray, at: int) -> int:
    """Return the length of the ZMTP frame that begins at `at`."""
    if data[at] & 2:
        return 9 + int.from_bytes(data[at + 1 : at + 9], "big")
    return 2 + int(data[at + 1])


def frames_of(data: bytes | bytearray) -> list[bytes]:
    """Return the frames behind ZMTP's greeting of 64 bytes."""
    at, found = 64, []
    while at < len(data):
        size = frame_size(data, at)
        found.append(bytes(data[at : at + size]))
        at += size
    return found


def test_what_was_recorded_and_is_sent_again_is_refused(  # noqa: PLR0917  fixtures
    broker: RunningBroker,
    invitation: Invitation,
    dial: Callable[..., FarClient],
    relay: Relay,
    client: Client,
    log: Callable[[], str],
) -> None:
    far = dial(to(invitation, relay.address))
    far.ask("status", "", messages.Status)
    (said,) = relay.said
    recorded = bytes(said)
    assert b"status" not in recorded, "it is encrypted"
    assert "ended" not in log()
    relay.inject(frames_of(recorded)[-1])
    wait_until(lambda: "has ended" in log(), what="the log says so")
    assert far.ask("status", "", messages.Status).clients == 2, "it has come back by itself"
    relay.inject(b"\x02" + struct.pack(">Q", 10 * 2**30) + b"the beginning")
    wait_until(lambda: log().count("has ended") == 2, what="the log says so")
    assert far.ask("status", "", messages.Status).clients == 2, "and again"
    with socket.create_connection(("127.0.0.1", port(broker.connection.door))) as again:
        again.sendall(recorded)  # the whole connection
        again.settimeout(LIMIT_SECONDS)
        with contextlib.suppress(ConnectionResetError):
            while again.recv(4096):
                pass  # until it is cut
    assert client.ask("status", "", messages.Status).clients == 2


def test_who_is_no_client_is_refused(invitation: Invitation, client: Client) -> None:
    for role in ("host", "worker"):
        with pytest.raises(AssertionError, match="only clients come over TCP"):
            FarClient(to(invitation), role=role)
    with pytest.raises(AssertionError, match="cl-1 is a client of this machine"):
        FarClient(to(invitation), client.peer)
    assert client.ask("status", "", messages.Status).clients == 1


def test_nobody_takes_an_id_that_is_not_his(  # noqa: PLR0917  fixtures
    broker: RunningBroker,
    known: Keys,
    invitation: Invitation,
    dial: Callable[..., FarClient],
    host: Host,
    log: Callable[[], str],
    knock: Callable[..., Far],
) -> None:
    client = dial(to(invitation))
    other = known.invite("other", broker.connection.door)
    for peer in ("ho-1", "ta-1", "cl-far"):
        far = knock(to(other), peer)
        said = f"b'{peer}' is no client's id, or another key's"
        wait_until(lambda far=far, said=said: far.wait(0.0) or said in log(), what=said)  # type: ignore[misc]
        far.close(0)
    client.define()
    client.submit([1])
    host.start_worker().work(lambda value: value)
    assert client.listen().values == [1]


def test_what_is_said_before_hello_is_dropped(
    broker: RunningBroker,
    invitation: Invitation,
    log: Callable[[], str],
    client: Client,
    knock: Callable[..., Far],
) -> None:
    far = knock(to(invitation), "cl-rude")
    far._hello = b""
    stop = messages.encode(messages.Ask(1, "stop"))
    stream = resuming.Stream(far._stream.id)
    stream.put([stop])
    numbered = stream.next()
    assert numbered is not None
    wait_until(lambda: "client laptop connects" in log(), what="it is let in")
    for message in ([stop], numbered, [b"", b""]):
        wait_until(lambda message=message: far._say(message), what="it is said")  # type: ignore[misc]
    wait_until(lambda: log().count("said over TCP is dropped") == 3, what="the log says so")
    assert client.ask("status", "", messages.Status).pid == broker.connection.pid


def test_a_connection_that_is_cut_goes_on(
    invitation: Invitation, dial: Callable[..., FarClient], relay: Relay, host: Host
) -> None:
    client = dial(to(invitation, relay.address))
    client.define()
    client.submit([0], closed=False)
    worker = host.start_worker()
    expected = [0]
    values: list[object] = []
    for number in range(1, 20):
        if number % 3 == 0:
            relay.cut()
        frames = doors_frames(number)
        client.say(messages.AddInputs(CallId("fc-1"), number, 1), frames)
        expected.append(2 * number)
        if number % 5 == 0:
            relay.cut()
        while client.far.wait(0.0) is not None:
            pytest.fail("nothing has run yet")
    client.say(messages.CloseInputs(CallId("fc-1"), 20))
    while len(values) < 20:
        lease = worker.work(lambda value: 2 * value)
        relay.cut()
        got = 0
        while got < lease.stop - lease.start:
            heard = client.listen()
            assert isinstance(heard.message, messages.Results)
            assert heard.message.start == len(values), "each once, and in order"
            values += heard.values[heard.message.start - heard.message.first :]
            got += heard.message.count
    assert values == expected


def doors_frames(number: int) -> list[bytes]:
    from kernel_worker.wire import frames, payload

    return [bytes(f) for f in payload.encode_batch([(number,)], frames.FORM_ARGS)]


def test_who_stays_away_is_given_up(
    running: Callable[..., RunningBroker], speakers: list[Speaker]
) -> None:
    broker = running(listen="tcp://127.0.0.1:0", client_grace_seconds=0)
    invitation = Keys(journal_path(broker.settings).parent).invite("a", broker.connection.door)
    near = Client(broker)
    speakers.append(near)
    far = FarClient(to(invitation))
    far.define()
    far.submit([1], closed=False)
    wait_until(lambda: near.ask("status", "", messages.Status).calls, what="it is there")
    far.close()
    status = near.ask("status", "", messages.Status)
    assert status.clients == 2, "nobody has noticed yet"
    # Whoever is cut off says nothing: the broker looks from time to time.
    far = FarClient(to(invitation))
    wait_until(
        lambda: not near.ask("status", "", messages.Status).calls,
        what="whoever comes anew under an id has lost what was there",
    )
    far.close()


def test_an_address_that_is_not_there_is_said(
    short_dir: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(AssertionError):
        RunningBroker(short_dir, listen="tcp://192.0.2.1:9465")
    said = capfd.readouterr().err
    assert "setting listen is 'tcp://192.0.2.1:9465', which cannot be bound" in said
    assert "Traceback" not in said


@pytest.mark.skipif(os.getuid() != 0, reason="only root can be another user")
def test_another_user_of_this_machine_gets_in_by_what_was_given_to_him_alone(
    short_dir: Path, broker: Listening, known: Keys, log: Callable[[], str], client: Client
) -> None:
    short_dir.chmod(0o711)  # so that nothing but our own modes keeps anybody out
    invitation = known.invite("laptop", broker.connection.door)
    secrets = journal_path(broker.settings).parent / "tcp"
    paths = [secrets / "server.key", secrets / "clients" / "laptop"]
    assert all(path.exists() for path in paths)
    assert set(intruder.tries(paths).values()) == {"PermissionError"}
    copied, unread, given = (short_dir / name for name in ("copied", "unread", "given"))
    for path, mode in ((copied, 0o644), (unread, 0o600), (given, 0o600)):
        path.write_bytes(msgspec.json.encode(invitation))
        path.chmod(mode)
    os.chown(given, intruder.NOBODY, intruder.NOBODY)
    door, files = broker.connection.door, [copied, unread, given]
    found = intruder.dials(door, invitation.server, files)
    assert "holds a secret key and is not yours alone" in found.pop("copied")
    assert "Permission denied" in found.pop("unread")
    assert found == {"given": "Welcome", "its own": "AuthError"}, "who has the file is a client"
    assert "its key" in log()
    known.revoke("laptop")
    found = intruder.dials(door, invitation.server, [given])
    assert found == {"given": "AuthError", "its own": "AuthError"}
    client.define()
    assert client.ask("status", "", messages.Status).calls == []


def listening(pid: int) -> list[str]:
    """Return the local ends of the network sockets on which a process listens."""
    lines = [line.split() for line in intruders.ports(pid)]
    return [fields[2] for fields in lines if fields[4] == "0A"]


def test_no_port_is_open_but_the_one_that_was_asked_for(broker: Listening) -> None:
    assert listening(broker.connection.pid) == [f"0100007F:{port(broker.connection.door):04X}"]
    with tempfile.TemporaryDirectory(prefix="nx") as directory:
        other = RunningBroker(Path(directory))
        speaker = Client(other)
        speaker.define()
        assert intruders.ports(other.connection.pid) == []
        speaker.close()
        other.end()


def test_who_follows_one_that_was_killed_listens_where_it_did(
    broker: Listening, invitation: Invitation, dial: Callable[..., FarClient]
) -> None:
    door = broker.connection.door
    broker.settings = dataclasses.replace(broker.settings, listen=None)
    broker.end(signal.SIGKILL)
    assert broker.start().door == door
    client = dial(to(invitation))
    assert client.ask("status", "", messages.Status).clients == 1
    broker.end()
    assert broker.start().door == "", "one that was told to end is not followed"


def test_where_another_program_has_its_port_the_one_that_follows_serves_this_machine(
    broker: Listening, log: Callable[[], str]
) -> None:
    broker.settings = dataclasses.replace(broker.settings, listen=None)
    broker.end(signal.SIGKILL)
    with socket.create_server(("127.0.0.1", port(broker.connection.door))):
        assert broker.start().door == ""
    assert "cannot be bound" in log()
    assert "clients of other machines, which a broker before let in, wait" in log()


def test_whoever_is_connected_hears_that_the_broker_was_stopped(
    broker: Listening, invitation: Invitation, dial: Callable[..., FarClient], client: Client
) -> None:
    far = dial(to(invitation))
    process = os.pidfd_open(broker.connection.pid)
    client.say(messages.Ask(1, "stop"))
    assert client.hear(messages.Reply).request == 1
    client.hear(messages.Bye)
    far.hear(messages.Bye)
    assert read(process)
    os.close(process)


def test_a_hello_that_is_read_after_the_next_one_changes_nothing(around: Around) -> None:
    """A busy broker reads connections in turn, and among them one that has been cut."""
    doors = around.doors
    said: list[list[Any]] = []

    def hears() -> bool:
        """Let keys in, and read what is said, without acting on it."""
        far.wait(0.0)
        for source, _ in around.poller.poll(10):
            if doors.brings_messages(source) and (found := doors._door.receive()):
                said.append([bytes(part) for part in found[0]])
        return len(said) == count

    with Relay(around.invitation.address) as relay, zmq.Context() as context:
        hello = messages.Hello("client", "cl-far")
        far = Far(context, to(around.invitation, relay.address), hello)
        around.meets(far)
        for count in (1, 2):  # noqa: B007  `hears` reads it
            relay.cut()
            wait_until(hears, what="it says Hello on a new connection")
        (first, *parts), (second, *later) = said
        key = around.invitation.client.public
        assert doors._taken(second, later, key)
        with pytest.raises(ProtocolError, match="has ended"):
            doors._taken(first, parts, key)
        assert doors._far[b"cl-far"].connection == second
        assert doors.goes_on(b"cl-far")
        far.close(0)


def test_a_look_finds_who_is_gone_and_whose_key_was_removed(
    around: Around, knock: Callable[..., Far]
) -> None:
    around.meets(knock(to(around.invitation), "cl-far"))
    around.timers.run(around.now() + 20)
    assert around.losses == [], "all is as it was"
    far = knock(to(around.invitation), "cl-else")
    around.keys.revoke("laptop")
    around.timers.run(around.now() + 20)
    assert around.losses == [(b"cl-far", "revoked")]
    assert not around.doors.is_far(b"cl-far")
    with pytest.raises(AuthError):
        while True:
            around.turn()
            far.wait(0.0)


def test_who_vanishes_is_found_out_and_what_was_said_waits(
    around: Around, knock: Callable[..., Far]
) -> None:
    with Relay(around.doors.door) as relay:
        far = knock(to(around.invitation, relay.address), "cl-far")
        around.meets(far)
        relay.close()

        def is_missed() -> bool:
            around.turn()
            around.timers.run(around.now() + 20)
            return bool(around.losses)

        wait_until(is_missed, what="it is missed")
        assert around.losses == [(b"cl-far", "gone")]
        around.doors.send(b"cl-far", b"meanwhile", [b"1", b"2"])
        relay.open()
        heard: list[list[bytes]] = []

        def is_back() -> bool:
            for parts in around.turn():
                assert around.doors.goes_on(parts[0])
            heard.extend(filter(None, [far.wait(0.0)]))
            return len(heard) == 2

        wait_until(is_back, what="it is back")
        assert heard == [[b"welcome"], [b"meanwhile", b"1", b"2"]]


def test_who_reads_nothing_is_given_up(
    around: Around, knock: Callable[..., Far], monkeypatch: pytest.MonkeyPatch
) -> None:
    around.meets(knock(to(around.invitation), "cl-far"))
    monkeypatch.setattr(doors_module, "QUEUE_LIMIT_BYTES", 1000)
    for _ in range(3):
        around.doors.send(b"cl-far", bytes(400))
    assert around.losses == [(b"cl-far", "full")]
    assert not around.doors.is_far(b"cl-far")


def test_a_flood_closes_the_door_and_who_is_on_this_machine_is_served(
    broker: Listening, log: Callable[[], str], client: Client, speakers: list[Speaker]
) -> None:
    broker.end()
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = 128 + len(list(Path("/proc/self/fd").iterdir()))  # this process has some open itself
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, before[1]))  # which the broker inherits
    try:
        broker.start()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    near = Client(broker, "cl-near")
    speakers.append(near)
    flood: list[socket.socket] = []
    with contextlib.ExitStack() as stack:
        while "it is closed for" not in log():
            with contextlib.suppress(OSError):
                place = "127.0.0.1", port(broker.connection.door)
                flood.append(stack.enter_context(socket.create_connection(place, LIMIT_SECONDS)))
            assert len(flood) < 2 * most, "it takes no notice"
            assert near.ask("status", "", messages.Status).clients >= 1
        others = [Client(broker, f"cl-{number}") for number in range(10)]
        speakers += others
        for other in others:
            assert other.ask("status", "", messages.Status).pid == broker.connection.pid
    assert broker.is_alive()
