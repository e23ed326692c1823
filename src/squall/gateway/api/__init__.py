"""The HTTP API: what the wire can do, in plain HTTP and JSON."""
