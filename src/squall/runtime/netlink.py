"""The few requests to the kernel's sockets for routing and connection tracking that container networks need, encoded here. Linux only.

`pyroute2` knows them all, but its import takes 0.3 s and 20 MiB, more than the rest of an idle server. Message layouts: linux/rtnetlink.h, linux/if_link.h,
linux/netfilter/nfnetlink_conntrack.h.
"""

import errno
import os
import socket
import struct
from collections.abc import Collection, Iterator, Sequence
from ipaddress import IPv4Address, IPv4Network
from typing import Self

_NEWLINK, _DELLINK, _NEWADDR, _NEWROUTE, _GETROUTE, _SETLINK = 16, 17, 20, 24, 26, 19
_REQUEST, _ACK, _EXCL, _CREATE, _DUMP = 0x1, 0x4, 0x200, 0x400, 0x300
_NLMSG_ERROR, _NLMSG_DONE = 2, 3
_IFLA_ADDRESS, _IFLA_IFNAME, _IFLA_MTU, _IFLA_MASTER, _IFLA_PROTINFO, _IFLA_LINKINFO, _IFLA_NET_NS_FD = 1, 3, 4, 10, 12, 18, 28
_IFLA_INFO_KIND, _IFLA_INFO_DATA, _VETH_INFO_PEER, _IFLA_BRPORT_ISOLATED = 1, 2, 1, 33
_IFA_ADDRESS, _IFA_LOCAL, _RTA_DST, _RTA_GATEWAY = 1, 2, 1, 5
_NESTED, _IFF_UP = 0x8000, 0x1
_RT_TABLE_MAIN, _RTPROT_STATIC, _RTN_UNICAST = 254, 4, 1
_NETFILTER, _CT_GET, _CT_DELETE = 12, 0x101, 0x102
_CTA_TUPLE_ORIG, _CTA_TUPLE_REPLY, _CTA_ID, _CTA_ZONE = 1, 2, 12, 18
_CTA_TUPLE_IP, _CTA_IP_V4_SRC, _TYPE = 1, 1, 0x3FFF
#: Deletions in one message to the kernel.
_DELETED_AT_ONCE = 256


def _attribute(kind: int, value: bytes) -> bytes:
    return struct.pack("=HH", len(value) + 4, kind) + value + bytes(-len(value) % 4)


def _text(kind: int, value: str) -> bytes:
    return _attribute(kind, value.encode() + b"\0")


def _number(kind: int, value: int) -> bytes:
    return _attribute(kind, struct.pack("=I", value))


def _attributes(data: bytes) -> dict[int, bytes]:
    found: dict[int, bytes] = {}
    at = 0
    while at + 4 <= len(data):
        size, kind = struct.unpack_from("=HH", data, at)
        found[kind & _TYPE] = data[at + 4 : at + size]
        at += (size + 3) & ~3 or 4
    return found


def _source(entry: bytes) -> bytes | None:
    """The source address in one direction of a tracked connection."""
    return _attributes(_attributes(entry)[_CTA_TUPLE_IP]).get(_CTA_IP_V4_SRC)


def _link(index: int = 0, flags: int = 0, family: int = socket.AF_UNSPEC) -> bytes:
    return struct.pack("=BxHiII", family, 0, index, flags, flags)


class _Socket:
    """A netlink socket of the network namespace that the calling thread is in when it is made. Blocking; a context manager.

    Raises:
        OSError: from every method, when the kernel refuses.
    """

    _PROTOCOL = 0

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, self._PROTOCOL)
        self._socket.bind((0, 0))
        self._sequence = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def _do(self, kind: int, flags: int, body: bytes, *, answer: bool = False) -> list[bytes]:
        """Send a request and return the bodies of the answers, after the kernel has acknowledged."""
        return list(self._answers(kind, flags, body, answer=answer))

    def _answers(self, kind: int, flags: int, body: bytes, *, answer: bool) -> Iterator[bytes]:
        """The same one by one, for what is long. To be read to its end."""
        self._sequence += 1
        dump = flags & _DUMP == _DUMP
        flags |= _REQUEST | (0 if answer else _ACK)
        self._socket.send(struct.pack("=IHHII", len(body) + 16, kind, flags, self._sequence, 0) + body)
        while True:
            data = self._socket.recv(1 << 17)
            at = 0
            while at + 16 <= len(data):
                size, type_, _, sequence, _ = struct.unpack_from("=IHHII", data, at)
                message = data[at + 16 : at + size]
                at += (size + 3) & ~3
                if sequence != self._sequence:
                    continue
                if type_ == _NLMSG_ERROR:
                    (code,) = struct.unpack_from("=i", message)
                    if code:
                        raise OSError(-code, f"netlink request {kind}: {os.strerror(-code)}")
                    return
                if type_ == _NLMSG_DONE:
                    return
                yield message
                if not dump:
                    return


