"""Functions for tests/e2e: volumes with quotas, strict mounts, the older kind, buckets."""

import os

import squall

app = squall.App("storing")
limited = squall.Volume.from_name("storing-limited", create_if_missing=True, quota="8MiB")
strict = squall.Volume.from_name("storing-strict", create_if_missing=True, strict=True)


def _run(code: str) -> object:
    place: dict = {"squall": squall, "strict": strict, "limited": limited, "parts": parts, "os": os}
    exec(code, place)
    return place.get("result")


@app.function(volumes={"/data": strict})
def one(code: str) -> object:
    """Run Python source there; what it calls `result` comes back."""
    return _run(code)


@app.function(volumes={"/data": strict})
def other(code: str) -> object:
    return _run(code)


@app.function(volumes={"/data": strict}, single_use_containers=True)
def once(code: str) -> object:
    return _run(code)


parts = squall.Volume.from_name("storing-parts", create_if_missing=True)


@app.function(volumes={"/in": parts.with_mount_options(sub_path="in", read_only=True), "/out": parts.with_mount_options(sub_path="/out/deep/")})
def part(code: str) -> object:
    """Two directories of a volume; one to be read."""
    return _run(code)


@app.function(volumes={"/data": strict.with_mount_options(sub_path="part")}, single_use_containers=True)
def strict_part(code: str) -> object:
    return _run(code)


@app.function(volumes={"/limited": limited})
def within(code: str) -> object:
    return _run(code)
