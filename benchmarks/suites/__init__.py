"""Suites: each module has the metrics as data, and `run(peers, quick) -> Report`."""
