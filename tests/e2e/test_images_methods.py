"""Every builder method, in recipes as users write them: the image is built, and functions run in it. Many methods share an image, which is quicker."""

import json
import os
import subprocess
import tarfile
import uuid
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import uv
from building import LIMIT, VOLUME, keep, look, prepare, prepare_async, versions

import squall
from squall.exception import ImageBuildError, InvalidError, NotFoundError
from squall.model.errors import ContainerExitedError
from support.registry import HTPASSWD, PASSWORD, USER, Registry, registry

from .conftest import SQUALL

pytestmark = pytest.mark.root

BASE = squall.Image.debian_slim("3.11")
#: Layers are kept between runs of these tests: what is to be built anew needs a mark of its own.
MARK = uuid.uuid4().hex[:8]
PYPROJECT = """
[project]
name = "project"
version = "1"
requires-python = ">=3.11"
dependencies = ["pluggy==1.5.0"]

[project.optional-dependencies]
more = ["iniconfig==2.0.0"]

[dependency-groups]
extra = ["sniffio==1.3.1"]
"""
POETRY = """
[tool.poetry]
name = "p"
version = "1"
description = ""
authors = []

[tool.poetry.dependencies]
python = "^3.11"
six = "1.16.0"

[tool.poetry.group.more.dependencies]
iniconfig = "2.0.0"
"""
POETRY_LOCK = """
[[package]]
name = "iniconfig"
version = "2.0.0"
description = ""
optional = false
python-versions = ">=3.7"
groups = ["more"]
files = [{file = "iniconfig-2.0.0-py3-none-any.whl", hash = "sha256:b6a85871a79d2e3b22d2d1b94ac2824226a63c6b741c88f7ae975f18b6778374"}]

[[package]]
name = "six"
version = "1.16.0"
description = ""
optional = false
python-versions = ">=2.7"
groups = ["main"]
files = [{file = "six-1.16.0-py2.py3-none-any.whl", hash = "sha256:8abb2f1d86890a2dfb989f9a77cfcfd3e47c2a354b01111771326f8aa26e0254"}]

[metadata]
lock-version = "2.1"
python-versions = "^3.11"
content-hash = "6d3fe587ceba62d29fe74d2fcac7f2597e2eeda2c43055acfad0c658c841d75d"
"""


def wheel(folder: Path, name: str, version: str) -> None:
    """A package of one module with its version, as an index has it."""
    folder.mkdir(parents=True, exist_ok=True)
    info = f"{name}-{version}.dist-info"
    with zipfile.ZipFile(folder / f"{name}-{version}-py3-none-any.whl", "w") as archive:
        archive.writestr(f"{name}.py", f"VERSION = {version!r}\n")
        archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", f"{name}.py,,\n{info}/METADATA,,\n{info}/WHEEL,,\n{info}/RECORD,,\n")


def index(folder: Path, name: str, version: str) -> None:
    """A simple index (PEP 503) with one package."""
    wheel(folder / name, name, version)
    (folder / name / "index.html").write_text(f'<a href="{name}-{version}-py3-none-any.whl">{name}-{version}-py3-none-any.whl</a>')


def inside(images: dict[str, squall.Image], *commands: str) -> dict[str, str]:
    """What commands print in a function's container of each image; they are built side by side."""
    app = squall.App()
    functions = {name: app.function(image=image, name=name)(look) for name, image in images.items()}
    with app.run():
        return {name: function.remote(list(commands)) for name, function in functions.items()}


