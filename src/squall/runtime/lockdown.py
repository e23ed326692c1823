"""What must be true of a copy before it may run: looked at from outside, while it waits at its gate.

The steps that make it true run in the copy itself, whose code an import may have patched. Neither the copy nor anybody but the host's root can undo any of it,
so it stays true when the gate is open. What the filter denies is not looked at: the template's is inherited, and was in force before the import.
"""

from pathlib import Path

from squall.model.errors import ContainerStartError
from squall.runtime.proof import Namespace, Origin, namespace, pid_namespaces

_LOOKS_MAX = 20
_NOTHING = "0" * 16
#: Fields of /proc/PID/status (proc_pid_status(5)).
_WANTED = {
    **{f"Cap{kind}": _NOTHING for kind in ("Inh", "Prm", "Eff", "Bnd", "Amb")},
    "NoNewPrivs": "1",
    "Seccomp": "2",
    "Threads": "1",
}
#: The template's filter, and the containers' one on top.
_FILTERS_MIN = 2


class UnsafeError(ContainerStartError):
    """A copy of a template is not locked down as a container has to be."""


def check(pid: int, origin: Origin, template: str, network: Namespace) -> None:
    """Look at a copy, which must be in the container's control group already.

    Args:
        template: the template's control group.
        network: identity of the network namespace that the container was given.

    Raises:
        UnsafeError: says what is not as it has to be.
        ContainerStartError: the copy has ended.
    """
    # Twice, as a thread may have been there when threads were counted, and gone when capabilities were read, or the other way round.
    for _ in range(2):
        _check_status(pid)
    spaces = pid_namespaces(pid)
    if origin.space is None or spaces[1:2] != [origin.space]:
        raise UnsafeError("it has no pid namespace of its own")
    if namespace(pid, "user") != origin.user_namespace:
        raise UnsafeError("it is in another user namespace")
    if namespace(pid, "net") != network:
        raise UnsafeError("it is not in its network namespace")
    # After the capabilities: whom it forks now has none either.
    if _is_shared(spaces[0], {pid}, origin, template):
        raise UnsafeError("another process is in its pid namespace")


def _check_status(pid: int) -> None:
    status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    if status["State"].split()[0] in "ZX":
        raise ContainerStartError("the copy ended as it started")
    for name, wanted in _WANTED.items():
        if (found := status[name].strip()) != wanted:
            raise UnsafeError(f"{name} is {found}, and not {wanted}")
    if int(status["Seccomp_filters"]) < _FILTERS_MIN:
        raise UnsafeError("the containers' filter is not in force")


def _is_shared(space: Namespace, known: set[int], origin: Origin, template: str) -> bool:
    """Whether a process that is not known is in a pid namespace. It could be in no control groups but these two."""
    for _ in range(_LOOKS_MAX):
        try:
            others = (origin.groups.members(origin.group) | origin.groups.members(template)) - known
            return any(space in pid_namespaces(other) for other in others)
        except OSError:  # one has ended, and may have left another in its place
            continue
    return True
