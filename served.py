import squall

app = squall.App("served")


@app.function()
@squall.concurrent(max_inputs=10)
@squall.asgi_app()
def site():
    async def serve(scope, receive, send):
        if scope["type"] != "lifespan":
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b"two"})

    return serve
