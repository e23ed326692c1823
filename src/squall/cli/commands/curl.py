"""`squall curl`: a request to a web function that asks for a token."""

import os
import subprocess
from collections.abc import Sequence


def main(arguments: Sequence[str]) -> int:
    """Run curl with a token that ends with it; its exit status.

    The token is in a file that only curl has open, and on no command line.

    Raises:
        NotFoundError: there is no curl.
        PermissionDeniedError: only the server's owner makes tokens.
    """
    from squall.cli.ui.existing_server import ask
    from squall.model.errors import NotFoundError
    from squall.wire.deploys import CreateToken, DeleteToken
    from squall.wire.messages import Names

    answer = ask(CreateToken("proxy", "squall curl"))
    assert isinstance(answer, Names)
    token, secret = answer.names
    try:
        headers = os.memfd_create("headers")
        try:
            os.write(headers, f"Squall-Key: {token}\nSquall-Secret: {secret}\n".encode())
            return subprocess.run(["curl", "-H", f"@/dev/fd/{headers}", *arguments], pass_fds=[headers], check=False).returncode
        except FileNotFoundError:
            raise NotFoundError("there is no curl on this machine: apt install curl") from None
        finally:
            os.close(headers)
    finally:
        ask(DeleteToken(token))
