"""What a token is good for. Each right includes those below it."""

from enum import IntEnum

from squall.model.errors import PermissionDeniedError


class Right(IntEnum):
    """READ: look. CALL: call functions, too. EVERYTHING: what a team does with a server. OWNER: what ends the server or gives others rights."""

    READ = 1
    CALL = 2
    EVERYTHING = 3
    OWNER = 4

    @property
    def kind(self) -> str:
        """The kind of API token that has it; the owner's right comes with the local socket alone."""
        return {Right.READ: "read", Right.CALL: "call"}.get(self, "api")


def need(what: str, needed: Right, given: Right) -> None:
    """
    Raises:
        PermissionDeniedError: `given` is less than `needed`.
    """
    if given >= needed:
        return
    if needed is Right.OWNER:
        raise PermissionDeniedError(
            f"{what} is for the server's owner alone, whatever the token: run the command on the server's machine, as its user, without SQUALL_SERVER_URL"
        )
    raise PermissionDeniedError(
        f"the token is good for {given.kind} only, and {what} needs one of kind {needed.kind}: squall token create --kind {needed.kind}"
    )
