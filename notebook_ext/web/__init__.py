"""Web endpoints: functions that are called by HTTP and websockets.

Theory. Three places, and what goes between them:

    browser ── HTTP ──► gateway ── a call ──► broker ──► worker: the user's ASGI app
                           ▲                                 │
                           └────── the slot's stream ────────┘

The *gateway* (`gateway`) is uvicorn in a thread: of the notebook or script whose functions are
served, or of a process of its own where they are deployed (`deployed`). It never gives a request to
a worker by itself: for each request that finds no free *slot* it makes a plain call of the endpoint
(`slots`), which the broker schedules as any other. The call's input dials back to the gateway, and
is the slot from then on: it serves one request after the other by that stream (`streams`), until it
has been idle for half a second, or is two seconds old. So a request costs the broker nothing while
slots are warm, and all else is as for calls: what waits makes the pool grow, `timeout` ends an
input, `max_containers` and `@concurrent` say how many there are, the worker's output is the call's,
and statistics count slots as inputs.

What travels by the stream are the events of ASGI, so that the worker (`serving`) runs the user's
app as a server would, with streaming and websockets, and needs no server. The app is made once in
each worker, when it is entered, and its lifespan is the worker's.

Each endpoint has a port of its own, which is remembered by its label (`places`): as on a cloud,
where each has a host of its own, an app owns all paths below `/`, so that absolute links, cookies,
FastAPI's documentation and servers that know nothing of prefixes work as they are written.

Guarantees: a request is given to one worker, once. Where that dies, its requests, and no others,
are answered by 502 (or their connections are cut, where the answer had begun); one that takes
longer than the function's `timeout` by 504. The client's leaving cancels what runs for it.
Not guaranteed: that hosts on other machines serve: slots dial a socket of the gateway's machine.
"""
