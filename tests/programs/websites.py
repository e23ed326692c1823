"""Web functions of every kind, without FastAPI, for tests of the ingress."""

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import squall

app = squall.App("websites")


async def _answer(send, status, body, headers=(), *, more=False):
    await send({"type": "http.response.start", "status": status, "headers": [(b"content-type", b"text/plain"), *headers]})
    await send({"type": "http.response.body", "body": body, "more_body": more})


async def _body(receive):
    parts = []
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        parts.append(message.get("body", b""))
        if not message.get("more_body"):
            return b"".join(parts)


@app.function(scaledown_window=60, timeout=20)
@squall.concurrent(max_inputs=100)
@squall.asgi_app()
def site():
    import asyncio

    seen = {"cancelled": 0, "started": 0, "requests": 0}
    released = asyncio.Event()

    async def serve(scope, receive, send):
        if scope["type"] == "lifespan":
            while True:
                message = await receive()
                seen["started"] += message["type"] == "lifespan.startup"
                scope["state"]["of"] = "lifespan"
                await send({"type": f"{message['type']}.complete"})
                if message["type"] == "lifespan.shutdown":
                    print("the app has ended", flush=True)
                    return
        path = scope["path"].removeprefix(scope["root_path"])
        if scope["type"] == "websocket":
            await talk(scope, receive, send, path)
            return
        seen["requests"] += 1
        headers = dict(scope["headers"])
        if path == "/echo":
            body = await _body(receive)
            await _answer(send, 200, body, [(b"x-method", scope["method"].encode()), (b"x-length", str(len(body)).encode())])
        elif path == "/scope":
            text = "\n".join(
                [
                    scope["method"], scope["path"], scope["root_path"], scope["query_string"].decode(), scope["scheme"], str(scope["client"]),
                    str(scope.get("state")), str(scope["server"]), *(f"{name.decode()}={value.decode()}" for name, value in scope["headers"]),
                ]
            )  # fmt: skip
            await _answer(send, 200, text.encode())
        elif path == "/stream":
            await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/event-stream")]})
            for i in range(5):
                await send({"type": "http.response.body", "body": f"data: {i}\n\n".encode(), "more_body": True})
                await asyncio.sleep(0.05)
            await send({"type": "http.response.body"})
        elif path == "/held":
            await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/event-stream")]})
            await send({"type": "http.response.body", "body": b"data: 0\n\n", "more_body": True})
            await released.wait()
            await send({"type": "http.response.body", "body": b"".join(b"data: %d\n\n" % i for i in range(1, 5))})
        elif path == "/release":
            released.set()
            await _answer(send, 204, b"")
        elif path == "/count":
            size = 0
            while True:
                message = await receive()
                size += len(message.get("body", b""))
                if not message.get("more_body"):
                    break
            await _answer(send, 200, str(size).encode())
        elif path == "/large":
            await send({"type": "http.response.start", "status": 200, "headers": []})
            for _ in range(int(scope["query_string"])):
                await send({"type": "http.response.body", "body": b"x" * (1 << 20), "more_body": True})
            await send({"type": "http.response.body"})
        elif path == "/wait":
            try:
                await asyncio.sleep(30)
            except asyncio.CancelledError:
                seen["cancelled"] += 1
                raise
        elif path == "/seen":
            await _answer(send, 200, f"{seen['cancelled']} {seen['started']} {seen['requests']}".encode())
        elif path == "/raise":
            raise RuntimeError("before the answer")
        elif path == "/raise-later":
            await _answer(send, 200, b"the beginning", more=True)
            raise RuntimeError("in the middle")
        elif path == "/exit":
            os._exit(3)
        elif path == "/status":
            await _answer(send, int(scope["query_string"]), b"")
        elif path == "/nothing":
            return
        elif path == "/bad-header":
            await _answer(send, 200, b"", [(b"x-evil", b"a\r\nset-cookie: b")])
        elif path == "/where":
            await _answer(send, 200, f"{os.environ['SQUALL_CONTAINER_ID']} {squall.current_function_call_id()}".encode())
        else:
            await _answer(send, 404, b"no such page: " + headers.get(b"host", b""))

    async def talk(scope, receive, send, path):
        assert (await receive())["type"] == "websocket.connect"
        if path == "/refuse":
            await send({"type": "websocket.close"})
            return
        await send({"type": "websocket.accept", "subprotocol": scope["subprotocols"][0] if scope["subprotocols"] else None})
        if path == "/leave":
            await send({"type": "websocket.close", "code": 4321, "reason": "that is all"})
            return
        if path == "/raise":
            raise RuntimeError("inside a websocket")
        while True:
            message = await receive()
            if message["type"] == "websocket.disconnect":
                print("websocket ended", message["code"], flush=True)
                return
            if message.get("text") is not None:
                await send({"type": "websocket.send", "text": message["text"]})
            else:
                await send({"type": "websocket.send", "bytes": message["bytes"]})

    return serve


