"""Attacks by way of the network: flows of earlier containers, and addresses that only this machine and its owner should reach.

Everything is sent to network namespaces that the tests make.
"""

import os
import secrets
import select
import socket
import subprocess
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from ipaddress import IPv4Address, IPv4Network

import pytest

from squall.runtime import kernel
from squall.runtime.contract import Bind
from squall.runtime.host import inspect_host
from squall.runtime.network import NetworkPool, Slot, _unused_subnet
from squall.runtime.oci import OciDriver
from squall.runtime.resolver import Resolvers
from support.containers import World, opened

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(inspect_host().driver not in ("fork", "oci") and not os.environ.get("CI"), reason="this host can't run containers"),
]
FAR = f"198.51.100.{1 + secrets.randbelow(250)}"  # RFC 5737

#: Asks by UDP from a port that is always the same, as a program does that wants the flow of an earlier container.
ASK = """
import socket, sys
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.bind(("0.0.0.0", 4000)); s.settimeout(float(sys.argv[2]))
try:
    s.connect((sys.argv[1], 7000)); s.send(b"x"); print(s.recv(100).decode())
except OSError as e: print(type(e).__name__)
"""

#: What is said by TCP at port 80 of each address, or why not.
CONNECT = """
import socket, sys
for host in sys.argv[1:]:
    try: socket.create_connection((host, 80), 5).close(); print(host)
    except ConnectionRefusedError: print("refused")
"""


@pytest.fixture
async def world() -> AsyncIterator[World]:
    async with opened(lambda run, data, instance: OciDriver(run=run, data=data, instance=instance, ready_networks=0)) as it:
        yield it


