"""The `gvisor` driver: what the `oci` driver does, with every container under gVisor.

The steps of image builds, whose files have to stay, are run by runc.
"""

from dataclasses import replace

from squall.runtime import gvisor
from squall.runtime.contract import Container, ContainerSpec
from squall.runtime.oci import OciDriver


class GvisorDriver(OciDriver):
    """Containers of one instance under gVisor; see `Driver`, and `OciDriver` for what it needs. Also runsc."""

    name = "gvisor"

    async def open(self) -> None:
        """
        Raises:
            InvalidError: runsc is not installed.
        """
        gvisor.required()
        await super().open()

    async def start(self, spec: ContainerSpec) -> Container:
        return await super().start(replace(spec, gvisor=spec.upper is None))
