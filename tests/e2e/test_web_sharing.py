"""Web functions with several containers share requests, and a session stays with one."""

import http.client
import re
from urllib.parse import urlsplit

import pytest

from support.waiting import wait_until

from .conftest import PROGRAMS, Runner

pytestmark = pytest.mark.root


def test_requests_are_shared_and_a_session_stays_with_its_container(squall: Runner) -> None:
    done = squall("deploy", str(PROGRAMS / "web_sharing.py"))
    assert done.returncode == 0, done.stderr
    url = re.search(r"http://\S+", done.stderr)
    assert url is not None, done.stderr
    try:
        host = urlsplit(url.group()).netloc

        def ask(**headers: str) -> str:
            connection = http.client.HTTPConnection("127.0.0.1", int(host.rpartition(":")[2]), timeout=60)
            try:
                connection.request("GET", "/", headers={"Host": host, **{name.replace("_", "-"): value for name, value in headers.items()}})
                response = connection.getresponse()
                assert response.status == 200
                return response.read().decode()
            finally:
                connection.close()

        wait_until(lambda: len({ask() for _ in range(4)}) == 2, "two containers answer", timeout_s=60)
        answers = [ask() for _ in range(20)]
        assert sorted(answers.count(name) for name in set(answers)) == [10, 10]
        assert len({ask(Modal_Session_Id="one") for _ in range(10)}) == 1
        assert len({ask(Modal_Routing_Affinity_Key="two") for _ in range(10)}) == 1
    finally:
        squall("app", "stop", "web-sharing")
