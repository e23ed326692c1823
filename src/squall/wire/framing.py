"""Frames: a 4-byte big-endian length, then one msgpack message."""

from typing import Any, Generic, TypeVar

import msgspec

from squall.model.errors import RequestSizeError, SerializationError
from squall.wire.heap import keep_heap

#: Larger frames are refused: a length beyond this is a broken or hostile peer. Larger values travel as blobs.
FRAME_BYTES_MAX = 1 << 30

#: From here on a frame is large: its memory is worth keeping.
LARGE_BYTES = 1 << 18

T = TypeVar("T")

_encode_into = msgspec.msgpack.Encoder().encode_into


def pack(message: msgspec.Struct) -> bytearray:
    """The frame of a message.

    Raises:
        RequestSizeError: it is larger than FRAME_BYTES_MAX.
    """
    frame = bytearray(256)
    _encode_into(message, frame, 4)
    size = len(frame) - 4
    if size > FRAME_BYTES_MAX:
        raise RequestSizeError(f"a message of {size} bytes is over the limit of {FRAME_BYTES_MAX} bytes")
    frame[:4] = size.to_bytes(4, "big")
    return frame


class Unpacker(Generic[T]):
    """Cuts a byte stream into messages of one union of structs.

    Args:
        union: the type that every frame must decode to.
    """

    def __init__(self, union: Any) -> None:
        self._decode = msgspec.msgpack.Decoder(union).decode
        self._buffer = bytearray()
        #: A frame that announces more is refused.
        self.frame_bytes_max = FRAME_BYTES_MAX

    def feed(self, data: bytes | bytearray | memoryview) -> list[T]:
        """The messages that are complete with `data`.

        Raises:
            RequestSizeError: a frame announces more than `frame_bytes_max`.
            SerializationError: a frame is not a known message. The stream can't be used any further after either.
        """
        buffer = self._buffer
        buffer += data
        size = len(buffer)
        if size < 4:
            return []
        messages: list[T] = []
        at = 0
        view = memoryview(buffer)
        try:
            while size - at >= 4:
                end = at + 4 + int.from_bytes(view[at : at + 4], "big")
                if end > size:
                    if bytes(view[at : at + 4]) == b"HTTP":
                        raise SerializationError("what listens there speaks HTTP: it is an address for browsers (--web), and none for clients (--listen)")
                    if end - at > self.frame_bytes_max:
                        raise RequestSizeError(f"a frame announces {end - at} bytes; at most {self.frame_bytes_max} are allowed")
                    break
                messages.append(self._decode(view[at + 4 : end]))
                at = end
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise SerializationError(f"a frame is not a message of this protocol: {error}") from error
        finally:
            view.release()
        if at:
            del buffer[:at]
            if at > LARGE_BYTES:
                keep_heap()
        return messages

    @property
    def pending(self) -> int:
        """Bytes of a frame that is not complete yet."""
        return len(self._buffer)
