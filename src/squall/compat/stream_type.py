"""`modal.stream_type`: where the output of a command goes."""

import subprocess
from enum import IntEnum


class StreamType(IntEnum):
    """As in `subprocess`."""

    PIPE = subprocess.PIPE
    STDOUT = subprocess.STDOUT
    DEVNULL = subprocess.DEVNULL
