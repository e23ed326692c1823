"""Rules of this repository that no linter knows. Each names what to do instead; each is shown to bite."""

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src" / "squall"


def tracked(*suffixes: str) -> list[Path]:
    """Files of the repository with one of these suffixes (none: all): tracked ones, and new ones that git does not ignore."""
    listing = subprocess.run(["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    paths = [ROOT / line for line in listing.splitlines()]
    return [path for path in paths if path.is_file() and (not suffixes or path.suffix in suffixes)]


def modules() -> list[Path]:
    return sorted(SOURCE.rglob("*.py"))


def room(path: Path) -> str:
    return path.relative_to(SOURCE).parts[0]


# --- footguns in the product -------------------------------------------------------------------------------------------------

#: Called name -> what to write instead.
BANNED_CALLS = {
    "os.system": "subprocess with a list of arguments",
    "os.popen": "subprocess with a list of arguments",
    "tempfile.mktemp": "tempfile.mkdtemp: a name alone can be taken by another process",
    "asyncio.get_event_loop": "asyncio.get_running_loop, or asyncio.run at the top",
    "pickle.load": "squall.sdk.values or the runner's loader: unpickling belongs where the user's own data is",
    "eval": "ast.literal_eval, or a parser",
    "signal.pause": "an awaitable event",
}
#: These rooms decide or describe: time, randomness and ids are passed in to them.
PURE_ROOMS = {"model", "core", "store"}
IMPURE_CALLS = {"time.time", "time.monotonic", "time.time_ns", "uuid.uuid4", "uuid.uuid1", "os.urandom", "secrets.token_bytes", "random.random", "datetime.now"}


def calls(tree: ast.AST) -> Iterator[tuple[int, str]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield node.lineno, ast.unparse(node.func)


def offences(text: str, where: str, *, pure: bool) -> list[str]:
    """What in a module breaks the rules, one sentence each."""
    tree = ast.parse(text)
    found = [f"{where}:{line} calls {name}: use {BANNED_CALLS[name]}" for line, name in calls(tree) if name in BANNED_CALLS]
    if pure:
        found += [f"{where}:{line} calls {name}: take it as an argument" for line, name in calls(tree) if name in IMPURE_CALLS]
    if text.strip() and ast.get_docstring(tree) is None:
        found.append(f"{where}:1 does not say in a sentence what it is for")
    for node in ast.walk(tree):
        if isinstance(node, ast.ExceptHandler) and node.type is None:
            found.append(f"{where}:{node.lineno} catches everything: name what is expected")
        if isinstance(node, ast.Call) and any(
            word.arg == "shell" and isinstance(word.value, ast.Constant) and word.value.value is True for word in node.keywords
        ):
            found.append(f"{where}:{node.lineno} gives a string to a shell: use a list of arguments")
    return found


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(SOURCE)))
def test_a_module_keeps_the_rules(path: Path) -> None:
    assert offences(path.read_text(), str(path.relative_to(ROOT)), pure=room(path) in PURE_ROOMS) == []


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ('"""Doc."""\nimport os\nos.system("ls")', "os.system"),
        ('"""Doc."""\nimport time\nnow = time.time()', "take it as an argument"),
        ("x = 1", "what it is for"),
        ('"""Doc."""\ntry:\n    pass\nexcept:\n    pass', "catches everything"),
        ('"""Doc."""\nrun("ls", shell=True)', "to a shell"),
    ],
)
def test_the_rules_bite(text: str, complaint: str) -> None:
    assert [complaint in offence for offence in offences(text, "planted.py", pure=True)] == [True]


# --- dependencies ------------------------------------------------------------------------------------------------------------


#: What still looks at processes in control; it is to go to the agent.
LOOKS_AT_PROCESSES = {"objects/working_copies.py", "objects/buckets.py"}


def test_control_reads_nothing_of_processes() -> None:
    """Containers may be on another machine: what is known of their processes comes from their agent."""
    found = set()
    for path in (SOURCE / "control").rglob("*.py"):
        strings = [node.value for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Constant) and isinstance(node.value, str)]
        if any(text.startswith("/proc") or "=/proc/" in text for text in strings):
            found.add(str(path.relative_to(SOURCE / "control")))
    assert found == LOOKS_AT_PROCESSES


def test_the_lock_has_a_hash_for_everything_and_no_address() -> None:
    text = (ROOT / "requirements.lock").read_text()
    assert "://" not in text
    assert not re.search(r"^\s*-(-index|-extra|-find|i\s|f\s)", text, re.MULTILINE)
    entries = re.split(r"\n(?=\S)", text.strip())
    assert [entry for entry in entries if "--hash=sha256:" not in entry] == []
    assert [entry for entry in entries if not re.match(r"^[A-Za-z0-9._-]+==[0-9][A-Za-z0-9.]* ", entry)] == []


def declared() -> set[str]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    everything = [*project["dependencies"], *(name for extra in project["optional-dependencies"].values() for name in extra)]
    return {re.split(r"[<>=!~\[; ]", name)[0].lower() for name in everything}


def test_every_declared_dependency_is_locked() -> None:
    locked = {line.split("==")[0].lower() for line in (ROOT / "requirements.lock").read_text().splitlines() if "==" in line}
    assert declared() - locked == set()


def test_the_product_imports_only_what_it_declares() -> None:
    known = declared() | sys.stdlib_module_names | {"squall", "uv"}
    foreign = set()
    for path in modules():
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            if isinstance(node, ast.ImportFrom) and node.level:
                continue
            foreign |= {f"{path.relative_to(ROOT)}: {name}" for name in names if name.split(".")[0] not in known}
    # Peers and the user's own libraries may be looked for, never needed.
    assert {entry for entry in foreign if entry.split(": ")[1].split(".")[0] not in {"numpy", "torch", "IPython", "fastapi"}} == set()


def test_every_dependency_has_its_reason() -> None:
    reasons = (ROOT / "ARCHITECTURE.md").read_text()
    assert {name for name in declared() if f"`{name}`" not in reasons} == set()


# --- the repository ----------------------------------------------------------------------------------------------------------


def test_no_index_is_hard_wired() -> None:
    wired = re.compile(r"(?:index[-_]url|find[-_]links|trusted[-_]host)\S*[\"' =,]+https?://(?![a-z.]*example\b)[a-z0-9-]+\.[a-z]", re.IGNORECASE)
    hits = [str(path.relative_to(ROOT)) for path in tracked() if path.suffix not in {".png"} and wired.search(path.read_text(errors="ignore"))]
    assert hits == []
    assert wired.search("--index-url " + "https://packages.somewhere.net/simple")


def test_scripts_are_executable_and_strict() -> None:
    scripts = [*(ROOT / "scripts").iterdir(), ROOT / ".ci" / "run"]
    assert {"install", "demo", "test", "check", "bench"} <= {path.name for path in scripts}
    for path in scripts:
        text = path.read_text()
        assert path.stat().st_mode & 0o111, f"{path} is not executable"
        assert "set -euo pipefail" in text or not text.startswith("#!/bin/bash"), f"{path} goes on after an error"
        assert not re.search(r"\b(pkill|killall)\b", text), f"{path} kills by name; use the pid"


def test_links_between_documents_lead_somewhere() -> None:
    broken = []
    for path in tracked(".md"):
        for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", path.read_text()):
            if "://" not in target and not (path.parent / target).exists():
                broken.append(f"{path.relative_to(ROOT)} -> {target}")
    assert broken == []
