"""What inputs write arrives, live, before their outcome, and bounded."""

from __future__ import annotations

from kernel_worker.wire import messages
from tests.waiting import wait_until
from tests.worker.harness import Broker, define


def order(broker: Broker) -> list[str]:
    kinds = (messages.Output, messages.Done, messages.InputEnded)
    return [type(r.message).__name__ for r in broker.received if isinstance(r.message, kinds)]


def test_output_comes_before_the_outcome_of_its_input(broker: Broker) -> None:
    worker = broker.start_worker(
        define("""
        import sys
        def f(x):
            print("out", x)
            print("err", x, file=sys.stderr)
            if x == 1:
                raise ValueError
        """)
    )
    broker.outcomes(worker.lease([(0,), (1,), (2,)]), 3)
    outputs = [r for r in broker.received if isinstance(r.message, messages.Output)]
    said = {(r.message.index, r.message.stream, r.frames[0].decode()) for r in outputs}
    assert said == {(i, f"std{s}", f"{s} {i}\n") for i in range(3) for s in ("out", "err")}
    assert order(broker)[-1] == "Done"
    assert order(broker).index("InputEnded") > max(
        n for n, r in enumerate(outputs) if r.message.index == 1
    )


def test_output_is_live(broker: Broker) -> None:
    worker = broker.start_worker(
        define("""
        import time
        def f():
            print("started")
            time.sleep(60)
        """)
    )
    worker.lease([()])
    broker.wait(messages.Output)
    assert worker.output() == "started\n"


def test_what_is_written_below_python_arrives_with_its_input(broker: Broker) -> None:
    worker = broker.start_worker(
        define("""
        import os, subprocess
        def f(x):
            os.write(1, b"fd one %d\\n" % x)
            subprocess.run(["sh", "-c", f"echo child {x}; echo error {x} >&2"])
            os.system(f"echo system {x}")
        """)
    )
    broker.outcomes(worker.lease([(0,), (1,)]), 2)
    for x in (0, 1):
        mine = [
            r.frames[0].decode()
            for r in broker.received
            if isinstance(r.message, messages.Output) and r.message.index == x
        ]
        text = "".join(mine)
        for line in (f"fd one {x}", f"child {x}", f"error {x}", f"system {x}"):
            assert line in text
    assert order(broker)[-1] == "Done"


def test_a_character_may_be_cut_in_two(broker: Broker) -> None:
    worker = broker.start_worker(
        define("""
        import os, time
        def f():
            data = "é".encode()
            os.write(1, data[:1])
            time.sleep(0.2)
            os.write(1, data[1:])
        """)
    )
    worker.call()
    assert worker.output() == "é"


def test_a_flood_is_sent_in_parts_and_ends(broker: Broker) -> None:
    worker = broker.start_worker(
        define("""
        import subprocess
        def f():
            for i in range(20_000):
                print("x" * 100)
            subprocess.run(["sh", "-c", "yes | head -c 3000000"])
        """)
    )
    lease = worker.lease([()])
    broker.outcomes(lease, 1, 60)
    outputs = [r for r in broker.received if isinstance(r.message, messages.Output)]
    assert sum(len(r.frames[0]) for r in outputs) == 20_000 * 101 + 3_000_000
    assert max(len(r.frames[0]) for r in outputs) < 1_000_000


def test_threads_and_forks_print_too(broker: Broker) -> None:
    worker = broker.start_worker(
        define("""
        import os, threading
        def f():
            thread = threading.Thread(target=print, args=("from a thread",))
            thread.start()
            thread.join()
            pid = os.fork()
            if not pid:
                print("from a fork")
                os._exit(0)
            os.waitpid(pid, 0)
        """)
    )
    worker.call()
    assert "from a thread" in worker.output()
    assert "from a fork" in worker.output()


def test_logging_and_warnings_go_to_stderr(broker: Broker) -> None:
    worker = broker.start_worker(
        define("""
        import logging, warnings
        def f():
            logging.getLogger("mine").warning("logged")
            warnings.warn("warned")
        """)
    )
    worker.call()
    outputs = [r for r in broker.received if isinstance(r.message, messages.Output)]
    assert {r.message.stream for r in outputs} == {"stderr"}
    assert "logged" in worker.output()
    assert "warned" in worker.output()


