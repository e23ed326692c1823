"""What `@app.function(...)` was given, checked where the user wrote it and turned into the values of a spec."""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from squall.model.errors import DeprecationError, InvalidError, UnsupportedError
from squall.model.resources import Resources
from squall.model.specs import Concurrency, RetryPolicy, Scaling, Schedule
from squall.runner.context import in_container
from squall.sdk.app.checks import count
from squall.sdk.app.function_parameters import TABLE, checked
from squall.sdk.app.mounts import Mountable
from squall.sdk.image.image import Image
from squall.sdk.refusals import unknown_message
from squall.sdk.storage.secret import Secret

#: Old spelling -> new one. They are accepted with a warning, because much code in the wild has them.
OLD_NAMES = {"keep_warm": "min_containers", "concurrency_limit": "max_containers", "container_idle_timeout": "scaledown_window"}

#: Parameters of earlier versions whose meaning is gone -> what to do instead.
GONE = {
    "mounts": "add local files to the image, with Image.add_local_dir, add_local_file or add_local_python_source",
    "shared_volumes": "use volumes=",
    "interactive": "it has no replacement",
    "allow_cross_region_volumes": "it has no replacement",
    "checkpointing_enabled": "write enable_memory_snapshot=",
    "_allow_background_volume_commits": "it has no replacement",
}


@dataclass(frozen=True, slots=True)
class Declaration:
    """The checked parameters of one function. `image`, `include_source` None: the app's. `fields`: all others, as fields of the `FunctionSpec`."""

    image: Image | None = None
    secrets: tuple[Secret, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    volumes: tuple[tuple[str, Mountable], ...] = ()
    include_source: bool | None = None
    concurrency: Concurrency | None = None
    fields: Mapping[str, Any] = field(default_factory=dict)

    @property
    def retries(self) -> RetryPolicy | None:
        return self.fields.get("retries")

    @property
    def schedule(self) -> Schedule | None:
        return self.fields.get("schedule")


def declare(parameters: Mapping[str, Any], unknown: Mapping[str, Any], *, stacklevel: int, what: str = "@app.function") -> Declaration:
    """Check all parameters of a function or class.

    Args:
        parameters: by their names of today, defaults included.
        unknown: what else was given: old spellings, or mistakes.
        stacklevel: of the user's line, for warnings, as seen from here.

    Raises:
        InvalidError: naming the parameter and what to write instead.
        UnsupportedError: a parameter that would have an effect which is not built yet.
    """
    p = modern(parameters, unknown, stacklevel=stacklevel + 1, what=what)
    warn_of_no_effect(p, stacklevel + 1)
    for name, value in p.items():
        if name in TABLE and (neutral := TABLE[name].not_yet) is not None and value not in neutral:
            raise UnsupportedError(f"{name}={value!r} is not supported yet")
    found = checked(p)
    if p.get("block_network") and p.get("outbound_cidr_allowlist") is not None:
        raise InvalidError("block_network=True leaves nothing for outbound_cidr_allowlist= to allow; give one of them")
    if p.get("restrict_modal_access") and p.get("may_deploy"):
        raise InvalidError("may_deploy=True needs what restrict_modal_access=True takes away: talk with the server; give one of them")
    own = {name: found.pop(name) for name in ("image", "secrets", "env", "volumes", "include_source") if name in found}
    fields = {name: value for name, value in found.items() if "." not in name}
    for group, kind in (("resources", Resources), ("scaling", Scaling)):
        fields[group] = kind(**{name.partition(".")[2]: value for name, value in found.items() if name.startswith(f"{group}.")})
    if (scaling := fields["scaling"]).max_containers is not None and scaling.min_containers > scaling.max_containers:
        raise InvalidError(f"min_containers={scaling.min_containers} is more than max_containers={scaling.max_containers}")
    return Declaration(**own, concurrency=p["concurrency"], fields=fields)


def modern(parameters: Mapping[str, Any], unknown: Mapping[str, Any], *, stacklevel: int, what: str = "@app.function") -> dict[str, Any]:
    """The parameters with old spellings moved to the new ones, with a warning for each. ``concurrency`` is added: of `allow_concurrent_inputs`.

    Raises:
        InvalidError: a name that is neither known nor an old one, or both spellings at once.
    """
    p = dict(parameters)
    p["concurrency"] = None
    for name, value in unknown.items():
        if (new := OLD_NAMES.get(name)) is not None:
            _warn(f"{name}= is the old spelling of {new}=", stacklevel)
            if p.get(new) is not None:
                raise InvalidError(f"{name}= and {new}= are the same parameter; give only {new}=")
            p[new] = value
        elif name == "secret":
            _warn("secret= is the old spelling of secrets=[...]", stacklevel)
            p["secrets"] = [*(p["secrets"] or ()), *([] if value is None else [value])]
        elif name == "allow_concurrent_inputs":
            _warn("allow_concurrent_inputs= is the old spelling of @squall.concurrent(max_inputs=...)", stacklevel)
            if value is not None:
                p["concurrency"] = Concurrency(count(name, value, 1))
        elif name in GONE:
            if value not in (None, False, (), [], {}):
                raise InvalidError(f"{name}= of {what} is gone: {GONE[name]}")
            _warn(f"{name}= of {what} is gone; leave it out", stacklevel)
        else:
            raise InvalidError(unknown_message(name, parameters, what))
    if (max_inputs := p.pop("max_inputs", None)) is not None:
        if max_inputs != 1 or isinstance(max_inputs, bool):
            raise InvalidError(f"max_inputs={max_inputs!r}: only 1 is possible; it is the old spelling of single_use_containers=True")
        _warn("max_inputs=1 is the old spelling of single_use_containers=True", stacklevel)
        p["single_use_containers"] = True
    return p


def warn_of_no_effect(parameters: Mapping[str, Any], stacklevel: int) -> None:
    """Warn of each parameter that is accepted and does nothing; once, where the program was started."""
    if in_container():
        return
    for name, value in parameters.items():
        if name in TABLE and (neutral := TABLE[name].no_effect) is not None and value not in neutral:
            warnings.warn(f"{name}={value!r} has no effect: Squall runs on your own machines", UserWarning, stacklevel=stacklevel)


def _warn(message: str, stacklevel: int) -> None:
    warnings.warn(message, DeprecationError, stacklevel=stacklevel + 1)
