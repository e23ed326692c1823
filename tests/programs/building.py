"""Functions that run while an image is built, and one that looks into images."""

import importlib.metadata
import os
import subprocess

import squall

LIMIT = 3
VOLUME = "/volume"


def prepare(name: str, *, times: int = 1) -> None:
    while times < 0:
        pass
    with open(f"/{name}", "w") as file:
        file.write(f"{'made ' * times}{LIMIT} {os.environ.get('TOKEN', '')[:3]} {os.environ.get('MODE')} {squall.is_local()}")
    print("token is", os.environ.get("TOKEN"))


async def prepare_async() -> None:
    prepare("async")


def keep(name: str) -> None:
    with open(f"{VOLUME}/{name}", "w") as file:
        file.write("kept")


def versions(packages: list[str]) -> list[str | None]:
    """What is installed, None for what is not."""
    found = {each.name: each.version for each in importlib.metadata.distributions()}
    return [found.get(package) for package in packages]


def look(commands: list[str]) -> str:
    return "".join(subprocess.run(["/bin/sh", "-c", command], capture_output=True, text=True, check=False).stdout for command in commands)
