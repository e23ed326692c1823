"""Layers on disk: each made once, seen only when complete, whatever is killed meanwhile.

    layers/<key>/fs         the layer
    layers/<key>/meta.json  what it is (`LayerInfo`)
    layers/<key>/log        what its build printed
    layers/<key>/unsettled  id of the boot in which it was made; gone once the kernel has written it to disk
    layers/.tmp-<key>-<n>   being built, or left by a killed build
    layers/.failed/<key>/   log and meta.json of the last failed build
    layers/.locks/<key>     locked with flock(2) by the process that builds it

A layer appears by one rename. Writing hundreds of megabytes to disk first would make every build wait, so it is done after; a layer that a power cut caught
unsettled is from another boot, and counts as absent.
"""

import asyncio
import contextlib
import fcntl
import logging
import os
import shutil
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from squall.model.ids import LayerKey
from squall.store.beneath import sync_file_system

log = logging.getLogger(__name__)

#: Seconds between looks at a lock that another process holds. Builds take seconds, so this adds little.
_LOCK_POLL_S = 0.05
#: Stands in the keys of layers whose files Squall writes itself: their owner when there were the first of them. What the owner is on disk makes no other layer.
KEY_OWNER = 100_000


class LayerInfo(msgspec.Struct, frozen=True, omit_defaults=True):
    """What is known about a layer. `facts` are what only building told: the interpreter of a base, its environment."""

    key: str
    parent: str
    title: str
    kind: str
    seconds: float = 0.0
    bytes: int = 0
    files: int = 0
    built_at: float = 0.0  #: Unix time in seconds
    exit_code: int | None = None  #: only of failed builds
    facts: dict[str, str] = {}
    env: dict[str, str] = {}
    #: Keys of layers of a registry's image that this layer stands for, lowest first; they lie below its own files.
    below: tuple[LayerKey, ...] = ()


@dataclass(slots=True)
class Draft:
    """A layer being built. `fs` exists and is empty; `scratch` is for whatever the build needs beside it, and is thrown away."""

    key: LayerKey
    root: Path
    fs: Path = field(init=False)
    log: Path = field(init=False)
    scratch: Path = field(init=False)

    def __post_init__(self) -> None:
        self.fs, self.log, self.scratch = self.root / "fs", self.root / "log", self.root / "scratch"


