"""A client that is given an address of the server that is not for clients is told so."""

import pytest

from .conftest import Runner, free_port

pytestmark = pytest.mark.root


def test_the_port_of_web_functions_is_no_door_for_clients(own: Runner) -> None:
    port = free_port()
    started = own("server", "start", "--web", f"127.0.0.1:{port}")
    assert started.returncode == 0, started.stderr
    own.extra["SQUALL_TOKEN"] = "any"
    for scheme, reason in (("tls", "speaks no TLS"), ("tcp", "speaks HTTP")):
        own.extra["SQUALL_SERVER_URL"] = f"{scheme}://127.0.0.1:{port}"
        said = own("app", "list")
        assert said.returncode == 1
        assert reason in said.stderr and "--listen" in said.stderr, said.stderr
        assert len(said.stderr.strip().splitlines()) == 1
    del own.extra["SQUALL_SERVER_URL"]
