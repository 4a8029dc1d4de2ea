from __future__ import annotations

import notebook_ext as nb
from notebook_ext.web.endpoints import Endpoint, default_label, endpoints_of


def plain() -> int:
    return 3


app = nb.App("marks")


def test_members_are_endpoints_unless_overridden() -> None:
    class Base:
        @nb.fastapi_endpoint(method="post", label="over-here")
        def one(self) -> None: ...

        @nb.asgi_app()
        def two(self) -> None: ...

    class Derived(Base):
        def two(self) -> None: ...

    found = endpoints_of(Derived)
    assert found == {"one": Endpoint("fastapi_endpoint", "POST", "over-here")}
    assert not found["one"].is_builder
    assert endpoints_of(Base)["two"].is_builder


def test_labels() -> None:
    assert default_label("My App", "Model.web") == "my-app-model-web"
    assert default_label(None, "f") == "f"
    assert default_label(None, "ü") == "endpoint"
    assert len(default_label("a" * 50, "b" * 50)) <= 60


def test_one_that_is_no_endpoint_has_no_url() -> None:
    assert app.function()(plain).get_web_url() is None
    assert nb.web_endpoint is nb.fastapi_endpoint
