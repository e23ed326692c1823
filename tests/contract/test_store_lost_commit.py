"""A commit whose answer is lost with the connection: what was written is there once, and who waits is told what it gave."""

import socket
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from squall.model.errors import InternalError
from squall.model.ids import CallId, FunctionId
from squall.model.states import InputState
from squall.store.engine import committed, make_engine, transaction
from squall.store.objects import QueueRow
from squall.store.rows import InputRow
from squall.store.sql import SqlStore
from squall.wire.messages import OK
from support.postgres import Postgres

CALL = CallId("fc-1")


class Relay:
    """Passes connections on to a server's socket. When `armed`, the next commit is passed on, and its connection closed instead of the answer."""

    def __init__(self, folder: Path, server: Path) -> None:
        self.armed = False
        self.cut = 0
        self._server = server
        self._listening = socket.socket(socket.AF_UNIX)
        self._listening.bind(str(folder / server.name))
        self._listening.listen()
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listening.accept()
            except OSError:
                return
            server = socket.socket(socket.AF_UNIX)
            server.connect(str(self._server))
            self._threads.append(threading.Thread(target=self._pass, args=(client, server), daemon=True))
            self._threads[-1].start()

    def _pass(self, client: socket.socket, server: socket.socket) -> None:
        back = threading.Thread(target=self._back, args=(client, server), daemon=True)
        back.start()
        while data := client.recv(65536):
            if self.armed and b"COMMIT" in data:
                self.armed, self.cut = False, self.cut + 1
                client.shutdown(socket.SHUT_RDWR)
            server.sendall(data)
        server.shutdown(socket.SHUT_WR)  # it does what came before, and then ends
        back.join()
        client.close()
        server.close()

    def _back(self, client: socket.socket, server: socket.socket) -> None:
        while data := server.recv(65536):
            with suppress(OSError):
                client.sendall(data)

    def close(self) -> None:
        self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        for thread in self._threads:
            thread.join(60)


@pytest.fixture
def relay(postgres: Postgres, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Relay]:
    made = Relay(tmp_path_factory.mktemp("r"), postgres.folder / ".s.PGSQL.5432")
    yield made
    made.close()


async def test_what_a_lost_answer_would_have_said_is_said(postgres: Postgres, relay: Relay, tmp_path: Path) -> None:
    url = postgres.make("lost")
    store = SqlStore(url.replace(str(postgres.folder), str(relay._listening.getsockname()).rpartition("/")[0]))
    await store.open()
    try:
        await store.accept([InputRow(CALL, 0, FunctionId("fu-1"), b"", 100.0)])
        assert await store.claim(CALL, 0, 7, 101.0)
        relay.armed = True
        assert await store.finish(CALL, 0, 7, OK, b"value", 102.0, None)
        relay.armed = True
        await store.queue_put([QueueRow("qu-1", 1, "", b"item", 103.0)])
        found = await store.input(CALL, 0)
        assert found is not None
        assert (found.state, found.output) == (InputState.SUCCEEDED, b"value")
    finally:
        await store.close()
    assert relay.cut == 2


async def test_an_end_that_can_not_be_asked_for_is_an_error_and_no_hang(postgres: Postgres, relay: Relay, monkeypatch: pytest.MonkeyPatch) -> None:
    url = postgres.make("refused")
    store = SqlStore(url.replace(str(postgres.folder), str(relay._listening.getsockname()).rpartition("/")[0]))
    await store.open()

    def refuse(connection: object, of: str) -> bool:
        raise InternalError("nobody knows")

    try:
        await store.accept([InputRow(CALL, 0, FunctionId("fu-1"), b"", 100.0)])
        monkeypatch.setattr("squall.store.writer.committed", refuse)
        relay.armed = True
        with pytest.raises(InternalError, match="nobody knows"):
            await store.claim(CALL, 0, 7, 101.0)
        assert await store.claim(CALL, 0, 8, 102.0)
    finally:
        await store.close()


def test_a_transaction_that_a_crash_took_along_has_not_come_about(postgres: Postgres) -> None:
    engine = make_engine(postgres.make("future"))
    with engine.connect() as connection:
        with connection.begin():
            known = transaction(connection)
        assert known is not None
        assert committed(connection, known)
        assert not committed(connection, str(int(known) + 1000))
        with connection.begin() as begun:
            undone = transaction(connection)
            begun.rollback()
        assert undone is not None
        assert not committed(connection, undone)
    engine.dispose()
