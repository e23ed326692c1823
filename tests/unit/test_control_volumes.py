"""What a server's database does not know is put aside, never deleted; two servers do not share a directory of volumes."""

from pathlib import Path

import pytest

from squall.control.objects.volumes import Volumes
from squall.model.errors import ConflictError


def test_an_unknown_volume_is_put_into_quarantine_whole(tmp_path: Path) -> None:
    first = Volumes(tmp_path, None)
    first.open(())
    for name in ("vo-1", "vo-2"):
        first.make(name)
        (tmp_path / name / "file").write_text(name)
    (tmp_path / ".snapshots" / "vo-2" / "sn-1").mkdir(parents=True)
    first.close()
    second = Volumes(tmp_path, None)
    assert second.open({"vo-1"}) == ["vo-2"]
    assert (tmp_path / "vo-1" / "file").read_text() == "vo-1"
    assert not (tmp_path / "vo-2").exists()
    (place,) = second.quarantine.glob("*/vo-2")
    assert (place / "files" / "file").read_text() == "vo-2"
    assert (place / "snapshots" / "sn-1").is_dir()
    second.close()


def test_a_second_server_on_the_same_volumes_refuses_and_changes_nothing(tmp_path: Path) -> None:
    first, second = Volumes(tmp_path, None), Volumes(tmp_path, None)
    first.open(())
    first.make("vo-1")
    with pytest.raises(ConflictError, match="another server"):
        second.open(())
    assert (tmp_path / "vo-1").is_dir()
    first.close()
    second.open({"vo-1"})
    second.close()
