"""Places for connections at the HTTP door: how many there are, for whom, and who gives one up when there is none."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from squall.gateway.ingress.connection import Inbound

#: Beyond all places: for requests that show a token.
SPARE = 64


class Places:
    """Counts connections by address. When there is no place, a connection without a whole request gives its one up."""

    def __init__(self, most: int, per_address: int) -> None:
        self._most, self._per_address = most, per_address
        self._taken = 0
        self._groups: dict[str, dict[Inbound, None]] = {}
        self._address: dict[Inbound, str] = {}

    def take(self, conn: "Inbound", address: str) -> bool:
        """Whether it has a place. `address`: "" is a proxy's, whose connections are those of many."""
        group = self._groups.setdefault(address, {})
        group[conn] = None
        self._address[conn] = address
        self._taken += 1
        if address and len(group) > self._per_address:
            return self._drop_one(group, conn)
        if self._taken <= self._most:
            return True
        others = [group for address, group in self._groups.items() if address]
        if others and (self._drop_one(max(others, key=len), conn) or any(self._drop_one(each, conn) for each in others)):
            return True
        conn.spare = True
        return self._taken <= self._most + SPARE

    def leave(self, conn: "Inbound") -> None:
        """It is gone. Idempotent."""
        if (address := self._address.pop(conn, None)) is not None:
            self._taken -= 1
            group = self._groups[address]
            del group[conn]
            if not group:
                del self._groups[address]

    def _drop_one(self, group: "dict[Inbound, None]", newcomer: "Inbound") -> bool:
        """The oldest that waits for its client."""
        for conn in group:
            if conn is not newcomer and conn.unfinished:
                self.leave(conn)
                conn.transport.abort()
                return True
        return False
