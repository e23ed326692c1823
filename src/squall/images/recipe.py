"""From a recipe to a plan: which layers it has, what makes each, and under which key. Pure.

The key of a layer is the SHA-256 over the parent's key, the step's action (commands, digests of the files, environment and directory that it runs with) and
`EPOCH`. It never holds a file name of the client's machine, a time, or a secret's value. Steps that only change what the image says about itself (`env`,
`workdir` ...) have no layer; they are in the key of the later commands that see them, and in the image's id.

Whoever asks for a key gets the layer, whoever had it made. So all that somebody can choose and that can change what a step does is in its key (`_own`): which
secrets and volumes it has, and, where it sees what is in no key, for whom it is made.
"""

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, is_dataclass, replace
from typing import Any

from squall.model.errors import InvalidError, UnsupportedError
from squall.model.ids import ImageId, LayerKey
from squall.model.resources import Gpu, parse_gpu
from squall.model.specs import ImageSpec, SourceFile, Step, VolumeMount

#: Part of every key: raising it makes every layer anew. Raise it when the same step gives another content than before.
EPOCH = 1

#: Hex digits of a key: 160 bits. Short enough that the path of a layer stays below the 255 bytes that fsconfig(2) takes.
DIGEST_LENGTH = 40


#: Python that each Debian release has (packages.debian.org/python3). Older ones are below what Squall runs on.
DEBIAN_OF_PYTHON = {"3.11": "bookworm", "3.13": "trixie"}


@dataclass(frozen=True, slots=True)
class Metadata:
    """What an image says about itself. Empty and None mean: as the base has it."""

    env: Mapping[str, str] = field(default_factory=dict)
    workdir: str | None = None
    shell: tuple[str, ...] = ("/bin/sh", "-c")
    entrypoint: tuple[str, ...] | None = None
    cmd: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class DebianBase:
    """A minimal Debian of one release with its Python. `release` is None where no Debian has this Python; a virtual environment may still."""

    release: str | None
    python_version: str
    machine: str


@dataclass(frozen=True, slots=True)
class Command:
    """A program run over the layers so far; what it writes is the layer.

    Attributes:
        argv: the program; `PYTHON`, `UV` and `FILES` in it stand for what the builder puts there.
        env: variables for this step only.
        tool: ``uv`` or ``apt``: what it needs from the builder beside the network.
        files: given to it in the directory `FILES`, not kept in the layer.
        unkeyed: more such files, which do not make it another layer: the source around a function whose own text is in `argv`.
        texts: more such files, by name and content.
        library: Squall's own library is at hand, as in a container of a function.
        home: directory that it runs in where the image names none.
        timeout_s: seconds after which it is ended; None: the builder's setting.
        memory_mib: beyond which the kernel ends it; None: the builder's setting.
        cpu: cores that it may use at most; None: all.
        network: it reaches the outside; False: only itself.
        mounts: paths where volumes are mounted.
        binds: mounted while it runs: kind, target, and for a ``bind`` the path among `files`, for a ``cache`` its name.
        gpus: devices that it has while it runs; alternatives, best first.
    """

    argv: tuple[str, ...]
    env: Mapping[str, str] = field(default_factory=dict)
    tool: str | None = None
    files: tuple[SourceFile, ...] = ()
    unkeyed: tuple[SourceFile, ...] = ()
    texts: tuple[tuple[str, str], ...] = ()
    library: bool = False
    home: str = "/root"
    timeout_s: float | None = None
    memory_mib: int | None = None
    cpu: float | None = None
    network: bool = True
    mounts: tuple[str, ...] = ()
    binds: tuple[tuple[str, ...], ...] = ()
    gpus: tuple[Gpu, ...] = ()

    def key(self) -> Any:
        """What of it belongs into a layer's key. The fields that came later are left out where they say nothing, so that keys stay."""
        gpus, offline = list(map(str, self.gpus)), not self.network
        fields = {"texts": self.texts, "mounts": self.mounts, "binds": self.binds, "gpus": gpus, "offline": offline}
        later = {name: value for name, value in fields.items() if value}
        return {"argv": self.argv, "env": self.env, "tool": self.tool, "files": self.files} | later


