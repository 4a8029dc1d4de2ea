"""Dicts and queues in the hands of real processes, some of which are killed."""

from __future__ import annotations

import textwrap

from tests.acceptance.conftest import ScriptRunner
from tests.acceptance.places import Place

MODAL = """
import notebook_ext as modal

app = modal.App("state")
seen = modal.Dict.from_name("modal-seen", create_if_missing=True)
jobs = modal.Queue.from_name("modal-jobs", create_if_missing=True)

@app.function(retries=modal.Retries(max_retries=2, initial_delay=0.0))
def flaky(x):
    tries = seen.get(x, 0) + 1
    seen[x] = tries
    if tries < 3:
        raise ValueError(x)
    return x

@app.function()
def work(replies):
    while (job := jobs.get()) is not None:
        replies.put((job, job ** 2))

with app.run():
    print(flaky.remote("x"), seen["x"])
    with modal.Queue.ephemeral() as replies:
        calls = [work.spawn(replies) for _ in range(2)]
        jobs.put_many(range(5))
        print(sorted(replies.get() for _ in range(5)))
        jobs.put_many([None, None])
        modal.FunctionCall.gather(*calls)
modal.Dict.delete("modal-seen")
modal.Queue.delete("modal-jobs")
"""

KILLED = """
import os, random, signal, threading, time
import notebook_ext as nb
from notebook_ext import process

app = nb.App()
jobs = nb.Queue.from_name("jobs", create_if_missing=True)
done = nb.Queue.from_name("done", create_if_missing=True)
marks = nb.Dict.from_name("marks", create_if_missing=True)
COUNT = 150

@app.function()
def works():
    while True:
        item = jobs.get()
        if item is None:
            return
        done.put(item)

@app.function()
def dies_waiting():
    threading.Timer(0.3, lambda: os.kill(os.getpid(), signal.SIGKILL)).start()
    return jobs.get(partition="nothing comes here")

workers = [works.spawn() for _ in range(2)]
doomed = dies_waiting.spawn()
feeder = threading.Thread(target=lambda: [jobs.put(n) for n in range(COUNT)])
feeder.start()
got = []
kills = 0
while len(got) < COUNT:
    got.append(done.get(timeout=60))
    marks.put("count", len(got))
    if len(got) in (40, 100):
        os.kill(process.current().status().join().pid, signal.SIGKILL)
        kills += 1
feeder.join()
jobs.put_many([None, None])
nb.gather(*workers)
doomed.cancel()
print(sorted(got) == list(range(COUNT)), kills, marks["count"], jobs.len(), done.len())
"""


def test_a_script_in_modals_idiom(run_script: ScriptRunner) -> None:
    expected = f"x 3\n{[(n, n * n) for n in range(5)]}\n"
    assert run_script(textwrap.dedent(MODAL)) == expected


def test_killed_workers_and_brokers_neither_lose_nor_repeat_items(
    own_place: Place, run_script: ScriptRunner
) -> None:
    assert run_script(KILLED, own_place.variables) == "True 2 150 0 0\n"
