"""From the steps that a user wrote to the steps that are built: Dockerfiles become their instructions, names become the recipes behind them. Pure."""

from collections.abc import Callable
from typing import Any

from msgspec.structs import replace

from squall.images.dockerfile import steps_of_commands, steps_of_dockerfile
from squall.model.errors import InvalidError
from squall.model.specs import ImageSpec, Step

#: Finds the recipe of a published name, or of an image's id: (kind of step, its argument) -> recipe.
Known = Callable[[str, str], ImageSpec]

_EXPANDED = frozenset({"from_registry", "from_dockerfile", "dockerfile_commands", "from_id", "from_name", "micromamba"})


def expand(spec: ImageSpec, known: Known) -> ImageSpec:
    """The recipe in steps that each have at most one layer. The same recipe object where there is nothing to do.

    Raises:
        InvalidError, UnsupportedError: a Dockerfile is wrong, or uses what is not built.
        NotFoundError: an image that is named is not there.
    """
    if not any(step.kind in _EXPANDED for step in spec.steps):
        return spec
    steps: list[Step] = []
    for step in spec.steps:
        steps += _one(step, steps, known)
    return ImageSpec(tuple(steps))


def _one(step: Step, before: list[Step], known: Known) -> list[Step]:
    args = step.args
    match step.kind:
        case "from_id" | "from_name":
            # What is there already is not built again because its recipe once said so.
            recipe = expand(known(step.kind, args.get("image", "")), known)
            return [replace(each, force=False) for each in recipe.steps]
        case "from_dockerfile":
            found = steps_of_dockerfile(
                args.get("text", ""), step.files, args.get("build_args") or {}, secrets=step.secrets, force=step.force, target=args.get("target") or None
            )
            return [*_with_gpus(step, found), *_python(step)]
        case "dockerfile_commands":
            found = steps_of_commands(
                args.get("commands") or [], step.files, args.get("build_args") or {}, secrets=step.secrets, force=step.force, **_state(before)
            )
            return _with_gpus(step, found)
        case "from_registry":
            plain = Step("from_registry", {"tag": args.get("tag", "")}, (), step.secrets, step.force)
            commands = args.get("setup_dockerfile_commands") or []
            return [plain, *steps_of_commands(commands, (), {}, secrets=(), force=step.force, **_state([])), *_python(step)]
        case "micromamba":
            version = args.get("python_version") or ""
            base = Step("from_registry", {"tag": args.get("tag", "")}, (), (), step.force)
            # What activating the environment comes down to, so that every later step and function is in it.
            env = {"PATH": "/opt/conda/bin:\x01PATH\x01", "MAMBA_ROOT_PREFIX": "/opt/conda", "CONDA_PREFIX": "/opt/conda"}
            install = {"packages": [f"python={version}", "pip"], "channels": ["conda-forge"]}
            return [base, Step("env", {"vars": env}), Step("micromamba_install", install, force=step.force)]
        case _:
            return [step]


def _with_gpus(step: Step, lines: list[Step]) -> list[Step]:
    """The lines of a Dockerfile, its RUN lines with the GPUs of the whole step."""
    gpus = step.args.get("gpu")
    return [replace(line, args={**line.args, "gpu": gpus}) if line.kind == "RUN" else line for line in lines] if gpus else lines


def _python(step: Step) -> list[Step]:
    version = step.args.get("add_python")
    return [Step("add_python", {"version": version}, force=step.force)] if version else []


def _state(before: list[Step]) -> dict[str, Any]:
    env: dict[str, str] = {}
    workdir = ""
    for step in before:
        if step.kind == "env":
            env |= step.args.get("vars") or {}
        elif step.kind == "workdir":
            workdir = step.args.get("path") or ""
    return {"env": env, "workdir": workdir}


def no_names(kind: str, name: str) -> ImageSpec:
    """For those who know no images."""
    raise InvalidError(f"{kind} {name!r}: images can't be named here")