@dataclass(frozen=True, slots=True)
class Place:
    """Files put at their absolute paths."""

    files: tuple[SourceFile, ...]


@dataclass(frozen=True, slots=True)
class RegistryBase:
    """An image of a registry, by its reference as for skopeo(1) without the transport. What a tag means at the first pull is kept until `force`."""

    reference: str
    machine: str


@dataclass(frozen=True, slots=True)
class Scratch:
    """Nothing at all."""


@dataclass(frozen=True, slots=True)
class AddPython:
    """A Python put over an image that need not have one, nor a C library of its own."""

    version: str
    machine: str


@dataclass(frozen=True, slots=True)
class Copy:
    """A COPY or ADD of a Dockerfile.

    Attributes:
        target: absolute, or below the image's working directory.
        files: of the build context, with paths relative to the place they are copied to.
        layers: of the image that `sources` are taken from; set by `plan`.
        directory: `target` is a directory; None: it is, if the image has one there.
        owner: ``user[:group]``, names as in the image or numbers.
        unpack: archives among the files are unpacked, as ADD does.
        url: downloaded to `target`.
        texts: files whose content is in the Dockerfile itself: name and content.
    """

    target: str
    directory: bool | None
    files: tuple[SourceFile, ...] = ()
    sources: tuple[str, ...] = ()
    layers: tuple[LayerKey, ...] = ()
    owner: str = ""
    mode: int | None = None
    unpack: bool = False
    url: str = ""
    checksum: str = ""
    texts: tuple[tuple[str, str], ...] = ()


Action = DebianBase | RegistryBase | Scratch | AddPython | Command | Place | Copy

#: What stands in `Command.argv` for the image's interpreter, uv's binary, and the directory with `Command.files`.
PYTHON, UV, FILES = "{python}", "{uv}", "{files}"


@dataclass(frozen=True, slots=True)
class Meaning:
    """What one step does: to the file system (`action`), and to what the image says about itself (`metadata`)."""

    title: str
    metadata: Metadata
    action: Action | None = None
    stage: ImageSpec | None = None  #: the image that a `Copy` takes from


@dataclass(frozen=True, slots=True)
class LayerPlan:
    """One layer to be. `step` counts from 1 over all steps of the recipe; `metadata` is what holds while it is built."""

    key: LayerKey
    step: int
    title: str
    action: Action
    metadata: Metadata
    secrets: tuple[str, ...]
    forced: bool
    volumes: tuple[VolumeMount, ...] = ()
    own: Mapping[str, Any] = field(default_factory=dict)  #: what is in its key besides, as `_own` gives it

    @property
    def scope(self) -> str:
        """For whom it is made, where it is not for everybody."""
        return str(self.own.get("scope", ""))


@dataclass(frozen=True, slots=True)
class Plan:
    """A recipe's layers, lowest first. `steps` counts all steps, also those without a layer."""

    id: ImageId
    steps: int
    layers: tuple[LayerPlan, ...]
    metadata: Metadata
    stages: tuple["Plan", ...] = ()  #: other images that a `Copy` of this one takes from


#: Reads a step: (step, what the image says about itself so far) -> its meaning.
Kind = Callable[[Step, Metadata], Meaning]

#: Builder method -> its reader; filled by `steps.py`.
KINDS: dict[str, Kind] = {}
#: Those that may stand first.
BASES: set[str] = set()


def kind(name: str, *, base: bool = False) -> Callable[[Kind], Kind]:
    """Register the reader of a step."""

    def register(read: Kind) -> Kind:
        KINDS[name] = read
        if base:
            BASES.add(name)
        return read

    return register


def digest(*parts: Any) -> str:
    """SHA-256 over plain values, in hex and shortened to `DIGEST_LENGTH`. The order of a mapping's items makes no difference; the order of a list's does."""
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"), ensure_ascii=True, default=_plain)
    return hashlib.sha256(text.encode()).hexdigest()[:DIGEST_LENGTH]


