"""Recipes: what each builder method adds, what is refused."""

import sys
from pathlib import Path
from typing import Any

import pytest

import squall
from squall.exception import InvalidError, ModuleNotMountable, UnsupportedError
from squall.model.specs import Step, VolumeMount
from squall.sdk.image.steps import Mounts, Refer
from squall.sdk.source.sources import Shipment

BASE = squall.Image.debian_slim("3.11")


def steps(image: squall.Image) -> tuple[Step, ...]:
    return image._spec(Shipment()).steps


def last(image: squall.Image) -> Step:
    return steps(image)[-1]


def test_base() -> None:
    assert last(squall.Image.debian_slim()).args == {"python_version": f"{sys.version_info.major}.{sys.version_info.minor}"}
    for wrong in ("3", "2.7", "3.x", 3.11, "3.11; rm -rf"):
        with pytest.raises(InvalidError, match="python_version"):
            squall.Image.debian_slim(wrong)  # type: ignore[arg-type]


def test_images_are_immutable() -> None:
    BASE.apt_install("jq")
    assert len(steps(BASE)) == 1


def test_packages_flatten_and_nothing_is_no_step() -> None:
    assert last(BASE.apt_install("a", ["b", "c"])).args == {"packages": ["a", "b", "c"]}
    for image in (BASE.apt_install(), BASE.pip_install([]), BASE.uv_pip_install(), BASE.run_commands(), BASE.env({}), BASE.add_local_python_source()):
        assert image is BASE
    for wrong in ("", " ", [""], 5, [5]):
        with pytest.raises(InvalidError, match="pip_install"):
            BASE.pip_install(wrong)  # type: ignore[arg-type]


def test_pip_options() -> None:
    step = last(BASE.pip_install("x", index_url="https://example.org/simple", pre=True, extra_options="--no-deps", force_build=True))
    assert step.args == {
        "packages": ["x"],
        "find_links": None,
        "index_url": "https://example.org/simple",
        "extra_index_url": None,
        "pre": True,
        "extra_options": "--no-deps",
    }
    assert step.force


def test_requirements_are_named_by_content(tmp_path: Path) -> None:
    recipes = []
    for name in ("one.txt", "two.txt"):
        (tmp_path / name).write_text("numpy\n")
        recipes.append(steps(BASE.pip_install_from_requirements(str(tmp_path / name))))
    assert recipes[0] == recipes[1], "the local name is no part of the recipe"
    assert len(recipes[0][-1].files) == 1
    both = last(BASE.uv_pip_install("x", requirements=[str(tmp_path / "one.txt")]))
    assert both.args["packages"] == ["x"]
    assert len(both.files) == 1


def test_metadata_steps() -> None:
    image = BASE.env({"A": "1"}).workdir("/srv//app/").shell(["/bin/bash", "-c"]).entrypoint([]).cmd(["x"])
    assert [(step.kind, step.args) for step in steps(image)[1:]] == [
        ("env", {"vars": {"A": "1"}}),
        ("workdir", {"path": "/srv/app"}),
        ("shell", {"argv": ["/bin/bash", "-c"]}),
        ("entrypoint", {"argv": []}),
        ("cmd", {"argv": ["x"]}),
    ]
    for wrong in (lambda: BASE.workdir("app"), lambda: BASE.cmd("x"), lambda: BASE.env({"A": 1})):  # type: ignore[arg-type,dict-item]
        with pytest.raises(InvalidError):
            wrong()


def test_attached_files_are_not_in_the_recipe_and_come_last(tmp_path: Path) -> None:
    (tmp_path / "data.bin").write_bytes(b"x")
    image = BASE.add_local_file(tmp_path / "data.bin", "/data/")
    assert steps(image) == steps(BASE)
    assert [file.path for file in image._attached_files(Shipment())] == ["/data/data.bin"]
    for build in (lambda: image.apt_install("jq"), lambda: image.env({"A": "1"}), lambda: image.add_local_file(tmp_path / "data.bin", "/x", copy=True)):
        with pytest.raises(InvalidError, match="copy=True"):
            build()


