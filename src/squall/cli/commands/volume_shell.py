"""`squall volume shell`: a container of the default image that has the volume."""

from pathlib import Path
from typing import Any

from squall.cli.commands.inspect_image import look
from squall.cli.ui.display import Display
from squall.model.errors import InvalidError
from squall.runtime.contract import Bind
from squall.sdk.image.image import Image
from squall.sdk.output.output import use_sink
from squall.wire.messages import ImageRequest, Names, Rows
from squall.wire.state import VolumeDo


def run(volume: Any, command: str, path: str, *, read_only: bool) -> int:
    """Returns the exit status of the command, or of the shell.

    Raises:
        InvalidError: not root, not on the server's machine, or a path that is not absolute.
    """
    if not path.startswith("/") or path == "/":
        raise InvalidError(f"--path {path} is not a directory in the container, such as /mnt/volume")
    client = volume.client
    where = client.request(VolumeDo(volume.hydrate().object_id, "place"))
    image = Image.debian_slim()
    display = Display()
    try:
        with use_sink(display):
            image._build()
    finally:
        display.close()
    row = client.request(ImageRequest("shell", image.object_id))
    assert isinstance(where, Names)
    assert isinstance(row, Rows)
    client.close_idle()
    place = Path(where.names[0])
    if not place.is_dir():
        raise InvalidError("the volume is not on this machine; run this where the server runs")
    return look({**row.rows[0], "workdir": path}, command, (Bind(place, path, read_only),))
