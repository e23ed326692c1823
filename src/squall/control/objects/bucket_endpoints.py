"""Where buckets may lie: on the internet, and at the private addresses that the machine's owner names."""

import socket
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from urllib.parse import urlsplit

from squall.model.errors import ConnectionError, InvalidError, PermissionDeniedError

#: Of IPv4, as `is_global` has it, but for small ones inside of others; multicast too.
_NOT_PUBLIC = tuple(
    IPv4Network(network)
    for network in (
        *("0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12"),
        *("192.0.0.0/24", "192.168.0.0/16", "198.18.0.0/15", "224.0.0.0/3"),
    )
)
VARIABLE = "SQUALL_BUCKET_ENDPOINTS"


@dataclass(frozen=True, slots=True)
class Endpoints:
    """Private addresses that buckets may be at: networks, each with one port or with all (None)."""

    private: tuple[tuple[IPv4Network | IPv6Network, int | None], ...] = ()

    def on_this_machine(self, url: str) -> bool:
        """Whether it is at a loopback address, which only the host's network has; blocks. Such an address the owner has named, else `check` had refused it."""
        return any(address.is_loopback for address in _addresses(url))

    def reachable(self) -> list[IPv4Network]:
        """All that buckets may be at, but for this machine."""
        found = [IPv4Network("0.0.0.0/0")]
        for private in _NOT_PUBLIC:
            found = [part for network in found for part in (network.address_exclude(private) if private.subnet_of(network) else (network,))]
        return [*found, *(network for network, _ in self.private if isinstance(network, IPv4Network) and not network.is_loopback)]

    def check(self, url: str) -> None:
        """Ask for the addresses of its host; blocks.

        Raises:
            PermissionDeniedError: one of them is of this machine, its network, or a cloud's own.
            ConnectionError: it has none.
        """
        parts = urlsplit(url)
        port = parts.port or (443 if parts.scheme == "https" else 80)
        for address in _addresses(url):
            named = any(address in network and only in (None, port) for network, only in self.private)
            if not named and (not address.is_global or address.is_multicast):
                raise PermissionDeniedError(
                    f"bucket_endpoint_url={url!r} is at {address}, a private address; the owner of the server allows it with  {VARIABLE}={address}:{port}"
                )


def _addresses(url: str) -> list[IPv4Address | IPv6Address]:
    try:
        found = {str(row[4][0]).partition("%")[0] for row in socket.getaddrinfo(urlsplit(url).hostname, None, type=socket.SOCK_STREAM)}
    except (OSError, UnicodeError) as error:
        raise ConnectionError(f"the host of bucket_endpoint_url={url!r} has no address") from error
    addresses = [ip_address(text) for text in sorted(found)]
    return [getattr(address, "ipv4_mapped", None) or address for address in addresses]


def endpoints_of(environ: Mapping[str, str]) -> Endpoints:
    """``SQUALL_BUCKET_ENDPOINTS=10.1.0.0/16,127.0.0.1:9000``.

    Raises:
        InvalidError: neither a network nor an address with a port.
    """
    private: list[tuple[IPv4Network | IPv6Network, int | None]] = []
    for part in environ.get(VARIABLE, "").replace(",", " ").split():
        try:
            try:
                private.append((ip_network(part.strip("[]")), None))
            except ValueError:
                host, _, port = part.rpartition(":")
                private.append((ip_network(host.strip("[]")), int(port)))
        except ValueError:
            raise InvalidError(f"{VARIABLE}: {part!r} is neither a network (10.1.0.0/16) nor an address with a port (127.0.0.1:9000)") from None
    return Endpoints(tuple(private))
