"""Clients of other machines come in by listed keys alone; who is cut off goes on."""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest
import zmq

from kernel_worker.errors import AuthError
from kernel_worker.keys import Invitation, KeyPair, Keys
from kernel_worker.model import CallId
from kernel_worker.rendezvous import Connection, journal_path
from kernel_worker.wire import messages, resuming
from notebook_ext.far import Far
from notebook_ext.inquiry import Inquiry
from tests.broker.speaking import Client, Heard, Host, RunningBroker, Speaker
from tests.broker.test_sockets import resident_bytes
from tests.relay import Relay
from tests.waiting import PATIENCE, wait_until

LIMIT_SECONDS = 20 * PATIENCE


def to(invitation: Invitation, address: str = "") -> Connection:
    """Return what a client is given that has the connection file."""
    return Connection(address or invitation.address, 0, "", "", "", keys=invitation)


class FarClient(Client):
    """A client that has said hello over TCP."""

    def __init__(self, connection: Connection, peer: str = "cl-far", **hello: Any) -> None:
        self.peer = peer
        self.requests = 0
        self._context = zmq.Context()
        said = messages.Hello(hello.pop("role", "client"), hello.pop("name", peer), **hello)
        self.far = Far(self._context, connection, msgspec.structs.replace(said, peer=peer))
        self.far._hello = messages.encode(said)
        try:
            self.welcome = self.hear(messages.Welcome, LIMIT_SECONDS)
        except BaseException:
            self.close()
            raise

    def say(self, message: messages.ToBroker, frames: Sequence[Any] = ()) -> None:
        self.far.send([messages.encode(message), *frames])

    def listen(self, limit_seconds: float = LIMIT_SECONDS) -> Heard:
        while True:
            heard = self.far.wait(limit_seconds)
            assert heard is not None, "nothing is heard"
            message = messages.decode_at_client(heard[0])
            if not isinstance(message, messages.CallProgress | messages.Welcome) or not hasattr(
                self, "welcome"
            ):
                return Heard(message, [bytes(frame) for frame in heard[1:]])

    def close(self) -> None:
        self.far.close(0)
        self._context.term()


class Listening(RunningBroker):
    """A broker that listens on TCP; what it logs is kept."""

    def log(self) -> int:
        self.written = tempfile.TemporaryFile()  # noqa: SIM115  closed with the broker
        return self.written.fileno()

    def logged(self) -> str:
        size = os.fstat(self.written.fileno()).st_size
        return os.pread(self.written.fileno(), size, 0).decode()


@pytest.fixture
def broker(short_dir: Path) -> Iterator[Listening]:
    made = Listening(short_dir, listen="tcp://127.0.0.1:0")
    yield made
    if made.is_alive():
        made.end()
    made.written.close()


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


@pytest.fixture
def knock() -> Iterator[Callable[..., Far]]:
    """Give a function that returns a socket which says Hello, and does not wait for an answer."""
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    made: list[Far] = []

    def dial(connection: Connection, peer: str) -> Far:
        made.append(Far(context, connection, messages.Hello("client", peer)))
        return made[-1]

    yield dial
    for far in made:
        if not far.socket.closed:
            far.close(0)
    context.term()


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


def port(address: str) -> int:
    return int(address.rpartition(":")[2])


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


@pytest.mark.parametrize("speaks", ["plain", "another key", "garbage", "10 GB"])
def test_who_does_not_prove_the_brokers_key_is_refused(
    broker: RunningBroker,
    invitation: Invitation,
    log: Callable[[], str],
    speaks: str,
    client: Client,
) -> None:
    before = resident_bytes(broker.connection.pid)
    door = broker.connection.door
    if speaks == "plain":
        context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        dealer = context.socket(zmq.DEALER)
        dealer.routing_id = b"cl-plain"
        dealer.linger = 0
        dealer.connect(door)
        hello = messages.encode(messages.Hello("client", "cl-plain"))
        dealer.send(hello)
        dealer.send_multipart([resuming.Stream(1).greeting(), hello])
        wait_until(lambda: "is refused: it proves no" in log(), what="the log")
        assert not dealer.poll(0)
        context.destroy(linger=0)
    elif speaks == "another key":
        other = zmq.curve_keypair()[0].decode()
        assert is_refused(to(msgspec.structs.replace(invitation, server=other)), 0.5) == ""
        wait_until(lambda: "is refused: it proves no" in log(), what="the log")
    else:
        said = b"GET / HTTP/1.1\r\n\r\n" * 4
        if speaks == "10 GB":  # what a CURVE client says first, then a command of that length
            said = b"\xff" + bytes(8) + b"\x7f\x03\x00" + b"CURVE".ljust(20, b"\0") + bytes(32)
            said += b"\x06" + struct.pack(">Q", 10 * 2**30) + b"the beginning"
        with socket.create_connection(("127.0.0.1", port(door)), LIMIT_SECONDS) as knocking:
            knocking.sendall(said)
            with contextlib.suppress(ConnectionResetError):
                while knocking.recv(256):
                    pass  # until it is cut
        wait_until(lambda: "is refused: it proves no" in log(), what="the log says so")
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
    with socket.create_connection(("127.0.0.1", port(broker.connection.door))) as again:
        again.sendall(recorded)  # the whole connection
        again.settimeout(LIMIT_SECONDS)
        with contextlib.suppress(ConnectionResetError):
            while again.recv(4096):
                pass  # until it is cut
    assert client.ask("status", "", messages.Status).clients == 2


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"role": "host", "resources": None}, "only clients come over TCP"),
        ({"role": "worker"}, "only clients come over TCP"),
    ],
)
def test_who_is_no_client_is_refused(
    invitation: Invitation, fields: dict[str, Any], says: str
) -> None:
    with pytest.raises(AssertionError, match=says):
        FarClient(to(invitation), **fields)


@pytest.mark.parametrize("peer", ["ho-1", "ta-1", "cl-far"])
def test_nobody_takes_an_id_that_is_not_his(  # noqa: PLR0917  fixtures
    broker: RunningBroker,
    known: Keys,
    invitation: Invitation,
    dial: Callable[..., FarClient],
    host: Host,
    log: Callable[[], str],
    peer: str,
    knock: Callable[..., Far],
) -> None:
    client = dial(to(invitation))
    other = known.invite("other", broker.connection.door)
    far = knock(to(other), peer)
    wait_until(
        lambda: far.wait(0.0) or "is no client's id, or another key's" in log(), what="the log"
    )
    far.close(0)
    assert client.ask("status", "", messages.Status).clients == 1, "it has come back by itself"
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