def test_packages(data: Path, tmp_path: Path) -> None:
    for name, content in {"pyproject.toml": PYPROJECT, "poetry/pyproject.toml": POETRY, "poetry/poetry.lock": POETRY_LOCK}.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(content)
    (tmp_path / "requirements.txt").write_text("listed\n")
    (tmp_path / "more.txt").write_text("both==1\n")
    wheel(tmp_path / "wheels", "linked", "1.0rc1")
    wheel(tmp_path / "wheels", "listed", "2.0")
    index(tmp_path / "index", "indexed", "3.0")
    index(tmp_path / "index", "both", "1")
    subprocess.run([uv.find_uv_bin(), "lock", "--quiet"], cwd=tmp_path, check=True)
    places = BASE.apt_install("jq", ["tree"]).add_local_dir(tmp_path / "wheels", "/wheels", copy=True).add_local_dir(tmp_path / "index", "/index", copy=True)
    image = (
        places.poetry_install_from_file(str(tmp_path / "poetry/pyproject.toml"), without=["more"])
        .uv_sync(str(tmp_path), extras=["more"], groups=["extra"])
        .pip_install("linked", find_links="/wheels", pre=True, extra_options="--no-deps --no-index")
        .pip_install("indexed", index_url="file:///index")
        .pip_install_from_requirements(str(tmp_path / "requirements.txt"), find_links="/wheels", extra_options="--no-index")
        .uv_pip_install("indexed==3.0", requirements=[str(tmp_path / "more.txt")], extra_index_url="file:///index")
    )
    project = BASE.pip_install_from_pyproject(str(tmp_path / "pyproject.toml"), ["more"])
    app = squall.App()
    names = ["six", "pluggy", "iniconfig", "sniffio", "linked", "indexed", "listed", "both", "p"]
    all_of_them = app.function(image=image, name="all")(versions)
    of_project = app.function(image=project, name="project")(versions)
    with app.run():
        assert all_of_them.remote(names) == ["1.16.0", "1.5.0", "2.0.0", "1.3.1", "1.0rc1", "3.0", "2.0", "1", None]
        assert of_project.remote(["pluggy", "iniconfig", "sniffio", "project"]) == ["1.5.0", "2.0.0", None, None]
    assert inside({"a": places}, "echo '{\"a\":7}' | jq .a; tree --version | cut -c1-4") == {"a": "7\ntree\n"}
    with pytest.raises(InvalidError, match="no uv.lock"):
        (tmp_path / "uv.lock").unlink()
        BASE.uv_sync(str(tmp_path)).build()
    with pytest.raises(InvalidError, match="no optional dependencies nothing; it has more"):
        BASE.pip_install_from_pyproject(str(tmp_path / "pyproject.toml"), ["nothing"]).build()
    with pytest.raises(InvalidError, match=r"poetry\.lock"):
        (tmp_path / "poetry/poetry.lock").unlink()
        BASE.poetry_install_from_file(str(tmp_path / "poetry/pyproject.toml")).build()


#: A project that builds itself, so that nothing has to be fetched for it.
PRIVATELY = """
[project]
name = "privately"
version = "1"

[build-system]
requires = []
build-backend = "backend"
backend-path = ["."]
"""
BACKEND = """
import zipfile

def build_wheel(folder, config_settings=None, metadata_directory=None):
    with zipfile.ZipFile(f"{folder}/privately-1-py3-none-any.whl", "w") as wheel:
        wheel.write("privately.py")
        wheel.writestr("privately-1.dist-info/METADATA", "Metadata-Version: 2.1\\nName: privately\\nVersion: 1\\n")
        wheel.writestr("privately-1.dist-info/WHEEL", "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n")
        wheel.writestr("privately-1.dist-info/RECORD", "")
    return "privately-1-py3-none-any.whl"
"""

#: Stands for git's own program that talks HTTPS, so that the package's host can be here: it takes the address only with the token in it.
HELPER = """#!/bin/sh
case "$2" in https://me:tok-zzz-1@github.com/owner/repository*) ;; *) echo "fatal: Authentication failed for $2" >&2; exit 1;; esac
while read -r line; do
    case "$line" in
        capabilities) printf 'connect\\n\\n';;
        "connect git-upload-pack") printf '\\n'; exec git-upload-pack /srv/repository;;
        *) exit 0;;
    esac
done
"""


