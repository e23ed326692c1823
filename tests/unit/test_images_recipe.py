"""Keys of layers: what changes them, what does not, and what recipes are refused."""

import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from squall.images import steps as _steps  # noqa: F401
from squall.images.dockerfile import resolve_env
from squall.images.expand import expand, no_names
from squall.images.recipe import EPOCH, Command, RegistryBase, digest, plan
from squall.model.errors import InvalidError, UnsupportedError
from squall.model.specs import ImageSpec, SourceFile, Step

BASE = Step("debian_slim", {"python_version": "3.11"})


def keys(*steps: Step) -> tuple[str, ...]:
    return tuple(layer.key for layer in plan(ImageSpec((BASE, *steps))).layers)


def run(*commands: str) -> Step:
    return Step("run_commands", {"commands": list(commands)})


def env(**variables: str) -> Step:
    return Step("env", {"vars": variables})


plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=4),
    max_leaves=8,
)


def shuffled(value: Any, seed: random.Random) -> Any:
    """The same value with every mapping in another order."""
    if isinstance(value, dict):
        items = [(key, shuffled(item, seed)) for key, item in value.items()]
        seed.shuffle(items)
        return dict(items)
    return [shuffled(item, seed) for item in value] if isinstance(value, list) else value


@given(plain, st.randoms(use_true_random=False))
def test_order_of_mappings_makes_no_difference(value: Any, seed: random.Random) -> None:
    assert digest(value) == digest(shuffled(value, seed))


@given(st.lists(plain, min_size=2, max_size=2, unique_by=repr))
def test_different_values_have_different_digests(values: list[Any]) -> None:
    # JSON tells apart whatever Python's == does, but for True and 1, which no step takes in the same place.
    assert digest(values[0]) != digest(values[1])


@given(
    st.lists(st.text(alphabet="abc ", min_size=1, max_size=5), min_size=1, max_size=3),
    st.lists(st.text(alphabet="abc ", min_size=1, max_size=5), min_size=1, max_size=3),
)
def test_commands_decide(one: list[str], other: list[str]) -> None:
    assert (keys(run(*one)) == keys(run(*other))) == (one == other)


def test_a_key_holds_all_below_it() -> None:
    a, b = keys(run("a"), run("c")), keys(run("b"), run("c"))
    assert a[0] == b[0]
    assert a[1] != b[1]
    assert a[2] != b[2]


def test_same_words_in_another_step_are_another_layer() -> None:
    assert keys(Step("apt_install", {"packages": ["jq"]}))[-1] != keys(Step("pip_install", {"packages": ["jq"]}))[-1]


def test_boundaries_between_words_count() -> None:
    assert keys(run("ab", "c")) != keys(run("a", "bc"))


def test_metadata_steps_have_no_layer_but_reach_later_commands() -> None:
    assert keys(env(A="1")) == keys()
    assert keys(env(A="1"), run("x"))[-1] != keys(run("x"))[-1]
    assert keys(Step("workdir", {"path": "/srv"}), run("x"))[-1] != keys(run("x"))[-1]
    assert keys(Step("shell", {"argv": ["/bin/bash", "-c"]}), run("x"))[-1] != keys(run("x"))[-1]
    # Two ways to say the same.
    assert keys(env(A="1"), env(B="2"), run("x")) == keys(env(B="2", A="1"), run("x"))


def test_files_are_not_touched_by_the_environment() -> None:
    place = Step("add_local_file", {}, (SourceFile("/a", "0" * 64, 1),))
    assert keys(env(A="1"), place) == keys(place)


def test_image_id_follows_metadata_and_layers() -> None:
    ids = [
        plan(ImageSpec((BASE, *steps))).id
        for steps in ((), (env(A="1"),), (env(A="2"),), (Step("workdir", {"path": "/x"}),), (run("x"),), (Step("cmd", {"argv": ["x"]}),))
    ]
    assert len(set(ids)) == len(ids)
    assert ids[0] == plan(ImageSpec((BASE,))).id


