"""Imports a module that lies beside it and is not shipped."""

import beside

import squall

app = squall.App("unshipped")


@app.function()
def f() -> int:
    return beside.VALUE
