"""A web function with two containers, which tells which one answers."""

import os

import squall

app = squall.App("web-sharing")


@app.function(min_containers=2)
@squall.asgi_app()
def site():
    async def answer(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": os.environ["SQUALL_CONTAINER_ID"].encode()})

    return answer
