"""Every field of a declaration: how a change of it is said to the user, and whether it changes what isolates the code.

`differences` goes over the fields of the structs themselves, so a field without an entry here is still announced, by its bare name;
`tests/unit/test_model_fields.py` fails until it has one.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import msgspec

from squall.model.resources import Resources
from squall.model.specs import (
    AppSpec,
    Attached,
    Batching,
    BucketMount,
    Concurrency,
    FunctionSpec,
    MethodSpec,
    Parameter,
    RetryPolicy,
    Scaling,
    Schedule,
    VolumeMount,
    Web,
)


class Change(NamedTuple):
    """A phrase for the user. `isolation`: it changes what the code can reach or what it is kept apart from."""

    phrase: str
    isolation: bool = False


#: From the struct before and the struct after to the changes; called only where the field differs.
Say = Callable[[Any, Any], Iterable[Change]]


class Field(NamedTuple):
    say: Say
    isolation: bool = False


def differences(kind: type[msgspec.Struct], old: Any, new: Any) -> list[Change]:
    """What changes between two values of one kind of struct: isolation first, then in the order of the fields, each phrase once."""
    table = FIELDS.get(kind, {})
    found: list[Change] = []
    for name in kind.__struct_fields__:
        if getattr(old, name) != getattr(new, name):
            field = table.get(name) or plain(f"{name} changed")
            found += [Change(change.phrase, change.isolation or field.isolation) for change in field.say(old, new)]
    return list(dict.fromkeys(sorted(found, key=lambda change: not change.isolation)))


# --- ways of saying it --------------------------------------------------------------------------------------------------------


def plain(phrase: str, *, isolation: bool = False) -> Field:
    return Field(lambda old, new: [Change(phrase)], isolation)


def shown(word: str, show: Callable[[Any], str], *, isolation: bool = False) -> Field:
    """``word was → is``; `show` is given the whole struct, since some fields are shown together."""
    return Field(lambda old, new: [Change(f"{word} {show(old)} → {show(new)}")], isolation)


def value(word: str, name: str, show: Callable[[Any], str] = str, *, none: str = "none", isolation: bool = False) -> Field:
    """``word was → is`` of one field."""
    return shown(word, lambda struct: none if getattr(struct, name) is None else show(getattr(struct, name)), isolation=isolation)


def flag(word: str, name: str, *, isolation: bool = False) -> Field:
    return value(word, name, lambda on: "yes" if on else "no", isolation=isolation)


def nested(word: str, name: str, kind: type[msgspec.Struct], *, isolation: bool = False) -> Field:
    """The changes of a struct within; where it appears or goes: ``word added``, ``word removed``."""

    def say(old: Any, new: Any) -> Iterator[Change]:
        was, now = getattr(old, name), getattr(new, name)
        if was is None or now is None:
            yield Change(f"{word} {'added' if was is None else 'removed'}")
        else:
            yield from _prefixed(word, differences(kind, was, now))

    return Field(say, isolation)


def keyed(word: str, name: str, kind: type[msgspec.Struct], key: str, *, isolation: bool = False) -> Field:
    """A list of structs that one of their fields tells apart."""

    def say(old: Any, new: Any) -> Iterator[Change]:
        was, now = ({getattr(each, key): each for each in getattr(side, name)} for side in (old, new))
        if was == now:
            yield Change(f"order of {word} changed")
        for each in dict.fromkeys((*was, *now)):
            title = f"{word} {each}".rstrip()
            if each not in was or each not in now:
                yield Change(f"{title} {'added' if each not in was else 'removed'}")
            else:
                yield from _prefixed(title if each else "", differences(kind, was[each], now[each]))

    return Field(say, isolation)


def names(word: str, name: str, *, isolation: bool = False) -> Field:
    """A list of names: those that came, went, or changed places. For a mapping, also the keys whose values changed; values are not shown."""

    def say(old: Any, new: Any) -> Iterator[Change]:
        was, now = getattr(old, name) or (), getattr(new, name) or ()
        phrases = [*(f"+{each}" for each in now if each not in was), *(f"-{each}" for each in was if each not in now)]
        if isinstance(was, dict) and isinstance(now, dict):
            phrases += [f"~{each}" for each in now if each in was and was[each] != now[each]]
        yield Change(f"{word} {' '.join(phrases) or 'order changed'}")

    return Field(say, isolation)


def _prefixed(word: str, changes: Iterable[Change]) -> Iterator[Change]:
    for phrase, isolation in changes:
        yield Change(f"{word}: {phrase}" if word else phrase, isolation)


def _number(number: Any) -> str:
    return f"{number:g}"


def _seconds(seconds: Any) -> str:
    return f"{seconds:g} s"


def _listed(values: Any) -> str:
    return ", ".join(map(str, values)) or "none"


def _cpu(resources: Any) -> str:
    return f"{resources.cpu_request:g}" if resources.cpu_limit is None else f"{resources.cpu_request:g}-{resources.cpu_limit:g}"


def _memory(resources: Any) -> str:
    request, limit = resources.memory_request_mib, resources.memory_limit_mib
    return f"{request} MiB" if limit is None else f"at most {limit} MiB" if limit == request else f"{request}-{limit} MiB"


def _gpus(resources: Any) -> str:
    return " or ".join(str(gpu) for gpu in resources.gpus or ()) or "none"


def _mib(mib: Any) -> str:
    return f"{mib} MiB"


# --- the table ----------------------------------------------------------------------------------------------------------------

_CODE = plain("code changed")
_CPU, _MEMORY, _GPU = shown("cpu", _cpu), shown("memory", _memory), shown("gpu", _gpus)
_SCHEDULE = plain("schedule changed")

FIELDS: dict[type[msgspec.Struct], dict[str, Field]] = {
    AppSpec: {
        "name": value("name", "name"),
        "description": value("description", "description"),
        "images": Field(lambda old, new: ()),  # each function says whether its own image changed (core/deploy.py)
        "functions": Field(lambda old, new: ()),  # have rows of their own (core/deploy.py)
    },
    FunctionSpec: {
        "tag": value("name", "tag"),
        "module": _CODE,
        "qualname": _CODE,
        "image": Field(lambda old, new: ()),  # a place in a list: core/deploy.py compares what lies there
        "methods": keyed("method", "methods", MethodSpec, "name"),
        "is_class": flag("class", "is_class"),
        "parameters": keyed("parameter", "parameters", Parameter, "name"),
        "pickled": _CODE,
        "source": _CODE,
        "env": names("environment", "env"),
        "secrets": names("secrets", "secrets", isolation=True),
        "volumes": keyed("volume at", "volumes", VolumeMount, "path", isolation=True),
        "buckets": keyed("bucket at", "buckets", BucketMount, "path", isolation=True),
        "resources": nested("", "resources", Resources),
        "scaling": nested("", "scaling", Scaling),
        "concurrency": nested("", "concurrency", Concurrency),
        "retries": nested("retries", "retries", RetryPolicy),
        "timeout_s": value("timeout", "timeout_s", _seconds),
        "startup_timeout_s": value("startup_timeout", "startup_timeout_s", _seconds, none="that of the calls"),
        "schedule": Field(lambda old, new: [Change("no schedule any more")] if new.schedule is None else _SCHEDULE.say(old, new)),
        "block_network": flag("block_network", "block_network", isolation=True),
        "outbound_cidrs": value("outbound_cidr_allowlist", "outbound_cidrs", _listed, none="everything", isolation=True),
        "single_use": flag("single_use_containers", "single_use", isolation=True),
        "runtime": value("runtime", "runtime", none="the server's default", isolation=True),
        "fork": flag("containers from a template", "fork", isolation=True),
        "snapshot": flag("enable_memory_snapshot", "snapshot", isolation=True),
        "may_deploy": flag("may deploy apps", "may_deploy", isolation=True),
        "restricted": flag("restrict_modal_access", "restricted", isolation=True),
        "variants": nested("with options", "variants", Attached, isolation=True),
        "options": plain("options changed"),  # of a variant, whose changed options make another variant
    },
    Attached: {
        "secrets": names("secrets", "secrets"),
        "volumes": keyed("volume at", "volumes", VolumeMount, "path"),
        "buckets": keyed("bucket at", "buckets", BucketMount, "path"),
        "sizes": plain("cpu, memory, gpu or containers changed"),
    },
    VolumeMount: {
        "path": value("path", "path"),
        "volume": value("volume", "volume"),
        "read_only": flag("read_only", "read_only"),
        "strict": flag("strict", "strict"),
        "sub_path": value("sub_path", "sub_path", lambda path: path or "all of it"),
    },
    BucketMount: {
        "path": value("path", "path"),
        "bucket": value("bucket", "bucket"),
        "endpoint": value("endpoint", "endpoint", none="AWS"),
        "prefix": value("prefix", "prefix", lambda prefix: prefix or "none"),
        "secret": value("secret", "secret"),
        "read_only": flag("read_only", "read_only"),
        "requester_pays": flag("requester_pays", "requester_pays"),
        "path_style": flag("path-style addresses", "path_style"),
    },
    Resources: {
        "cpu_request": _CPU,
        "cpu_limit": _CPU,
        "memory_request_mib": _MEMORY,
        "memory_limit_mib": _MEMORY,
        "disk_limit_mib": value("ephemeral_disk", "disk_limit_mib", _mib, none="no limit"),
        "gpus": _GPU,
    },
    Scaling: {
        "min_containers": value("min_containers", "min_containers"),
        "max_containers": value("max_containers", "max_containers", none="no limit"),
        "buffer_containers": value("buffer_containers", "buffer_containers"),
        "scaledown_window_s": value("scaledown_window", "scaledown_window_s", _seconds),
        "max_pending": value("max_pending", "max_pending", none="no limit"),
    },
    Concurrency: {
        "max_inputs": value("inputs at a time", "max_inputs"),
        "target_inputs": value("target_inputs", "target_inputs", none="max_inputs"),
    },
    RetryPolicy: {
        "max_retries": value("max_retries", "max_retries"),
        "initial_delay_s": value("initial_delay", "initial_delay_s", _seconds),
        "backoff": value("backoff_coefficient", "backoff", _number),
        "max_delay_s": value("max_delay", "max_delay_s", _seconds),
    },
    MethodSpec: {
        "name": value("name", "name"),
        "is_generator": flag("generator", "is_generator"),
        "is_async": flag("async", "is_async"),
        "batching": nested("batched", "batching", Batching),
        "web": nested("web", "web", Web),
    },
    Batching: {
        "max_batch_size": value("max_batch_size", "max_batch_size"),
        "wait_ms": value("wait_ms", "wait_ms"),
    },
    Web: {
        "kind": value("kind", "kind"),
        "method": value("method", "method"),
        "label": value("label", "label"),
        "docs": flag("docs", "docs"),
        "requires_proxy_auth": flag("requires_proxy_auth", "requires_proxy_auth", isolation=True),
        "port": value("port", "port"),
        "startup_timeout_s": value("startup_timeout", "startup_timeout_s", _seconds),
        "custom_domains": names("custom_domains", "custom_domains"),
        "rate_limit": value("rate_limit", "rate_limit", _number, none="no limit"),
    },
    Parameter: {
        "name": value("name", "name"),
        "type": value("type", "type"),
        "required": flag("required", "required"),
        "default": value("default", "default", repr),
    },
    Schedule: dict.fromkeys(Schedule.__struct_fields__, _SCHEDULE),
}
