"""Every parameter of a public callable of the SDK is read in its body: one that is accepted and ignored is the worst defect there is.

This reads the source, so it also sees what is reached only through `Twin`, `Dual` and their kin, and the `.aio` halves.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import squall

SOURCE = Path(squall.__file__).parent
FILES = sorted([*(SOURCE / "sdk").rglob("*.py"), *(SOURCE / "compat").rglob("*.py")])

_LATE = {"shipment": "all of `steps.Late` are called alike, and this one ships nothing by itself"}

#: File and function -> parameter -> why its body need not read it.
ELSEWHERE: dict[tuple[str, str], dict[str, str]] = {
    ("sdk/app/decorators.py", "Partial.__call__"): {"kwargs": "every call is refused"},
    ("sdk/unsupported.py", "clustered"): dict.fromkeys(("size", "rdma"), "the app that has it is refused"),
    ("sdk/experimental.py", "clustered"): dict.fromkeys(("size", "broadcast", "rdma", "fabric_size"), "the app that has it is refused"),
    ("sdk/function/async_calls.py", "_Link.lost"): {"error": "of the protocol of links; why one was lost is told by what waits"},
    ("sdk/image/steps.py", "Refer.secrets"): {"secrets": "it is for those who want no references"},
    ("sdk/image/steps.py", "dockerfile.read"): _LATE,
    ("sdk/image/steps.py", "dockerfile_lines.read"): _LATE,
    ("sdk/image/steps.py", "pyproject.read"): _LATE,
    ("sdk/image/steps.py", "project_files.read"): _LATE,
    ("sdk/image/steps.py", "_Ready.collect"): _LATE,
    **{
        ("sdk/function/map.py", f"Many.{name}"): {"wrap_returned_exceptions": "it has no effect in the reference either, since 1.4"}
        for name in ("map", "starmap", "map_aio", "starmap_aio")
    },
}

Function = ast.FunctionDef | ast.AsyncFunctionDef


def functions(tree: ast.AST, prefix: str = "") -> Iterator[tuple[str, Function]]:
    """Those of a module, of its classes, and those inside others, which may be what a decorator returns."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            name = f"{prefix}{node.name}"
            if not isinstance(node, ast.ClassDef):
                yield name, node
            yield from functions(node, f"{name}.")
        else:
            yield from functions(node, prefix)


def parameters(node: Function) -> set[str]:
    args = node.args
    found = {one.arg for one in (*args.posonlyargs, *args.args, *args.kwonlyargs)}
    if args.kwarg is not None:
        found.add(args.kwarg.arg)
    return found - {"self", "cls"}


def is_stub(node: Function) -> bool:
    """A body that does nothing, or only raises: a protocol's method, an overload, a refusal of everything."""
    body = [one for one in node.body if not (isinstance(one, ast.Expr) and isinstance(one.value, ast.Constant))]
    return all(isinstance(one, ast.Raise | ast.Pass) for one in body)


def unread(node: Function) -> set[str]:
    if is_stub(node):
        return set()
    inside = [found for statement in node.body for found in ast.walk(statement)]
    if any(isinstance(one, ast.Call) and isinstance(one.func, ast.Name) and one.func.id == "locals" for one in inside):
        return set()  # all of them are handed on; `declare` has the tables of what refuses
    decorators = {one.id for one in node.decorator_list if isinstance(one, ast.Name)}
    by_decorator = {"client"} if decorators & {"Twin", "static"} else set()  # they find that one by its name: `squall.sdk.client.sync_async`
    read = by_decorator | {one.id for one in inside if isinstance(one, ast.Name) and isinstance(one.ctx, ast.Load)}
    return parameters(node) - read


def is_public(name: str) -> bool:
    return not any(part.startswith("__") and part != "__init__" and part != "__call__" for part in name.split("."))


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(SOURCE)))
def test_every_parameter_is_read(file: Path) -> None:
    place = str(file.relative_to(SOURCE))
    ignored = {
        name: sorted(left)
        for name, node in functions(ast.parse(file.read_text()))
        if is_public(name) and (left := unread(node) - ELSEWHERE.get((place, name), {}).keys())
    }
    assert not ignored, f"{place}: parameters that nothing reads: {ignored}; let them work, or refuse them by name"


def test_the_table_names_what_is_there() -> None:
    for (place, name), names in ELSEWHERE.items():
        (node,) = (node for found, node in functions(ast.parse((SOURCE / place).read_text())) if found == name)
        assert names.keys() == unread(node), f"{place}: {name}"


def test_a_parameter_that_is_ignored_is_found() -> None:
    tree = ast.parse("class C:\n    def f(self, a, b=1, **rest):\n        return a\n    def g(self, a): ...\n    def h(self, **o):\n        return locals()\n")
    assert {name: unread(node) for name, node in functions(tree)} == {"C.f": {"b", "rest"}, "C.g": set(), "C.h": set()}