def test_content_and_place_of_files_decide_not_their_local_names_or_order() -> None:
    a, b = SourceFile("/root/a.py", "a" * 64, 1), SourceFile("/root/b.py", "b" * 64, 1)
    one = keys(Step("add_local_dir", {}, (a, b)))
    assert one == keys(Step("add_local_dir", {"local_path": "/home/me/src"}, (b, a)))
    assert one != keys(Step("add_local_dir", {}, (a,)))
    assert one != keys(Step("add_local_dir", {}, (a, SourceFile("/root/c.py", "b" * 64, 1))))
    assert one != keys(Step("add_local_dir", {}, (a, SourceFile("/root/b.py", "c" * 64, 1))))
    assert one != keys(Step("add_local_dir", {}, (a, SourceFile("/root/b.py", "b" * 64, 1, executable=True))))


def test_requirements_count_by_content() -> None:
    def step(name: str, digest: str) -> Step:
        return Step("pip_install_from_requirements", {"requirements_txt": name}, (SourceFile(name, digest, 1),))

    assert keys(step("/home/a/r.txt", "a" * 64)) == keys(step("/home/b/other.txt", "a" * 64))
    assert keys(step("/r.txt", "a" * 64)) != keys(step("/r.txt", "b" * 64))


def test_which_secrets_a_step_has_is_in_its_key_and_those_above() -> None:
    def step(*names: str) -> Step:
        return Step("run_commands", {"commands": ["x"]}, secrets=names)

    found = {keys(each, run("y")) for each in (step(), step("main/a"), step("main/b"), step("main/a", "main/b"))}
    assert len({layers[1] for layers in found}) == len({layers[2] for layers in found}) == 4
    assert keys(step("main/a")) == keys(step("main/a"))


def test_options_not_given_are_as_absent() -> None:
    # What the SDK sends for defaults may grow by a version; images must not be built again for it.
    sparse = Step("pip_install", {"packages": ["numpy"]})
    full = Step("pip_install", {"packages": ["numpy"], "find_links": None, "index_url": None, "extra_index_url": None, "pre": False, "extra_options": ""})
    assert keys(sparse) == keys(full)


def test_force_makes_this_layer_and_all_above_anew() -> None:
    steps = (BASE, run("a"), Step("run_commands", {"commands": ["b"]}, force=True), run("c"))
    normal = plan(ImageSpec(steps)).layers
    forced = plan(ImageSpec(steps), fresh=lambda key: "nonce").layers
    assert [a.key == b.key for a, b in zip(normal, forced, strict=True)] == [True, True, False, False]


def test_epoch_is_part_of_every_key(monkeypatch: pytest.MonkeyPatch) -> None:
    before = keys(run("x"))
    monkeypatch.setattr("squall.images.recipe.EPOCH", EPOCH + 1)
    assert not set(before) & set(keys(run("x")))


