"""A builder that is killed, at any moment, leaves nothing half: the next one sweeps, builds, and gets the same image."""

import asyncio
import os
import random
import signal
import sys
from pathlib import Path

import pytest

from squall.images import debian
from squall.images.builder import Builder
from squall.images.recipe import DebianBase
from squall.runtime.oci import OciDriver
from squall.store.blobs import BlobDirectory
from support.images import prepare_base, recipe, run, studio

pytestmark = pytest.mark.root

FILES = 60
SPEC = recipe(
    run(f"mkdir /one; for i in $(seq {FILES}); do echo $i > /one/$i; echo $i; done"),
    run(f"mkdir /two; for i in $(seq {FILES}); do echo $i > /two/$i; echo $i; done; rm -r /one/1"),
)

#: The victim: builds, and says on stdout each thing that happens.
VICTIM = """
import asyncio, sys
from pathlib import Path
import msgspec
from squall.images.builder import Builder
from squall.images.settings import ImageSettings
from squall.model.specs import ImageSpec
from squall.runtime.oci import OciDriver
from squall.store.blobs import BlobDirectory

async def main(data, run, instance, spec):
    driver = OciDriver(run=run, data=data / "containers", instance=instance, ready_networks=1)
    await driver.open()
    builder = Builder(data=data, driver=driver, blobs=BlobDirectory(data / "blobs"))
    await builder.ensure(spec, progress=lambda event: print(event.step, event.state, event.line, flush=True))
    print("built", flush=True)
    await builder.close()
    await driver.close()

asyncio.run(main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], msgspec.json.decode(sys.argv[4], type=ImageSpec)))
"""


def whole(layer: Path, name: str) -> bool:
    return sorted(path.name for path in (layer / name).iterdir()) == sorted(str(number + 1) for number in range(FILES))


async def kill_after(lines: int, *argv: str) -> int:
    """Run the victim until it has said so much, and kill it. Returns how many lines it got to."""
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", VICTIM, *argv, stdout=asyncio.subprocess.PIPE)
    assert process.stdout is not None
    seen = 0
    while seen < lines and await process.stdout.readline():
        seen += 1
    if process.returncode is None:
        process.send_signal(signal.SIGKILL)
    await process.stdout.read()
    await process.wait()
    return seen


@pytest.mark.parametrize("seed", range(4))
async def test_killed_while_building(seed: int) -> None:
    import msgspec

    rng = random.Random(seed)
    base = await prepare_base()
    async with studio() as place:
        # Only its folder is used: the victim and its successors take turns with an instance of their own.
        run_folder, instance = place.folder / "victim-run", f"{place.instance}v"
        argv = (str(place.data), str(run_folder), instance, msgspec.json.encode(SPEC).decode())
        for _ in range(3):
            # 2 * FILES lines of output and some of progress; early and late ones, and the moments between two steps.
            await kill_after(rng.choice([1, 2, 3, FILES + 3, FILES + 4, FILES + 5, rng.randrange(4, 2 * FILES)]), *argv)
            for name in place.built() - {base.name}:
                layer = place.data / "layers" / name / "fs"
                assert whole(layer, "one" if (layer / "one/2").exists() else "two"), f"layer {name} is half"
        driver = OciDriver(run=run_folder, data=place.data / "containers", instance=instance, ready_networks=1)
        await driver.open()
        try:
            await driver.sweep(lambda container: False)
            builder = Builder(data=place.data, driver=driver, blobs=BlobDirectory(place.data / "blobs"))
            await builder.sweep()
            assert place.unfinished() == []
            image = await builder.ensure(SPEC)
            assert whole(image.layers[1], "one")
            assert whole(image.layers[2], "two")
            assert await builder.sweep() == []
            await builder.close()
        finally:
            await driver.close()


@pytest.mark.parametrize("lines", [5, FILES + 6])
async def test_one_of_two_that_build_the_same_is_killed(lines: int) -> None:
    import msgspec

    async with studio() as place:
        argv = (str(place.data), str(place.folder / "victim-run"), f"{place.instance}v", msgspec.json.encode(SPEC).decode())
        victim = asyncio.create_task(kill_after(lines, *argv))
        # It waits for the layers that the victim makes, and makes the rest, and what the victim left half, itself.
        while not place.unfinished() and not victim.done():
            await asyncio.sleep(0.005)
        image = await place.builder.ensure(SPEC)
        assert await victim == lines
        assert whole(image.layers[1], "one")
        assert whole(image.layers[2], "two")
        assert len(place.built()) == 3
        driver = OciDriver(run=place.folder / "victim-run", data=place.data / "containers", instance=f"{place.instance}v", ready_networks=1)
        await driver.open()
        await driver.sweep(lambda container: False)
        await driver.close()
        await place.builder.sweep()
        assert place.unfinished() == []


async def test_sweep_leaves_a_live_build_alone() -> None:
    async with studio() as it:
        other = Builder(data=it.data, driver=it.driver, blobs=it.blobs)
        started = asyncio.Event()
        task = asyncio.create_task(
            it.builder.ensure(recipe(run("echo started; while :; do :; done")), progress=lambda event: started.set() if event.line == "started" else None)
        )
        await asyncio.wait_for(started.wait(), 30)
        (it.data / "layers/.tmp-00ff-1").mkdir()
        assert await other.sweep() == [".tmp-00ff-1"]
        assert len(it.unfinished()) == 1
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


async def test_a_base_that_is_given_up_leaves_no_process_and_no_mount(tmp_path: Path) -> None:
    target = tmp_path / "fs"
    target.mkdir()
    extracting = asyncio.Event()
    task = asyncio.create_task(
        debian.make(DebianBase("bookworm", "3.11", "x86_64"), target, lambda line: extracting.set() if "extracting" in line else None, owner=None)
    )
    await asyncio.wait_for(extracting.wait(), 120)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    using = []
    for pid in filter(str.isdecimal, os.listdir("/proc")):
        try:
            if str(target) in Path("/proc", pid, "cmdline").read_text():
                using.append(pid)
        except OSError:
            continue
    assert using == []
    assert str(target) not in Path("/proc/self/mountinfo").read_text()