def test_copied_files_are_a_step(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x.txt").write_text("x")
    (tmp_path / "a" / "y.log").write_text("y")
    image = BASE.add_local_dir(tmp_path / "a", "/data", copy=True, ignore=["*.log"]).apt_install("jq")
    assert [file.path for file in steps(image)[1].files] == ["/data/x.txt"]


def test_local_files_are_looked_at_late() -> None:
    """Inside a container the same code runs, and the files are not there."""
    image = BASE.add_local_file("/no/such/file", "/x").add_local_dir("/no/such/dir", "/y")
    with pytest.raises(InvalidError, match="/no/such/file"):
        image._attached_files(Shipment())


def test_python_source() -> None:
    files = BASE.add_local_python_source("json", "this")._attached_files(Shipment())
    paths = {file.path for file in files}
    assert {"/root/json/__init__.py", "/root/json/decoder.py", "/root/this.py"} <= paths
    assert all(path.endswith(".py") for path in paths)
    with pytest.raises(ModuleNotMountable, match="no_such_module"):
        BASE.add_local_python_source("no_such_module")._attached_files(Shipment())
    with pytest.raises(ModuleNotMountable, match="built"):
        BASE.add_local_python_source("sys")._attached_files(Shipment())
    with pytest.raises(InvalidError):
        BASE.add_local_python_source("./helpers.py")


class Named(Refer):
    """A server that knows one secret and one volume."""

    def secrets(self, secrets: tuple[squall.Secret, ...]) -> tuple[str, ...]:
        return tuple(f"st-{len(secrets)}" for _ in secrets)

    def volumes(self, volumes: Mounts) -> tuple[VolumeMount, ...]:
        return tuple(VolumeMount(path, f"vo-{len(volumes)}", volume._read_only) for path, volume in volumes)


def len_of(text: str) -> int:
    return len(text)


def test_build_options() -> None:
    secret = squall.Secret.from_dict({"A": "value"})
    step = last(BASE.run_commands("true", env={"A": "1", "B": None}, gpu="T4", secrets=[secret]))
    assert step.args == {"commands": ["true"], "env": {"A": "1"}, "gpu": ["T4"]}
    assert "value" not in repr(step)
    volume = squall.Volume.from_name("data")
    named = BASE.run_commands("true", secrets=[secret], volumes={"/data": volume.read_only()})._spec(Shipment(), Named())
    assert named.steps[-1].secrets == ("st-1",)
    assert named.steps[-1].volumes == (VolumeMount("/data", "vo-1", True),)
    step = last(BASE.run_function(len_of, volumes={"/data": volume}, cpu=(0.5, 2), memory=(128, 256), timeout=9))
    assert (step.args["cpu"], step.args["memory_mib"], step.args["timeout_s"]) == (2.0, 256, 9.0)
    assert step.volumes == (VolumeMount("/data", ""),)
    for wrong in ({"gpu": 5}, {"gpu": "T4:0"}, {"gpu": True}, {"env": {"A": 1}}, {"secrets": "x"}, {"secrets": ["x"]}):
        with pytest.raises(InvalidError):
            BASE.run_commands("true", **wrong)  # type: ignore[arg-type]
    for refused in ({"volumes": {"/x": object()}}, {"volumes": {"/usr": volume}}, {"timeout": 0}, {"memory": "much"}, {"cpu": -1}):
        with pytest.raises(InvalidError, match=next(iter(refused))):
            BASE.run_function(len_of, **refused)  # type: ignore[arg-type]
    with pytest.raises(UnsupportedError, match="network_file_systems"):
        BASE.run_function(len_of, network_file_systems={"/x": object()})


def test_local_paths_are_paths() -> None:
    for make in (
        lambda: BASE.add_local_file(1, "/x"),  # type: ignore[arg-type]
        lambda: BASE.add_local_dir("", "/x"),
        lambda: squall.Image.from_dockerfile(None),  # type: ignore[arg-type]
        lambda: BASE.uv_sync(5),  # type: ignore[arg-type]
        lambda: BASE.pip_install_from_requirements(5),  # type: ignore[arg-type]
    ):
        with pytest.raises(InvalidError, match="is not the path of a local file or directory"):
            make()


def test_other_bases() -> None:
    image = squall.Image.from_registry("alpine:3", add_python="3.11", setup_dockerfile_commands=["RUN x"])
    assert last(image).args == {"tag": "alpine:3", "setup_dockerfile_commands": ["RUN x"], "add_python": "3.11"}
    assert last(squall.Image.from_scratch()).kind == "from_scratch"
    assert last(squall.Image.from_id("im-12")).args == {"image": "im-12"}
    assert last(squall.Image.from_name("a:b")).args == {"image": "a:b"}
    assert last(squall.Image.micromamba("3.12")).args["python_version"] == "3.12"
    for wrong in (
        lambda: squall.Image.from_registry(""),
        lambda: squall.Image.from_registry("x", add_python="3"),
        lambda: squall.Image.from_registry("x", pull=True),
        lambda: squall.Image.from_id("x"),
        lambda: squall.Image.from_name(""),
        lambda: squall.Image.micromamba("x"),
    ):
        with pytest.raises(InvalidError):
            wrong()


def test_a_project_is_read_late(tmp_path: Path) -> None:
    file = tmp_path / "pyproject.toml"
    image = BASE.pip_install_from_pyproject(str(file), ["extra"])
    with pytest.raises(InvalidError, match="can't be read"):
        steps(image)
    file.write_text("[project")
    with pytest.raises(InvalidError, match="not valid TOML"):
        steps(image)
    file.write_text('[project]\ndependencies = ["a"]\noptional-dependencies = {extra = ["b"]}\n')
    assert last(image).args["packages"] == ["a", "b"]
    with pytest.raises(InvalidError, match=r"no poetry.lock|poetry.lock"):
        steps(BASE.poetry_install_from_file(str(file)))
    assert [file.path for file in last(BASE.poetry_install_from_file(str(file), ignore_lockfile=True)).files] == ["/pyproject.toml"]


def test_of_a_context_only_what_is_copied_travels(tmp_path: Path) -> None:
    for name in ("a.txt", "b.txt", "dir/c.txt", "secret.key"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    (tmp_path / ".dockerignore").write_text("*.key\n")

    def shipped(text: str, **options: Any) -> list[str]:
        (tmp_path / "Dockerfile").write_text(text)
        return [file.path.removeprefix("/.squall/context/") for file in last(squall.Image.from_dockerfile(tmp_path / "Dockerfile", **options)).files]

    assert shipped("FROM x\nRUN y") == []
    assert shipped("FROM x\nCOPY a.txt /\nCOPY --from=y b.txt /") == ["a.txt"]
    assert shipped("FROM x\nCOPY dir /d") == ["dir/c.txt"]
    assert shipped("FROM x\nCOPY . /") == [".dockerignore", "Dockerfile", "a.txt", "b.txt", "dir/c.txt"]
    assert shipped("FROM x\nARG F\nCOPY $F /", ignore=["*", "!a.txt"]) == ["a.txt"]


def answer() -> int:
    return VALUE


VALUE = 42


def test_versions_of_a_function(monkeypatch: pytest.MonkeyPatch) -> None:
    first = last(BASE.run_function(answer)).args
    assert (first["module"], first["qualname"], first["function"]) == (__name__, "answer", "")
    assert last(BASE.run_function(answer)).args == first
    assert last(BASE.run_function(answer, args=[1])).args["call"] != first["call"]
    monkeypatch.setattr(sys.modules[__name__], "VALUE", 43)
    assert last(BASE.run_function(answer)).args["fingerprint"] != first["fingerprint"]
    assert last(BASE.run_function(lambda: 1)).args["function"]
    with pytest.raises(InvalidError, match="takes a function"):
        BASE.run_function("x")  # type: ignore[arg-type]


def test_pipe() -> None:
    assert last(BASE.pipe(lambda image, name: image.apt_install(name), "jq")).args == {"packages": ["jq"]}
    with pytest.raises(InvalidError, match="pipe"):
        BASE.pipe(lambda image: None)  # type: ignore[arg-type,return-value]


def test_imports_here_swallow_what_is_missing_only() -> None:
    with BASE.imports():
        import no_such_module  # type: ignore[import-not-found]  # noqa: F401
    with pytest.raises(ZeroDivisionError), BASE.imports():
        1 / 0  # noqa: B018


def test_imports_in_a_container_depend_on_the_image(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("squall.sdk.context.is_local", lambda: False)
    other = BASE.apt_install("jq")
    monkeypatch.setenv("SQUALL_IMAGE_RECIPE", other._fingerprint)
    with BASE.imports():
        raise ImportError("this image is not the container's")
    with pytest.raises(ImportError), other.imports():
        raise ImportError("this one is")


def test_fingerprint_does_not_depend_on_local_files(tmp_path: Path) -> None:
    (tmp_path / "r.txt").write_text("numpy")
    here = BASE.pip_install_from_requirements(str(tmp_path / "r.txt"))._fingerprint
    there = BASE.pip_install_from_requirements("/no/such/r.txt")._fingerprint
    assert here == there != BASE._fingerprint


def test_repr() -> None:
    assert repr(BASE.apt_install("jq").pip_install("numpy")) == "<Image debian_slim › apt_install jq › pip_install numpy>"
