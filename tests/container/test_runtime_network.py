"""Networks of containers: what they reach, what they don't, and how names are resolved."""

import asyncio
import os
import secrets
import socket
import subprocess
import threading
from collections.abc import AsyncIterator, Iterator
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

import pytest

from squall.runtime import firewall, kernel
from squall.runtime.contract import Bind, Network
from squall.runtime.host import inspect_host
from squall.runtime.network import NetworkPool, _unused_subnet, tag_of
from squall.runtime.oci import OciDriver
from squall.runtime.resolver import Resolvers, container_resolvers
from support.containers import World, opened
from support.drivers import make_driver

PYTHON = "/usr/bin/python3"
root_only = [
    pytest.mark.root,
    pytest.mark.skipif(inspect_host().driver not in ("fork", "oci") and not os.environ.get("CI"), reason="this host can't run containers"),
]
CONNECT = """
import socket, sys
for target in sys.argv[1:]:
    host, port = target.rsplit(":", 1)
    try:
        with socket.create_connection((host, int(port)), 5) as s: print(s.makefile().readline().strip() or "connected")
    except OSError as e: print(type(e).__name__, e.errno)
"""


@pytest.fixture
async def world() -> AsyncIterator[World]:
    async with opened(lambda run, data, instance: OciDriver(run=run, data=data, instance=instance, ready_networks=2)) as it:
        yield it


@pytest.fixture
def outside() -> Iterator[str]:
    """An address beyond this machine with a server that greets: a network namespace behind a veth pair, standing for the internet."""
    name = f"out{secrets.token_hex(3)}"
    subnet = _unused_subnet(name, {IPv4Network("10.128.0.0/9")})
    here, there = str(subnet[1]), f"198.51.100.{1 + secrets.randbelow(250)}"  # RFC 5737
    commands = (
        f"ip netns add {name}",
        f"ip link add {name} type veth peer name eth0 netns {name}",
        f"ip addr add {here}/30 dev {name}",
        f"ip link set {name} up",
        f"ip -n {name} addr add {subnet[2]}/30 dev eth0",
        f"ip -n {name} addr add {there}/32 dev eth0",
        f"ip -n {name} link set eth0 up",
        f"ip route add {there}/32 via {subnet[2]}",
    )
    server: list[socket.socket] = []

    def serve() -> None:
        with open(f"/run/netns/{name}") as namespace:
            kernel.setns(namespace.fileno(), kernel.CLONE_NEWNET)
        server.append(socket.create_server((there, 8000)))
        ready.set()
        while True:
            try:
                connection, peer = server[0].accept()
            except OSError:
                return
            with connection:
                connection.sendall(f"hello {peer[0]}\n".encode())

    ready = threading.Event()
    thread = threading.Thread(target=serve)
    try:
        for command in commands:
            subprocess.run(command.split(), check=True)
        thread.start()
        assert ready.wait(10)
        yield f"{there}:8000 {here}"
    finally:
        for listening in server:
            listening.shutdown(socket.SHUT_RDWR)
            listening.close()
        thread.join(10)
        subprocess.run(["ip", "netns", "del", name], check=True)
        subprocess.run(["ip", "link", "del", name], check=False, capture_output=True)


def add_port(bridge: str, name: str, mac: str) -> None:
    subprocess.run(f"ip link add {name} address {mac} type veth peer name {name}p".split(), check=True)
    subprocess.run(f"ip link set {name} master {bridge} up".split(), check=True)


def host_addresses() -> list[str]:
    listed = subprocess.run(["ip", "-4", "-o", "addr"], capture_output=True, text=True, check=True).stdout
    return [line.split()[3].split("/")[0] for line in listed.splitlines()]


