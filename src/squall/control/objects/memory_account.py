"""What ephemeral dicts and queues of one owner take of the server's memory: counted as it comes and goes, and refused beyond a limit."""

from squall.model.errors import ResourceExhaustedError

#: What an entry of a dict or an item of a queue takes besides its bytes, and an object that has none: measured, and rounded up.
ENTRY_BYTES, OBJECT_BYTES = 512, 4096


class MemoryAccount:
    """Of one owner: the app whose code in containers made the objects, or the connection of a client outside.

    Attributes:
        used: bytes.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self.used = 0

    def charge(self, more: int) -> None:
        """
        Raises:
            ResourceExhaustedError: it would be more than the limit; nothing is charged.
        """
        if more > 0 and self.used + more > self._limit:
            raise ResourceExhaustedError(
                f"ephemeral dicts and queues of one app or client have {self.used >> 20} MiB of the server's memory, at most {self._limit >> 20}, and "
                f"{more:,} bytes more are asked for; use named ones, or start the server with a larger SQUALL_EPHEMERAL_MEMORY_MIB"
            )
        self.used += more

    def give_back(self, less: int) -> None:
        self.used -= less

    def take_again(self, more: int) -> None:
        """What was given back a moment ago is there again; never refused."""
        self.used += more


def entry_bytes(*parts: bytes) -> int:
    """Of one entry or item."""
    return ENTRY_BYTES + sum(map(len, parts))
