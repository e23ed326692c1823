"""What is taken over from the machine: apt sources, pip's settings, causes in logs, and files written into layers."""

import os
from pathlib import Path

import pytest

from squall.images.apt import debian_sources
from squall.images.causes import cause, disk_full
from squall.images.host import INSIDE, pip_settings, surroundings
from squall.images.place import resolve, shift, write_files
from squall.images.settings import ImageSettings, from_environment
from squall.model.errors import InvalidError
from squall.model.specs import SourceFile

DEB822 = """\
Types: deb deb-src
URIs: http://mirror.example/debian
Suites: bookworm bookworm-updates bookworm-backports
Components: main contrib
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg

# a comment
Types: deb
URIs: http://mirror.example/debian-security
Suites: bookworm-security
Components: main
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg

Enabled: no
Types: deb
URIs: http://off.example/debian
Suites: bookworm
Components: main

Types: deb
URIs: https://tools.example/deb
Suites: bookworm
Components: main
Signed-By: /etc/apt/keyrings/tools.gpg
"""
ONE_LINE = """\
# deb http://commented.example/debian bookworm main
deb [arch=amd64 signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] http://one.example/debian bookworm main non-free # and so on
deb-src http://one.example/debian bookworm main
deb http://plain.example/debian/ stable main
deb http://pgp.example/pub bookworm-pgdg main
"""


def test_sources_of_the_archive_for_another_release(tmp_path: Path) -> None:
    (tmp_path / "sources.list.d").mkdir()
    (tmp_path / "sources.list").write_text(ONE_LINE)
    (tmp_path / "sources.list.d/debian.sources").write_text(DEB822)
    found = [(source.uri, source.suite, source.components) for source in debian_sources("trixie", tmp_path)]
    assert found == [
        ("http://one.example/debian", "trixie", ("main", "non-free")),
        ("http://plain.example/debian/", "trixie", ("main",)),
        ("http://mirror.example/debian", "trixie", ("main", "contrib")),
        ("http://mirror.example/debian", "trixie-updates", ("main", "contrib")),
        ("http://mirror.example/debian-security", "trixie-security", ("main",)),
    ]


def test_no_apt_no_sources(tmp_path: Path) -> None:
    assert debian_sources("bookworm", tmp_path) == ()


def pip_home(folder: Path, text: str) -> dict[str, str]:
    (folder / "pip").mkdir(exist_ok=True)
    (folder / "pip/pip.conf").write_text(text)
    return {"HOME": str(folder), "XDG_CONFIG_HOME": str(folder), "XDG_CONFIG_DIRS": str(folder / "none"), "PIP_CONFIG_FILE": str(folder / "pip/pip.conf")}


def test_pip_settings_by_precedence(tmp_path: Path) -> None:
    environ = pip_home(
        tmp_path, "[global]\nindex-url = https://a.example/simple\nextra_index_url =\n  https://b.example\n  https://c.example\n[install]\npre = true\n"
    )
    settings = pip_settings(environ | {"PIP_INDEX_URL": "https://env.example/simple"})
    assert settings["index-url"] == "https://env.example/simple"
    assert settings["extra-index-url"] == "https://b.example https://c.example"
    assert settings["pre"] == "true"


def test_pip_settings_reach_uv_with_local_indexes_in_place(tmp_path: Path) -> None:
    wheels, index = tmp_path / "wheels", tmp_path / "mirror/simple"
    wheels.mkdir()
    index.mkdir(parents=True)
    bundle = tmp_path / "ca.pem"
    bundle.write_text("x")
    environ = pip_home(tmp_path, f"[global]\nindex-url = file://{index}\nfind-links = {wheels}\ncert = {bundle}\nextra-index-url = https://b.example\n")
    around = surroundings(ImageSettings(), environ=environ)
    assert around.env["UV_DEFAULT_INDEX"] == f"file://{index}"
    assert around.env["UV_FIND_LINKS"] == str(wheels)
    assert around.env["UV_INDEX"] == "https://b.example"
    assert around.env["SSL_CERT_FILE"] == f"{INSIDE}/ca.crt"
    binds = {bind.target: (bind.source, bind.read_only) for bind in around.binds}
    assert binds[f"{INSIDE}/ca.crt"] == (bundle, True)
    assert binds[str(wheels)] == (wheels, True)
    assert binds[str(index.parent)] == (index.parent, True)


def test_settings_of_uv_win_over_pips(tmp_path: Path) -> None:
    environ = pip_home(tmp_path, "[global]\nindex-url = https://a.example/simple\n") | {
        "UV_INDEX_URL": "https://uv.example/simple",
        "UV_CACHE_DIR": "/host/cache",
    }
    env = surroundings(ImageSettings(), environ=environ).env
    assert env["UV_INDEX_URL"] == "https://uv.example/simple"
    assert "UV_DEFAULT_INDEX" not in env
    assert "UV_CACHE_DIR" not in env