class Netlink(_Socket):
    """Links, addresses and routes."""

    def add_bridge(self, name: str, mac: bytes, mtu: int) -> None:
        """A bridge that keeps this MAC: by itself it takes the lowest one of its ports, and changes with them, unnoticed by neighbours."""
        info = _attribute(_IFLA_LINKINFO | _NESTED, _text(_IFLA_INFO_KIND, "bridge"))
        self._do(_NEWLINK, _EXCL | _CREATE, _link(flags=_IFF_UP) + _text(_IFLA_IFNAME, name) + _attribute(_IFLA_ADDRESS, mac) + _number(_IFLA_MTU, mtu) + info)

    def add_veth(self, name: str, bridge: str, peer: str, peer_namespace: int, peer_mac: bytes, mtu: int) -> None:
        """A pair: `name`, up, a port of the bridge that can't talk to other such ports; `peer` in the namespace of that descriptor."""
        other = _link() + _text(_IFLA_IFNAME, peer) + _attribute(_IFLA_ADDRESS, peer_mac) + _number(_IFLA_MTU, mtu)
        other += _number(_IFLA_NET_NS_FD, peer_namespace)
        data = _attribute(_IFLA_INFO_DATA | _NESTED, _attribute(_VETH_INFO_PEER | _NESTED, other))
        info = _attribute(_IFLA_LINKINFO | _NESTED, _text(_IFLA_INFO_KIND, "veth") + data)
        master = _number(_IFLA_MASTER, socket.if_nametoindex(bridge))
        self._do(_NEWLINK, _EXCL | _CREATE, _link(flags=_IFF_UP) + _text(_IFLA_IFNAME, name) + _number(_IFLA_MTU, mtu) + master + info)
        isolated = _attribute(_IFLA_PROTINFO | _NESTED, _attribute(_IFLA_BRPORT_ISOLATED, b"\1"))
        self._do(_SETLINK, 0, _link(socket.if_nametoindex(name), family=socket.AF_BRIDGE) + isolated)

    def delete_link(self, name: str) -> None:
        """Idempotent: the kernel may be taking it away by itself at the same time."""
        try:
            self._do(_DELLINK, 0, _link(socket.if_nametoindex(name)))
        except OSError as e:
            # if_nametoindex says ENODEV only since Python 3.12, and no number before.
            if e.errno not in (errno.ENODEV, None):
                raise

    def set_up(self, name: str) -> None:
        self._do(_NEWLINK, 0, _link(self.index(name), _IFF_UP))

    def index(self, name: str) -> int:
        """Asked in this socket's own namespace, where the calling thread may not be."""
        reply = self._do(18, 0, _link() + _text(_IFLA_IFNAME, name), answer=True)
        return int(struct.unpack_from("=i", reply[0], 4)[0])

    def add_address(self, name: str, address: IPv4Address, prefix: int) -> None:
        head = struct.pack("=BBBBi", socket.AF_INET, prefix, 0, 0, self.index(name))
        self._do(_NEWADDR, _EXCL | _CREATE, head + _attribute(_IFA_LOCAL, address.packed) + _attribute(_IFA_ADDRESS, address.packed))

    def add_default_route(self, gateway: IPv4Address) -> None:
        head = struct.pack("=BBBBBBBBI", socket.AF_INET, 0, 0, 0, _RT_TABLE_MAIN, _RTPROT_STATIC, 0, _RTN_UNICAST, 0)
        self._do(_NEWROUTE, _EXCL | _CREATE, head + _attribute(_RTA_GATEWAY, gateway.packed))

    def routed_networks(self, *, attached: bool = False) -> Iterator[IPv4Network]:
        """Destinations of all IPv4 routes in all tables, but for default routes. `attached`: only of those without a gateway."""
        for message in self._do(_GETROUTE, _DUMP, struct.pack("=BBBBBBBBI", socket.AF_INET, 0, 0, 0, 0, 0, 0, 0, 0), answer=True):
            fields = _attributes(message[12:])
            if message[1] and _RTA_DST in fields and not (attached and _RTA_GATEWAY in fields):
                yield IPv4Network((fields[_RTA_DST], message[1]), strict=False)


class Conntrack(_Socket):
    """The connections that the kernel's packet filter remembers."""

    _PROTOCOL = _NETFILTER
    _HEAD = struct.pack("=BBH", socket.AF_INET, 0, 0)

    def forget(self, network: IPv4Network, addresses: Collection[IPv4Address]) -> int:
        """Delete what is known of connections that these addresses of a network began or accepted; returns how many there were.

        The kernel goes through all connections of the machine, which takes 0.1 s, so ask for many addresses at once. It deletes by no such condition itself.
        """
        wanted = {address.packed for address in addresses}
        prefix = network.network_address.packed[: network.prefixlen // 8]
        entries: list[bytes] = []
        for message in self._answers(_CT_GET, _DUMP, self._HEAD, answer=True):
            if prefix not in message:  # there may be hundreds of thousands that are not ours
                continue
            fields = _attributes(message[4:])
            if wanted.isdisjoint(_source(fields[direction]) for direction in (_CTA_TUPLE_ORIG, _CTA_TUPLE_REPLY)):
                continue
            entry = _attribute(_CTA_TUPLE_ORIG | _NESTED, fields[_CTA_TUPLE_ORIG])
            entries.append(entry + b"".join(_attribute(kind, fields[kind]) for kind in (_CTA_ID, _CTA_ZONE) if kind in fields))
        for start in range(0, len(entries), _DELETED_AT_ONCE):
            self._delete(entries[start : start + _DELETED_AT_ONCE])
        return len(entries)

    def _delete(self, entries: Sequence[bytes]) -> None:
        """In one message; an entry may have ended by itself in the meantime."""
        requests = []
        for entry in entries:
            self._sequence += 1
            requests.append(struct.pack("=IHHII", len(entry) + 20, _CT_DELETE, _REQUEST | _ACK, self._sequence, 0) + self._HEAD + entry)
        self._socket.send(b"".join(requests))
        sequence = 0
        while sequence != self._sequence:
            data = self._socket.recv(1 << 17)
            at = 0
            while at + 20 <= len(data):
                size, _, _, sequence, _, code = struct.unpack_from("=IHHIIi", data, at)
                at += (size + 3) & ~3
                if code not in (0, -errno.ENOENT):
                    raise OSError(-code, f"a tracked connection could not be deleted: {os.strerror(-code)}")