def test_private_repositories_with_a_token_that_stays_outside(data: Path, tmp_path: Path) -> None:
    with pytest.raises(InvalidError, match="GITHUB_TOKEN"):
        BASE.pip_install_private_repos("github.com/a/b", git_user="me")
    (tmp_path / "helper").write_text(HELPER)
    (tmp_path / "helper").chmod(0o755)
    for name, text in {"privately.py": f"X = {MARK!r}\n", "backend.py": BACKEND, "pyproject.toml": PRIVATELY}.items():
        (tmp_path / "repository" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "repository" / name).write_text(text)
    commit = "git init -q -b main . && git add . && git -c user.name=n -c user.email=e@example.org commit -qm one"
    host = (
        BASE.apt_install("git")
        .add_local_dir(tmp_path / "repository", "/srv/repository", copy=True)
        .run_commands(f"cd /srv/repository && {commit} && rm /usr/lib/git-core/git-remote-https")
        .add_local_file(tmp_path / "helper", "/usr/lib/git-core/git-remote-https", copy=True)
    )
    good, wrong = (squall.Secret.from_dict({"GITHUB_TOKEN": token}) for token in ("tok-zzz-1", "tok-zzz-2"))
    with pytest.raises(ImageBuildError) as caught:
        host.pip_install_private_repos("github.com/owner/repository@main", git_user="me", secrets=[wrong]).build()
    assert caught.value.step == "pip_install_private_repos github.com/owner/repository@main"
    assert "tok-zzz-2" not in caught.value.log_tail + str(caught.value)
    image = host.pip_install_private_repos("github.com/owner/repository@main", git_user="me", secrets=[good])
    assert inside({"f": image}, "python -c 'import privately; print(privately.X)'; git config --list | grep -c tok; env | grep -c GITHUB") == {
        "f": f"{MARK}\n0\n0\n"
    }
    shown = json.loads(subprocess.run([SQUALL, "image", "inspect", image.build().object_id, "--json"], check=True, capture_output=True).stdout)
    layer = Path(shown["layers"][-1]["path"])
    # What pip notes about where a package came from is among them (direct_url.json, PEP 610).
    for path in (*layer.rglob("*.json"), *data.glob("layers/*/log"), *data.glob("layers/*/*.json"), *data.glob("images/*.json")):
        assert "tok-zzz-" not in path.read_text(errors="replace"), path


def test_functions_that_run_while_building(data: Path) -> None:
    secret = squall.Secret.from_dict({"TOKEN": "abcdef-123"})
    with squall.Volume.ephemeral() as volume:
        image = (
            BASE.run_function(prepare, args=("here",), kwargs={"times": 2}, secrets=[secret], env={"MODE": "fast"}, cpu=1.0, memory=512, timeout=60)
            .run_function(prepare_async)
            .run_function(keep, args=[MARK], volumes={VOLUME: volume})
            .run_commands(f"cp {VOLUME}/{MARK} /copied; touch {VOLUME}/new 2> /refused || true", volumes={VOLUME: volume.read_only()})
        )
        commands = f"cat /here; echo; cat /async; echo; cat /copied; echo; cat /refused; ls -d {VOLUME} 2>&1; env | grep -c TOKEN"
        found = inside({"f": image}, commands)["f"].splitlines()
        assert found[:3] == [f"made made {LIMIT} abc fast False", f"made {LIMIT}  None False", "kept"]
        assert "Read-only" in found[3]
        assert ("No such file" in found[4], found[5]) == (True, "0")
        assert list(volume.read_file(MARK)) == [b"kept"]
    for path in (*data.glob("layers/*/log"), *data.glob("layers/*/*.json"), *data.glob("images/*.json")):
        assert "abcdef-123" not in path.read_text(errors="replace"), path
    with pytest.raises(ImageBuildError, match="longer than 0.5 s"):
        BASE.run_function(prepare, args=("endless",), kwargs={"times": -1}, timeout=0.5).build()  # type: ignore[arg-type]


