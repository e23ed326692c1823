"""Clients on other machines are shown addresses of web functions that they can open."""

import urllib.request

import pytest

from .conftest import Runner, free_port

pytestmark = pytest.mark.root

PROGRAM = """
import squall

app = squall.App("seen")

@app.function()
@squall.asgi_app()
def site():
    async def serve(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"here"})
    return serve

@app.local_entrypoint()
def main():
    print(site.get_web_url())
"""


@pytest.fixture
def own(own: Runner) -> Runner:
    own.program("seen.py", PROGRAM)
    return own


def body(url: str, **headers: str) -> str:
    with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=60) as response:
        return str(response.read().decode())


def over_the_network(own: Runner, *options: str) -> None:
    """Start the server; the runner's commands reach it over TCP from now on."""
    url = f"tcp://127.0.0.1:{free_port()}"
    started = own("server", "start", "--listen", url, *options)
    assert started.returncode == 0, started.stderr
    own.extra |= {"SQUALL_TOKEN": own("server", "token").stdout.strip(), "SQUALL_SERVER_URL": url}


def shown(own: Runner) -> list[str]:
    deployed = own("deploy", "seen.py")
    assert deployed.returncode == 0, deployed.stderr
    run = own("run", "seen.py")
    assert run.returncode == 0, run.stderr
    return [next(word for word in (deployed.stdout + deployed.stderr).split() if word.startswith("http")), run.stdout.strip()]


def test_by_the_address_at_which_they_reach_the_server(own: Runner) -> None:
    port = free_port()
    over_the_network(own, "--web", f"0.0.0.0:{port}")
    urls = shown(own)
    assert all(url.startswith(f"http://127.0.0.1:{port}/web/main--seen-site") for url in urls), urls
    assert body(urls[0]) == "here"  # as anything opens it, with no name service that knows *.localhost


def test_by_the_public_address_which_its_host_is_answered_at(own: Runner) -> None:
    own.extra["SQUALL_PUBLIC_URL"] = "https://squall.example.org/"
    port = free_port()
    over_the_network(own, "--web", f"127.0.0.1:{port}")
    urls = shown(own)
    assert all(url.startswith("https://squall.example.org/web/main--seen-site") for url in urls), urls
    path = urls[0].removeprefix("https://squall.example.org")
    assert body(f"http://127.0.0.1:{port}{path}", Host="squall.example.org") == "here"  # as a proxy on this machine passes it on


def test_what_is_no_address_is_refused(own: Runner) -> None:
    own.extra["SQUALL_PUBLIC_URL"] = "squall.example.org"
    started = own("server", "start")
    assert started.returncode == 1
    assert "SQUALL_PUBLIC_URL" in started.stderr