@app.function()
@squall.concurrent(max_inputs=10)
@squall.wsgi_app()
def classic():
    def serve(environ, start_response):
        if environ["PATH_INFO"] == "/parts":
            start_response("200 OK", [("Content-Type", "text/plain")])
            return (f"{i}\n".encode() for i in range(3))
        body = environ["wsgi.input"].read()
        if environ["PATH_INFO"].startswith("/environ"):
            start_response("200 OK", [])
            return [ascii((environ["PATH_INFO"], sorted(f"{name}={value}" for name, value in environ.items() if name.startswith("HTTP_X_")))).encode()]
        text = f"{environ['REQUEST_METHOD']} {environ['SCRIPT_NAME']}|{environ['PATH_INFO']} {environ['QUERY_STRING']} {len(body)} {environ['HTTP_HOST']}"
        start_response("201 Created", [("Content-Type", "text/plain"), ("Content-Length", str(len(text)))])
        return [text.encode()]

    return serve


@app.function()
@squall.concurrent(max_inputs=10)
@squall.web_server(8000)
def files():
    Path("/root/hello.txt").write_text("hello from a server\n")
    subprocess.Popen([sys.executable, "-m", "http.server", "8000", "--directory", "/root"])


@app.function()
def inside(port: int):
    """The address of a web function here, what it answers, and what else of its machine this container reaches. `port`: of the ingress outside."""
    import socket
    import urllib.error
    import urllib.request
    from urllib.parse import urlsplit

    url = classic.get_web_url()
    assert squall.Function.from_name("websites", "classic").get_web_url() == url
    answer = urllib.request.urlopen(f"{url}/a?b", timeout=10).read().decode()
    place = urlsplit(url)
    try:
        api = urllib.request.urlopen(f"http://{place.netloc}/api/v1/status", timeout=10).status
    except urllib.error.HTTPError as error:
        api = error.code
    reached = []
    for host, number in ((place.hostname, 22), (place.hostname, place.port + 1), ("127.0.0.1", port)):
        with socket.socket() as probe:
            probe.settimeout(5)
            if probe.connect_ex((host, number)) == 0:
                reached.append((host, number))
    return url, answer, api, reached


@app.function(outbound_cidr_allowlist=["203.0.113.0/24"])
def limited_inside(url: str):
    import urllib.error
    import urllib.request

    try:
        return urllib.request.urlopen(url, timeout=10).status
    except urllib.error.URLError as error:
        return classic.get_web_url(), str(error.reason)


@app.function()
@squall.concurrent(max_inputs=10)
@squall.web_server(8000)
def odd():
    """Answers each request with the bytes that its body has."""
    import socketserver

    class Answers(socketserver.StreamRequestHandler):
        def handle(self):
            size = 0
            while (line := self.rfile.readline().strip().lower()) != b"":
                size = int(line.partition(b":")[2]) if line.startswith(b"content-length") else size
            self.wfile.write(self.rfile.read(size))

    threading.Thread(target=socketserver.ThreadingTCPServer(("", 8000), Answers).serve_forever).start()


@app.function()
@squall.web_server(8000, startup_timeout=0.5)
def deaf():
    print("I listen to nobody", flush=True)


@app.function()
@squall.asgi_app(label="locked-site", requires_proxy_auth=True)
def locked():
    async def serve(scope, receive, send):
        if scope["type"] != "lifespan":
            await _answer(send, 200, b"come in")

    return serve


@app.function(max_containers=1)
@squall.asgi_app()
def single():
    async def serve(scope, receive, send):
        if scope["type"] != "lifespan":
            if scope["path"].endswith("/slow"):
                time.sleep(1.0)
            await _answer(send, 200, b"done")

    return serve


@app.function(timeout=2)
@squall.concurrent(max_inputs=10)
@squall.asgi_app()
def hurried():
    import asyncio

    async def serve(scope, receive, send):
        if scope["type"] != "lifespan":
            await asyncio.sleep(30)

    return serve


@app.function()
@squall.asgi_app(rate_limit=0.5)
def limited():
    async def serve(scope, receive, send):
        if scope["type"] != "lifespan":
            await _answer(send, 200, b"one of few")

    return serve


@app.function()
@squall.asgi_app()
def broken():
    raise ValueError("this app can't be made")


@app.cls()
class Shop:
    @squall.enter()
    def open(self):
        self.sold = 0

    @squall.asgi_app()
    def front(self):
        async def serve(scope, receive, send):
            if scope["type"] != "lifespan":
                self.sold += 1
                await _answer(send, 200, f"sold {self.sold}".encode())

        return serve

    @squall.method()
    def total(self):
        return self.sold


@app.server(port=8000, unauthenticated=True)
class Listening:
    @squall.enter()
    def listen(self):
        Path("/root/listening.txt").write_text("from a server that is a class\n")
        self.process = subprocess.Popen([sys.executable, "-m", "http.server", "8000", "--directory", "/root"])


@app.server(port=8000)
class Guarded:
    @squall.enter()
    def listen(self):
        subprocess.Popen([sys.executable, "-m", "http.server", "8000"])
