"""A job is started by HTTP and asked for until it is done; a page is streamed."""

import json
import time
import urllib.request

import notebook_ext as modal

app = modal.App("example-web")


@app.function()
def slow(n: int) -> int:
    time.sleep(0.2)
    return n * n


@app.function(max_containers=1)
@modal.concurrent(max_inputs=10)
@modal.asgi_app()
def web():
    from fastapi import FastAPI
    from fastapi.responses import JSONResponse, StreamingResponse

    api = FastAPI()

    @api.post("/jobs/{n}")
    async def submit(n: int):
        call = await slow.spawn.aio(n)
        return {"call_id": call.object_id}

    @api.get("/jobs/{call_id}")
    async def result(call_id: str):
        try:
            return {"result": await modal.FunctionCall.from_id(call_id).get.aio(timeout=0)}
        except TimeoutError:
            return JSONResponse({"status": "pending"}, status_code=202)

    @api.get("/count/{n}")
    def count(n: int):
        return StreamingResponse(f"{at} " for at in range(n))

    return api


@app.function()
@modal.fastapi_endpoint(method="GET")
def greet(name: str = "you"):
    return f"hello {name}"


def ask(url: str, method: str = "GET") -> tuple[int, bytes]:
    with urllib.request.urlopen(urllib.request.Request(url, method=method)) as answer:
        return answer.status, answer.read()


@app.local_entrypoint()
def main() -> None:
    base = web.get_web_url()
    _, body = ask(f"{base}/jobs/9", "POST")
    call_id = json.loads(body)["call_id"]
    tries = [ask(f"{base}/jobs/{call_id}")]
    while tries[-1][0] == 202:
        time.sleep(0.01)
        tries.append(ask(f"{base}/jobs/{call_id}"))
    print(tries[0][0], "…", tries[-1][1].decode())
    print(ask(f"{base}/count/3")[1].decode())
    print(ask(greet.web_url + "?name=ada")[1].decode())