def test_nothing_else_of_the_environment_gets_in(tmp_path: Path) -> None:
    env = surroundings(ImageSettings(), environ={"HOME": str(tmp_path), "AWS_SECRET_ACCESS_KEY": "s3cr3t", "https_proxy": "http://p.example:3128"}).env
    assert "AWS_SECRET_ACCESS_KEY" not in env
    assert env["https_proxy"] == "http://p.example:3128"


@pytest.mark.parametrize(
    ("log", "sentence"),
    [
        ("  cause: Because nampy was not found in the package registry and you require nampy, we can", "no version of nampy"),
        ("Because there is no version of numpy==99 and you require numpy==99, we", "no version of numpy that is 99"),
        ("Reading state...\nE: Unable to locate package nojq", "no Debian package named nojq"),
        ("sh: 1: frobnicate: not found", "the command frobnicate does not exist"),
        ("error: command 'gcc' failed: No such file or directory", 'needs gcc: add .apt_install("build-essential", "python3-dev") before'),
        ("error: command 'x86_64-linux-gnu-gcc' failed: No such file or directory", 'apt_install("build-essential", "python3-dev")'),
        ("/bin/sh: error: cmake not found", 'apt_install("cmake")'),
        (f"gcc {'-O2 ' * 99}-c x.c\nx.c:1:10: fatal error: Python.h: No such file or directory\nerror: command 'gcc' failed", 'apt_install("python3-dev")'),
        ("x.c:2:10: fatal error: openssl/ssl.h: No such file or directory", 'openssl/ssl.h is not in the image: add .apt_install("libssl-dev")'),
        ("x.c:2:10: fatal error: odd/thing.h: No such file or directory", "the header odd/thing.h is not in the image: add the Debian package that has it"),
        ("/usr/bin/ld: cannot find -lblas: No such file or directory", "the library blas is not in the image"),
        ("Error: pg_config executable not found.", 'apt_install("libpq-dev")'),
        ("      x.c:7:1: error: unknown type name 'foo'\nerror: command 'gcc' failed with exit code 1", "the compiler refuses x.c:7: unknown type name 'foo'"),
        (f'error: Command "gcc {"-O2 " * 99}" failed with exit status 1', "failed with exit status 1"),
        (
            "error: Failed to resolve requirements from `setup.py` build\n  cause: No solution found when resolving: `setuptools>=40.8.0`\n"
            "  cause: Because setuptools was not found in the cache and you require setuptools>=40.8.0, we can conclude",
            "its build tool setuptools can't be had",
        ),
        ("Temporary failure resolving 'deb.example.org'", "deb.example.org could not be resolved"),
        ("+ make\nmake: *** [all] Error 1", "exit code 2; it said last: make: ***"),
        ("error: unexpected argument '--bogus' found\n\nUsage: uv\n\nFor more information, try '--help'.", "it said: error: unexpected argument"),
        ("Traceback\nmy.own.CustomError: no\nbye", "it said: my.own.CustomError: no"),
        ("", "exit code 2"),
    ],
)
def test_causes(log: str, sentence: str) -> None:
    assert sentence in cause(log, 2, None)


def test_cause_by_signal_and_memory() -> None:
    assert "signal 11" in cause("", None, 11)
    assert "more than the 100 MiB" in cause("", None, 9, oom=True, memory_mib=100)
    assert "memory" in cause("Because nampy was not found in the package registry", None, 9, oom=True)


def test_full_disk_is_seen() -> None:
    assert disk_full("E: Write error - write (28: No space left on device)")
    assert not disk_full("E: Unable to locate package space")


def source(tmp_path: Path, path: str, *, executable: bool = False) -> SourceFile:
    (tmp_path / "content").write_bytes(b"x")
    return SourceFile(path, "ab" * 32, 1, executable)


def test_links_below_are_followed(tmp_path: Path) -> None:
    low, high = tmp_path / "low", tmp_path / "high"
    (low / "usr/lib").mkdir(parents=True)
    (low / "lib").symlink_to("usr/lib")
    (low / "deep").mkdir()
    (low / "deep/rel").symlink_to("../lib")
    high.mkdir()
    (high / "loop").symlink_to("loop")
    assert resolve("/lib/x.so", [low]) == "/usr/lib/x.so"
    assert resolve("/deep/rel/x", [low, high]) == "/usr/lib/x"
    assert resolve("/lib/x", []) == "/usr/lib/x"  # every Debian is merged
    with pytest.raises(OSError, match="Too many levels"):
        resolve("/loop/x", [low, high])