def plan(spec: ImageSpec, *, fresh: Callable[[LayerKey], str | None] = lambda key: None, pins: Mapping[int, str] = {}, scope: str = "") -> Plan:
    """The plan of a recipe.

    Args:
        scope: for whom the image is made, such as an app; steps that see what is in no key are not shared with others.
        pins: number of a step -> key of its layer, of an image that was built: it is the same image, whatever made its keys then.
        fresh: for a step with `force` (and with it all later ones), called with the key that it would have otherwise: a nonce that makes it another layer.

    Raises:
        InvalidError: no base, a base in the middle, or a bad argument.
        UnsupportedError: a step or an argument that this version does not have.
    """
    if not spec.steps or spec.steps[0].kind not in BASES:
        first = spec.steps[0].kind if spec.steps else "nothing"
        if first not in KINDS and first != "nothing":
            raise UnsupportedError(f"images can't begin with {first} yet; they can with {', '.join(sorted(BASES))}")
        raise InvalidError(f"an image begins with a base ({', '.join(sorted(BASES))}), not with {first}")
    metadata, parent, layers, stages = Metadata(), LayerKey(""), list[LayerPlan](), list[Plan]()
    for number, step in enumerate(spec.steps, 1):
        if step.kind not in KINDS:
            raise UnsupportedError(f"step {number} of the image, {step.kind}, is not supported yet; supported are {', '.join(sorted(KINDS))}")
        if number > 1 and step.kind in BASES:
            raise InvalidError(f"step {number} of the image, {step.kind}, is a base and can only be the first step")
        meaning = KINDS[step.kind](step, metadata)
        if title := step.args.get("title"):
            meaning = replace(meaning, title=title)
        if (action := meaning.action) is not None:
            if isinstance(action, Command) and (wanted := step.args.get("gpu")):
                action = replace(action, gpus=tuple(map(parse_gpu, wanted)))
            if meaning.stage is not None:
                assert isinstance(action, Copy)
                stage = plan(meaning.stage, fresh=fresh, scope=scope)
                action = replace(action, layers=tuple(layer.key for layer in stage.layers))
                stages.append(stage)
            own = _own(step, action, scope)
            key = LayerKey(pins[number]) if number in pins else layer_key(parent, action, metadata, own)
            if number not in pins and step.force and (nonce := fresh(key)) is not None:
                key = LayerKey(digest("forced", key, nonce))
            layers.append(LayerPlan(key, number, meaning.title, action, metadata, step.secrets, step.force, step.volumes, own))
            parent = key
        metadata = meaning.metadata
    return Plan(ImageId(f"im-{digest('image', parent, metadata)[:32]}"), len(spec.steps), tuple(layers), metadata, tuple(stages))


def layer_key(parent: LayerKey, action: Action, metadata: Metadata, own: Mapping[str, Any] = {}) -> LayerKey:
    """The key of the layer that `action` makes over `parent`. Only commands see the image's environment and directory. `own`: as of a `LayerPlan`."""
    seen = (dict(metadata.env), metadata.workdir) if isinstance(action, Command) else None
    name = "Copy, owners" if isinstance(action, Copy) else type(action).__name__  # 2026-11: directories and archives got their owners
    return LayerKey(digest(EPOCH, parent, name, action.key() if isinstance(action, Command) else action, seen, *([own] if own else [])))


def _own(step: Step, action: Action, scope: str) -> dict[str, Any]:
    """What else decides the outcome of a step. Empty for most, so that their keys are what they were.

    A reference to a secret is its environment and name, or an id that follows from the values by a key of the server (`control.secrets`).
    """
    found: dict[str, Any] = {}
    if step.secrets:
        found["secrets"] = step.secrets
    if step.volumes:
        found["volumes"] = [[mount.path, mount.volume, mount.sub_path] for mount in step.volumes]
    if isinstance(action, Command) and (action.unkeyed or any(kind == "cache" for kind, *_ in action.binds)):
        found |= {"scope": scope} if scope else {"source": action.unkeyed}
    return found


def with_env(metadata: Metadata, variables: Mapping[str, str]) -> Metadata:
    """`metadata` with these variables added."""
    return replace(metadata, env={**metadata.env, **variables})


def _plain(value: Any) -> Any:
    if isinstance(value, SourceFile):
        # The size follows from the digest; the content is what counts.
        return [value.path, value.digest, value.executable]
    if is_dataclass(value):
        return {item.name: getattr(value, item.name) for item in fields(value)}
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"{type(value).__name__} has no canonical form")
