"""What this machine can do, found by trying, and which driver that gives: for `squall doctor` and for the server's start."""

import asyncio
import os
import platform
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import threading
from collections.abc import Callable
from contextlib import suppress
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

from squall.model.errors import InvalidError
from squall.runtime import cdi, cgroups, filters, firewall, kernel, mounts, subordinate
from squall.runtime.binds import bound
from squall.runtime.contract import Bind, Driver, Finding, HostReport
from squall.runtime.files import find_program
from squall.runtime.fork import ForkDriver
from squall.runtime.gvisor_driver import GvisorDriver
from squall.runtime.ids import ALL
from squall.runtime.netlink import Netlink
from squall.runtime.oci import OciDriver
from squall.runtime.process import ProcessDriver
from squall.runtime.resolver import Resolvers, container_resolvers
from squall.runtime.runc import find_runtime

_CAP_NET_ADMIN, _CAP_SYS_ADMIN = 12, 21  # linux/capability.h
_DISK_BYTES_MIN = 2 << 30  # a base image, one layer of packages, and room to work
_EXAMPLE = IPv4Network("192.0.2.0/24")  # RFC 5737: for examples, in use nowhere


def inspect_host(data: Path | None = None) -> HostReport:
    """Look at this machine. Blocks for some tenths of a second; leaves nothing behind.

    Args:
        data: where the server keeps its data, or will: that is where overlayfs and disk space matter. Its nearest existing parent is looked at.
            None: the home directory.
    """
    data = data or Path.home()
    while not data.exists():
        data = data.parent
    needed = [_system(), _privileges()]
    if all(finding.ok for finding in needed):
        needed += [_user_namespaces(), _ids(), _overlayfs(data), _cgroups(), _runtime(), _nftables(), _interfaces()]
    useful = [_subordinate(), _resolvers(), _gvisor(), _gpus(), _disk(data), _uv(), _mmdebstrap()]
    missing = [finding for finding in needed if not finding.ok]
    if missing:
        reason = f"containers of their own need more: {missing[0].name}: {missing[0].found}"
        driver = "process"
    else:
        reason = "everything for isolated containers is there"
        driver = "oci"
        forking = _templates()
        useful.insert(0, forking)
        if forking.ok:
            driver = "fork"
            reason = "everything for isolated containers that are copied from templates is there"
        else:
            reason += f", but not for templates: {forking.found}"
    facts = {"kernel": platform.release(), "machine": platform.machine(), "python": platform.python_version(), "cpus": str(os.cpu_count())}
    return HostReport((*needed, *useful), driver, reason, facts)


async def choose_driver(*, run: Path, data: Path, instance: str, driver: str | None = None) -> tuple[Driver, HostReport]:
    """The best driver for this machine, not yet opened.

    Args:
        run, data, instance: as the drivers take them.
        driver: the name of the wanted one; None leaves the choice to the report.

    Raises:
        InvalidError: the wanted driver does not exist, this machine lacks what it needs, or others may have the containers' ids.
    """
    report = await asyncio.to_thread(inspect_host, data)
    wanted = driver or report.driver
    if wanted == "process":
        return ProcessDriver(run=run, data=data, instance=instance), report
    kinds = {"fork": ForkDriver, "oci": OciDriver, "gvisor": GvisorDriver}
    if wanted not in kinds:
        raise InvalidError(f'driver={wanted!r} does not exist; there are "fork", "oci", "gvisor" and "process"')
    if report.driver == "process" or (wanted == "fork" and report.driver != "fork"):
        raise InvalidError(f"the {wanted} driver does not work here; {report.reason}")
    if others := await asyncio.to_thread(subordinate.conflicts):
        raise InvalidError(f"containers' files and processes would be open to others on this machine: {'; '.join(others)}")
    await asyncio.to_thread(subordinate.record)
    kind = kinds[wanted]
    return kind(run=run, data=data, instance=instance), report


def _system() -> Finding:
    found = f"{platform.system()} {platform.release()}"
    return Finding("system", sys.platform == "linux", found, "containers need Linux 5.11 or later")


