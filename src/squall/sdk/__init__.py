"""What a user imports: lazy handles and declarations, no network at import.

Imports `model` and `wire` only. `squall/__init__.py` gives the public names; names and defaults are those of Modal's Python SDK.
The declaring half (`app`, `declare`, `image`, `sources` ...) makes an `AppSpec`; the calling half (`client`, `session`, `function`, `call`) talks to a server.
"""