class TestReach:
    pytestmark = root_only

    async def test_outside_through_nat(self, world: World, outside: str) -> None:
        target, here = outside.split()
        output = await world.run_python(CONNECT, target)
        assert output.stdout == f"hello {here}\n", output.stderr  # the source address is this machine's

    async def test_only_what_is_allowed(self, world: World, outside: str) -> None:
        """Another address on the way out is refused at once; a namespace that goes to the next container has no limits any more."""
        target, here = outside.split()
        address = IPv4Network(target.split(":")[0])
        beside = "192.0.2.1:8000"  # RFC 5737: there is nobody, so only a refusal can be an answer
        network = world.driver.network  # type: ignore[attr-defined]
        for allowed in ((address,), (address.supernet(1), address, IPv4Network("198.51.100.0/24"))):
            output = await world.run_python(CONNECT, target, beside, outbound=allowed)
            assert output.stdout.splitlines() == [f"hello {here}", "ConnectionRefusedError 111"], output.stderr
        output = await world.run_python(CONNECT, target, outbound=())
        assert output.stdout == "ConnectionRefusedError 111\n"
        assert network._limits == {}
        for _ in range(3):
            assert (await world.run_python(CONNECT, target)).stdout == f"hello {here}\n"

    async def test_limits_are_kept_by_the_next_agent(self, world: World, outside: str) -> None:
        target, _ = outside.split()
        go = world.data_folder.parent / "go"
        go.mkdir(mode=0o755)
        wait = "import os, time\nprint('ready')\nwhile not os.path.exists('/go/now'): time.sleep(0.02)\n"
        running = await world.start_python(wait + CONNECT, target, outbound=(), binds=(Bind(go, "/go"),))
        assert await running.line() == "ready"
        await world.driver.close()
        world.driver = make_driver(world.driver.name, world.run_folder, world.data_folder, world.instance)
        await world.driver.open()
        adopted = await world.driver.adopt(running.container.id)
        assert adopted is not None
        (go / "now").touch()
        assert await running.line() == "ConnectionRefusedError 111"
        await adopted.wait()
        await adopted.remove()
        world.running.remove(running)
        running.close()

    async def test_this_machine_has_one_hardware_address(self, world: World, outside: str) -> None:
        """Containers remember it. A bridge by itself has the lowest one of its ports: it would change with a port that is lower."""
        target, here = outside.split()
        bridge = world.driver.network.bridge  # type: ignore[attr-defined]
        ports = [f"p{number}{secrets.token_hex(3)}" for number in (2, 1)]
        go = world.data_folder.parent / "go"
        go.mkdir(mode=0o755)
        os.mkfifo(go / "now", 0o644)
        try:
            add_port(bridge, ports[0], "02:00:00:00:00:02")
            container = await world.start_python(f"{CONNECT}\nopen('/go/now').read()\n{CONNECT}", target, binds=(Bind(go, "/go"),))
            assert await container.line() == f"hello {here}"
            add_port(bridge, ports[1], "02:00:00:00:00:01")
            (go / "now").write_bytes(b"")
            assert await container.line() == f"hello {here}"
        finally:
            for port in ports:
                subprocess.run(f"ip link del {port}".split(), check=False)

    async def test_none_has_only_loopback(self, world: World, outside: str) -> None:
        target, _ = outside.split()
        output = await world.run_python(CONNECT, target, network=Network.NONE)
        assert output.stdout == "OSError 101\n"
        code = "import socket; s = socket.create_server(('127.0.0.1', 0)); print(socket.create_connection(s.getsockname()) and socket.if_nameindex())"
        assert (await world.run_python(code, network=Network.NONE)).stdout == "[(1, 'lo')]\n"

    async def test_not_this_machine(self, world: World) -> None:
        with socket.create_server(("0.0.0.0", 0)) as server:
            port = server.getsockname()[1]
            addresses = [address for address in host_addresses() if not address.startswith("127.")]
            assert str(world.driver.network.gateway) in addresses  # type: ignore[attr-defined]
            output = await world.run_python(CONNECT, *(f"{address}:{port}" for address in addresses))
            assert output.stdout.splitlines() == ["ConnectionRefusedError 111"] * len(addresses)  # refused at once, not by a timeout
            server.settimeout(0)
            with pytest.raises(BlockingIOError):
                server.accept()

    async def test_loopback_inside_is_its_own(self, world: World) -> None:
        with socket.create_server(("127.0.0.1", 0)) as server:
            output = await world.run_python(CONNECT, f"127.0.0.1:{server.getsockname()[1]}")
        assert output.stdout == "ConnectionRefusedError 111\n"

    async def test_not_other_containers(self, world: World) -> None:
        listen = "import socket; s = socket.create_server(('0.0.0.0', 8000)); print(socket.gethostname(), flush=True); s.accept()"
        other = await world.start_python(listen)
        await other.line()
        address = world.driver.network.gateway + 1 + int((world.run_folder / "containers" / other.container.id / "slot").read_text())  # type: ignore[attr-defined]
        with open(f"/proc/{other.container.pid}/net/fib_trie") as routes:
            assert str(address) in routes.read()
        output = await world.run_python(CONNECT.replace(", 5)", ", 1)"), f"{address}:8000")
        assert output.stdout.startswith(("TimeoutError", "OSError 113", "ConnectionRefusedError 111"))

    async def test_not_link_local(self, world: World) -> None:
        output = await world.run_python(CONNECT, "169.254.169.254:80")
        assert output.stdout == "ConnectionRefusedError 111\n"

    async def test_low_ports_can_be_listened_at(self, world: World) -> None:
        output = await world.run_python("import socket; print(socket.create_server(('0.0.0.0', 80)).getsockname()[1])")
        assert output.stdout == "80\n", output.stderr

    async def test_no_ipv6_and_the_mtu_of_the_way_out(self, world: World) -> None:
        output = await world.run("sh", "-c", "cat /proc/net/if_inet6 | grep -v ' lo$'; ls /sys/class/net 2>&1 | head -1")
        assert "eth0" not in output.stdout

    async def test_names_are_resolved(self, world: World) -> None:
        """By a server on this machine: asked at the gateway, which passes it on to a loopback address."""
        name_server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        name_server.bind(("127.0.0.54", 53))

        def answer() -> None:
            question, caller = name_server.recvfrom(512)
            end = question.index(b"\0", 12) + 5
            head = question[:2] + b"\x81\x80\0\1\0\1\0\0\0\0" + question[12:end]
            name_server.sendto(head + b"\xc0\x0c\0\1\0\1\0\0\0\x3c\0\4" + bytes((203, 0, 113, 7)), caller)

        pool: NetworkPool = world.driver.network  # type: ignore[attr-defined]
        pool.resolvers = Resolvers(f"nameserver {pool.gateway}\n", forwarded=IPv4Address("127.0.0.54"))
        await asyncio.to_thread(pool._apply_firewall)
        thread = threading.Thread(target=answer, daemon=True)
        thread.start()
        query = r"""
import socket, sys
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.settimeout(5)
s.sendto(b"\x12\x34\x01\0\0\1\0\0\0\0\0\0\3abc\0\0\1\0\1", (sys.argv[1], 53))
print(list(s.recv(512)[-4:]))
try: print(socket.create_connection(("127.0.0.54", 53), 1))
except OSError as e: print(type(e).__name__)
"""
        # The container's own start reads the host's resolvers again; what is tested here is the way that a loopback resolver takes.
        pool.refresh_resolvers = lambda: pool.resolvers  # type: ignore[method-assign]
        try:
            output = await world.run_python(query, str(pool.gateway))
        finally:
            name_server.close()
        thread.join(5)
        assert output.stdout == "[203, 0, 113, 7]\nConnectionRefusedError\n", output.stderr

    async def test_resolv_conf_follows_the_host(self, world: World) -> None:
        expected = container_resolvers(world.driver.network.gateway).text  # type: ignore[attr-defined]
        assert (await world.run("cat", "/etc/resolv.conf")).stdout == expected

    async def test_slots_come_back(self, world: World) -> None:
        for _ in range(6):
            await world.run("true")
        pool: NetworkPool = world.driver.network  # type: ignore[attr-defined]
        assert pool._used == set()

    async def test_other_firewalls_that_drop_forwarded_packets(self, world: World, outside: str) -> None:
        """As Docker and ufw leave it: only in the table that they use, which this host does not have otherwise."""
        listed = subprocess.run(["nft", "list", "chain", "ip", "filter", "FORWARD"], capture_output=True, text=True)
        if listed.returncode == 0:
            pytest.skip("this host has such a firewall itself")
        pool: NetworkPool = world.driver.network  # type: ignore[attr-defined]
        # The drop is only for this instance's packets, so that nothing else on the machine suffers.
        rules = (
            "table ip filter {\nchain FORWARD { type filter hook forward priority filter; policy accept;\n"
            f'iifname "{pool.bridge}" drop\noifname "{pool.bridge}" drop\n}}\n}}'
        )
        subprocess.run(["nft", "-f", "-"], input=rules, text=True, check=True)
        try:
            with pytest.raises(firewall.FirewallError):
                firewall._in_others("insert rule ip filter FORWARD nonsense\n")
            target, here = outside.split()
            assert "hello" not in (await world.run_python(CONNECT.replace(", 5)", ", 1)"), target)).stdout
            await asyncio.to_thread(pool._apply_firewall)
            await asyncio.to_thread(pool._apply_firewall)
            assert (await world.run_python(CONNECT, target)).stdout == f"hello {here}\n"
            firewall.remove(pool._table)
            chain = subprocess.run(["nft", "list", "chain", "ip", "filter", "FORWARD"], capture_output=True, text=True, check=True).stdout
            assert pool._table not in chain
        finally:
            subprocess.run(["nft", "delete", "table", "ip", "filter"], check=True)
        firewall._in_others("insert rule ip filter FORWARD accept\n")  # its owner has taken it away since it was looked at


