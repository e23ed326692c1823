"""For tests of image builds: a builder with a real driver over a fresh data directory, in which the base, made once, is there already."""

import contextlib
import os
import secrets
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass, field, replace
from hashlib import sha256
from pathlib import Path

from squall.images.builder import Builder, BuiltImage, StepEvent
from squall.images.recipe import plan
from squall.images.settings import DEFAULTS, ImageSettings
from squall.model.specs import ImageSpec, SourceFile, Step
from squall.runtime.contract import Driver
from squall.runtime.ids import DEFAULT_IDS
from squall.runtime.oci import OciDriver
from squall.store.blobs import BlobDirectory
from support.containers import World, drop, free_folder

BASE = Step("debian_slim", {"python_version": "3.11"})


def cache_folder() -> Path:
    """Kept between runs: bases, and what uv and apt fetched."""
    folder = Path(os.environ.get("SQUALL_TEST_CACHE") or Path.home() / ".cache/squall-tests") / f"images-{DEFAULT_IDS.first}"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def recipe(*steps: Step) -> ImageSpec:
    return ImageSpec((BASE, *steps))


def run(*commands: str, **fields: object) -> Step:
    return Step("run_commands", {"commands": list(commands)}, **fields)  # type: ignore[arg-type]


#: What is in `BOX`: a shell and a few programs, with what makes unpacking hard (hard links, setuid).
_BOX = (
    "useradd -u 1234 app; mkdir -p /box/bin /box/etc /box/tmp && chmod 1777 /box/tmp && cd /bin && "
    "cp sh cat ls ln rm mkdir chmod stat id readlink env test setpriv /box/bin/ && "
    'for f in $(ldd sh ls stat id setpriv | grep -o "/[^ ]*" | grep so | sort -u); do mkdir -p /box/$(dirname $f) && cp $f /box/$f; done; '
    "cp /etc/passwd /etc/group /etc/debian_version /box/etc/; ln /box/bin/cat /box/bin/cat2; chmod 4755 /box/bin/id"
)
#: An image of a few megabytes without Python: a Debian takes ten seconds to be pushed to a registry, and as long to be pulled and removed.
BOX = (
    Step("from_scratch"),
    Step("COPY", {"title": "COPY", "target": "/", "directory": True, "owner": "", "mode": "", "unpack": False, "sources": ["/box"],
                  "stage": [{"kind": step.kind, "args": step.args, "files": [], "secrets": [], "force": False} for step in (BASE, run(_BOX))]}),
)  # fmt: skip


@dataclass
class Studio:
    """A builder, its driver, and where its things are."""

    builder: Builder
    driver: Driver
    blobs: BlobDirectory
    folder: Path
    instance: str
    events: list[StepEvent] = field(default_factory=list)

    @property
    def data(self) -> Path:
        return self.folder / "data"

    async def ensure(self, *steps: Step, **options: object) -> BuiltImage:
        return await self.builder.ensure(recipe(*steps), progress=self.events.append, **options)  # type: ignore[arg-type]

    def file(self, path: str, content: bytes, *, executable: bool = False) -> SourceFile:
        digest = sha256(content).hexdigest()
        self.blobs.put(digest, content)
        return SourceFile(path, digest, len(content), executable)

    async def run_in(self, image: BuiltImage, *argv: str, layers: Iterable[Path] = ()) -> str:
        """Output of a command in a container of the image; it must succeed."""
        world = World(self.driver, self.instance, self.folder / "run", self.data, (*image.layers, *layers), image.python)
        output = await world.run(*argv, env=dict(image.env), workdir=image.workdir, id=f"ct-{secrets.token_hex(4)}")
        assert output.exit.exit_code == 0, output
        return output.stdout

    def unfinished(self) -> list[str]:
        return [name for name in os.listdir(self.data / "layers") if name.startswith(".tmp-")]

    def built(self) -> set[str]:
        return {name for name in os.listdir(self.data / "layers") if not name.startswith(".")}


async def prepare_base() -> Path:
    """The layer directory of `BASE`, made if it is not in the cache."""
    key = plan(ImageSpec((BASE,))).layers[0].key
    layer = cache_folder() / "layers" / key
    if not (layer / "fs").exists():
        async with studio(cache_folder(), base=False) as it:
            await it.ensure()
    return layer


@contextlib.asynccontextmanager
async def studio(data: Path | None = None, *, base: bool = True, driver: Driver | None = None, settings: ImageSettings = DEFAULTS) -> AsyncIterator[Studio]:
    """A studio; its folder goes afterwards, unless `data` was given."""
    layer = await prepare_base() if base else None
    folder, instance = free_folder(), f"i{secrets.token_hex(3)}"
    home = data or folder / "data"
    home.mkdir(exist_ok=True)
    if layer is not None:
        (home / "layers").mkdir(exist_ok=True)
        with contextlib.suppress(FileExistsError):
            (home / "layers" / layer.name).symlink_to(layer)
    driver = driver or OciDriver(run=folder / "run", data=home / "containers", instance=instance, ready_networks=1)
    await driver.open()
    try:
        blobs = BlobDirectory(home / "blobs")
        builder = Builder(data=home, driver=driver, blobs=blobs, settings=replace(settings, cache=settings.cache or cache_folder() / "cache"))
        yield Studio(builder, driver, blobs, folder, instance)
        await builder.close()
    finally:
        await driver.close()
        drop(folder)
