"""Which app, container or other object the beginning of an id, or a name, means."""

from typing import TYPE_CHECKING

from squall.gateway.auth.rights import Right
from squall.gateway.rpc.operations import operation
from squall.model.errors import InvalidError, NotFoundError
from squall.wire.messages import Names, Resolve

if TYPE_CHECKING:
    from squall.gateway.rpc.session import Session


#: Ids that a message names where a beginning is that of several.
NAMED_MAX = 5


@operation(Right.READ)
async def _resolve(session: "Session", request: int, command: Resolve) -> Names:
    return Names((await find_id(session, command.prefix, command.kind),))


async def find_id(session: "Session", prefix: str, kind: str) -> str:
    """The id that starts with `prefix` (of a known kind also without that kind's own beginning, such as ``ap-``), or of a running app of that name.

    Raises:
        NotFoundError, InvalidError: none, or several.
    """
    server = session.server
    ids: list[str] = []
    if kind in ("", "ap"):
        if prefix in server.apps.live:
            return prefix
        named = [app for app, row in server.apps.live.items() if row.name == prefix]
        if named:
            return named[-1]
    start = prefix if not kind or prefix.startswith(f"{kind}-") else f"{kind}-{prefix}"
    if len(start) >= 4:
        for each in ("ap", "ct"):
            if kind in ("", each):
                ids += await server.store.ids_with_prefix(each, start, NAMED_MAX)
        # Those whose first row is still on its way to the disk.
        ids += [member.id for member in server.router.members.values() if kind in ("", "ct") and member.recorded is None]
    found = [name for name in ids if name == start] or [name for name in dict.fromkeys(ids) if name.startswith(start)]
    what = {"ap": "app", "ct": "container"}.get(kind, "object")
    if not found:
        raise NotFoundError(f"there is no {what} {prefix!r}; squall {what if kind else 'app'} list shows what there is")
    if len(found) > 1:
        raise InvalidError(f"{prefix!r} is the beginning of several ids: {', '.join(sorted(found)[:4])} ...; write a longer one")
    return found[0]