def test_streams_behave_as_files_do(broker: Broker) -> None:
    worker = broker.start_worker(
        define("""
        import subprocess, sys
        def f():
            sys.stdout.buffer.write("bytes é\\n".encode())
            sys.stdout.writelines(["one\\n", "two\\n"])
            subprocess.run(["echo", "given"], stdout=sys.stdout)
            return [sys.stdout.isatty(), sys.stdout.encoding, sys.stdout.writable(),
                    sys.stdin.read() if sys.stdin else ""]
        """)
    )
    assert worker.call() == [False, "utf-8", True, ""]
    for text in ("bytes é", "one\ntwo", "given"):
        assert text in worker.output()


def test_a_function_that_closes_its_streams_leaves_an_idle_worker(broker: Broker) -> None:
    worker = broker.start_worker(
        define("""
        import os, time
        def f(file):
            if file:
                os.close(file)
            return time.process_time()
        """)
    )
    worker.call(1)
    worker.call(2)
    before = worker.call(0)
    broker.pump(0.5)
    assert worker.call(0) - before < 0.2


def test_lines_are_sent_whole(broker: Broker) -> None:
    worker = broker.start_worker(
        define("""
        import time
        def f():
            until = time.monotonic() + 0.3
            n = 0
            while time.monotonic() < until:
                print("line", n, "of", "many")
                n += 1
            print("end", end="")
            return n
        """)
    )
    count = worker.call()
    texts = [
        r.frames[0].decode() for r in broker.received if isinstance(r.message, messages.Output)
    ]
    assert len(texts) > 3
    assert all(text.endswith("\n") for text in texts[:-1])
    lines = [f"line {n} of many" for n in range(count)]
    assert "".join(texts) == "\n".join([*lines, "end"])


def test_a_line_that_is_flushed_or_takes_long_is_sent_as_it_is(broker: Broker) -> None:
    worker = broker.start_worker(
        define("""
        import time
        def f(flush):
            print("begun", end=" ", flush=flush)
            time.sleep(60)
        """)
    )
    slow = broker.start_worker(worker.captured)
    for each, flush in ((worker, True), (slow, False)):
        each.lease([(flush,)])
        broker.wait(messages.Output, lambda m, of=each.id: m.worker == of)  # type: ignore[misc]
        assert each.output() == "begun "


def test_what_outlives_its_input_is_sent_in_its_name(broker: Broker) -> None:
    worker = broker.start_worker(
        define("""
        import subprocess, threading, time
        def f(gate):
            def later():
                while not os.path.exists(gate):
                    time.sleep(0.01)
                print("from a thread")
            import os
            threading.Thread(target=later, daemon=True).start()
            script = f"while ! test -e {gate}; do sleep 0.01; done; echo from a child"
            subprocess.Popen(["sh", "-c", script])
        """)
    )
    gate = broker.directory / "gate"
    worker.call(str(gate))
    assert worker.output() == ""
    gate.touch()
    wait_until(lambda: broker.pump(0.01) and len(worker.output().splitlines()) == 2)
    assert sorted(worker.output().splitlines()) == ["from a child", "from a thread"]
    indices = {r.message.index for r in broker.received if isinstance(r.message, messages.Output)}
    assert indices == {0}


def test_what_an_input_shows_at_its_end_comes_before_its_outcome(broker: Broker) -> None:
    worker = broker.start_worker(
        define("""
        import sys, time
        def f(whole):
            def last_words():
                time.sleep(0.1)  # the control thread sends meanwhile what lies finished
                print("last words")
            sys.stdout._output.input_ended = last_words
        """)
    )
    quick_and_each: tuple[tuple[object], ...] = (("whole",), ([],))
    for arguments in quick_and_each:
        broker.received.clear()
        broker.outcomes(worker.lease([arguments]), 1)
        assert order(broker)[0] == "Output"
        assert order(broker)[-1] == "Done"