class TestResolvers:
    GATEWAY = IPv4Address("10.200.0.1")

    def resolve(self, tmp_path: Path, host: str, behind: str | None = None) -> Resolvers:
        (tmp_path / "host").write_text(host)
        if behind is not None:
            (tmp_path / "behind").write_text(behind)
        return container_resolvers(self.GATEWAY, tmp_path / "host", tmp_path / "behind")

    def test_as_they_are(self, tmp_path: Path) -> None:
        found = self.resolve(tmp_path, "# by hand\nsearch a.example b.example\nnameserver 198.51.100.53\nnameserver 2001:db8::1\noptions ndots:2\n")
        assert found == Resolvers("nameserver 198.51.100.53\nsearch a.example b.example\noptions ndots:2\n")

    def test_what_systemd_resolved_asks(self, tmp_path: Path) -> None:
        found = self.resolve(tmp_path, "nameserver 127.0.0.53\n", "nameserver 198.51.100.1\nnameserver 198.51.100.2\n")
        assert found == Resolvers("nameserver 198.51.100.1\nnameserver 198.51.100.2\n")

    def test_on_loopback_is_passed_on(self, tmp_path: Path) -> None:
        found = self.resolve(tmp_path, "nameserver 127.0.0.1\n")
        assert found == Resolvers("nameserver 10.200.0.1\n", forwarded=IPv4Address("127.0.0.1"))

    def test_loopback_beside_others_is_left_out(self, tmp_path: Path) -> None:
        assert self.resolve(tmp_path, "nameserver 127.0.0.1\nnameserver 198.51.100.9\n") == Resolvers("nameserver 198.51.100.9\n")

    @pytest.mark.parametrize("host", ["", "nameserver ::1\n", "nameserver fe80::1%eth0\nnameserver nonsense\n"])
    def test_none_at_all(self, tmp_path: Path, host: str) -> None:
        assert self.resolve(tmp_path, host).text == "nameserver 1.1.1.1\nnameserver 8.8.8.8\n"


class TestNames:
    def test_interfaces_fit_into_fifteen_characters(self) -> None:
        for instance in ("main", "a-name", "x" * 40, "a" * 8, "a" * 9):
            assert len(f"sv{tag_of(instance)}4092") <= 15
            assert len(f"sq-{tag_of(instance)}") <= 15
        assert tag_of("main") == "main"
        assert tag_of("a-name") != tag_of("a_name")

    def test_a_subnet_that_no_route_overlaps(self) -> None:
        first = _unused_subnet("main", set())
        assert first.subnet_of(IPv4Network("10.128.0.0/9"))
        second = _unused_subnet("main", {first})
        assert not second.overlaps(first)
        assert _unused_subnet("main", {IPv4Network("10.0.0.0/8")}).subnet_of(IPv4Network("172.16.0.0/12"))
        assert _unused_subnet("main", {IPv4Network("0.0.0.0/1"), IPv4Network("128.0.0.0/1")}) == first  # a VPN's default route
