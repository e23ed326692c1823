"""Networks of containers: a bridge, and a pool of network namespaces that are ready before anyone asks, since making one takes longer than a start may.

A namespace has a number, its slot, from which its name, address and interface follow; so whatever a killed agent left behind is found again by looking.
Blocking work on namespaces runs in one thread of the pool's own, which alone ever leaves the host's network namespace, for a moment.
"""

import asyncio
import hashlib
import json
import logging
import os
import socket
import threading
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import TypeVar

from squall.model.errors import ResourceExhaustedError
from squall.runtime import firewall, kernel, mounts
from squall.runtime.files import child_names, write_atomically
from squall.runtime.netlink import Conntrack, Netlink
from squall.runtime.resolver import Resolvers, container_resolvers

log = logging.getLogger(__name__)
T = TypeVar("T")

_CANDIDATES = tuple(IPv4Network(network) for network in ("10.128.0.0/9", "172.16.0.0/12", "192.168.0.0/16"))  # RFC 1918
_PREFIX = 20  # 4,093 containers an instance
#: A start needs both processors of a small machine for some milliseconds; the pool is filled up when there was none for so long.
_CALM_S = 0.05
#: Namespaces that are kept for the next containers when theirs have ended; each takes the kernel some 200 KiB.
_KEPT = 64
#: How long the look-up of a service's name may take.
_LOOK_UP_S = 5
_SYSCTLS = {
    "net/ipv4/ip_unprivileged_port_start": "0",  # the namespace belongs to the host's root, so root inside has no right to low ports by itself
    "net/ipv4/ping_group_range": "0 2147483647",
    "net/ipv6/conf/default/disable_ipv6": "1",
}


@dataclass(frozen=True, slots=True)
class Slot:
    """A prepared network namespace: `path` can be entered."""

    number: int
    path: Path
    address: IPv4Address


