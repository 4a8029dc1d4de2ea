"""Displays of a worker; `tests/acceptance/api/test_output.py` shows them in a notebook."""

from __future__ import annotations

from kernel_worker.wire import messages
from kernel_worker.wire.display import Display, decode
from tests.worker.harness import Broker, define


def displayed(broker: Broker) -> list[Display | str]:
    """Return what was displayed and printed, in order."""
    return [
        decode(r.frames[0]) if r.message.stream == "display" else r.frames[0].decode()
        for r in broker.received
        if isinstance(r.message, messages.Output)
    ]


def test_displays_and_prints_keep_their_order(broker: Broker) -> None:
    worker = broker.start_worker(
        define("""
        def f():
            import sys
            before = "IPython" in sys.modules
            print("before")
            display(1, metadata={"text/plain": {"a": 1}})
            print("between")
            import importlib
            importlib.import_module("IPython.display").clear_output()
            return before
        """)
    )
    assert worker.call() is False
    assert displayed(broker) == [
        "before\n",
        Display({"text/plain": "1"}, {"text/plain": {"a": 1}}),
        "between\n",
        Display(clear=True),
    ]


def test_a_template_may_have_imported_ipython(broker: Broker) -> None:
    worker = broker.start_worker(
        define("""
        def f():
            from IPython.display import display
            handle = display(2, display_id="mine")
            handle.update(3)
        """)
    )
    worker.call()
    assert displayed(broker) == [
        Display({"text/plain": "2"}, {}, {"display_id": "mine"}),
        Display({"text/plain": "3"}, {}, {"display_id": "mine"}, update=True),
    ]


def test_without_ipython_a_display_is_a_print(broker: Broker) -> None:
    worker = broker.start_worker(
        define("""
        def f():
            import sys
            sys.modules["IPython"] = sys.modules["IPython.display"] = None
            display("text", 1)
        """)
    )
    worker.call()
    assert displayed(broker) == ["text 1\n"]


def test_a_figure_that_cannot_be_drawn_costs_nothing(broker: Broker) -> None:
    worker = broker.start_worker(
        define("""
        def f():
            import sys, types
            helpers = types.SimpleNamespace(Gcf=types.SimpleNamespace(figs={1: 1}))
            sys.modules["matplotlib._pylab_helpers"] = helpers
            broken = types.SimpleNamespace(show=lambda close: 1 / 0)
            sys.modules["matplotlib_inline.backend_inline"] = broken
            return "drawn"
        """)
    )
    assert worker.call() == "drawn"
    assert "ZeroDivisionError" in worker.output()