@pytest.mark.parametrize(
    ("steps", "error", "words"),
    [
        ((), InvalidError, "begins with a base"),
        ((run("x"),), InvalidError, "begins with a base"),
        ((Step("from_moon", {"tag": "x"}),), UnsupportedError, "from_moon"),
        ((BASE, Step("moon_install", {})), UnsupportedError, "step 2 of the image, moon_install"),
        ((Step("from_registry", {"tag": "Big/Name"}),), InvalidError, "lower case"),
        ((Step("from_registry", {"tag": "a b"}),), InvalidError, "not the name"),
        ((BASE, Step("add_python", {"version": "three"})), InvalidError, "form"),
        ((BASE, Step("pip_install_private_repos", {"repositories": ["--x"], "git_user": "u"})), InvalidError, "github.com/owner"),
        ((BASE, Step("uv_sync", {})), InvalidError, "no pyproject.toml"),
        ((BASE, Step("poetry_install_from_file", {})), InvalidError, "no poetry.lock"),
        ((BASE, BASE), InvalidError, "can only be the first"),
        ((Step("debian_slim", {"python_version": "2.7"}),), InvalidError, "form"),
        ((BASE, Step("apt_install", {"packages": ["--allow-unauthenticated"]})), InvalidError, "allow-unauthenticated"),
        ((BASE, Step("apt_install", {"packages": ["jq; rm -rf /"]})), InvalidError, "not the name"),
        ((BASE, Step("pip_install", {"packages": ["--index-url=http://x"]})), InvalidError, "extra_options"),
        ((BASE, Step("pip_install", {"packages": 7})), InvalidError, "packages must be strings"),
        ((BASE, Step("run_commands", {"commands": ["x"], "volumes": {"/v": "v"}})), UnsupportedError, "volumes"),
        ((BASE, Step("env", {"vars": {"A=B": "1"}})), InvalidError, "A=B"),
        ((BASE, Step("pip_install_from_requirements", {})), InvalidError, "missing"),
    ],
)
def test_refused(steps: tuple[Step, ...], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        plan(ImageSpec(steps))


def test_packages_keep_their_words() -> None:
    package = "numpy>=1.26,<3; python_version > '3.8'"
    action = plan(ImageSpec((BASE, Step("pip_install", {"packages": ["a", [package]]})))).layers[-1].action
    assert isinstance(action, Command)
    assert action.argv[-3:] == ("--", "a", package)


def test_the_gpus_that_a_step_sees_are_in_its_key() -> None:
    """Those that a Dockerfile's step names are those of its RUN lines."""
    found = {str(keys(Step("run_commands", {"commands": ["x"], "gpu": gpus}))) for gpus in (["A100"], ["A100:2"], ["A100", "T4"])} | {str(keys(run("x")))}
    assert len(found) == 4
    lines = expand(ImageSpec((BASE, Step("dockerfile_commands", {"commands": ["RUN x", "WORKDIR /y"], "gpu": ["T4"]}))), no_names).steps
    assert [step.args.get("gpu") for step in lines] == [None, ["T4"], None]


def test_recipes_of_tools_that_are_not_here() -> None:
    """What can't be run here is at least asked for rightly."""
    micromamba = ImageSpec((Step("micromamba", {"python_version": "3.12", "tag": "docker.io/mambaorg/micromamba:1.5.8-bookworm-slim"}),))
    spec = expand(micromamba, no_names)
    more = Step("micromamba_install", {"packages": ["scipy"], "channels": ["conda-forge"]}, (SourceFile("/spec.yml", "ab" * 32, 1),))
    base, first, second = plan(ImageSpec((*spec.steps, more))).layers
    assert isinstance(base.action, RegistryBase)
    assert isinstance(first.action, Command)
    assert isinstance(second.action, Command)
    assert first.action.argv == ("micromamba", "install", "--yes", "--name", "base", "python=3.12", "pip", "--channel=conda-forge")
    assert second.action.argv[-4:] == ("scipy", "--channel=conda-forge", "--file", "{files}/spec.yml")
    assert resolve_env(second.metadata.env, {"PATH": "/usr/bin"})["PATH"] == "/opt/conda/bin:/usr/bin"
    lock = (SourceFile("/pyproject.toml", "ab" * 32, 1), SourceFile("/poetry.lock", "cd" * 32, 1))
    poetry = plan(ImageSpec((BASE, Step("poetry_install_from_file", {"with": ["dev", "docs"], "poetry_version": "2.1.0"}, lock)))).layers[-1].action
    assert isinstance(poetry, Command)
    assert poetry.argv[-4:] == ("{files}", "poetry==2.1.0", "--with", "dev,docs")
    assert {file.path for file in poetry.files} == {"pyproject.toml", "poetry.lock"}


def test_a_step_of_a_dockerfile_has_the_key_of_the_same_step_elsewhere() -> None:
    lines = Step("dockerfile_commands", {"commands": ["ENV A=1", "RUN echo x"]})
    again = Step("dockerfile_commands", {"commands": ["# a comment", "ENV A='1'", "", "RUN echo x"]})
    first, second = (plan(expand(ImageSpec((BASE, step)), no_names)) for step in (lines, again))
    assert [layer.key for layer in first.layers] == [layer.key for layer in second.layers]
    assert first.layers[-1].title == "RUN echo x"


def test_a_recipe_without_anything_to_expand_stays_the_same_object() -> None:
    spec = ImageSpec((BASE, run("x")))
    assert expand(spec, no_names) is spec