def test_directories_keep_what_they_are_below(tmp_path: Path) -> None:
    low, layer = tmp_path / "low", tmp_path / "layer"
    (low / "srv").mkdir(parents=True)
    (low / "srv").chmod(0o2775)
    layer.mkdir()
    files = [source(tmp_path, "/srv/a"), source(tmp_path, "/tmp/b", executable=True), source(tmp_path, "/new/c")]
    write_files(layer, files, lambda digest: tmp_path / "content", owner=None, lowers=[low])
    modes = {name: oct((layer / name).stat().st_mode & 0o7777) for name in ("srv", "tmp", "new", "srv/a", "tmp/b")}
    assert modes == {"srv": "0o2775", "tmp": "0o1777", "new": "0o755", "srv/a": "0o644", "tmp/b": "0o755"}


@pytest.mark.parametrize("path", ["relative", "/a/../../etc/passwd", "/", "", "/a\0b", "//"])
def test_paths_that_are_refused(tmp_path: Path, path: str) -> None:
    with pytest.raises(InvalidError):
        write_files(tmp_path, [source(tmp_path, path)], lambda digest: tmp_path / "content", owner=None)


def test_a_file_where_a_directory_is(tmp_path: Path) -> None:
    layer = tmp_path / "layer"
    layer.mkdir()
    with pytest.raises(InvalidError, match="in one place"):
        write_files(layer, [source(tmp_path, "/a"), source(tmp_path, "/a/b")], lambda digest: tmp_path / "content", owner=None)


@pytest.mark.root
def test_shift_keeps_modes_and_links(tmp_path: Path) -> None:
    (tmp_path / "dir").mkdir()
    program = tmp_path / "dir/su"
    program.write_bytes(b"")
    os.chown(program, 5, 6)
    program.chmod(0o4755)  # after chown, which takes the bit away
    (tmp_path / "link").symlink_to("dir")
    os.link(program, tmp_path / "second-name")
    shift(tmp_path, 100_000)
    found = program.stat()
    assert (found.st_uid, found.st_gid, oct(found.st_mode & 0o7777)) == (100_005, 100_006, "0o4755")
    assert (tmp_path / "link").lstat().st_uid == 100_000
    assert (tmp_path / "dir").stat().st_uid == 100_000


def test_settings_of_the_servers_environment(tmp_path: Path) -> None:
    bundle = tmp_path / "ca.crt"
    bundle.touch()
    environ = {
        "SQUALL_IMAGE_REGISTRY": "registry.example.org/library/", "SQUALL_PYTHON_FALLBACK": "nearest", "SQUALL_IMAGE_BUDGET_BYTES": "5",
        "SQUALL_BUILD_TIMEOUT_S": "1.5", "SQUALL_BUILD_MEMORY_MIB": "7", "SQUALL_BUILD_NETWORK": "none", "SQUALL_BUILD_PARALLEL": "2",
        "SQUALL_BUILD_CA_BUNDLE": str(bundle),
    }  # fmt: skip
    found = from_environment(environ, containers=False)
    assert found == ImageSettings(
        uid_base=None, parallel_builds=2, step_timeout_s=1.5, step_memory_mib=7, step_network=False, registry="registry.example.org/library",
        python_fallback="nearest", budget_bytes=5, ca_bundle=bundle,
    )  # fmt: skip
    assert from_environment(dict.fromkeys(environ, ""), containers=True) == ImageSettings()
    for name, wrong in {
        "SQUALL_PYTHON_FALLBACK": "any", "SQUALL_IMAGE_BUDGET_BYTES": "5GB", "SQUALL_BUILD_TIMEOUT_S": "-1", "SQUALL_BUILD_MEMORY_MIB": "0",
        "SQUALL_BUILD_NETWORK": "host", "SQUALL_BUILD_PARALLEL": "1.5", "SQUALL_BUILD_CA_BUNDLE": "/nowhere",
    }.items():  # fmt: skip
        with pytest.raises(InvalidError, match=name):
            from_environment({name: wrong}, containers=True)
    table = (Path(__file__).parents[2] / "docs/images.md").read_text()
    assert [name for name in environ if f"`{name}`" not in table] == []


def test_a_bundle_of_the_settings_comes_before_this_machines(tmp_path: Path) -> None:
    own, other = tmp_path / "own.crt", tmp_path / "other.crt"
    own.touch()
    other.touch()
    found = surroundings(ImageSettings(ca_bundle=own), environ={"SSL_CERT_FILE": str(other), "MY_CA_BUNDLE": str(other), "HOME": str(tmp_path)})
    assert {found.env[name] for name in ("SSL_CERT_FILE", "PIP_CERT", "GIT_SSL_CAINFO")} == {"/.squall/build/ca.crt"}
    assert [bind.source for bind in found.binds if bind.target == "/.squall/build/ca.crt"] == [own]
    assert "MY_CA_BUNDLE" not in found.env
