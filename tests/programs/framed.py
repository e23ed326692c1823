"""A websocket server on port 8000 that tells the client of each frame as it came, below the level at which libraries join and answer them."""

import hashlib
import socket
import threading

from websockets.frames import Frame, Opcode
from websockets.http11 import Request
from websockets.server import ServerProtocol


def talk(connection: socket.socket) -> None:
    """First how each frame came, then the frame itself, in the same pieces. After the client's half of the connection has ended, some more."""
    protocol = ServerProtocol(max_size=None)

    def flush() -> None:
        for data in protocol.data_to_send():
            if data:
                connection.sendall(data)

    while data := connection.recv(1 << 16):
        protocol.receive_data(data)
        for event in protocol.events_received():
            if isinstance(event, Request):
                protocol.send_response(protocol.accept(event))
                flush()
                continue
            assert isinstance(event, Frame)
            if event.opcode in (Opcode.TEXT, Opcode.BINARY, Opcode.CONT):
                seen = f"{event.opcode.name} {event.fin} {len(event.data)} {hashlib.sha256(event.data).hexdigest()[:32]}"
                connection.sendall(Frame(Opcode.PING, seen.encode()).serialize(mask=False))
                connection.sendall(event.serialize(mask=False))
        flush()  # pongs and the answer to a close, which the library makes
        if protocol.close_rcvd is not None:
            break
    if protocol.close_rcvd is None:
        connection.sendall(Frame(Opcode.TEXT, b"you said no more, and I go on").serialize(mask=False))
        connection.sendall(Frame(Opcode.CLOSE, (4001).to_bytes(2, "big") + b"half closed").serialize(mask=False))
    connection.close()


with socket.create_server(("0.0.0.0", 8000)) as server:
    while True:
        accepted, _ = server.accept()
        threading.Thread(target=talk, args=(accepted,), daemon=True).start()