def _privileges() -> Finding:
    advice = "run the server as root, for example as a system service"
    if os.geteuid() != 0:
        return Finding("privileges", False, f"user id {os.geteuid()}, not root", advice)
    effective = 0
    with suppress(OSError):
        lines = Path("/proc/self/status").read_text().splitlines()
        effective = int(next(line.split()[1] for line in lines if line.startswith("CapEff:")), 16)
    lacking = [name for name, bit in (("CAP_SYS_ADMIN", _CAP_SYS_ADMIN), ("CAP_NET_ADMIN", _CAP_NET_ADMIN)) if not effective >> bit & 1]
    if lacking:
        return Finding("privileges", False, f"root without {' and '.join(lacking)}", "give the server's container or service these capabilities")
    return Finding("privileges", True, "root")


def _ids() -> Finding:
    advice = f"in a container or virtual machine with fewer user ids: give it all up to {ALL.end}"
    if not subordinate.mapped():
        return Finding("user ids", False, f"{ALL.first} to {ALL.end - 1}, which are containers', do not exist here", advice)
    return Finding("user ids", True, f"{ALL.first} to {ALL.end - 1} are containers'")


def _subordinate() -> Finding:
    """Not among what is needed: where it fails no driver that isolates is to be used, instead of one that does not isolate."""
    others = subordinate.conflicts()
    if others:
        return Finding("subordinate ids", False, "; ".join(others), "no server starts containers until this is changed")
    found = "recorded, so that no user gets the containers'" if subordinate.recorded() else "nobody has the containers'; the server records them as it starts"
    return Finding("subordinate ids", True, found)


def _user_namespaces() -> Finding:
    """With a /proc of their own: the kernel refuses that where the one here is partly hidden, as inside Docker."""
    code, said = _run("unshare", "--user", "--map-root-user", "--pid", "--fork", "--mount-proc", "true")
    advice = "sysctl user.max_user_namespaces=100000; inside Docker, run with --privileged or --security-opt systempaths=unconfined"
    return Finding("user namespaces", code == 0, "work" if code == 0 else said, advice)


def _overlayfs(data: Path) -> Finding:
    with tempfile.TemporaryDirectory(prefix=".squall-probe-", dir=data) as name:
        folder = Path(name)
        for part in ("lower", "upper", "work"):
            (folder / part).mkdir()
        try:
            os.close(mounts.overlay((folder / "lower",), folder / "upper", folder / "work", volatile=True))
        except OSError as e:
            return Finding("overlayfs", False, f"not on {data}: {e}", "put the data directory on ext4 or xfs; modprobe overlay")
    return Finding("overlayfs", True, f"works on {data}")


def _cgroups() -> Finding:
    advice = "mount the cgroup file systems writable, with the controllers cpu, memory and pids"
    groups = cgroups.detect()
    if groups is None:
        return Finding("cgroups", False, "no controllers for cpu, memory and pids", advice)
    group = f"squall-probe-{os.getpid()}"
    try:
        groups.create(f"{group}/probe", cgroups.Limits(100, 10_000, 64 << 20, 10))
    except OSError as e:
        return Finding("cgroups", False, f"{groups.version}, not usable: {e}", advice)
    finally:
        with suppress(OSError):
            groups.remove(f"{group}/probe")
            groups.remove(group)
    hybrid = groups.version == "v1" and "cgroup2" in Path("/proc/self/mountinfo").read_text()
    return Finding("cgroups", True, f"{groups.version}{', beside an empty v2 (hybrid)' if hybrid else ''}")


def _runtime() -> Finding:
    groups = cgroups.detect()
    path = find_runtime(groups.version if groups else "v1")
    if path is None:
        return Finding("runtime", False, "neither runc nor crun", "apt install runc")
    code, said = _run(path, "--version")
    return Finding("runtime", code == 0, said.splitlines()[0] if code == 0 else f"{path} does not run: {said}", "apt install runc")


def _templates() -> Finding:
    """A filter, and mounts that can be made read-only while nobody sees them."""
    advice = "Linux 5.12 or later, and: apt install libseccomp2"
    try:
        filters.container_filter()
        with tempfile.TemporaryDirectory(prefix="squall-probe-") as folder:
            os.close(bound(Bind(Path(folder), "/")))
    except OSError as e:
        return Finding("templates", False, str(e), advice)
    return Finding("templates", True, "work", advice)


