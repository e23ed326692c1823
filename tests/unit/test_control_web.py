"""Addresses of web functions: labels, conflicts, what a host name leads to."""

from types import SimpleNamespace
from typing import Any

import pytest

from squall.control.apps.web_routes import LABEL_MAX, WebRoutes, host_label
from squall.gateway.ingress.ingress import Bucket
from squall.model.errors import ConflictError
from squall.model.specs import FunctionSpec, MethodSpec, Web


def function(tag: str, **web: Any) -> Any:
    return SimpleNamespace(id=f"fu-{tag}", spec=FunctionSpec(tag, "m", tag, 0, methods=(MethodSpec(web=Web("asgi", **web)),)))


def test_labels() -> None:
    assert host_label("main", "my_App.v2-Site") == "main--my-app-v2-site"
    long = host_label("main", "a" * 80)
    assert len(long) == LABEL_MAX
    assert long != host_label("main", "a" * 79)


async def test_an_app_may_be_published_again_and_a_label_belongs_to_one() -> None:
    routes = WebRoutes()
    first = routes.plan("ap-1", "one", "main", [function("site")])
    await routes.publish("ap-1", first)
    assert routes.plan("ap-1", "one", "main", [function("site")]) == first
    with pytest.raises(ConflictError, match="belongs to one.site"):
        routes.plan("ap-2", "two", "main", [function("other", label="one-site")])
    with pytest.raises(ConflictError, match="'main--x'"):
        routes.plan("ap-2", "two", "main", [function("a", label="x"), function("b", label="x")])
    routes.withdraw("ap-1")
    assert routes.plan("ap-2", "two", "main", [function("other", label="one-site")])


async def test_hosts() -> None:
    routes = WebRoutes()
    await routes.publish("ap-1", routes.plan("ap-1", "one", "main", [function("site", custom_domains=("api.example.org",))]))
    routes.base = "http://localhost:8484"
    for host in ("main--one-site.localhost:8484", "MAIN--one-site.localhost", "main--one-site.example.net", "API.example.org", "api.example.org:443"):
        found = routes.find(host)
        assert found is not None
        assert found.name == "site"
    assert routes.find("localhost:8484") is None
    assert routes.urls("ap-1") == {"site": "http://main--one-site.localhost:8484"}
    await routes.publish("ap-1", ())
    assert routes.find("api.example.org") is None


async def test_addresses_of_apps_that_are_about_to_be_taken_up_are_not_unknown() -> None:
    routes = WebRoutes()
    site = function("site", custom_domains=("API.example.org",))
    await routes.expect("ap-1", "one", "main", [site.spec], suffixes=("-dev", "-dev-0001"))
    for host in ("main--one-site-dev.localhost:8484", "MAIN--one-site-dev-0001", "api.example.org"):
        assert routes.find(host) is None
        assert routes.is_expected(host)
    assert not routes.is_expected("main--one-site.localhost")
    await routes.publish("ap-1", routes.plan("ap-1", "one", "main", [site], suffix="-dev"))
    assert routes.find("api.example.org") is not None
    routes.withdraw("ap-1")
    assert not routes.is_expected("api.example.org")


def test_a_bucket_fills_with_time_and_never_beyond_a_second() -> None:
    bucket = Bucket()
    assert [bucket.take(2.0, 0.0) for _ in range(3)] == [0.0, 0.0, 0.5]
    assert bucket.take(2.0, 0.25) == 0.25
    assert bucket.take(2.0, 0.5) == 0.0
    assert [bucket.take(2.0, 1000.0) for _ in range(3)] == [0.0, 0.0, 0.5]
    slow = Bucket()
    assert [slow.take(0.1, 0.0) for _ in range(2)] == [0.0, 10.0]