class LayerStore:
    """The directory of all layers. Any number of processes may share it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._locks = root / ".locks"
        self._failed = root / ".failed"
        for directory in (root, self._locks, self._failed):
            directory.mkdir(parents=True, exist_ok=True)
            # Containers pass through; other users of the machine are not to find sources, logs, and programs that run as a container's user.
            with contextlib.suppress(PermissionError):  # somebody else's, who shares it
                directory.chmod(0o711 if directory is root else 0o700)
        self._boot = _boot_id()
        self._infos: dict[LayerKey, LayerInfo] = {}
        self._settling: set[asyncio.Task[None]] = set()

    def path(self, key: LayerKey) -> Path:
        """Where the layer's files are, or will be."""
        return self.root / key / "fs"

    def present(self, key: LayerKey) -> bool:
        """Whether the layer is there, whole. Two stats."""
        home = f"{self.root}/{key}"
        return os.path.exists(f"{home}/fs") and not (os.path.exists(f"{home}/unsettled") and self._torn(key))

    def info(self, key: LayerKey) -> LayerInfo | None:
        """What is known about a layer; None if there is none. Kept in memory, since layers do not change."""
        if key not in self._infos:
            try:
                self._infos[key] = msgspec.json.decode((self.root / key / "meta.json").read_bytes(), type=LayerInfo)
            except (FileNotFoundError, msgspec.DecodeError):
                return None
        return self._infos[key]

    def log(self, key: LayerKey) -> str | None:
        """What the build of a layer printed: of the failed build, if that was the last one."""
        for home in (self.root / key, self._failed / key):
            with contextlib.suppress(FileNotFoundError):
                return (home / "log").read_text(errors="replace")
        return None

    def all(self) -> tuple[LayerInfo, ...]:
        """All layers, in the order of their making."""
        keys = (LayerKey(name) for name in os.listdir(self.root) if not name.startswith("."))
        return tuple(sorted((info for key in keys if self.present(key) and (info := self.info(key))), key=lambda info: info.built_at))

    @contextlib.asynccontextmanager
    async def draft(self, key: LayerKey) -> AsyncIterator[Draft | None]:
        """Hold the right to build a layer, in all processes; None if another one built it meanwhile. What is not committed is removed."""
        async with self._lock(key):
            if self.present(key):
                yield None
                return
            await asyncio.to_thread(self._clear, key)
            draft = Draft(key, self.root / f".tmp-{key}-{os.getpid()}")
            draft.root.mkdir()
            draft.fs.mkdir()
            draft.fs.chmod(0o755)  # whatever the umask: it is the root directory of containers
            draft.scratch.mkdir()
            try:
                yield draft
            finally:
                await _finish(asyncio.to_thread(_remove, draft.root))

    async def commit(self, draft: Draft, info: LayerInfo) -> None:
        """Make the draft the layer."""
        await asyncio.to_thread(_remove, draft.scratch)
        (draft.root / "meta.json").write_bytes(msgspec.json.encode(info))
        (draft.root / "unsettled").write_text(self._boot)
        draft.log.touch()
        os.rename(draft.root, self.root / draft.key)
        self._infos.pop(draft.key, None)
        await asyncio.to_thread(_remove, self._failed / draft.key)
        task = asyncio.create_task(self._settle(draft.key), name=f"settle layer {draft.key[:8]}")
        self._settling.add(task)
        task.add_done_callback(self._settling.discard)

    def last_used(self, key: LayerKey) -> float:
        """Unix time in seconds at which a layer without an image was last asked for, or made; 0 for none."""
        try:
            return (self.root / key / "meta.json").stat().st_mtime
        except FileNotFoundError:
            return 0.0

    async def remove(self, key: LayerKey) -> None:
        """Take a layer away, at once for all who look for it. Containers that are mounted on it go on only as long as what they need is in memory."""
        async with self._lock(key):
            doomed = self.root / f".tmp-{key}-gone"
            try:
                os.rename(self.root / key, doomed)
            except FileNotFoundError:
                return
            self._infos.pop(key, None)
            await _finish(asyncio.to_thread(_remove, doomed) if not doomed.is_symlink() else asyncio.to_thread(doomed.unlink))

    def fail(self, draft: Draft, info: LayerInfo) -> None:
        """Keep what a failed build printed, as far as there is room for it; what it made goes."""
        home = self._failed / draft.key
        _remove(draft.fs)
        _remove(home)
        try:
            home.mkdir()
            (home / "meta.json").write_bytes(msgspec.json.encode(info))
            os.rename(draft.log, home / "log")
        except OSError as error:
            log.warning("the log of layer %s could not be kept: %s", draft.key[:8], error)

    def forget_failed(self, key: LayerKey) -> None:
        """Remove what a failed build printed."""
        _remove(self._failed / key)

    async def close(self) -> None:
        """Wait until what was built is on disk."""
        await asyncio.gather(*self._settling)

    async def sweep(self) -> list[str]:
        """Remove what killed builds left; what another live process builds right now stays. Returns the names of what went."""
        removed = []
        for name in sorted(os.listdir(self.root)):
            if name.startswith(".tmp-"):
                key = LayerKey(name.split("-")[1])
                with _try_lock(self._locks / key) as held:
                    if held:
                        await asyncio.to_thread(_remove, self.root / name)
                        removed.append(name)
        return removed

    def _clear(self, key: LayerKey) -> None:
        """Under the lock: remove what earlier builds of this layer left."""
        for name in os.listdir(self.root):
            if name == key or name.startswith(f".tmp-{key}-"):
                _remove(self.root / name)

    def _torn(self, key: LayerKey) -> bool:
        try:
            return (self.root / key / "unsettled").read_text() != self._boot
        except FileNotFoundError:
            return False  # settled between the two looks

    async def _settle(self, key: LayerKey) -> None:
        await asyncio.to_thread(self._sync)
        with contextlib.suppress(FileNotFoundError):
            (self.root / key / "unsettled").unlink()

    def _sync(self) -> None:
        descriptor = os.open(self.root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            sync_file_system(descriptor)
        finally:
            os.close(descriptor)

    @contextlib.asynccontextmanager
    async def _lock(self, key: LayerKey) -> AsyncIterator[None]:
        """Cancel-safe: a thread that waits in flock(2) could not be woken, so this looks again and again."""
        while True:
            with _try_lock(self._locks / key) as held:
                if held:
                    yield
                    return
            await asyncio.sleep(_LOCK_POLL_S)


@contextlib.contextmanager
def _try_lock(path: Path) -> Iterator[bool]:
    """Hold the lock file if nobody else does. The kernel lets go of it when its process dies."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Another holder may have removed the file between our open and lock; then this lock protects nothing.
            held = os.fstat(descriptor).st_ino == os.stat(path).st_ino
        except (BlockingIOError, FileNotFoundError):
            held = False
        try:
            yield held
        finally:
            if held:
                path.unlink(missing_ok=True)
    finally:
        os.close(descriptor)


def _remove(path: Path) -> None:
    """Remove a tree, also where a build took its owner's right to write. A missing one is fine."""

    def open_up(function: Callable[..., object], name: str, error: tuple[type[BaseException], BaseException, object]) -> None:
        if isinstance(error[1], FileNotFoundError):
            return
        if not isinstance(error[1], PermissionError):
            raise error[1]
        os.chmod(os.path.dirname(name), 0o700)
        if os.path.isdir(name) and not os.path.islink(name):
            os.chmod(name, 0o700)
            shutil.rmtree(name)
        else:
            os.unlink(name)

    shutil.rmtree(path, onerror=open_up)


async def _finish(work: Coroutine[None, None, None]) -> None:
    """Await something to its end also when cancelled, and be cancelled then."""
    task = asyncio.create_task(work)
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task])
        raise


def _boot_id() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except FileNotFoundError:
        return ""  # not Linux: every unsettled layer counts as of this boot
