"""Where the server's socket is."""

import os
from pathlib import Path

import pytest

from squall.model.errors import InvalidError
from squall.wire.address import _own_folder


def test_a_directory_for_sockets_that_somebody_else_made_is_not_used(tmp_path: Path) -> None:
    fresh = tmp_path / "fresh"
    assert _own_folder(_own_folder(fresh)).stat().st_mode & 0o777 == 0o700
    fresh.chmod(0o755)
    (tmp_path / "link").symlink_to(tmp_path)
    (tmp_path / "file").write_text("")
    for name in ("fresh", "link", "file"):
        with pytest.raises(InvalidError, match="not a directory of this user alone"):
            _own_folder(tmp_path / name)
    if os.getuid() == 0:
        (tmp_path / "theirs").mkdir(mode=0o700)
        os.chown(tmp_path / "theirs", 12345, 12345)
        with pytest.raises(InvalidError):
            _own_folder(tmp_path / "theirs")