@contextmanager
def beyond(*addresses: str) -> Iterator[None]:
    """A network namespace behind a router's address, in which somebody answers at these addresses: by UDP at ports 7000 and 53, and by TCP at 80."""
    name = f"far{secrets.token_hex(3)}"
    subnet = _unused_subnet(name, {IPv4Network("10.128.0.0/9")})
    commands = [
        f"ip netns add {name}",
        f"ip link add {name} type veth peer name eth0 netns {name}",
        f"ip addr add {subnet[1]}/30 dev {name}",
        f"ip link set {name} up",
        f"ip -n {name} addr add {subnet[2]}/30 dev eth0",
        f"ip -n {name} link set eth0 up",
    ]
    for address in addresses:
        commands += [f"ip -n {name} addr add {address}/32 dev eth0", f"ip route add {address}/32 via {subnet[2]}"]
    sockets: list[socket.socket] = []
    ready, done = threading.Event(), threading.Event()

    def serve() -> None:
        with open(f"/run/netns/{name}") as namespace:
            kernel.setns(namespace.fileno(), kernel.CLONE_NEWNET)
        sockets.append(socket.create_server(("0.0.0.0", 80)))
        for address in addresses:  # one each, as an answer has to come from where it was asked
            sockets.append(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
            sockets[-1].bind((address, 7000))
            sockets.append(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
            sockets[-1].bind((address, 53))
        ready.set()
        while not done.is_set():
            for each in select.select(sockets[1:], (), (), 0.1)[0]:
                _, peer = each.recvfrom(100)
                each.sendto(b"answered", peer)

    thread = threading.Thread(target=serve)
    try:
        for command in commands:
            subprocess.run(command.split(), check=True)
        thread.start()
        assert ready.wait(10)
        yield
    finally:
        done.set()
        if thread.ident is not None:
            thread.join(10)
        for each in sockets:
            each.close()
        subprocess.run(["ip", "netns", "del", name], check=True)
        subprocess.run(["ip", "link", "del", name], check=False, capture_output=True)


def tracked(address: IPv4Address) -> list[str]:
    with open("/proc/net/nf_conntrack") as table:
        return [line for line in table if f"={address} " in line]


class TestFlowsOfEarlierContainers:
    async def test_a_limited_container_has_none(self, world: World) -> None:
        """The address is the same, the port is, and the kernel's entry for the flow would have lived for minutes."""
        pool: NetworkPool = world.driver.network  # type: ignore[attr-defined]
        with beyond(FAR):
            for _ in range(3):
                pool._next = 0  # else another 4,092 addresses would come first
                assert (await world.run_python(ASK, FAR, "10")).stdout == "answered\n"
                pool._next = 0
                assert (await world.run_python(ASK, FAR, "1", outbound=())).stdout == "OSError\n"  # EHOSTUNREACH: refused
            assert tracked(pool.gateway + 1) == []

    async def test_a_flow_that_is_older_than_the_limit(self, world: World) -> None:
        """Also where the kernel still knows the flow: what a limited container sends is looked at, packet by packet."""
        pool: NetworkPool = world.driver.network  # type: ignore[attr-defined]
        go = world.data_folder.parent / "go"
        go.mkdir(mode=0o755)
        again = """print(s.recv(100).decode(), flush=True)
    while not os.path.exists("/go/now"): time.sleep(0.02)
    s.send(b"x"); print(s.recv(100).decode())"""
        talk = "import os, time" + ASK.replace("print(s.recv(100).decode())", again)
        with beyond(FAR):
            container = await world.start_python(talk, FAR, "5", binds=(Bind(go, "/go"),))
            assert await container.line() == "answered"
            (number,) = pool._used
            await pool.limit(Slot(number, go, pool.gateway + 1 + number), ())
            (go / "now").touch()
            assert await container.line() == "OSError"


class TestMetadata:
    """Where a cloud would answer, here a network namespace does, to which this machine has routes."""

    ADDRESSES = ("169.254.169.254", "100.100.100.200", "168.63.129.16", "192.0.0.192")

    async def test_no_container_reaches_it(self, world: World) -> None:
        with beyond(FAR, *self.ADDRESSES):
            for address in self.ADDRESSES:
                socket.create_connection((address, 80), 5).close()  # this machine does
            output = await world.run_python(CONNECT, FAR, *self.ADDRESSES)
            assert output.stdout.split() == [FAR, "refused", "refused", "refused", "refused"], output.stderr
            allowed = tuple(map(IPv4Network, (FAR, *self.ADDRESSES)))
            output = await world.run_python(CONNECT, FAR, *self.ADDRESSES, outbound=allowed)
            assert output.stdout.split() == [FAR, "refused", "refused", "refused", "refused"], output.stderr

    async def test_a_resolver_there_is_asked_for_names_only(self, world: World) -> None:
        """Azure's and Google's resolvers have the same address as the metadata."""
        pool: NetworkPool = world.driver.network  # type: ignore[attr-defined]
        address = self.ADDRESSES[2]
        pool.resolvers = Resolvers(f"nameserver {address}\n")
        pool.refresh_resolvers = lambda: pool.resolvers  # type: ignore[method-assign]
        await pool._in_thread(pool._apply_firewall)
        with beyond(address):
            ask = ASK.replace("7000", "53")
            for limits in (None, ()):
                assert (await world.run_python(ask, address, "5", outbound=limits)).stdout == "answered\n"
                assert (await world.run_python(CONNECT, address, outbound=limits)).stdout == "refused\n"

    async def test_nothing_of_ipv6(self, world: World) -> None:
        code = "import socket\ntry: socket.create_connection(('fd00:ec2::254', 80), 5)\nexcept OSError as e: print(e.errno)"
        assert (await world.run_python(code)).stdout in ("99\n", "101\n")


class TestPrivateNetworks:
    ADDRESSES = ("10.99.7.7", "172.31.7.7", "192.168.77.7", "100.99.7.7", "198.19.7.7")

    async def test_none_is_reached_that_the_owner_has_not_opened(self, world: World) -> None:
        refused = ["refused"] * len(self.ADDRESSES)
        with beyond(FAR, *self.ADDRESSES):
            for address in self.ADDRESSES:
                socket.create_connection((address, 80), 5).close()  # this machine does
            output = await world.run_python(CONNECT, FAR, *self.ADDRESSES)
            assert output.stdout.split() == [FAR, *refused], output.stderr
            allowed = tuple(map(IPv4Network, self.ADDRESSES))
            assert (await world.run_python(CONNECT, *self.ADDRESSES, outbound=allowed)).stdout.split() == refused
            await world.driver.allow([IPv4Network("10.99.0.0/16"), IPv4Network("192.168.77.7/32")], [])
            opened = ["10.99.7.7", "refused", "192.168.77.7", "refused", "refused"]
            assert (await world.run_python(CONNECT, *self.ADDRESSES)).stdout.split() == opened
            assert (await world.run_python(CONNECT, *self.ADDRESSES, outbound=())).stdout.split() == refused

    async def test_what_this_machine_is_attached_to(self, world: World) -> None:
        pool: NetworkPool = world.driver.network  # type: ignore[attr-defined]
        with beyond(FAR):
            subprocess.run(["ip", "route", "del", f"{FAR}/32"], check=True)
            (link,) = [name for name in os.listdir("/sys/class/net") if name.startswith("far")]
            subprocess.run(f"ip route add {FAR}/32 dev {link}".split(), check=True)
            await pool._in_thread(pool._apply_firewall)
            assert (await world.run_python(CONNECT, FAR)).stdout == "refused\n"

    async def test_a_service_that_the_settings_name_is_open_at_its_port(self, world: World) -> None:
        first, second, *_ = self.ADDRESSES
        with beyond(first, second):
            await world.driver.allow([], [(first, 80), (second, 3128), ("no-such-name.invalid", 80)])
            assert (await world.run_python(CONNECT, first, second)).stdout.split() == [first, "refused"]
            assert (await world.run_python(ASK, first, "5")).stdout == "OSError\n"
