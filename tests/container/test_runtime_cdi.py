"""Devices by CDI: what a vendor's file says is what the container gets, for the device that it has and for no other."""

import json
import os
import secrets
import shutil
import subprocess
from pathlib import Path

import pytest

from squall.model.errors import ContainerStartError, InvalidError
from squall.runtime import cdi
from squall.runtime.contract import DeviceNode
from squall.runtime.host import inspect_host
from support.cdi import LOOK, SECOND, write_cdi
from support.containers import World, drop, free_folder, rootfs, traces
from support.drivers import make_driver

_BEST = inspect_host().driver
runs_containers = pytest.mark.skipif(_BEST == "process" and not os.environ.get("CI"), reason="this host can't run containers")


@pytest.mark.root
@runs_containers
@pytest.mark.parametrize("kind", ["fork", "oci"])
async def test_a_container_gets_its_device_and_no_other(tmp_path: Path, kind: str) -> None:
    edits = cdi.resolve(["GPU-1"], [write_cdi(tmp_path, ("GPU-0", "GPU-1"), yaml=kind == "oci")])
    folder, instance = free_folder(), f"d{secrets.token_hex(3)}"
    driver = make_driver(kind, folder / "run", folder / "data", instance)
    await driver.open()
    world = World(driver, instance, folder / "run", folder / "data", (rootfs(),), "/usr/bin/python3")
    try:
        given = {"devices": edits.nodes, "links": edits.links, "binds": edits.binds, "env": {"PATH": "/usr/bin", **edits.env}, "rights": False}
        output = await world.run_python(LOOK + "print(json.dumps(found))", **given)
        assert output.exit.exit_code == 0, output.stderr
        assert json.loads(output.stdout) == SECOND
        without = await world.run_python("import os; print([name for name in os.listdir('/dev') if 'fake' in name])", rights=False)
        assert without.stdout == "[]\n"
        for path in ("/etc/passwd", "/dev/../etc/passwd"):
            with pytest.raises(InvalidError, match="is not in /dev"):
                await world.run_python("", devices=(DeviceNode(path, Path("/dev/null"), 1, 3),))
        with pytest.raises(InvalidError, match="gVisor is given no devices"):
            await world.run_python("", devices=edits.nodes, gvisor=True)
    finally:
        await world.close()
        assert traces(instance, folder / "run", folder / "data") == []
        drop(folder)


def test_devices_are_found_in_all_files_and_the_later_folder_wins(tmp_path: Path) -> None:
    first, second = write_cdi(tmp_path / "a", ("0", "1")), write_cdi(tmp_path / "b", ("1", "2"), yaml=True)
    assert cdi.resolve(["1"], [first, second]).nodes[-1].path == "/dev/fake0"
    both = cdi.resolve(["0", "2"], [first, second])
    assert {node.path: node.host.name for node in both.nodes} == {"/dev/fakes/control": "full", "/dev/fake0": "null", "/dev/fake1": "zero"}
    assert both.env == {"FAKE_0": "here", "FAKE_1": "here", "NVIDIA_VISIBLE_DEVICES": "void"}


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (("GPU-1", "GPU-7"), "GPU GPU-1.*nvidia-ctk cdi generate"),
        (("/dev/zero", "/dev/not-there"), "/dev/not-there.*is not there"),
        (("/dev/zero", "/etc/passwd"), "no character device"),
        (("update-ldcache", "run-anything"), "hook 'run-anything'"),
        (('"devices"', '"devises"'), "can't be read: .*devices"),
        (("{", "{{"), "can't be read"),
    ],
)
def test_what_is_wrong_with_a_file_is_said(tmp_path: Path, change: tuple[str, str], says: str) -> None:
    folder = write_cdi(tmp_path, ("GPU-0", "GPU-1"))
    file = folder / "nvidia.json"
    file.write_text(file.read_text().replace(*change))
    assert not cdi.has("GPU-1", [folder])
    with pytest.raises(ContainerStartError, match=says):
        cdi.resolve(["GPU-1"], [folder])


def test_the_check_of_gpus_says_when_there_is_none() -> None:
    checkout = Path(__file__).parents[2]
    env = {name: value for name, value in os.environ.items() if name != "SQUALL_SIMULATED_GPUS"}
    done = subprocess.run([checkout / "scripts" / "gpu-check"], capture_output=True, text=True, env=env)
    if shutil.which("nvidia-smi") is None:
        assert (done.returncode, done.stdout) == (0, "no GPU here\n"), done.stderr
    else:
        assert done.returncode == 0, done.stderr


def test_no_file_at_all(tmp_path: Path) -> None:
    with pytest.raises(ContainerStartError, match="no CDI file in"):
        cdi.resolve(["GPU-1"], [tmp_path / "nothing"])
