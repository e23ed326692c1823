"""Every container driver as the contract suite sees it: opened for a directory, and able to start any program from any layers."""

import asyncio
from dataclasses import replace
from pathlib import Path

import msgspec

import squall
from squall.model.ids import ContainerId
from squall.runtime.contract import Bind, Container, ContainerSpec, Driver, Network
from squall.runtime.fork import ForkDriver
from squall.runtime.gvisor_driver import GvisorDriver
from squall.runtime.oci import OciDriver
from squall.runtime.process import ProcessDriver
from squall.runtime.template import Template

_LIBRARY, _DEPENDENCIES = "/.squall/package", "/.squall/dependencies"
_TEMPLATE = f"import sys; sys.path[:0] = [{_LIBRARY!r}, {_DEPENDENCIES!r}]; from squall.runner.template import main; main()"


class Forking(ForkDriver):
    """The fork driver, which here starts everything as a copy of an image template of the same layers."""

    def __init__(self, run: Path, data: Path, instance: str) -> None:
        super().__init__(run=run, data=data, instance=instance, ready_networks=2)
        self._by_layers: dict[tuple[Path, ...], Template] = {}
        self._making = asyncio.Lock()

    async def image_template(self, layers: tuple[Path, ...]) -> Template:
        """Of these layers; made when first asked for, and again when it has ended."""
        async with self._making:
            there = self._by_layers.get(layers)
            if there is None or there.ended.is_set():
                there = self._by_layers[layers] = await self.template(template_spec(f"tp-{len(self._by_layers)}", layers))
            return there

    async def start(self, spec: ContainerSpec) -> Container:
        if not spec.argv or not spec.layers or spec.gvisor:
            return await super().start(spec)
        return await self.start_from(await self.image_template(spec.layers), spec)


def template_spec(name: str, layers: tuple[Path, ...], **fields: object) -> ContainerSpec:
    """An image template whose runner comes from this very checkout."""
    binds = (Bind(Path(squall.__path__[0]).parent, _LIBRARY), Bind(Path(msgspec.__path__[0]).parent, _DEPENDENCIES))
    spec = ContainerSpec(
        id=ContainerId(name),
        layers=layers,
        argv=("/usr/bin/python3", "-c", _TEMPLATE),
        env={"PATH": "/usr/bin:/bin"},
        stdout=1,
        stderr=2,
        workdir="/",
        binds=binds,
        network=Network.NONE,
    )
    return replace(spec, **fields)  # type: ignore[arg-type]


def make_driver(name: str, run: Path, data: Path, instance: str) -> Driver:
    """Not opened yet."""
    if name == "fork":
        return Forking(run, data, instance)
    if name == "oci":
        return OciDriver(run=run, data=data, instance=instance, ready_networks=2)
    if name == "gvisor":
        return GvisorDriver(run=run, data=data, instance=instance, ready_networks=2)
    return ProcessDriver(run=run, data=data, instance=instance)
