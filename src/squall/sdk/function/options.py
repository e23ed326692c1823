"""The parameters of `with_options`, `with_concurrency` and `with_batching`, checked and as values."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec

from squall.model.errors import InvalidError
from squall.model.options import FunctionOptions, merge
from squall.model.sizes import sizes_of
from squall.sdk.app.declarations import modern, warn_of_no_effect
from squall.sdk.app.decorators import check_batching, check_concurrency
from squall.sdk.app.function_parameters import Takes, checked, defaults, split
from squall.sdk.app.mounts import Mountable, mount, mount_buckets
from squall.sdk.client.settings import environment_of
from squall.sdk.refusals import unknown_message
from squall.sdk.storage.secret import Secret, references

if TYPE_CHECKING:
    from squall.sdk.client.client import Client


@dataclass(frozen=True, slots=True)
class Asked:
    """What `with_options` asks for. Secrets and volumes are looked up when the variant is first called, or when it is pickled.

    `secrets` and `mounts` stand beside what `options` has of them, and win.
    """

    options: FunctionOptions
    secrets: tuple[Secret, ...] | None = None
    mounts: tuple[tuple[str, Mountable], ...] = ()

    def __reduce__(self) -> "tuple[type[Asked], tuple[FunctionOptions]]":
        return Asked, (self.resolved(None),)

    @property
    def attaches(self) -> bool:
        """Whether secrets, volumes or buckets are among it."""
        return bool(self.secrets or self.mounts or self.options.secrets or self.options.volumes or self.options.buckets)

    @property
    def sizes(self) -> bool:
        """Whether it makes other containers, or another number of them."""
        return sizes_of(self.options) != FunctionOptions()

    def and_then(self, later: "Asked") -> "Asked":
        """Both at once; the later wins."""
        more = later.options
        return Asked(
            merge(self.options, more),
            later.secrets if later.secrets is not None or more.secrets is not None else self.secrets,
            later.mounts if later.mounts or more.volumes is not None or more.buckets is not None else self.mounts,
        )

    def resolved(self, client: "Client | None", environment: str = "") -> FunctionOptions:
        """With the ids of the secrets and volumes; `environment` as in `environment_of`.

        Raises:
            NotFoundError: there is no such secret or volume.
        """
        found: dict[str, Any] = {}
        environment = environment_of(environment)
        if self.secrets is not None:
            found["secrets"] = references(client, self.secrets, environment)
        if self.mounts:
            found |= {"volumes": mount(self.mounts, environment, client), "buckets": mount_buckets(self.mounts, environment, client)}
        return msgspec.structs.replace(self.options, **found)


def parse_options(what: str, parameters: Mapping[str, Any]) -> Asked:
    """The changes that they ask for; None changes nothing.

    Raises:
        InvalidError: naming the parameter and what to write instead.
    """
    known = defaults(Takes.OPTIONS)
    given, older = split(parameters, known)
    p = modern({**known, **given}, older, stacklevel=4, what=what)
    if unknown := [name for name in p if name not in known and p[name] is not None]:
        raise InvalidError(unknown_message(unknown[0], known, what))
    warn_of_no_effect(p, 4)
    found = checked({name: value for name, value in p.items() if value is not None})
    secrets, mounts = found.pop("secrets", None), found.pop("volumes", ())
    return Asked(FunctionOptions(**{name.rpartition(".")[2]: value for name, value in found.items()}), secrets, mounts)


def concurrency_options(max_inputs: object, target_inputs: object) -> Asked:
    """For `with_concurrency`. Raises InvalidError."""
    return Asked(FunctionOptions(concurrency=check_concurrency(max_inputs, target_inputs)))


def batching_options(max_batch_size: object, wait_ms: object) -> Asked:
    """For `with_batching`. Raises InvalidError."""
    return Asked(FunctionOptions(batching=check_batching(max_batch_size, wait_ms)))
