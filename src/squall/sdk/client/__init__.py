"""Connections to a server, and one implementation for blocking and async callers."""
