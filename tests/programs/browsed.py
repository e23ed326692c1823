"""Pages for a browser, made with FastAPI, and a bare server that says what reached it: for tests of the whole way through the ingress."""

import subprocess
import sys
from pathlib import Path

import squall

app = squall.App("browsed")
image = squall.Image.debian_slim().pip_install("fastapi").pip_install("websockets").add_local_file(Path(__file__).with_name("framed.py"), "/root/framed.py")

PAGE = """<!doctype html><title>waiting</title><body><ul></ul><script>
const say = text => document.querySelector("ul").insertAdjacentHTML("beforeend", `<li>${text}</li>`);
%s
</script>"""
FETCHED = (
    PAGE
    % """
fetch("api/items/7?note=%E2%9C%93", {method: "POST", headers: {"content-type": "application/json"}, body: JSON.stringify({count: 3})})
  .then(answer => answer.json()).then(value => { say(value.item); say(value.note); say(value.count); document.title = "done" })
"""
)
STREAMED = (
    PAGE
    % """
const events = new EventSource("events");
events.onmessage = event => { say(event.data); fetch("seen/" + event.data, {method: "POST"}) };
events.addEventListener("end", () => { events.close(); document.title = "done" });
"""
)
TALKED = (
    PAGE
    % """
const socket = new WebSocket("ws://" + location.host + location.pathname.replace("talk.html", "talk"), ["shout", "whisper"]);
socket.binaryType = "arraybuffer";
socket.onopen = () => socket.send("hello \\u2713");
socket.onmessage = event => {
  if (typeof event.data === "string") { say(socket.protocol + " " + event.data); socket.send(new Uint8Array(3 << 20).fill(7)) }
  else { say(event.data.byteLength); socket.close(3456, "enough") }
};
socket.onclose = event => { say(event.code + " " + event.reason + " " + event.wasClean); document.title = "done" };
"""
)


@app.function(image=image, scaledown_window=60)
@squall.concurrent(max_inputs=100)
@squall.asgi_app()
def pages():
    import asyncio

    from fastapi import Body, FastAPI, WebSocket
    from fastapi.responses import HTMLResponse, StreamingResponse

    web = FastAPI()
    seen: dict[str, asyncio.Event] = {}

    @web.get("/", response_class=HTMLResponse)
    def fetched() -> str:
        return FETCHED

    @web.get("/streamed.html", response_class=HTMLResponse)
    def streamed() -> str:
        return STREAMED

    @web.get("/talk.html", response_class=HTMLResponse)
    def talked() -> str:
        return TALKED

    @web.post("/api/items/{item}")
    def post(item: int, note: str, count: int = Body(embed=True)) -> dict[str, object]:
        return {"item": item, "note": note, "count": count + 1}

    @web.get("/events")
    def events() -> StreamingResponse:
        async def lines():
            for number in range(4):
                yield f"data: {number}\n\n"
                # The next one is sent when the page has shown this one, so the page shows each as it comes, or nothing comes any more.
                await asyncio.wait_for(seen.setdefault(str(number), asyncio.Event()).wait(), 20)
            yield "event: end\ndata:\n\n"

        return StreamingResponse(lines(), media_type="text/event-stream")

    @web.post("/seen/{number}")
    def shown(number: str) -> None:
        loop.call_soon_threadsafe(seen.setdefault(number, asyncio.Event()).set)

    @web.websocket("/talk")
    async def talk(socket: WebSocket) -> None:
        await socket.accept(subprotocol=socket.scope["subprotocols"][1])
        await socket.send_text((await socket.receive_text()).upper())
        await socket.send_bytes(await socket.receive_bytes())
        message = await socket.receive()
        print("talk ended", message["code"], message.get("reason"), flush=True)

    loop = asyncio.get_event_loop()
    return web


@app.function(image=image, scaledown_window=60)
@squall.concurrent(max_inputs=100)
@squall.web_server(8000, startup_timeout=20)
def frames():
    subprocess.Popen([sys.executable, "/root/framed.py"])
