"""NetworkFileSystem: the older name of a Volume."""

import io
import warnings
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import IO, Any, ClassVar, Self

from squall.model.errors import DeprecationError
from squall.sdk.client.client import Client
from squall.sdk.client.settings import environment_of
from squall.sdk.client.sync_async import Talk, Twin, static
from squall.sdk.refusals import refuse_given, refuse_unknown
from squall.sdk.storage.volume import Volume
from squall.sdk.storage.volume_paths import as_text
from squall.sdk.storage.volume_uploads import VolumeUploadBatch
from squall.wire.state import ENSURE, DropObject, Opened, OpenObject


class NetworkFileSystem(Volume):
    """A volume under its older name: ``NetworkFileSystem.from_name("x")`` and ``Volume.from_name("x")`` are the same files."""

    objects: ClassVar[Any] = Volume.objects

    @classmethod
    def from_name(
        cls, name: str, *, environment_name: str | None = None, create_if_missing: bool = False, client: Client | None = None, **unknown: Any
    ) -> Self:
        """As `Volume.from_name`."""
        refuse_unknown(unknown, ("name", "environment_name", "create_if_missing", "client"), "NetworkFileSystem.from_name")
        warnings.warn("NetworkFileSystem is the old name of Volume", DeprecationError, stacklevel=2)
        return super().from_name(name, environment_name=environment_name, create_if_missing=create_if_missing, client=client)

    @static
    def create_deployed(deployment_name: str, client: Client | None = None, environment_name: str | None = None) -> Talk[str]:
        """Make it, if it is not there; its id."""
        opened: Opened = yield OpenObject("volume", deployment_name, environment_of(environment_name), ENSURE)
        return opened.id

    @static
    def delete(name: str, client: Client | None = None, environment_name: str | None = None) -> Talk[None]:
        """Delete it with all that it holds. Raises NotFoundError."""
        yield DropObject("volume", name, environment_of(environment_name))

    @Twin
    def write_file(self, remote_path: str, fp: IO[bytes], progress_cb: Callable[..., Any] | None = None) -> Talk[int]:
        """Write what an open binary file has; how many bytes. The file appears complete. `progress_cb` is not supported yet."""
        refuse_given("NetworkFileSystem.write_file", progress_cb=progress_cb)
        data = fp.read()
        yield from self._upload(io.BytesIO(data), as_text(remote_path))
        return len(data)

    @Twin
    def add_local_file(
        self, local_path: Path | str, remote_path: str | PurePosixPath | None = None, progress_cb: Callable[..., Any] | None = None
    ) -> Talk[None]:
        """Upload a file, by default under its own name. `progress_cb` is not supported yet."""
        refuse_given("NetworkFileSystem.add_local_file", progress_cb=progress_cb)
        path = Path(local_path)
        yield from self._upload(path, as_text(remote_path) if remote_path is not None else f"/{path.name}")

    @Twin
    def add_local_dir(
        self, local_path: Path | str, remote_path: str | PurePosixPath | None = None, progress_cb: Callable[..., Any] | None = None
    ) -> Talk[None]:
        """Upload a directory, by default under its own name. `progress_cb` is not supported yet."""
        refuse_given("NetworkFileSystem.add_local_dir", progress_cb=progress_cb)
        path = Path(local_path)
        batch = VolumeUploadBatch(self, force=True)
        batch.put_directory(path, as_text(remote_path) if remote_path is not None else f"/{path.resolve().name}")
        yield from batch.upload()

    def _upload(self, source: Path | IO[bytes], remote_path: str) -> Talk[None]:
        batch = VolumeUploadBatch(self, force=True)
        batch.put_file(source, remote_path)
        yield from batch.upload()
