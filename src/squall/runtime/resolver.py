"""The resolv.conf of a container, from the host's: a resolver that listens on the host's loopback is replaced by one that a container can reach."""

import socket
from dataclasses import dataclass
from ipaddress import IPv4Address, ip_address
from pathlib import Path

_HOST = Path("/etc/resolv.conf")
#: systemd-resolved answers nobody but the host at 127.0.0.53; here it lists the servers that it asks itself.
_BEHIND_RESOLVED = Path("/run/systemd/resolve/resolv.conf")
#: Last resort, as in Docker: well-known public resolvers.
_PUBLIC = (IPv4Address("1.1.1.1"), IPv4Address("8.8.8.8"))


@dataclass(frozen=True, slots=True)
class Resolvers:
    """What containers ask.

    Attributes:
        text: content of their resolv.conf.
        on_host: servers among them that are addresses of this machine, so that the firewall must let DNS pass.
        forwarded: a loopback address of this machine that gets what containers ask the gateway; None if not needed.
    """

    text: str
    on_host: tuple[IPv4Address, ...] = ()
    forwarded: IPv4Address | None = None

    @property
    def servers(self) -> tuple[str, ...]:
        """Their addresses."""
        return tuple(line.split()[1] for line in self.text.splitlines() if line.startswith("nameserver"))


def changed_at(files: tuple[Path, ...] = (_HOST, _BEHIND_RESOLVED)) -> tuple[int, ...]:
    """Which contents the host's files have, without reading them: another value, another content."""
    found: list[int] = []
    for file in files:
        try:
            status = file.stat()
        except OSError:
            found.append(0)
        else:
            found += [status.st_mtime_ns, status.st_ino, status.st_size]
    return tuple(found)


def container_resolvers(gateway: IPv4Address, host: Path = _HOST, behind: Path = _BEHIND_RESOLVED) -> Resolvers:
    """Read the host's resolvers. Containers have IPv4 only, so IPv6 servers are left out.

    Args:
        gateway: the host's address on the containers' bridge.
    """
    servers, others = _parse(host)
    loopback = [server for server in servers if server.is_loopback]
    if loopback and behind.exists():
        upstream = [server for server in _parse(behind)[0] if not server.is_loopback]
        if upstream:
            servers, loopback = upstream, []
    reachable = [server for server in servers if not server.is_loopback]
    forwarded = None
    if not reachable and loopback:
        reachable, forwarded = [gateway], loopback[0]
    chosen = reachable or list(_PUBLIC)
    text = "".join(f"nameserver {server}\n" for server in chosen) + "".join(f"{line}\n" for line in others)
    return Resolvers(text, tuple(server for server in chosen if server != gateway and _is_local(server)), forwarded)


def _parse(file: Path) -> tuple[list[IPv4Address], list[str]]:
    servers: list[IPv4Address] = []
    others: list[str] = []
    try:
        lines = file.read_text().splitlines()
    except OSError:
        lines = []
    for line in lines:
        words = line.split()
        if words[:1] == ["nameserver"] and len(words) > 1:
            try:
                address = ip_address(words[1].split("%")[0])
            except ValueError:
                continue
            if isinstance(address, IPv4Address):
                servers.append(address)
        elif words[:1] in (["search"], ["domain"], ["options"]):
            others.append(line)
    return servers, others


def _is_local(address: IPv4Address) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind((str(address), 0))  # only an address of this machine can be bound
        except OSError:
            return False
    return True
