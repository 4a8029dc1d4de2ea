"""API.md section 7: the facts behind every widget, for a program."""

from __future__ import annotations

from tests.acceptance.api.surfaces import Lines

DEFINE = """
@app.function(max_containers=2)
def picky(x):
    if x == 2:
        raise KeyError('no two')
    return x
"""


def test_the_events_of_a_call_tell_what_became_of_every_input(lines: Lines) -> None:
    lines.run(DEFINE + "\ncall = picky.spawn_map(range(4))\ntold = list(nb.events(call))")
    lines.run(
        """
became = {}
for event in told:
    for index in range(event.start, event.stop):
        became.setdefault(index, []).append(event.kind)
"""
    )
    assert lines.value("became") == {
        at: ["submitted", "started", "failed" if at == 2 else "succeeded", "ended"]
        for at in range(4)
    }
    assert lines.value("[told[0].kind, told[-1].kind]") == ["submitted", "ended"]
    lines.run("again = list(nb.events(call.object_id))")
    assert lines.value(
        "{(e.kind, e.start) for e in again if e.kind != 'started'} >= "
        "{('succeeded', 0), ('failed', 2), ('ended', 0)}"
    )
