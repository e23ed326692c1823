"""What leaves the disk, and in which order; and how a miss is explained."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from squall.images import steps as _steps  # noqa: F401
from squall.images.catalog import ImageRecord
from squall.images.explain import INPUTS, encode, explain
from squall.images.layers import LayerInfo, LayerStore
from squall.images.prune import Removal, plan_prune
from squall.images.recipe import Plan, plan
from squall.model.ids import LayerKey
from squall.model.specs import ImageSpec, SourceFile, Step

#: Three images over one base; `loose` is the source of a function.
LAYERS = tuple(LayerInfo(key, "", key, kind, bytes=size) for key, kind, size in (
    ("base", "DebianBase", 100), ("a", "Command", 10), ("b", "Command", 20), ("c", "Command", 30), ("orphan", "Command", 5), ("loose", "source", 1),
))  # fmt: skip
RECORDS = tuple(ImageRecord(f"im-{name}", ("base", name), ()) for name in "abc")
USED: Mapping[str, float] = {"im-a": 100.0, "im-b": 200.0, "im-c": 300.0, "loose": 150.0}


def pruned(keep: str = "", **options: Any) -> Removal:
    return plan_prune(RECORDS, LAYERS, USED, keep={f"im-{name}" for name in keep}, keep_layers=options.pop("keep_layers", ()), now=1000.0, **options)


def test_all_that_can_go_goes() -> None:
    assert pruned() == Removal(("im-a", "im-b", "im-c"), tuple(map(LayerKey, ("orphan", "a", "loose", "b", "base", "c"))), 166)


def test_the_base_stays_as_long_as_one_needs_it() -> None:
    removal = pruned("b")
    assert removal.images == ("im-a", "im-c")
    assert set(removal.layers) == {"orphan", "a", "c", "loose"}


def test_age_counts_from_the_last_use_and_includes_its_bound() -> None:
    assert pruned(older_than_s=800.0).images == ("im-a", "im-b")
    assert pruned(older_than_s=800.5).images == ("im-a",)
    assert "loose" in pruned(older_than_s=850.0).layers
    assert "loose" not in pruned(older_than_s=850.5).layers


def test_a_budget_takes_the_longest_unused_and_stops_when_it_is_kept() -> None:
    assert pruned(budget_bytes=166) == Removal((), (), 0)
    assert pruned(budget_bytes=161).images == ()  # the orphan was enough
    assert pruned(budget_bytes=160).images == ("im-a",)
    assert pruned("a", budget_bytes=151).images == ("im-b",)
    assert pruned("abc", budget_bytes=0).images == ()


def test_layers_of_a_build_that_failed_stay_while_they_are_new() -> None:
    assert "orphan" in pruned(older_than_s=1000.0).layers
    used = {**USED, "orphan": 900.0}
    for options, goes in (({"older_than_s": 100.0}, True), ({"older_than_s": 100.5}, False), ({"budget_bytes": 160}, False), ({}, True)):
        assert ("orphan" in plan_prune(RECORDS, LAYERS, used, keep=(), keep_layers=(), now=1000.0, **options).layers) == goes  # type: ignore[arg-type]


def test_layers_of_containers_stay() -> None:
    assert {"a", "base", "orphan"}.isdisjoint(pruned(keep_layers={"a", "base", "orphan"}).layers)


BASE = Step("debian_slim", {"python_version": "3.11"})


def build(store: LayerStore, planned: Plan, number: int) -> None:
    """As if it were built: what is known about each layer, without the layer."""
    parent = ""
    for layer in planned.layers:
        home = store.root / layer.key
        if not home.exists():
            (home / "fs").mkdir(parents=True)
            info = LayerInfo(layer.key, parent, layer.title, type(layer.action).__name__, built_at=float(number))
            (home / "meta.json").write_bytes(msgspec.json.encode(info))
            (home / INPUTS).write_bytes(encode(layer))
        parent = layer.key


def reasons(tmp_path: Path, before: tuple[Step, ...], now: tuple[Step, ...]) -> list[str]:
    store = LayerStore(tmp_path / "layers")
    build(store, plan(ImageSpec((BASE, *before))), 1)
    return [each.reason for each in explain(plan(ImageSpec((BASE, *now))), store, store.all())]


def files(**contents: str) -> Step:
    made = tuple(SourceFile(f"/data/{name}", digest * 32, 1) for name, digest in contents.items())
    return Step("add_local_dir", {}, made)


def test_a_hit_needs_no_reason(tmp_path: Path) -> None:
    assert reasons(tmp_path, (files(a="aa"),), (files(a="aa"),)) == ["", ""]


def test_which_file_changed(tmp_path: Path) -> None:
    run = Step("run_commands", {"commands": ["x"]})
    assert reasons(tmp_path, (files(a="aa", b="bb"), run), (files(a="aa", b="cc"), run)) == ["", "file /data/b changed", "step 2 before it is built anew"]


def test_files_that_came_and_went(tmp_path: Path) -> None:
    assert reasons(tmp_path, (files(a="aa", b="bb"),), (files(a="aa", c="cc", d="dd"),)) == ["", "2 files: /data/c, /data/d are new; file /data/b is gone"]


def test_words_of_a_command_and_variables(tmp_path: Path) -> None:
    before = (Step("env", {"vars": {"A": "1"}}), Step("pip_install", {"packages": ["six"]}))
    now = (Step("env", {"vars": {"A": "2"}}), Step("pip_install", {"packages": ["six", "attrs"]}))
    assert reasons(tmp_path, before, now) == ["", "variable A changed; the command changed: +attrs"]


def test_nothing_like_it_was_built(tmp_path: Path) -> None:
    assert reasons(tmp_path, (), (Step("apt_install", {"packages": ["jq"]}),)) == ["", "never built here with this before it"]
    other, now = (Step("run_commands", {"commands": [command]}) for command in ("make -C /srv/project install", "curl https://example.org | sh"))
    assert reasons(tmp_path, (other,), (now,)) == ["", "never built here with this before it"]
