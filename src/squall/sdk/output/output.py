"""Where news of a running app goes: a sink, installed for a while by `enable_output()` or by the command line. Without one nothing is printed."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

from squall.wire.messages import ContainerProgress, ImageProgress, LogChunk

Event = LogChunk | ImageProgress | ContainerProgress


class Sink(Protocol):
    """Takes events of running apps. Called from any thread, must not block for long and must not raise."""

    def event(self, message: Event) -> None:
        """Output of a container, or progress of an image or a container."""
        ...

    def notice(self, text: str) -> None:
        """One line for the user, for example that the server was started."""
        ...


_current: Sink | None = None


def current_sink() -> Sink | None:
    """The sink that a newly started app reports to."""
    return _current


def notice(text: str) -> None:
    """One line for the user, if anybody listens."""
    if _current is not None:
        _current.notice(text)


class Patient(Protocol):
    """A sink that shows, while a call waits long, what it waits for."""

    def waiting(self, reason: Callable[[], str | None]) -> AbstractContextManager[None]:
        """Inside the block something waits; `reason` asks the server what for, and may take a moment."""
        ...


def patient_sink() -> Patient | None:
    """The current sink, if it shows what calls wait for."""
    return _current if _current is not None and hasattr(_current, "waiting") else None  # type: ignore[return-value]


@contextmanager
def use_sink(sink: Sink) -> Iterator[Sink]:
    """Report to `sink` inside the block; the one before it comes back afterwards, also after an error."""
    global _current
    before, _current = _current, sink
    try:
        yield sink
    finally:
        _current = before


@contextmanager
def enable_output() -> Iterator[None]:
    """Print the containers' output and the progress of images inside the block: containers' stdout to stdout, everything else to stderr."""
    from squall.sdk.output.plain import PrintingSink

    sink = PrintingSink()
    try:
        with use_sink(sink):
            yield
    finally:
        sink.close()