def _nftables() -> Finding:
    program = find_program("nft")
    if program is None:
        return Finding("nftables", False, "no nft", "apt install nftables")
    rules = firewall.ruleset("squall_probe", "sq-probe", _EXAMPLE, Resolvers("", forwarded=IPv4Address("127.0.0.1")), {})
    done = subprocess.run([program, "--check", "-f", "-"], input=rules, capture_output=True, text=True)
    return Finding("nftables", done.returncode == 0, "work" if done.returncode == 0 else done.stderr.strip(), "a kernel with nf_tables, nft_nat and nft_ct")


def _interfaces() -> Finding:
    """A bridge and a veth pair, in a network namespace of a thread that ends with it."""

    def attempt() -> None:
        kernel.unshare(kernel.CLONE_NEWNET)
        here = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        try:
            with Netlink() as netlink:
                netlink.add_bridge("probe", b"\x02\x73\0\0\0\1", 1500)
                netlink.add_veth("outer", "probe", "inner", here, b"\x02\x73\0\0\0\1", 1500)
        finally:
            os.close(here)

    error = _error_in_thread(attempt)
    return Finding("network interfaces", error is None, "bridge and veth work" if error is None else str(error), "a kernel with bridge and veth")


def _resolvers() -> Finding:
    resolvers = container_resolvers(next(_EXAMPLE.hosts()))
    servers = [line.split()[1] for line in resolvers.text.splitlines() if line.startswith("nameserver")]
    if resolvers.forwarded is not None:
        return Finding("name servers", True, f"{resolvers.forwarded} on this machine, passed on to containers")
    return Finding("name servers", True, ", ".join(servers))


def _gvisor() -> Finding:
    path = find_program("runsc")
    if path is None:
        return Finding("gVisor", False, "no runsc", 'only for runtime="gvisor": apt install runsc')
    return Finding("gVisor", True, _run(path, "--version")[1].splitlines()[0])


def _gpus() -> Finding:
    devices = sorted(device.name for device in Path("/dev").glob("nvidia[0-9]*"))
    if not devices:
        return Finding("GPUs", False, "none", "only for functions with gpu=; needs NVIDIA's driver on this machine")
    code, said = _run("nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader")
    if code:
        return Finding("GPUs", False, f"{len(devices)} devices, but nvidia-smi fails: {said}", "install the NVIDIA driver's tools")
    if not any(folder.is_dir() and any(folder.iterdir()) for folder in cdi.folders_of(os.environ)):
        return Finding("GPUs", False, f"{'; '.join(said.splitlines())}, but no CDI file", "nvidia-ctk cdi generate --output=/etc/cdi/nvidia.yaml")
    return Finding("GPUs", True, "; ".join(said.splitlines()))


def _disk(data: Path) -> Finding:
    free = shutil.disk_usage(data).free
    return Finding("disk", free >= _DISK_BYTES_MIN, f"{free / (1 << 30):.1f} GiB free at {data}", "images need at least 2 GiB")


def _uv() -> Finding:
    path = shutil.which("uv", path=f"{sysconfig.get_path('scripts')}{os.pathsep}{os.environ.get('PATH', '')}")
    if path is None:
        return Finding("uv", False, "not found", "pip install uv")
    return Finding("uv", True, _run(path, "--version")[1])


def _mmdebstrap() -> Finding:
    path = find_program("mmdebstrap")
    return Finding("mmdebstrap", path is not None, path or "not found", "apt install mmdebstrap, for Image.debian_slim")


def _run(*argv: str) -> tuple[int, str]:
    """Exit code and what was said; 127 for a program that is not there."""
    try:
        done = subprocess.run(argv, capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired) as e:
        return 127, str(e)
    return done.returncode, (done.stdout.strip() or done.stderr.strip() or f"exit code {done.returncode}")


def _error_in_thread(work: Callable[[], None]) -> Exception | None:
    errors: list[Exception] = []

    def attempt() -> None:
        try:
            work()
        except Exception as e:
            errors.append(e)

    thread = threading.Thread(target=attempt, name="probe")
    thread.start()
    thread.join()
    return errors[0] if errors else None
