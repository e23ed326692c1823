"""Making one layer: asked for any number of times it is made once, logged, measured, and there as a whole or not at all."""

import asyncio
import contextlib
import errno
import shutil
import time
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field

from msgspec.structs import replace

from squall.images.causes import StepFailed, cause, disk_full
from squall.images.flights import Flights, Listener
from squall.images.layers import Draft, LayerInfo, LayerStore
from squall.images.place import tree_bytes
from squall.images.settings import ImageSettings
from squall.model.errors import ResourceExhaustedError
from squall.model.ids import LayerKey
from squall.runtime.contract import Exit

#: Lines of a log in which the cause is looked for, and those that an error shows.
_TAIL_LINES, _SHOWN_LINES = 300, 40

#: Characters of a log that are kept; of what goes on after them only the tail. A step in an endless loop would fill the disk before its time is up.
_LOG_MAX = 16 << 20


@dataclass(slots=True)
class Making:
    """A layer while it is made. `facts`, `env`, `below` and `size` end up in its `LayerInfo`."""

    draft: Draft
    line: Listener
    tail: deque[str]
    facts: dict[str, str] = field(default_factory=dict)
    env: dict[str, str] = field(default_factory=dict)
    below: list[LayerKey] = field(default_factory=list)
    size: tuple[int, int] | None = None  #: (bytes, files), where the work knows; else the layer is measured

    def expect(self, exit: Exit, *, memory_mib: int | None = None) -> None:
        """Go on only if the command succeeded.

        Args:
            memory_mib: that it was allowed.

        Raises:
            StepFailed: with the cause.
        """
        if exit.exit_code != 0 or exit.oom_killed:
            raise failed("\n".join(self.tail), exit.exit_code, exit.signal, oom=exit.oom_killed, memory_mib=memory_mib)


#: Fills the draft.
Work = Callable[[Making], Awaitable[None]]


class Maker:
    """Makes layers in a store, at most `parallel_builds` at a time."""

    def __init__(self, store: LayerStore, settings: ImageSettings, now: Callable[[], float]) -> None:
        self._store, self._settings, self._now = store, settings, now
        self._flights = Flights()
        #: key -> how many makings need it to stay
        self._making: Counter[str] = Counter()
        self._slots = asyncio.Semaphore(settings.parallel_builds)

    def busy(self) -> frozenset[str]:
        """Keys of layers that are being made, and of those that they are made on."""
        return frozenset(self._making)

    async def make(
        self,
        key: LayerKey,
        work: Work,
        *,
        parent: str,
        title: str,
        kind: str,
        listener: Listener,
        secrets: Mapping[str, str] | None = None,
        nested: bool = False,
    ) -> None:
        """The layer is there afterwards. Cancel-safe: what is not finished is removed, unless somebody else waits for it too.

        Args:
            secrets: their values are blotted out in the log.
            nested: it is made while another layer is, in whose place among the parallel ones it stands.

        Raises:
            StepFailed: the work failed; the log is kept.
            ResourceExhaustedError: the disk is full.
        """
        plain = LayerInfo(key, parent, title, kind)
        hidden = tuple(value for value in (secrets or {}).values() if len(value) >= 4)  # shorter ones are too common to be blotted out
        self._making.update((key, parent))
        try:
            await self._flights.join(key, lambda tell: self._build(key, work, plain, tell, hidden, nested), listener)
        finally:
            self._making.subtract((key, parent))
            self._making += Counter()  # drops those that nobody needs

    async def _build(self, key: LayerKey, work: Work, info: LayerInfo, tell: Listener, hidden: tuple[str, ...], nested: bool) -> None:
        try:
            async with self._store.draft(key) as draft:
                if draft is not None:  # None: another process made it
                    async with contextlib.nullcontext() if nested else self._slots:
                        await self._fill(draft, work, info, tell, hidden)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise self._full(info.title) from error
            raise

    async def _fill(self, draft: Draft, work: Work, info: LayerInfo, tell: Listener, hidden: tuple[str, ...]) -> None:
        began = time.perf_counter()
        tail: deque[str] = deque(maxlen=_TAIL_LINES)
        try:
            with draft.log.open("w", errors="replace", buffering=1) as log:
                length = 0

                def line(text: str) -> None:
                    nonlocal length
                    for value in hidden:
                        text = text.replace(value, "***")
                    tail.append(text)
                    length += len(text) + 1
                    if length <= _LOG_MAX:
                        with contextlib.suppress(OSError):  # a full disk: the step will tell, and must not wait for us
                            log.write(text + "\n")
                    tell(text)

                making = Making(draft, line, tail)
                try:
                    await work(making)
                finally:
                    if length > _LOG_MAX:
                        with contextlib.suppress(OSError):
                            log.write(f"... {length - _LOG_MAX} more characters, of which the last are:\n{shown(tail)}\n")
            size, files = making.size if making.size is not None else await asyncio.to_thread(tree_bytes, draft.fs)
        except (StepFailed, TimeoutError) as error:
            exit_code = error.exit_code if isinstance(error, StepFailed) else None
            await asyncio.to_thread(self._store.fail, draft, replace(info, built_at=self._now(), exit_code=exit_code))
            if disk_full("\n".join(tail)):
                raise self._full(info.title) from error
            if isinstance(error, TimeoutError):
                raise StepFailed(f"it ran longer than {error} s and was ended", log_tail=shown(tail)) from error
            raise
        done = replace(
            info,
            built_at=self._now(),
            seconds=time.perf_counter() - began,
            bytes=size,
            files=files,
            facts=making.facts,
            env=making.env,
            below=tuple(making.below),
        )
        await self._store.commit(draft, done)

    def _full(self, title: str) -> ResourceExhaustedError:
        free = shutil.disk_usage(self._store.root).free >> 20
        return ResourceExhaustedError(f"{title}: the disk that holds {self._store.root} is full ({free} MiB free)")


def failed(log: str, exit_code: int | None, signal: int | None, *, oom: bool = False, memory_mib: int | None = None) -> StepFailed:
    """The failure of a command, with its cause found in its log."""
    code = 128 + signal if exit_code is None and signal is not None else exit_code  # as shells count
    return StepFailed(cause(log, exit_code, signal, oom=oom, memory_mib=memory_mib), exit_code=code, log_tail=shown(log.splitlines()))


def shown(lines: "deque[str] | list[str]") -> str:
    """The end of a log, as errors show it."""
    return "\n".join(list(lines)[-_SHOWN_LINES:])
