"""Which address belongs to which web function: labels of hosts, custom domains."""

import hashlib
import re
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass

from squall.control.calls.live_function import LiveFunction
from squall.model.errors import ConflictError
from squall.model.specs import SERVER, FunctionSpec, Web

#: One label of a host name (RFC 1035, section 2.3.4).
LABEL_MAX = 63


@dataclass(frozen=True, slots=True)
class WebRoute:
    """A web function: of `method` of the function `function`. `label` is the first part of its host name."""

    label: str
    app: str
    app_name: str
    function: str
    tag: str
    method: str
    web: Web

    @property
    def name(self) -> str:
        return f"{self.tag}.{self.method}" if self.method not in ("", SERVER) else self.tag


class WebRoutes:
    """All web functions that can be reached now."""

    def __init__(self) -> None:
        self._labels: dict[str, WebRoute] = {}
        self._domains: dict[str, WebRoute] = {}
        self._of_app: dict[str, tuple[WebRoute, ...]] = {}
        #: Labels and domains of apps that the server is about to take up again.
        self._expected: dict[str, str] = {}
        #: Starts the listener where it does not run yet and gives its base URL, for example ``http://localhost:8484``.
        self.listen: Callable[[], Awaitable[str]] | None = None
        self.base = ""
        #: The same for containers, which reach it at another address; empty where they reach what the machine reaches.
        self.inside = ""
        #: What SQUALL_PUBLIC_URL says, without a slash at its end: addresses are below it.
        self.public = ""

    def plan(self, app: str, name: str, environment: str, functions: Iterable[LiveFunction], *, suffix: str = "") -> tuple[WebRoute, ...]:
        """The routes of an app's functions, before they are published.

        Raises:
            ConflictError: a label or a domain belongs to another app, or to two functions of this one.
        """
        routes = []
        for function in functions:
            for method in function.spec.methods:
                if method.web is None:
                    continue
                label = _label_of(function.spec, method.name, method.web, name, environment, suffix)
                routes.append(WebRoute(label, app, name, function.id, function.spec.tag, method.name, method.web))
        taken: dict[str, WebRoute] = {}
        for route in routes:
            for place, known in [(route.label, self._labels), *((domain, self._domains) for domain in route.web.custom_domains)]:
                other = taken.get(place) or known.get(place)
                if other is not None and (place in taken or other.app != app):
                    raise ConflictError(f"the web address {place!r} of {route.name} belongs to {other.app_name}.{other.name} already; give it another label=")
                taken[place] = route
        return tuple(routes)

    async def publish(self, app: str, routes: tuple[WebRoute, ...]) -> None:
        """From now on these, and only these, are the app's."""
        self.withdraw(app)
        for route in routes:
            self._labels[route.label] = route
            self._domains.update((domain.lower(), route) for domain in route.web.custom_domains)
        if routes:
            self._of_app[app] = routes
            await self.ensure_listening()

    async def expect(self, app: str, name: str, environment: str, functions: Iterable[FunctionSpec], *, suffixes: Iterable[str] = ("",)) -> None:
        """The app will publish these again, or will be withdrawn: until then they are not unknown."""
        for function in functions:
            for method in function.methods:
                if method.web is not None:
                    labels = [_label_of(function, method.name, method.web, name, environment, suffix) for suffix in suffixes]
                    self._expected.update((place, app) for place in (*labels, *map(str.lower, method.web.custom_domains)))
        if self._expected:
            await self.ensure_listening()

    def is_expected(self, host: str) -> bool:
        """Whether a host, or a label, is that of an app that is about to be taken up."""
        host = host.partition(":")[0].lower().rstrip(".")
        return host in self._expected or host.partition(".")[0] in self._expected

    async def ensure_listening(self) -> str:
        """The base URL of the ingress, which listens from now on."""
        if not self.base and self.listen is not None:
            self.base = await self.listen()
        return self.base

    def withdraw(self, app: str) -> None:
        """The app has ended, or does not come back."""
        for place in [place for place, expected in self._expected.items() if expected == app]:
            del self._expected[place]
        for route in self._of_app.pop(app, ()):
            self._labels.pop(route.label, None)
            for domain in route.web.custom_domains:
                self._domains.pop(domain.lower(), None)

    def find(self, host: str) -> WebRoute | None:
        """The web function of a ``Host`` header, with or without its port."""
        host = host.partition(":")[0].lower().rstrip(".")
        return self._domains.get(host) or self._labels.get(host.partition(".")[0])

    def is_domain(self, host: str) -> bool:
        """Whether a web function has this domain of its owner's."""
        return host in self._domains

    def by_label(self, label: str) -> WebRoute | None:
        return self._labels.get(label.lower())

    def url(self, route: WebRoute) -> str:
        """Its address; a custom domain is the owner's to point here."""
        if self.public:
            return f"{self.public}/web/{route.label}"
        scheme, _, rest = self.base.partition("://")
        return f"{scheme}://{route.label}.{rest}"

    def urls(self, app: str, *, at: str = "") -> dict[str, str]:
        """By ``function`` or ``Class.method``. `at`: where somebody reaches the ingress for whom ``localhost`` is another machine, by the path form."""
        routes = self._of_app.get(app, ())
        return {route.name: f"{at}/web/{route.label}" if at else self.url(route) for route in routes}

    def routes(self, app: str) -> tuple[WebRoute, ...]:
        return self._of_app.get(app, ())


def _label_of(function: FunctionSpec, method: str, web: Web, app_name: str, environment: str, suffix: str) -> str:
    tag = f"{function.tag}-{method}" if method not in ("", SERVER) else function.tag
    return host_label(environment, web.label or f"{app_name}-{tag}", suffix)


def host_label(environment: str, name: str, suffix: str = "") -> str:
    """``main--app-function``: letters, digits and hyphens, at most 63; what does not fit is cut and told apart by a hash."""
    label = re.sub(r"[^a-z0-9-]+", "-", f"{environment}--{name}{suffix}".lower()).strip("-")
    if len(label) <= LABEL_MAX:
        return label
    mark = hashlib.sha256(label.encode()).hexdigest()[:6]
    return f"{label[: LABEL_MAX - 7]}-{mark}"