class NetworkPool:
    """The networks of one instance.

    `open` takes over what an earlier agent left: its bridge and address range while one of its containers runs, and removes namespaces that none uses.
    """

    def __init__(self, *, tag: str, folder: Path, ready: int, maker: Callable[[], int] | None = None) -> None:
        """
        Args:
            tag: at most 8 letters and digits that no other instance on this machine has; part of every name.
            folder: directory of the instance for namespaces and state; on a tmpfs at best, as neither outlives a reboot.
            ready: how many namespaces are kept prepared.
            maker: makes a network namespace and returns its descriptor; blocks, and is called in the pool's thread. None: the host's root makes them.
        """
        self._maker = maker
        self.bridge = f"sq-{tag}"
        self._tag, self._table, self._folder, self._size = tag, f"squall_{tag}", folder, ready
        self._subnet = _CANDIDATES[0]
        self._mtu = 1500
        #: Numbers that a namespace has, prepared or in use.
        self._taken: set[int] = set()
        self._used: set[int] = set()
        self._next = 0
        #: When the last one was leased; seconds of the loop's clock.
        self._leased_at = float("-inf")
        self._ready: deque[Slot] = deque()
        self._waiters: deque[asyncio.Future[Slot]] = deque()
        self._hungry = asyncio.Event()
        self._earlier: set[int] = set()
        self._refill: asyncio.Task[None] | None = None
        self._thread = ThreadPoolExecutor(1, "squall-network")
        self.resolvers = Resolvers("")
        #: What containers with limits may reach, by number; kept in a file too, since such a container may outlive this agent.
        self._limits: dict[int, tuple[IPv4Network, ...]] = {}
        #: Numbers whose last container may have left connections that the kernel remembers.
        self._talked: set[int] = set()
        self._firewall = threading.Lock()
        #: Numbers whose limits are the owner's choice; not kept for the next agent, which mounts anew.
        self._trusted: set[int] = set()
        self._opened: tuple[IPv4Network, ...] = ()
        self._services: tuple[tuple[IPv4Address, int], ...] = ()
        #: The port of this machine that containers may reach.
        self._door: int | None = None

    async def open(self, used: Iterable[int]) -> None:
        """Set up bridge and firewall and begin to fill the pool.

        Args:
            used: slots of containers that an earlier agent started and that have not been removed.
        """
        self._used = set(used)
        self._taken = set(self._used)
        # They belong to the earlier agent's user namespace, which nobody of ours may enter them from.
        self._earlier = set(self._used)
        await self._in_thread(self._set_up)
        self._refill = asyncio.create_task(self._keep_filled(), name=f"network pool {self._tag}")

    async def close(self) -> None:
        """Remove the prepared namespaces, and all the rest too if no container uses it. Idempotent."""
        if self._refill is not None:
            self._refill.cancel()
            with suppress(asyncio.CancelledError):
                await self._refill
            self._refill = None
        await self._in_thread(self._tear_down)
        self._thread.shutdown()

    async def lease(self) -> Slot:
        """A prepared namespace, which is the caller's until `release`. Cancel-safe.

        Raises:
            ResourceExhaustedError: all addresses are in use.
            OSError: the kernel refused to make one.
        """
        if self._ready:
            slot = self._ready.popleft()
            self._hungry.set()
        else:
            waiter: asyncio.Future[Slot] = asyncio.get_running_loop().create_future()
            self._waiters.append(waiter)
            self._hungry.set()
            try:
                slot = await waiter
            except asyncio.CancelledError:
                if waiter.done() and not waiter.cancelled() and waiter.exception() is None:
                    self._ready.append(waiter.result())
                raise
        self._used.add(slot.number)
        self._leased_at = asyncio.get_running_loop().time()
        return slot

    async def limit(self, slot: Slot, networks: Sequence[IPv4Network], *, trusted: bool = False) -> None:
        """Let whoever is in this namespace reach nothing but these networks, and the resolvers, until its release.

        Args:
            trusted: the networks are the owner's choice, so private ones among them are open too.

        Raises:
            FirewallError
        """
        await self._in_thread(lambda: self._limit(slot.number, tuple(networks), trusted=trusted))

    async def release(self, number: int, *, clean: bool = False) -> None:
        """Give back the namespace of a container that has ended. Idempotent.

        Args:
            clean: nobody in it could change it, so another container may have it, unless it was used to send anything.
        """
        if number not in self._used:
            return
        if number in self._limits:
            await self._in_thread(lambda: self._limit(number, None))
        clean = clean and number not in self._earlier and not self._has_talked(number)
        if clean and self._refill is not None and len(self._ready) < max(self._size, _KEPT):
            self._used.discard(number)
            slot = Slot(number, self._folder / "netns" / str(number), self._address(number))
            if waiter := self._next_waiter():
                waiter.set_result(slot)
            else:
                self._ready.append(slot)
            return
        await self._in_thread(lambda: self._remove_namespace(number))
        self._earlier.discard(number)
        self._used.discard(number)
        self._talked.add(number)
        self._taken.discard(number)

    @property
    def gateway(self) -> IPv4Address:
        """This machine, as containers see it."""
        return next(self._subnet.hosts())

    async def admit(self, port: int) -> None:
        """Let containers without limits reach this TCP port of the gateway, and no other port of this machine.

        Raises:
            FirewallError
        """
        self._door = port
        await self._in_thread(self._apply_firewall)

    async def allow(self, networks: Sequence[IPv4Network], services: Sequence[tuple[str, int]]) -> None:
        """Let containers reach these of the private networks around this machine, and the TCP services (name, port) there. Names are looked up now.

        Raises:
            FirewallError
        """
        loop = asyncio.get_running_loop()

        async def look_up(name: str, port: int) -> list[tuple[IPv4Address, int]]:
            try:
                found = await asyncio.wait_for(loop.getaddrinfo(name, port, family=socket.AF_INET, type=socket.SOCK_STREAM), _LOOK_UP_S)
            except (OSError, UnicodeError):
                log.warning("%s is not found: if its address is private, containers can't reach it until the server has been started again", name)
                return []
            return [(IPv4Address(where[0]), port) for *_, where in found]

        found = await asyncio.gather(*(look_up(name, port) for name, port in services))
        self._opened, self._services = tuple(networks), tuple(each for some in found for each in some)
        await self._in_thread(self._apply_firewall)

    def refresh_resolvers(self) -> Resolvers:
        """Read the host's resolvers anew, and let the firewall follow if another one is asked now."""
        fresh = container_resolvers(self.gateway)
        if fresh != self.resolvers:
            self.resolvers = fresh
            self._apply_firewall()
        return fresh

    # --- the pool's task ---------------------------------------------------------------------------------------------------------

    async def _keep_filled(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await self._hungry.wait()
            self._hungry.clear()
            while len(self._ready) < self._size or self._waiters:
                if not self._waiters and self._ready and (busy_s := self._leased_at + _CALM_S - loop.time()) > 0:
                    with suppress(TimeoutError):
                        await asyncio.wait_for(self._hungry.wait(), busy_s)
                    self._hungry.clear()
                    continue
                try:
                    slot = await self._make()
                except Exception as e:
                    log.warning("no network namespace: %s", e)
                    while waiter := self._next_waiter():
                        waiter.set_exception(e)
                    break  # until somebody asks again
                if waiter := self._next_waiter():
                    waiter.set_result(slot)
                else:
                    self._ready.append(slot)

    def _next_waiter(self) -> "asyncio.Future[Slot] | None":
        while self._waiters:
            if not (waiter := self._waiters.popleft()).done():
                return waiter
        return None

    async def _make(self) -> Slot:
        number = self._free_number()
        if number is None:
            raise ResourceExhaustedError(f"all {self._subnet.num_addresses - 3} addresses of the containers' network are in use")
        self._taken.add(number)
        try:
            return await self._in_thread(lambda: self._make_namespace(number))
        except BaseException:
            self._taken.discard(number)
            raise

    def _free_number(self) -> int | None:
        for _ in range(self._subnet.num_addresses - 3):
            number = self._next
            self._next = (number + 1) % (self._subnet.num_addresses - 3)
            if number not in self._taken:
                return number
        return None

    async def _in_thread(self, work: Callable[[], T]) -> T:
        """Run in the pool's thread. A cancelled caller waits for the end of it, since what is begun there must be known."""
        future = asyncio.get_running_loop().run_in_executor(self._thread, work)
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            with suppress(Exception):
                await asyncio.wait([future])
            raise

    # --- blocking work, in the pool's thread -------------------------------------------------------------------------------------

    def _set_up(self) -> None:
        (self._folder / "netns").mkdir(parents=True, exist_ok=True)
        for name in child_names(self._folder / "netns") - {str(number) for number in self._used}:
            self._remove_namespace(int(name))
        self._mtu = _uplink_mtu()
        state = self._folder / "network.json"
        with Netlink() as netlink:
            if self._used and state.exists() and _exists(self.bridge):
                self._subnet = IPv4Network(json.loads(state.read_text())["subnet"])
            else:
                netlink.delete_link(self.bridge)
                self._subnet = _unused_subnet(self._tag, set(netlink.routed_networks()))
                write_atomically(state, json.dumps({"bridge": self.bridge, "subnet": str(self._subnet)}))
                netlink.add_bridge(self.bridge, _mac(self.gateway), self._mtu)
                Path(f"/proc/sys/net/ipv6/conf/{self.bridge}/disable_ipv6").write_text("1")
                netlink.add_address(self.bridge, self.gateway, _PREFIX)
        self.resolvers = container_resolvers(self.gateway)
        with suppress(FileNotFoundError):
            kept = json.loads((self._folder / "limits.json").read_text())
            self._limits = {int(number): tuple(map(IPv4Network, networks)) for number, networks in kept.items() if int(number) in self._used}
        self._apply_firewall()
        self._talked = set(range(self._subnet.num_addresses - 3)) - self._used  # whatever an earlier agent ran
        forwarding = Path("/proc/sys/net/ipv4/ip_forward")
        if forwarding.read_text().strip() != "1":
            forwarding.write_text("1")
        self._hungry.set()

    def _apply_firewall(self) -> None:
        if self.resolvers.forwarded is not None:
            # Lets packets from the bridge go to 127.0.0.0/8 at all; the firewall lets only translated DNS in.
            Path(f"/proc/sys/net/ipv4/conf/{self.bridge}/route_localnet").write_text("1")
        with Netlink() as netlink:
            attached = tuple(network for network in netlink.routed_networks(attached=True) if network.prefixlen >= 8)  # shorter ones: a VPN's default route
        with self._firewall:
            around = firewall.Surroundings(attached, self._opened, self._services, tuple(map(self._address, self._trusted)))
            limited = {self._address(number): networks for number, networks in self._limits.items()}
            firewall.apply(self._table, self.bridge, self._subnet, self.resolvers, limited, around, self._door)

    def _address(self, number: int) -> IPv4Address:
        return self.gateway + 1 + number

    def _limit(self, number: int, networks: tuple[IPv4Network, ...] | None, *, trusted: bool = False) -> None:
        """None: no limit any more."""
        with self._firewall:
            before = self._limits.pop(number, None)
            self._trusted.discard(number)
            if trusted:
                self._trusted.add(number)
            if before is not None:
                firewall.unlimit(self._table, self._address(number), before)
            if networks is not None:
                self._limits[number] = networks
            state = {str(other): [str(network) for network in allowed] for other, allowed in self._limits.items()}
            write_atomically(self._folder / "limits.json", json.dumps(state))
            if networks is not None:
                firewall.limit(self._table, self._address(number), networks, trusted=trusted)

    def _has_talked(self, number: int) -> bool:
        """Whether the namespace has sent anything, so that the kernel may remember connections of its address."""
        try:
            return int(Path("/sys/class/net", self._port(number), "statistics/rx_packets").read_text()) > 0
        except OSError:
            return True  # gone already

    def _forget_connections(self) -> None:
        """Let the next containers begin without the open connections of those that had their addresses before. All at once, as it takes the kernel some time;
        so it happens when the first such address is used again."""
        numbers = list(self._talked)  # the loop's thread may add others
        try:
            with Conntrack() as conntrack:
                conntrack.forget(self._subnet, [self._address(number) for number in numbers])
        except OSError as e:
            log.warning("connections of ended containers stay open for the next ones at their addresses: %s", e)
        self._talked.difference_update(numbers)

    def _tear_down(self) -> None:
        for name in child_names(self._folder / "netns") - {str(number) for number in self._used}:
            self._remove_namespace(int(name))
        if self._used or not (self._folder / "network.json").exists():
            return
        with Netlink() as netlink:
            for port in child_names(Path(f"/sys/class/net/{self.bridge}/brif")):
                netlink.delete_link(port)  # the kernel removes them with their namespaces, but some time later
            netlink.delete_link(self.bridge)
        firewall.remove(self._table)
        (self._folder / "network.json").unlink()
        (self._folder / "limits.json").unlink(missing_ok=True)
        (self._folder / "netns").rmdir()

    def _make_namespace(self, number: int) -> Slot:
        path = self._folder / "netns" / str(number)
        address = self.gateway + 1 + number
        if number in self._talked:
            self._forget_connections()
        path.touch()
        host = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        try:
            self._enter_new_namespace()
            try:
                kernel.mount("/proc/thread-self/ns/net", str(path), flags=kernel.MS_BIND)
                inside = Netlink()
                for name, value in _SYSCTLS.items():
                    with suppress(FileNotFoundError):  # no IPv6 on this kernel
                        Path("/proc/sys", name).write_text(value)
            finally:
                kernel.setns(host, kernel.CLONE_NEWNET)
            namespace = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                with Netlink() as outside, inside:
                    outside.delete_link(self._port(number))
                    # The MAC follows from the address, so that no stale neighbour entry leads astray when a slot is used again.
                    outside.add_veth(self._port(number), self.bridge, "eth0", namespace, _mac(address), self._mtu)
                    inside.set_up("lo")
                    inside.add_address("eth0", address, _PREFIX)
                    inside.set_up("eth0")
                    inside.add_default_route(self.gateway)
            finally:
                os.close(namespace)
        except BaseException:
            self._remove_namespace(number)
            raise
        finally:
            os.close(host)
        return Slot(number, path, address)

    def _enter_new_namespace(self) -> None:
        if self._maker is None:
            kernel.unshare(kernel.CLONE_NEWNET)
            return
        made = self._maker()
        try:
            kernel.setns(made, kernel.CLONE_NEWNET)
        finally:
            os.close(made)

    def _remove_namespace(self, number: int) -> None:
        path = self._folder / "netns" / str(number)
        mounts.detach(path)  # without processes in it the namespace goes with its name, and the veth pair with the namespace
        path.unlink(missing_ok=True)

    def _port(self, number: int) -> str:
        return f"sv{self._tag}{number}"


def tag_of(instance: str) -> str:
    """The part of an instance in names of interfaces, which have at most 15 characters."""
    if len(instance) <= 8 and instance.isalnum():
        return instance
    return hashlib.blake2b(instance.encode(), digest_size=4).hexdigest()


def _mac(address: IPv4Address) -> bytes:
    return b"\x02\x73" + address.packed


def _exists(link: str) -> bool:
    return Path("/sys/class/net", link).exists()


def _uplink_mtu() -> int:
    """The MTU of the interface of the default route: a larger one inside would make connections hang behind tunnels that lose ICMP."""
    for line in Path("/proc/net/route").read_text().splitlines()[1:]:
        fields = line.split()
        if fields[1] == "00000000":
            return int(Path("/sys/class/net", fields[0], "mtu").read_text())
    return 1500


def _unused_subnet(tag: str, routed: set[IPv4Network]) -> IPv4Network:
    """A network that no route of this host overlaps; which one is tried first depends on the instance, so that two at once seldom choose the same."""
    routed = {network for network in routed if network.prefixlen >= 8}  # shorter ones stand for "everything", as VPNs set them
    digest = int.from_bytes(hashlib.blake2b(tag.encode(), digest_size=4).digest(), "big")
    for candidate in _CANDIDATES:
        subnets = list(candidate.subnets(new_prefix=_PREFIX))
        first = digest % len(subnets)
        for subnet in subnets[first:] + subnets[:first]:
            if not any(subnet.overlaps(other) for other in routed):
                return subnet
    raise ResourceExhaustedError("no private IPv4 network is free for the containers of this machine: its routes cover them all")
