"""Where calls of a function go: a client, and the function's id on its server, known once its app runs."""

from typing import TYPE_CHECKING

import msgspec

from squall.model.errors import ExecutionError, InvalidError
from squall.runner.context import here, in_container
from squall.wire.messages import DeriveFunction, Names

if TYPE_CHECKING:
    from squall.sdk.app.deploy import DeployedFunction
    from squall.sdk.client.client import Client
    from squall.sdk.function.options import Asked

Bound = tuple["Client", str]


class Handle:
    """Of a function or class of an app in this program. `bind` and `unbind` are the app's; in a container the ids came with its boot."""

    __slots__ = ("id", "client", "declared", "tag")

    def __init__(self, tag: str) -> None:
        self.tag = tag
        self.client: Client | None = None
        self.id: str | None = None
        #: Variants with secrets, volumes or sizes of their own that the program made before its app ran, so that the app can say what they need.
        self.declared: list[Asked] = []

    def bind(self, client: "Client", function_id: str) -> None:
        self.client, self.id = client, function_id

    def unbind(self) -> None:
        self.client = self.id = None

    @property
    def base(self) -> "Handle":
        """Of the function that this is a variant of; else itself."""
        return self

    def use(self, client: "Client") -> None:
        """Ask this client from now on.

        Raises:
            InvalidError: the app runs on another server.
            ExecutionError: it does not run.
        """
        own, _ = self.bound()
        if own.address != client.address:
            raise InvalidError(f"client= of hydrate: the app of {self.tag} runs on the server at {own.address}, not on the one at {client.address}")

    def asked_client(self) -> "Client | None":
        """The client that calls go to, if one was named or the app runs; None: the default one."""
        return self.client

    def known(self) -> str | None:
        """The id, where it can be known without asking anybody."""
        if self.id is None and in_container():
            return here.functions.get(self.tag)
        return self.id

    def bound(self) -> Bound:
        """
        Raises:
            ExecutionError: the app does not run.
        """
        if self.client is not None and self.id is not None:
            return self.client, self.id
        if in_container() and self.tag in here.functions:
            self.bind(_default_client(), here.functions[self.tag])
            return self.bound()
        raise ExecutionError(
            f"{self.tag} has not been hydrated, because its app is not running: call it inside `with app.run():`, or start the program with `squall run`"
        )


class Variant(Handle):
    """Of a function with other options: the server makes it, with a pool of its own, when it is first called. The same options are the same variant."""

    __slots__ = ("_base", "_made", "_of", "asked")

    def __init__(self, base: Handle, asked: "Asked") -> None:
        super().__init__(base.tag)
        self.asked = asked
        self._base = base
        self._of: Bound | None = None
        self._made = ""

    @property
    def base(self) -> Handle:
        return self._base

    @classmethod
    def on(cls, base: Handle, asked: "Asked") -> "Variant":
        """A variant of a function, or of a variant: then of its function with both changes."""
        made = cls(base._base, base.asked.and_then(asked)) if isinstance(base, Variant) else cls(base, asked)
        declared = made._base.declared
        if (made.asked.attaches or made.asked.sizes) and made._base.id is None and made.asked not in declared:
            declared.append(made.asked)
        return made

    def use(self, client: "Client") -> None:
        self._base.use(client)

    def asked_client(self) -> "Client | None":
        return self._base.asked_client()

    def known(self) -> str | None:
        return self._made if self._of is not None and self._of == (self._base.client, self._base.id) else None

    def bound(self) -> Bound:
        of = client, base = self._base.bound()
        if self._of != of:
            answer = client.request(DeriveFunction(base, msgspec.msgpack.encode(self.asked.resolved(client))))
            assert isinstance(answer, Names)
            self._of, self._made = of, answer.names[0]
        return client, self._made


class Fixed(Handle):
    """Of an id that somebody wrote down, or that was pickled elsewhere."""

    __slots__ = ()

    def __init__(self, tag: str, function_id: str, client: "Client | None" = None) -> None:
        super().__init__(tag)
        self.id, self.client = function_id, client

    def use(self, client: "Client") -> None:
        self.client = client

    def unbind(self) -> None:
        """The id stays what it is."""

    def bound(self) -> Bound:
        if self.client is None:
            self.client = _default_client()
        assert self.id is not None
        return self.client, self.id


class Deployed(Handle):
    """Of a deployed function or class, by the names of its app and itself: looked up when it is first called. Its id stays the same over versions."""

    __slots__ = ("_found", "app", "environment")

    def __init__(self, app: str, tag: str, environment: str | None = None, client: "Client | None" = None) -> None:
        super().__init__(tag)
        self.app, self.environment, self.client = app, environment, client
        self._found: DeployedFunction | None = None

    def use(self, client: "Client") -> None:
        if client is not self.client:
            self.client, self.id, self._found = client, None, None

    def found(self) -> "DeployedFunction":
        """What the server knows of it.

        Raises:
            NotFoundError: no such app is deployed, or it has no such function.
        """
        from squall.sdk.app.deploy import find_function

        if self._found is None:
            self._found = find_function(self.app, self.tag, environment=self.environment, client=self.client)
        return self._found

    def bound(self) -> Bound:
        if self.id is None:
            self.bind(self.client if self.client is not None else _default_client(), self.found().id)
        assert self.client is not None
        assert self.id is not None
        return self.client, self.id


def _default_client() -> "Client":
    from squall.sdk.client.client import Client

    return Client.default()