def test_files_commands_and_what_an_image_says_about_itself(data: Path, tmp_path: Path) -> None:
    for name in ("a.txt", "b.log", "sub/c.txt", "sub/d.md"):
        (tmp_path / "dir" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "dir" / name).write_text(name)
    start = BASE.env({"GREETING": "hello"}).workdir("/srv").shell(["/bin/bash", "-c"]).run_commands('echo "$GREETING $PWD ${BASH_VERSION:+bash}" > said')
    files = start.add_local_file(tmp_path / "dir/a.txt", "/srv/", copy=True).add_local_dir(tmp_path / "dir", "/srv/all", copy=True, ignore=["**/*.md"])
    files = files.add_local_python_source("building", copy=True).run_commands(
        "cat a.txt >> said; printf '#!/bin/sh\\nexport BEGUN=yes\\nexec \"$@\"\\n' > /entry"
    )
    built = files.run_commands("chmod 755 /entry", env={"X": "built"}).entrypoint(["/entry"]).cmd(["python"])
    attached = (
        start.add_local_file(tmp_path / "dir/a.txt", "/srv/a.txt")
        .add_local_dir(tmp_path / "dir", "/srv/all", ignore=lambda path: path.suffix == ".md")
        .add_local_dir(tmp_path / "dir", "/srv/some", ignore=~squall.FilePatternMatcher("**/*.txt"))
        .add_local_python_source("building")
    )
    found = inside({"built": built, "attached": attached}, "cat said; echo; echo $(find . -type f | sort); ls /root | grep -v __pycache__; echo $BEGUN [$X]")
    assert found["built"] == "hello /srv bash\na.txt\n./a.txt ./all/a.txt ./all/b.log ./all/sub/c.txt ./said\nbuilding.py\nyes []\n"
    assert found["attached"] == ("hello /srv bash\n\n./a.txt ./all/a.txt ./all/b.log ./all/sub/c.txt ./said ./some/a.txt ./some/sub/c.txt\nbuilding.py\n[]\n")
    idle = squall.App()
    never = idle.function(image=start.entrypoint(["/bin/true"]))(look)
    with idle.run(), pytest.raises(ContainerExitedError, match="entrypoint, /bin/true, ended with exit code 0 before .* began"):
        never.remote([])
    for wrong, error in ((BASE.add_local_file(tmp_path / "none", "/x", copy=True), "none"), (BASE.add_local_dir(tmp_path / "a.txt", "/x", copy=True), "a.txt")):
        with pytest.raises(InvalidError, match=error):
            wrong.build()


@pytest.fixture
def shop(data: Path, tmp_path: Path) -> Iterator[Registry]:
    """A registry that wants a password, with an image without Python: a shell and what belongs to it."""
    script = (
        "mkdir -p box/bin box/etc box/tmp && cp /bin/sh /bin/cat /bin/ls /usr/bin/env box/bin/ && cp /etc/passwd /etc/group box/etc/ && "
        'for f in $(ldd /bin/sh /bin/ls | grep -o "/[^ ]*" | grep so | sort -u); do mkdir -p box/$(dirname $f) && cp -L $f box/$f; done'
    )
    subprocess.run(["sh", "-c", script], cwd=tmp_path, check=True)
    with registry(htpasswd=HTPASSWD) as running:
        image = squall.Image.from_scratch().add_local_dir(tmp_path / "box", "/", copy=True).env({"GREETING": "hello"}).workdir("/srv").build()
        running.pushed.append(f"{running}/team/small:1")
        env = {**os.environ, "REGISTRY_USERNAME": USER, "REGISTRY_PASSWORD": PASSWORD}
        subprocess.run([SQUALL, "image", "export", image.object_id, running.pushed[0]], env=env, check=True, capture_output=True)
        yield running


def test_registries_and_dockerfiles(shop: Registry, tmp_path: Path) -> None:
    (reference,) = shop.pushed
    secret = squall.Secret.from_dict({"REGISTRY_USERNAME": USER, "REGISTRY_PASSWORD": PASSWORD})
    image = squall.Image.from_registry(reference, secret, setup_dockerfile_commands=["ENV X=1", "RUN echo $X$GREETING > /x"], add_python="3.11")
    context = tmp_path / "context"
    for name in ("in.txt", "left.txt", "sub/deep.txt"):
        (context / name).parent.mkdir(parents=True, exist_ok=True)
        (context / name).write_text(name)
    (context / ".dockerignore").write_text("left.txt\n")
    with tarfile.open(context / "box.tgz", "w:gz") as archive:
        archive.add(context / "in.txt", "packed.txt")
    (tmp_path / "Dockerfile").write_text(
        f'ARG VERSION=1\nFROM {reference} AS first\nARG VERSION\nRUN echo version $VERSION > /version\nRUN test -n "$TOKEN" && echo secret > /told\n'
        f"FROM {reference}\nCOPY --from=first /version /told /\nCOPY . /all/\nADD box.tgz /box/\nENV B=b\nWORKDIR /all\n"
    )
    whole = squall.Image.from_dockerfile(
        tmp_path / "Dockerfile", context_dir=context, build_args={"VERSION": "2"}, registry_secret=secret,
        secrets=[squall.Secret.from_dict({"TOKEN": "t-1"})], add_python="3.11",
    )  # fmt: skip
    lines = BASE.dockerfile_commands("COPY in.txt /in/", ["ARG A", "RUN echo $A > /a"], context_dir=context, build_args={"A": "x"})
    lines = lines.dockerfile_commands(["COPY given.txt /given"], context_files={"given.txt": str(context / "left.txt")})
    images = {"registry": image, "dockerfile": whole, "lines": lines}
    found = inside(images, "cat /x", "cat /version /told; echo $(ls /all) $(cat /box/packed.txt) $B $PWD", "cat /a; cat /in/in.txt /given")
    assert found == {
        "registry": "1hello\n/srv\n", "dockerfile": "version 2\nsecret\nbox.tgz in.txt sub in.txt b /all\n", "lines": "/root\nx\nin.txtleft.txt",
    }  # fmt: skip
    (tmp_path / "Dockerfile").write_text("FROM scratch\nCOPY in.txt /in.txt\n")
    with pytest.raises(InvalidError, match="has no Python"):
        inside({"f": squall.Image.from_dockerfile(tmp_path / "Dockerfile", context_dir=context)})
    with pytest.raises(InvalidError, match="line 2: 'COPPY'"):
        (tmp_path / "Dockerfile").write_text("FROM scratch\nCOPPY x /x\n")
        squall.Image.from_dockerfile(tmp_path / "Dockerfile").build()
    wrong = squall.Secret.from_dict({"REGISTRY_USERNAME": USER, "REGISTRY_PASSWORD": "guess"})
    for tag, with_, cause in (("team/small:1", wrong, "refuses the credentials"), ("team/small:none", secret, "no image|no such image")):
        with pytest.raises(ImageBuildError, match=cause) as caught:
            squall.Image.from_registry(f"{shop}/{tag}", with_, force_build=True).build()
        assert caught.value.step == f"from_registry {shop}/{tag}"


