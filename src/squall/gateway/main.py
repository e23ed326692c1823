"""`python -m squall.gateway.main`: the server as a process."""

import argparse
import asyncio
import contextlib
import fcntl
import gc
import logging
import os
import secrets
import signal
import socket
import ssl
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from squall.model.errors import ConflictError, Error
from squall.sdk.client.last_start import forget_stop, note_stop, remember
from squall.wire import descriptors
from squall.wire.address import Address, data_directory, http_socket_path, parse_address, socket_path

#: A second server waits for the first one's socket at most this long.
OTHER_WAIT_S = 20.0


def main() -> None:
    """Run until SIGTERM, SIGINT or a client's StopServer. Exit status 1 when it can't start."""
    parser = argparse.ArgumentParser(prog="squall server", description="Squall's server")
    parser.add_argument("--ready-fd", type=int, help="descriptor that gets a byte when the server listens")
    parser.add_argument("--background", action="store_true", help="leave the terminal and the caller, and go on as an own session")
    parser.add_argument("--remember", action="store_true", help="what starts the server by need does so with these options from now on")
    parser.add_argument("--listen", action="append", default=[], metavar="URL", help="also listen on tcp://127.0.0.1:PORT or tls://HOST:PORT")
    parser.add_argument("--tls-cert", type=Path)
    parser.add_argument("--tls-key", type=Path)
    parser.add_argument("--web", metavar="HOST:PORT", help="where web functions are reached (default: 127.0.0.1, port 8484 or a free one)")
    parser.add_argument("--web-domain", metavar="DOMAIN", help="what addresses of web functions end in, instead of localhost: *.DOMAIN leads here")
    parser.add_argument("--web-cert", type=Path, metavar="FILE", help="certificate of *.DOMAIN, with its chain: web functions are reached by https")
    parser.add_argument("--web-key", type=Path, metavar="FILE", help="its private key")
    parser.add_argument("--driver", choices=("fork", "oci", "gvisor", "process"))
    options = parser.parse_args()
    gc.disable()  # until it listens: imports make many objects, and all of them stay
    if options.background:
        if os.fork():
            os._exit(0)
        os.setsid()
    logging.basicConfig(level=os.environ.get("SQUALL_LOGLEVEL", "INFO").upper(), format="%(asctime)s %(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    logging.getLogger("alembic").setLevel(logging.WARNING)
    data = data_directory()
    try:
        data.mkdir(parents=True, exist_ok=True, mode=0o711)
        descriptors.raise_limit()
        lock = os.open(data / "server.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        if not _take_place(data, lock, options):
            return
        forget_stop(data)
        os.ftruncate(lock, 0)
        os.write(lock, f"{os.getpid()}\n".encode())
        import uvloop

        uvloop.run(_serve(data, options))
    except (Error, OSError) as error:
        reason = str(error) if isinstance(error, Error) else f"{error.filename or error.filename2 or ''}: {error.strerror}".strip(": ")
        print(f"the server can't run: {reason}", file=sys.stderr, flush=True)
        if options.ready_fd is not None:
            with contextlib.suppress(OSError):  # closed already when it had listened before
                os.write(options.ready_fd, b"0" + reason.encode())
        sys.exit(1)


async def _serve(data: Path, options: argparse.Namespace) -> None:
    from squall.gateway.gc_policy import defer_full_collections
    from squall.gateway.wiring import Settings, running_server

    loop = asyncio.get_running_loop()
    addresses = [parse_address(url) for url in options.listen]
    settings = Settings(data, options.driver, _web(options.web), web_domain=options.web_domain, web_tls=_web_tls(options))
    async with running_server(settings) as server:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, server.stop)
        for address in addresses:
            await server.listen_tcp(address.host, address.port, server_token(data), _tls(address, options))
        await server.listen_unix(socket_path(data))
        await server.ingress.listen_local(http_socket_path(data))
        logging.getLogger(__name__).info("listening on %s", ", ".join(server.listening))
        if options.remember:
            remember(data, chosen_options(sys.argv[1:]), os.environ, foreground=not options.background)
        defer_full_collections(loop, lambda: len(server.router.inputs))
        if options.ready_fd is not None:
            with contextlib.suppress(OSError):  # who started it was killed meanwhile; others wait for this server all the same
                os.write(options.ready_fd, b"1")
            os.close(options.ready_fd)
        await server.stopping.wait()
        if server.leaving:
            await server.leave()
            os._exit(0)  # as if it were killed here, with everything on disk: the next one takes over what runs
        note_stop(data)  # before anybody notices that it ends: clients don't start it again
        with contextlib.suppress(OSError):
            socket_path(data).unlink()
            http_socket_path(data).unlink()


def _web(text: str | None) -> tuple[str, int] | None:
    if text is None:
        return None
    host, _, port = text.rpartition(":")
    if not port.isdigit() or int(port) > 65535:
        raise Error(f"--web {text}: write HOST:PORT, for example 127.0.0.1:8484")
    return host.strip("[]") or "127.0.0.1", int(port)


def server_token(data: Path) -> str:
    """The secret that clients over TCP must show; made at first use, in a file that only this user can read."""
    path = data / "token"
    with contextlib.suppress(FileExistsError), open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(secrets.token_urlsafe(32))
    return path.read_text().strip()


def _tls(address: Address, options: argparse.Namespace) -> ssl.SSLContext | None:
    if not address.tls:
        return None
    if options.tls_cert is None or options.tls_key is None:
        raise Error(f"{address} needs --tls-cert and --tls-key")
    return _context(options.tls_cert, options.tls_key)


def _web_tls(options: argparse.Namespace) -> ssl.SSLContext | None:
    if options.web_cert is None and options.web_key is None:
        return None
    if options.web_cert is None or options.web_key is None:
        raise Error("--web-cert and --web-key go together")
    return _context(options.web_cert, options.web_key)


def _context(certificate: Path, key: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_cert_chain(certificate, key)
    except (OSError, ssl.SSLError) as error:
        raise Error(f"the certificate {certificate} with the key {key} can't be used: {error.strerror or error}") from error
    return context


def chosen_options(argv: Sequence[str]) -> list[str]:
    """Those that say what kind of server it is, without those about how the process starts."""
    chosen = [part for part in argv if part not in ("--remember", "--background")]
    if "--ready-fd" in chosen:
        place = chosen.index("--ready-fd")
        del chosen[place : place + 2]
    return chosen


def _take_place(data: Path, lock: int, options: argparse.Namespace) -> bool:
    """Become the server of this data directory, also where another one is just ending. False: another one listens, and any was wanted.

    Raises:
        ConflictError: another one runs, and this very one was wanted; or it does not listen.
    """
    deadline = time.monotonic() + OTHER_WAIT_S
    while True:
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        pid = os.pread(lock, 32, 0).decode().strip() or "unknown"
        if not options.background or (options.remember and chosen_options(sys.argv[1:])):
            raise ConflictError(f"another server of {data} runs already (pid {pid}); squall server stop ends it")
        with socket.socket(socket.AF_UNIX) as sock, contextlib.suppress(OSError):
            sock.connect(str(socket_path(data)))
            if options.ready_fd is not None:
                with contextlib.suppress(OSError):  # who asked for it was killed meanwhile
                    os.write(options.ready_fd, b"1")
            return False
        if time.monotonic() > deadline:
            raise ConflictError(f"another server (pid {pid}) holds {data}, and does not listen")
        time.sleep(0.02)


if __name__ == "__main__":
    main()
