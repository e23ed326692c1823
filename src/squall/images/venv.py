"""Images without privileges: a virtual environment made by uv stands for the whole image, for the process driver.

It has the packages of the pip steps, with the same keys; files of `add_local_*` become layers beside it, which the driver puts into effect as far as it can.
Steps that change a system have nothing to change here, and are refused by name.
"""

import asyncio
import os
from collections.abc import Callable, Mapping
from pathlib import Path

from squall.images.host import surroundings, uv_binary
from squall.images.layers import LayerStore
from squall.images.maker import Making
from squall.images.recipe import FILES, PYTHON, UV, Command, DebianBase, LayerPlan, Place, Plan, digest
from squall.images.settings import ImageSettings
from squall.model.errors import InvalidError, UnsupportedError
from squall.model.ids import LayerKey
from squall.runtime.contract import Exit


def venv_plan(plan: Plan) -> tuple[LayerKey, tuple[LayerPlan, ...], tuple[LayerPlan, ...]]:
    """(key of the environment, its steps, the steps that place files).

    Raises:
        UnsupportedError: a step needs a container.
    """
    inside = tuple(layer for layer in plan.layers if not isinstance(layer.action, Place))
    for layer in inside:
        if isinstance(layer.action, Command) and (layer.action.tool != "uv" or layer.action.gpus):
            raise UnsupportedError(
                f"step {layer.step} of the image, {layer.title}, needs containers, and this server runs processes without any. "
                "Start the server as root on Linux with runc installed (squall doctor says what is missing), or leave the step out."
            )
    return LayerKey(digest("venv", [layer.key for layer in inside])), inside, tuple(layer for layer in plan.layers if isinstance(layer.action, Place))


class VenvShop:
    """Makes environments. They can be moved (`uv venv --relocatable`), so they appear by rename as layers do."""

    def __init__(self, settings: ImageSettings, cache: Path, content: Callable[[str], Path]) -> None:
        self._settings, self._cache, self._content = settings, cache, content

    async def make(self, layer: LayerPlan, making: Making, secrets: Mapping[str, str]) -> None:
        """Take one step of the environment in the draft.

        Raises:
            StepFailed: it failed.
            InvalidError: the wanted Python is not on this machine and uv can't bring it.
        """
        python = making.draft.fs / "bin/python"
        match layer.action:
            case DebianBase(python_version=version):
                making.draft.fs.rmdir()
                exit = await self._run((str(uv_binary()), "venv", "--relocatable", "--no-project", "--python", version, str(making.draft.fs)), {}, making)
                if exit.exit_code == 2 and any("No interpreter found" in line or "download" in line for line in making.tail):
                    raise InvalidError(
                        f'python_version="{version}": no Python {version} on this machine, and uv could not fetch one. Install it, or choose another version.'
                    )
                making.expect(exit)
                making.facts |= {"python_version": version}
            case Command() as command:
                desk = making.draft.scratch / f"step-{layer.step}"
                desk.mkdir()
                for file in command.files:
                    (desk / file.path).write_bytes(self._content(file.digest).read_bytes())
                words = {PYTHON: str(python), UV: str(uv_binary()), FILES: str(desk)}
                argv = tuple(
                    next((value + word[len(name) :] for name, value in words.items() if word == name or word.startswith(f"{name}/")), word)
                    for word in command.argv
                )
                making.expect(await self._run(argv, {**layer.metadata.env, **command.env, **secrets}, making))
            case Place():
                raise AssertionError("files are placed as layers")

    async def run(self, command: Command, python: str, library: Path, making: Making) -> None:
        """Run a command of the runner layer for the environment with this interpreter."""
        words = {PYTHON: python, UV: str(uv_binary()), str(library): str(library)}
        making.expect(await self._run(tuple(words.get(word, word) for word in command.argv), command.env, making))

    async def _run(self, argv: tuple[str, ...], env: Mapping[str, str], making: Making) -> Exit:
        around = await asyncio.to_thread(surroundings, self._settings, inside=False)
        # The user's own cache of uv, and hard links where it lies on the same disk. Its explanations in whole lines, whatever the server's terminal.
        uv = {"UV_NO_PROGRESS": "1", "UV_COMPILE_BYTECODE": "1", "UV_CACHE_DIR": str(self._cache / "uv-host"), "COLUMNS": "500"}
        whole = {**os.environ, **around.env, **uv, **env}
        whole.pop("VIRTUAL_ENV", None)
        process = await asyncio.create_subprocess_exec(
            *argv, env=whole, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT, limit=1 << 20
        )
        assert process.stdout is not None
        try:
            async with asyncio.timeout(self._settings.step_timeout_s):
                async for raw in process.stdout:
                    making.line(raw.decode(errors="replace").rstrip())
                code = await process.wait()
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        return Exit(code, None) if code >= 0 else Exit(None, -code)


def environment(store: LayerStore, key: LayerKey, metadata_env: Mapping[str, str]) -> dict[str, str]:
    """Variables of a process in the environment: as an activated one has them."""
    root = store.path(key)
    return {"PATH": f"{root}/bin:{os.environ.get('PATH', os.defpath)}", "VIRTUAL_ENV": str(root), "HOME": os.environ.get("HOME", "/"), **metadata_env}
