"""A container to look around in: started by the command itself, on this machine, over an image's layers, and gone with it."""

import asyncio
import contextlib
import os
import secrets
import select
import signal
import sys
import termios
import threading
import time
import tty
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from squall.model.errors import InvalidError
from squall.model.ids import CONTAINER, ContainerId, make_id
from squall.runtime.contract import Bind, ContainerSpec
from squall.runtime.ids import DEFAULT_IDS
from squall.runtime.oci import OciDriver
from squall.wire.address import data_directory

_TTY = "/.squall/tty"
#: Takes the terminal that was bound in: as its 0, 1, 2, and as the one whose Ctrl-C it gets, since the first process leads a session that has none yet, and
#: then opening one is enough (tty_ioctl(4)).
_INTERACTIVE = f'exec "$0" -i 0<>{_TTY} 1>&0 2>&0'


def look(image: Mapping[str, Any], command: str, volumes: tuple[Bind, ...] = ()) -> int:
    """Run a command, or a shell on this terminal, in a container. Returns its exit status.

    Args:
        image: `layers`, `env` and `workdir`, as the server gives them.
        volumes: what else is in the container.

    Raises:
        InvalidError: not root, not the server's machine, or no terminal to type on.
    """
    if os.geteuid() != 0:
        raise InvalidError("a shell in an image needs root on the server's machine")
    if missing := [path for path in image["layers"] if not Path(path).is_dir()]:
        raise InvalidError(f"the image's layers are not on this machine ({missing[0]}); run this where the server runs")
    if not command and not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise InvalidError("there is no terminal to type on; give a command:  -c 'ls /'")
    try:
        return asyncio.run(_look(image, command, volumes))
    except asyncio.CancelledError:
        return 128 + signal.SIGHUP


async def _look(image: Mapping[str, Any], command: str, volumes: tuple[Bind, ...]) -> int:
    mark = f"k{secrets.token_hex(3)}"
    run, data = Path("/run/squall") / mark, data_directory() / "looking" / mark
    data.mkdir(parents=True, mode=0o711)
    (data.parent).chmod(0o711)
    driver = OciDriver(run=run, data=data, instance=mark, ready_networks=0)
    await driver.open()
    task = asyncio.current_task()
    assert task is not None
    for number in (signal.SIGHUP, signal.SIGTERM):  # a closed terminal takes the container along
        asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    try:
        sh = "/bin/bash" if any(os.path.lexists(f"{layer}/{path}/bash") for layer in image["layers"] for path in ("bin", "usr/bin")) else "/bin/sh"
        with contextlib.ExitStack() as stack:
            argv: tuple[str, ...] = ("/bin/sh", "-c", command)
            out, err, binds = 1, 2, volumes
            if not command:
                master, slave = os.openpty()
                stack.callback(os.close, master)
                stack.callback(os.close, slave)
                os.fchown(slave, DEFAULT_IDS.first, DEFAULT_IDS.first)
                argv, out, err = ("/bin/sh", "-c", _INTERACTIVE, sh), slave, slave
                binds = (*volumes, Bind(Path(os.ttyname(slave)), _TTY, read_only=False))
                stack.enter_context(_relay(master))
            spec = ContainerSpec(
                id=ContainerId(make_id(CONTAINER, time.time_ns() // 1_000_000, os.urandom(10))),
                layers=tuple(map(Path, image["layers"])),
                argv=argv,
                env={"TERM": os.environ.get("TERM", "dumb"), **image["env"]},
                stdout=out,
                stderr=err,
                workdir=image["workdir"],
                hostname=str(image["image"])[:11],
                binds=binds,
            )
            container = await driver.start(spec)
            try:
                ended = await container.wait()
            finally:
                await container.remove()
        return ended.exit_code if ended.exit_code is not None else 128 + (ended.signal or 0)
    finally:
        await driver.close()
        for folder in (data, run):
            with contextlib.suppress(OSError):
                _remove_empty(folder)


@contextlib.contextmanager
def _relay(master: int) -> Iterator[None]:
    """This terminal's keys to the other one, and what that shows to this one, until the end of the block."""
    before = termios.tcgetattr(0)
    size = os.get_terminal_size(0)
    termios.tcsetwinsize(master, (size.lines, size.columns))
    wake_read, wake_write = os.pipe()

    def pump() -> None:
        sources = [0, master, wake_read]
        while wake_read not in (ready := select.select(sources, [], [])[0]):
            for source, sink in ((0, master), (master, 1)):
                if source in ready:
                    try:
                        chunk = os.read(source, 1 << 14)
                    except OSError:
                        chunk = b""
                    if not chunk:
                        sources.remove(source)
                    else:
                        with contextlib.suppress(OSError):  # a terminal that was closed
                            os.write(sink, chunk)

    thread = threading.Thread(target=pump, name="squall shell", daemon=True)
    tty.setraw(0)
    thread.start()
    try:
        yield
        while select.select([master], [], [], 0.05)[0]:
            break  # what is still on its way was seen by the thread, or is now
    finally:
        os.write(wake_write, b"x")
        thread.join()
        os.close(wake_read)
        os.close(wake_write)
        with contextlib.suppress(termios.error):
            termios.tcsetattr(0, termios.TCSADRAIN, before)


def _remove_empty(folder: Path) -> None:
    """Remove directories that hold nothing but directories, and the driver's lock; anything else would be a container's that was not removed."""
    (folder / "lock").unlink(missing_ok=True)
    for place, _, files in os.walk(folder, topdown=False):
        if not [name for name in files if name != "lock"]:
            os.rmdir(place)
