"""A connection to a broker elsewhere that is cut; what goes through: `broker/test_doors`."""

from __future__ import annotations

import subprocess
import sys

CUT = """
import zmq
from kernel_worker import far, keys
from kernel_worker.rendezvous import Connection
from kernel_worker.wire import messages

context = zmq.Context()
server = keys.made_pair()
router = context.socket(zmq.ROUTER)
router.curve_server = True
router.curve_secretkey = server.secret.encode()
router.bind("tcp://127.0.0.1:0")
address = router.getsockopt_string(zmq.LAST_ENDPOINT)
given = keys.Invitation(address, server.public, keys.made_pair(), "x", payload="0" * 64)
to = Connection(address, 0, "", "", "", keys=given)
found = far.Far(context, to, messages.Hello("client", "cl-x"))
while not router.poll(0):
    list(found.changes())
connection, *_ = router.recv_multipart()
for _ in range(5000):
    router.send_multipart([connection, b"one", b"two"])
found.socket.poll()

def read():
    frame = found.socket.recv(zmq.NOBLOCK, False)
    while frame.more:
        frame = found.socket.recv(zmq.NOBLOCK, False)

read()
router.close()
events = 0
while events != zmq.EVENT_DISCONNECTED:
    events = int.from_bytes(found.monitor.recv_multipart()[0][:2], "little")
try:
    while True:
        read()
except zmq.Again:
    print("goes on")
found.close(0)
context.term()
"""


def test_a_connection_that_is_cut_while_much_is_read_ends_no_process() -> None:
    done = subprocess.run(
        [sys.executable, "-c", CUT], capture_output=True, text=True, check=False, timeout=60
    )
    assert (done.stdout, done.returncode) == ("goes on\n", 0), done.stderr
