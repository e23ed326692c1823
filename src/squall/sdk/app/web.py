"""Decorators of web functions: what is below `@app.function` answers HTTP requests instead of calls."""

import inspect
import re
from collections.abc import Callable, Iterable
from typing import Any

from squall.model.errors import InvalidError
from squall.model.specs import Web
from squall.sdk.app.decorators import Mark, mark

_METHODS = ("GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "HEAD")
_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_DOMAIN = re.compile(r"(?=.{1,253}$)([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\.)+[a-z]{2,63}")

Decorator = Callable[[Any], Any]


def fastapi_endpoint(
    _nothing: None = None,
    *,
    method: str = "GET",
    label: str | None = None,
    custom_domains: Iterable[str] | None = None,
    docs: bool = False,
    requires_proxy_auth: bool = False,
    rate_limit: float | None = None,
) -> Decorator:
    """Make a function an endpoint of the web, with FastAPI's rules for its parameters. The image needs FastAPI.

    Args:
        method: of HTTP.
        label: of its address, instead of ``<app>-<function>``.
        custom_domains: hosts whose requests it answers too, once they point here.
        docs: whether ``/docs`` and ``/openapi.json`` are there.
        requires_proxy_auth: only requests with a proxy token get through.
        rate_limit: requests a second, of all clients together; more are answered with 429 and `Retry-After`.
    """
    if method not in _METHODS:
        raise InvalidError(f"method={method!r} is not an HTTP method: {', '.join(_METHODS)}")
    domains = _domains(custom_domains)
    web = Web(
        "endpoint",
        method,
        _label(label),
        _flag("docs", docs),
        _flag("requires_proxy_auth", requires_proxy_auth),
        custom_domains=domains,
        rate_limit=_rate(rate_limit),
    )
    return _decorator("fastapi_endpoint", web, _nothing, plain=True)


def asgi_app(
    _nothing: None = None,
    *,
    label: str | None = None,
    custom_domains: Iterable[str] | None = None,
    requires_proxy_auth: bool = False,
    rate_limit: float | None = None,
) -> Decorator:
    """Serve the ASGI app (FastAPI, Starlette ...) that the function returns. It is called once in each container."""
    web = Web(
        "asgi",
        label=_label(label),
        requires_proxy_auth=_flag("requires_proxy_auth", requires_proxy_auth),
        custom_domains=_domains(custom_domains),
        rate_limit=_rate(rate_limit),
    )
    return _decorator("asgi_app", web, _nothing)


def wsgi_app(
    _nothing: None = None,
    *,
    label: str | None = None,
    custom_domains: Iterable[str] | None = None,
    requires_proxy_auth: bool = False,
    rate_limit: float | None = None,
) -> Decorator:
    """Serve the WSGI app (Flask, Django ...) that the function returns. It is called once in each container."""
    web = Web(
        "wsgi",
        label=_label(label),
        requires_proxy_auth=_flag("requires_proxy_auth", requires_proxy_auth),
        custom_domains=_domains(custom_domains),
        rate_limit=_rate(rate_limit),
    )
    return _decorator("wsgi_app", web, _nothing)


def web_server(
    port: int,
    *,
    startup_timeout: float = 5.0,
    label: str | None = None,
    custom_domains: Iterable[str] | None = None,
    requires_proxy_auth: bool = False,
    rate_limit: float | None = None,
) -> Decorator:
    """Pass requests to a port of the container, on which something that the function starts listens.

    Args:
        port: that it listens on.
        startup_timeout: seconds for it to listen, after the function has returned.
    """
    if not isinstance(port, int) or isinstance(port, bool) or not 0 < port < 65536:
        raise InvalidError(f"port={port!r} is not a port: @squall.web_server(8000)")
    if not isinstance(startup_timeout, int | float) or isinstance(startup_timeout, bool) or not 0 < startup_timeout <= 3600:
        raise InvalidError(f"startup_timeout={startup_timeout!r} is not a number of seconds above 0")
    web = Web(
        "server",
        label=_label(label),
        requires_proxy_auth=_flag("requires_proxy_auth", requires_proxy_auth),
        port=port,
        startup_timeout_s=float(startup_timeout),
        custom_domains=_domains(custom_domains),
        rate_limit=_rate(rate_limit),
    )
    return _decorator("web_server", web, None)


def _decorator(name: str, web: Web, nothing: object, *, plain: bool = False) -> Decorator:
    if nothing is not None:
        raise InvalidError(f"@squall.{name} needs its parentheses, and its parameters their names: @squall.{name}(...)")

    def decorate(raw: Any) -> Any:
        partial = mark(raw, Mark.WEB, f"@squall.{name}")
        if not plain:
            _check_maker(partial.raw, name)
        partial.web = web
        return partial

    return decorate


def _check_maker(raw: Callable[..., Any], name: str) -> None:
    """What returns an app, or starts a server, is called without arguments."""
    if inspect.isgeneratorfunction(raw) or inspect.isasyncgenfunction(raw):
        raise InvalidError(f"{raw.__qualname__!r} has a yield: what is below @squall.{name} returns")
    if inspect.iscoroutinefunction(raw):
        raise InvalidError(f"{raw.__qualname__!r} is async: what is below @squall.{name} is a plain function")
    needed = [
        parameter.name
        for parameter in inspect.signature(raw).parameters.values()
        if parameter.default is parameter.empty and parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
    ]
    if needed and needed != ["self"]:
        raise InvalidError(f"{raw.__qualname__!r} takes {', '.join(needed)}: what is below @squall.{name} is called without arguments")


def _label(label: object) -> str | None:
    if label is not None and (not isinstance(label, str) or _LABEL.fullmatch(label) is None):
        raise InvalidError(f"label={label!r} can't be a part of an address: small letters, digits and hyphens, at most 63")
    return label


def _domains(domains: Iterable[str] | None) -> tuple[str, ...]:
    if domains is None:
        return ()
    if isinstance(domains, str):
        raise InvalidError(f"custom_domains is a list: custom_domains=[{domains!r}]")
    found = tuple(domains)
    for domain in found:
        if not isinstance(domain, str) or _DOMAIN.fullmatch(domain.lower()) is None:
            raise InvalidError(f"custom_domains: {domain!r} is not the name of a host, such as api.example.org")
    return found


def _flag(name: str, value: object) -> bool:
    if not isinstance(value, bool):
        raise InvalidError(f"{name}={value!r} is not True or False")
    return value


def _rate(value: object) -> float | None:
    if value is not None and (not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value < float("inf")):
        raise InvalidError(f"rate_limit={value!r} is not a number of requests a second above 0")
    return None if value is None else float(value)
