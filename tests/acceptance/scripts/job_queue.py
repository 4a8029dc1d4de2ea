"""Workers take jobs from a queue until it is empty; what they found is in a dict."""

import queue

import notebook_ext as modal

app = modal.App("example-job-queue")
jobs = modal.Queue.from_name("example-jobs", create_if_missing=True)
found = modal.Dict.from_name("example-found", create_if_missing=True)


@app.function()
def work() -> int:
    done = 0
    while True:
        try:
            n = jobs.get(block=False)
        except queue.Empty:
            return done
        found[n] = n * n
        done += 1


@app.function(retries=modal.Retries(max_retries=4, initial_delay=0.01))
def count_up() -> int:
    found["tries"] = found.get("tries", 0) + 1
    if found["tries"] < 3:
        raise TimeoutError("not yet")
    return found["tries"]


@app.local_entrypoint()
def main() -> None:
    jobs.clear()
    found.clear()
    jobs.put_many(list(range(10)))
    calls = [work.spawn() for _ in range(2)]
    print("done", sum(modal.FunctionCall.gather(*calls)), "left", jobs.len())
    print(max(found.items()), found.len())
    print("tries", count_up.remote())
    modal.Queue.delete("example-jobs")
    modal.Dict.delete("example-found")
