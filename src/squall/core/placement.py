"""Which machine a container goes to, what it reserves there, and what is short when it fits nowhere."""

from dataclasses import dataclass, field

from squall.model.resources import GPU_TYPES, Gpu, Resources

#: Requests of cores may add up to this many times a node's cores: most functions wait for something most of the time, and shares keep it fair.
CPU_OVERCOMMIT = 8.0

#: Other names that a wish is met by, the first best (the reference's aliases; ``H100!`` is an H100 and nothing else, which it is here anyhow).
_MET_BY = {"A100": ("A100", "A100-40GB", "A100-80GB"), "A10": ("A10", "A10G"), "A10G": ("A10G", "A10"), "H100!": ("H100",)}


@dataclass(slots=True)
class Node:
    """A machine: its capacity and what is reserved on it.

    Attributes:
        gpus: ids of its devices by type, for example ``{"A100": ("GPU-8f3a…", "GPU-11c0…")}``. A container gets whole devices.
        used_gpus: ids that are reserved.
    """

    name: str
    cores: float
    memory_mib: int
    gpus: dict[str, tuple[str, ...]] = field(default_factory=dict)
    used_cores: float = 0.0
    used_memory_mib: int = 0
    used_gpus: set[str] = field(default_factory=set)

    def free_gpus(self, kind: str) -> tuple[str, ...]:
        """Devices of exactly this type that nobody has."""
        return tuple(device for device in self.gpus.get(kind, ()) if device not in self.used_gpus)


@dataclass(frozen=True, slots=True)
class Placement:
    """Room on a node for one container; it counts from `take` to `give_back`. `devices` are GPUs of `gpu_type`."""

    node: Node
    need: Resources
    gpu_type: str | None = None
    devices: tuple[str, ...] = ()

    def take(self) -> None:
        """Reserve it."""
        self.node.used_cores += self.need.cpu_request
        self.node.used_memory_mib += self.need.memory_request_mib
        assert self.node.used_gpus.isdisjoint(self.devices), f"{self.devices} are given twice"
        self.node.used_gpus.update(self.devices)

    def give_back(self) -> None:
        """Free it again; once for each `take`."""
        self.node.used_cores -= self.need.cpu_request
        self.node.used_memory_mib -= self.need.memory_request_mib
        self.node.used_gpus.difference_update(self.devices)


@dataclass(frozen=True, slots=True)
class Short:
    """It does not fit now: which resource is short, what was asked, and what is free on the machine that has most of it.

    `ever` is False when no machine is large enough at all; then `free` is the largest machine's capacity. `instead`: GPU types that are free now, or of that
    machine.
    """

    resource: str
    asked: float
    free: float
    ever: bool
    instead: tuple[str, ...] = ()

    @property
    def lack(self) -> str:
        """What was asked, in words."""
        return f"{self.asked:g} {self.resource.removesuffix('s') if self.asked == 1 else self.resource}"


def place(need: Resources, nodes: list[Node]) -> Placement | Short:
    """Room for one container: of the GPU alternatives the first that fits anywhere, on the fullest node where it does, so that large holes stay.

    Nothing is reserved by this.
    """
    shorts: list[Short] = []
    for wish in need.gpus or (None,):
        fits: list[tuple[float, Placement]] = []
        for node in nodes:
            placed = _on(node, need, wish)
            if isinstance(placed, Short):
                shorts.append(placed)
            else:
                fits.append((node.cores * CPU_OVERCOMMIT - node.used_cores, placed))
        if fits:
            return min(fits, key=lambda item: item[0])[1]
    if not shorts:
        return Short("machines", 1, 0, False)
    return max(shorts, key=lambda short: (short.ever, short.free))


def _on(node: Node, need: Resources, wish: Gpu | None) -> Placement | Short:
    if need.cpu_request > node.cores:
        return Short("cores", need.cpu_request, node.cores, False)
    if need.memory_request_mib > node.memory_mib:
        return Short("MiB of memory", need.memory_request_mib, node.memory_mib, False)
    kind: str | None = None
    devices: tuple[str, ...] = ()
    if wish is not None:
        kinds = _kinds(node, wish.type)
        most = max((len(node.gpus.get(kind, ())) for kind in kinds), default=0)
        if most < wish.count:
            return Short(f"{wish.type} GPUs", wish.count, most, False, tuple(sorted(node.gpus)))
        free = {kind: node.free_gpus(kind) for kind in kinds}
        kind = next((kind for kind in kinds if len(free[kind]) >= wish.count), None)
        if kind is None:
            others = tuple(sorted(other for other in node.gpus if other not in kinds and len(node.free_gpus(other)) >= wish.count))
            return Short(f"{wish.type} GPUs", wish.count, max(len(devices) for devices in free.values()), True, others)
        devices = free[kind][: wish.count]
    free_cores = node.cores * CPU_OVERCOMMIT - node.used_cores
    if need.cpu_request > free_cores:
        return Short("cores", need.cpu_request, free_cores, True)
    free_memory = node.memory_mib - node.used_memory_mib
    if need.memory_request_mib > free_memory:
        return Short("MiB of memory", need.memory_request_mib, free_memory, True)
    return Placement(node, need, kind, devices)


def _kinds(node: Node, wish: str) -> tuple[str, ...]:
    """The types of a node's devices that meet a wish, best first. One that Modal does not have is met by products whose name has it as whole words."""
    if wish == "any":
        return tuple(node.gpus)
    if wish in GPU_TYPES or wish in node.gpus:
        return _MET_BY.get(wish, (wish,))
    return tuple(kind for kind in node.gpus if f"-{wish}-" in f"-{kind}-")