def test_names_ids_and_forced_steps(data: Path) -> None:
    image = BASE.run_commands("cat /proc/sys/kernel/random/uuid > /uuid", force_build=True).build()
    image.publish("team/named:v1")
    # What has a name or an id is that very image, though a program that says force_build makes a new one at each run.
    named = squall.Image.from_name("team/named:v1")
    images = {
        "again": BASE.run_commands("cat /proc/sys/kernel/random/uuid > /uuid", force_build=True),
        "name": named, "id": squall.Image.from_id(image.object_id), "more": named.env({"A": "1"}),
    }  # fmt: skip
    first = inside({name: images[name] for name in ("name", "id", "more")}, "cat /uuid")
    assert len(set(first.values())) == 1
    assert inside({"more": images["more"]}, "echo $A") == {"more": "1\n"}
    second = inside({name: images[name] for name in ("again", "name")}, "cat /uuid")
    assert second["name"] == first["name"] != second["again"]
    assert images["name"].build().build().object_id == image.object_id
    with pytest.raises(NotFoundError, match="no image 'nobody'"):
        squall.Image.from_name("nobody").build()


def test_a_name_is_of_its_environment(data: Path) -> None:
    squall.Environment.objects.create("names")
    one, two = (BASE.env({"WHERE": where}).build() for where in ("main", "names"))
    one.publish("shared")
    two.publish("shared", environment_name="names")
    assert squall.Image.from_name("shared").hydrate().object_id == one.object_id
    assert squall.Image.from_name("shared:latest", environment_name="main").hydrate().object_id == one.object_id
    assert squall.Image.from_name("shared", environment_name="names").hydrate().object_id == two.object_id
    app = squall.App("names", image=squall.Image.from_name("shared"))  # of the app's environment

    @app.function(serialized=True)
    def where() -> str:
        return os.environ["WHERE"]

    for environment in ("main", "names"):
        with app.run(environment_name=environment):
            assert where.remote() == environment
    with pytest.raises(NotFoundError, match="nowhere"):
        one.publish("shared", environment_name="nowhere")
    squall.Environment.objects.delete("names")
    squall.Environment.objects.create("names")
    with pytest.raises(NotFoundError, match="no image 'names::shared'"):
        squall.Image.from_name("shared", environment_name="names").hydrate()
    assert squall.Image.from_name("shared").hydrate().object_id == one.object_id
    squall.Environment.objects.delete("names")


def test_micromamba_says_what_it_lacks(data: Path) -> None:
    """Its base comes from a registry out there; what its steps are is in the unit tests."""
    image = squall.Image.micromamba("3.11").micromamba_install("scipy", channels=["conda-forge"])
    with pytest.raises(ImageBuildError) as caught:
        image.build()
    assert caught.value.step.startswith("from_registry docker.io/mambaorg/micromamba")
