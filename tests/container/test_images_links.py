"""Images of others: their links and owners mean something in a container, and nothing on the machine that unpacks them."""

import io
import json
import os
import stat
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

import squall.images.unpack
from squall.images.copying import Place, copy
from squall.images.layers import LayerStore
from squall.images.place import like_lower, resolve, through_links
from squall.images.recipe import Copy
from squall.model.errors import InvalidError
from squall.model.specs import SourceFile
from squall.runtime.ids import DEFAULT_IDS

pytestmark = pytest.mark.root
BASE = DEFAULT_IDS.first


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Path]:
    """A directory of the machine; nothing in it may change."""
    place = tmp_path / "host"
    place.mkdir(mode=0o700)
    (place / "file").write_text("of the host")
    yield place
    assert [(path.name, path.read_text()) for path in place.iterdir()] == [("file", "of the host")]
    assert (stat.S_IMODE(place.stat().st_mode), place.stat().st_uid) == (0o700, 0)


def archive(*entries: tuple[str, str | bytes], **fields: int) -> bytes:
    """Links have a string, files have bytes."""
    box = io.BytesIO()
    with tarfile.open(fileobj=box, mode="w", format=tarfile.PAX_FORMAT) as out:
        for name, content in entries:
            entry = tarfile.TarInfo(name)
            entry.mode = 0o4755
            for field, value in fields.items():
                setattr(entry, field, value)
            if isinstance(content, str):
                entry.type, entry.linkname = tarfile.SYMTYPE, content
                out.addfile(entry)
            else:
                entry.size = len(content)
                out.addfile(entry, io.BytesIO(content))
    return box.getvalue()


def unpack(root: Path, layer: bytes) -> list[str]:
    root.mkdir()
    script = squall.images.unpack.__file__
    done = subprocess.run([sys.executable, "-I", script, str(root), str(BASE)], input=layer, capture_output=True, check=True)
    implied = json.loads(done.stdout)
    assert isinstance(implied, list)
    return implied


def test_no_file_of_an_archive_belongs_to_a_user_of_the_machine(tmp_path: Path) -> None:
    for number, ids in enumerate((-BASE, -BASE - 1, 1 << 31, 70_000)):
        root = tmp_path / f"root{number}"
        unpack(root, archive(("program", b"#!"), ("link", "program"), uid=ids, gid=ids))
        for name in ("program", "link"):
            found = (root / name).lstat()
            assert (found.st_uid, found.st_gid) == (BASE + 65_534, BASE + 65_534), ids


def test_a_directory_that_became_a_link_is_not_looked_after(tmp_path: Path, host: Path) -> None:
    """Neither as it is nor as what a directory of the layer below has in its place."""
    root, lower = tmp_path / "root", tmp_path / "lower"
    (lower / "d" / "e").mkdir(parents=True)
    os.chown(lower / "d", BASE, BASE)
    implied = unpack(root, archive(("d/e/file", b"1"), ("d", str(host))))
    assert implied == [""]
    with pytest.raises(NotADirectoryError):
        like_lower(root, ["d"], [lower], BASE)


def test_what_moves_to_where_a_link_leads_stays_in_the_image(tmp_path: Path, host: Path) -> None:
    root, lower = tmp_path / "root", tmp_path / "lower"
    lower.mkdir()
    (lower / "lib").symlink_to("usr/lib")
    unpack(root, archive(("lib/evil", b"1"), ("usr/lib", str(host))))
    with pytest.raises(NotADirectoryError):
        through_links(root, ["lib"], [lower])


def test_links_of_one_source_are_where_the_next_one_goes(tmp_path: Path, host: Path) -> None:
    """Two archives in one ADD: followed in the image, as they are by a container."""
    root, scratch = tmp_path / "root", tmp_path / "scratch"
    root.mkdir()
    scratch.mkdir()
    contents = {"1": archive(("x", str(host))), "2": archive(("x/evil", b"1"))}
    for digest, content in contents.items():
        (tmp_path / digest).write_bytes(content)
    files = tuple(SourceFile(f"{digest}.tar", digest, 1) for digest in contents)
    copy(Copy(files=files, target="/to/", directory=True, unpack=True), Place(root, [], BASE, "/"), lambda digest: tmp_path / digest, [], scratch)
    assert (root / str(host).lstrip("/") / "evil").read_bytes() == b"1"
    assert os.readlink(root / "to" / "x") == str(host)


def test_a_chain_of_links_is_not_left_to_the_kernel(tmp_path: Path) -> None:
    for number in range(50):
        (tmp_path / f"l{number}").symlink_to(f"l{number + 1}")
    with pytest.raises(OSError, match="symbolic links"):
        resolve("/l0/file", [tmp_path])


def test_only_the_web_is_downloaded_from(tmp_path: Path) -> None:
    with pytest.raises(InvalidError, match="only http"):
        copy(Copy("/here", None, url="file:///etc/passwd"), Place(tmp_path, [], BASE, "/"), lambda digest: tmp_path, [], tmp_path)


def test_other_users_of_the_machine_find_no_layers(tmp_path: Path) -> None:
    LayerStore(tmp_path / "layers")
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "layers", *(tmp_path / "layers").iterdir())}
    assert modes == {"layers": 0o711, ".locks": 0o700, ".failed": 0o700}
