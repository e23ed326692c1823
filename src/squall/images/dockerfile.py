"""What the instructions of a Dockerfile mean: each becomes a step of a recipe, so that all of Squall's cache, isolation and explanations hold for it.

RUN lines run as the mapped root in a container of their own, as `run_commands` do; no other builder takes part. Base images come by `registry.py`.
"""

import fnmatch
import posixpath
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from squall.images.recipe import Command, Copy, Meaning, Metadata, kind
from squall.images.registry import architecture
from squall.model.errors import InvalidError, UnsupportedError
from squall.model.specs import ImageSpec, SourceFile, Step
from squall.sdk.image.dockerfile import Instruction, assignments, is_remote, parse, substitute

#: Where the SDK puts the files of a build context, so that they are told from other files of a step.
CONTEXT = "/.squall/context/"

#: Stands in a value for a variable of the base image, which is not known before the base is there.
_BASE_VARIABLE = re.compile("\x01([^\x01]*)\x01")
_DEFERRED = "\x01{}\x01"

#: ARGs that are there without being declared (docs.docker.com/reference/dockerfile, "Predefined ARGs").
_PREDEFINED = frozenset(name for word in ("HTTP_PROXY", "HTTPS_PROXY", "FTP_PROXY", "NO_PROXY", "ALL_PROXY") for name in (word, word.lower()))


@dataclass(slots=True)
class _Stage:
    """A stage while it is read. `steps` begin with its base."""

    name: str
    steps: list[Step]
    arguments: dict[str, str] = field(default_factory=dict)
    env: dict[str, str] = field(default_factory=dict)
    user: str = ""
    workdir: str = ""  #: empty: as the base image has it
    shell: tuple[str, ...] = ("/bin/sh", "-c")

    @property
    def variables(self) -> dict[str, str]:
        return {**self.arguments, **self.env}


def steps_of_dockerfile(
    text: str, files: Sequence[SourceFile], build_args: Mapping[str, str], *, secrets: tuple[str, ...] = (), force: bool = False, target: str | None = None
) -> list[Step]:
    """The steps of a whole Dockerfile: of its last stage, or of `target`. Other stages hang on the steps that copy from them.

    Raises:
        InvalidError: it is no Dockerfile; the message has the line.
        UnsupportedError: it uses what is not built.
    """
    instructions = parse(text)
    begin = next((number for number, each in enumerate(instructions) if each.name != "ARG"), len(instructions))
    if begin == len(instructions) or instructions[begin].name != "FROM":
        raise InvalidError("the Dockerfile does not begin with FROM")
    globals_ = _platform()
    for each in instructions[:begin]:
        _argument(each, build_args, {}, globals_)
    stages: list[_Stage] = []
    reader = _Reader(tuple(files), build_args, globals_, stages, secrets, force)
    for each in instructions[begin:]:
        reader.read(each)
    if target is None:
        return stages[-1].steps
    found = _stage(stages, target)
    if found is None:
        raise InvalidError(f"the Dockerfile has no stage {target!r}; it has {', '.join(stage.name or str(n) for n, stage in enumerate(stages))}")
    return found.steps


def steps_of_commands(
    commands: Sequence[str],
    files: Sequence[SourceFile],
    build_args: Mapping[str, str],
    *,
    secrets: tuple[str, ...],
    force: bool,
    workdir: str,
    env: Mapping[str, str],
) -> list[Step]:
    """The steps of lines that go on from an image (`dockerfile_commands`).

    Raises:
        InvalidError, UnsupportedError: as above; FROM is not allowed here.
    """
    instructions = parse("\n".join(commands), name="dockerfile_commands")
    stage = _Stage("", [], env=dict(env), workdir=workdir)
    reader = _Reader(tuple(files), build_args, _platform(), [stage], secrets, force)
    for each in instructions:
        if each.name == "FROM":
            raise InvalidError("dockerfile_commands: FROM can't be used here; the image is the base. A whole Dockerfile goes to Image.from_dockerfile")
        reader.read(each)
    return stage.steps


class _Reader:
    """Reads instructions one by one into stages."""

    def __init__(
        self,
        files: tuple[SourceFile, ...],
        build_args: Mapping[str, str],
        globals_: dict[str, str],
        stages: list[_Stage],
        secrets: tuple[str, ...],
        force: bool,
    ) -> None:
        self._files = {file.path.removeprefix(CONTEXT): file for file in files}
        self._build_args, self._globals, self._stages = build_args, globals_, stages
        self._secrets, self._force = secrets, force

    def read(self, each: Instruction) -> None:
        if each.name == "FROM":
            self._from(each)
            return
        stage = self._stages[-1]
        match each.name:
            case "ARG":
                _argument(each, self._build_args, self._globals, stage.arguments, stage.variables)
            case "ENV":
                before = stage.variables
                pairs = {name: substitute(value, before, unknown=_DEFERRED) for name, value in assignments(each)}
                stage.env |= pairs
                self._add(stage, each, "env", {"vars": pairs})
            case "WORKDIR":
                path = substitute(_unquoted(each.text), stage.variables)
                stage.workdir = posixpath.normpath(posixpath.join(stage.workdir, path))
                self._add(stage, each, "workdir", {"path": stage.workdir})
            case "USER":
                stage.user = substitute(each.text.strip(), stage.variables)
            case "SHELL":
                assert each.words is not None
                stage.shell = each.words
                self._add(stage, each, "shell", {"argv": list(each.words)})
            case "CMD" | "ENTRYPOINT":
                words = list(each.words) if each.words is not None else [*stage.shell, each.text] if each.text else []
                self._add(stage, each, each.name.lower(), {"argv": words})
            case "RUN":
                self._run(stage, each)
            case "COPY" | "ADD":
                self._copy(stage, each)
            case "ONBUILD":
                raise UnsupportedError(f"Dockerfile line {each.line}: ONBUILD is not supported")
            case _:
                pass  # LABEL, EXPOSE, VOLUME, HEALTHCHECK, STOPSIGNAL and MAINTAINER change nothing for a function

    def _from(self, each: Instruction) -> None:
        words = each.text.split()
        if len(words) not in (1, 3) or (len(words) == 3 and words[1].upper() != "AS"):
            raise InvalidError(f"Dockerfile line {each.line}: FROM takes an image, and AS with a name: {each.text!r}")
        image = substitute(_unquoted(words[0]), self._globals)
        if not image:
            raise InvalidError(f"Dockerfile line {each.line}: FROM {words[0]} names no image; is a build argument missing?")
        base = _stage(self._stages, image)
        name = words[2].lower() if len(words) == 3 else ""
        if base is not None:
            self._stages.append(_Stage(name, list(base.steps), {}, dict(base.env), base.user, base.workdir, base.shell))
        elif image == "scratch":
            self._stages.append(_Stage(name, [Step("from_scratch")]))
        else:
            first = Step("from_registry", {"tag": image}, secrets=self._registry_secrets, force=self._force)
            self._stages.append(_Stage(name, [first]))

    @property
    def _registry_secrets(self) -> tuple[str, ...]:
        return tuple(name for name in self._secrets if name.startswith(("REGISTRY_", "AWS_", "SERVICE_ACCOUNT_", "st-")) or "/" in name)

    def _run(self, stage: _Stage, each: Instruction) -> None:
        network = True
        binds, files = self._mounts(stage, each)
        for name, value in each.flags:
            if name == "mount":
                continue
            if name in ("network", "security") and value in ("default", "sandbox"):
                continue
            if name == "network" and value == "none":
                network = False
                continue
            raise UnsupportedError(f"Dockerfile line {each.line}: RUN --{name}={value} is not supported")
        if each.words is not None:
            argv = list(each.words)
        elif each.documents and each.text.split()[0].startswith("<<"):
            body = each.documents[0][1]
            first, _, rest = body.partition("\n")
            if first.startswith("#!"):
                argv = ["/bin/sh", "-c", 'f=$(mktemp) && printf %s "$1" > "$f" && chmod 755 "$f" && "$f"; s=$?; rm -f "$f"; exit $s', "RUN", body]
            else:
                argv = [*stage.shell, body]
        elif each.documents:
            argv = [*stage.shell, each.text + "\n" + "".join(f"{body}{name}\n" for name, body in each.documents)]
        else:
            argv = [*stage.shell, each.text]
        env = {name: value for name, value in stage.arguments.items() if name not in stage.env and name not in _PREDEFINED}
        self._add(stage, each, "RUN", {"argv": argv, "env": env, "user": stage.user, "network": network, "binds": binds}, files=files, secrets=self._secrets)

    def _mounts(self, stage: _Stage, each: Instruction) -> tuple[list[list[str]], tuple[SourceFile, ...]]:
        """What is mounted while a RUN line runs, as `Command.binds`, and the files of the context in it. Secrets are in the environment."""
        binds: list[list[str]] = []
        files: list[SourceFile] = []
        for options in each.mounts():
            options = {name: substitute(value, stage.variables) for name, value in options.items()}
            what, target = options.get("type", "bind"), options.get("target") or options.get("dst") or options.get("destination") or ""
            if what == "secret":
                continue
            if what not in ("bind", "cache", "tmpfs") or "from" in options:
                raise UnsupportedError(f"Dockerfile line {each.line}: RUN --mount of type {what}{' with from=' * ('from' in options)} is not supported")
            if not target:
                raise InvalidError(f"Dockerfile line {each.line}: RUN --mount needs a target")
            if what == "bind":
                taken, whole = self._match(options.get("source") or options.get("src") or ".", each)
                folder = f"mount-{len(binds)}"
                files += [_at(file, f"{folder}/{file.path}") for file in taken]
                binds.append([what, target, folder if whole or len(taken) > 1 else files[-1].path])
            else:
                binds.append([what, target, options.get("id") or target])
        return binds, tuple(files)

    def _copy(self, stage: _Stage, each: Instruction) -> None:
        variables = stage.variables
        *sources, target = [substitute(_unquoted(word), variables) for word in each.arguments()]
        directory: bool | None = True if target.endswith(("/", "/.")) or target in (".", "..") else None
        target = posixpath.normpath(posixpath.join(stage.workdir, target))
        args: dict[str, Any] = {
            "target": target, "directory": directory, "owner": substitute(each.flag("chown") or "", variables), "mode": each.flag("chmod") or "",
            "unpack": each.name == "ADD",
        }  # fmt: skip
        origin = each.flag("from")
        if origin is not None:
            origin = substitute(origin, {**self._globals, **variables})
            found = _stage(self._stages[:-1], origin)
            inner = found.steps if found is not None else [Step("from_registry", {"tag": origin}, secrets=self._registry_secrets, force=self._force)]
            args |= {"sources": sources, "stage": [_plain(step) for step in inner], "unpack": False, "directory": True if len(sources) > 1 else directory}
            self._add(stage, each, "COPY", args, files=tuple(file for step in inner for file in step.files))
            return
        documents = {f"<<{name}": (name, body) for name, body in each.documents}
        files: list[SourceFile] = []
        many = False
        for source in sources:
            if (document := documents.get(re.sub("[-'\"]", "", source))) is not None:
                name, body = document
                text = body if name in each.quoted else substitute(body, variables, unknown=None)
                args.setdefault("texts", {})[name] = text
            elif is_remote(source):
                if each.name != "ADD" or not source.startswith("http"):
                    raise UnsupportedError(f"Dockerfile line {each.line}: {source} can't be added; only http and https addresses can")
                if len(sources) > 1:
                    raise UnsupportedError(f"Dockerfile line {each.line}: ADD of an address takes nothing else beside it")
                args |= {"url": source, "checksum": each.flag("checksum") or ""}
            else:
                taken, whole = self._match(source, each)
                files += taken
                many = many or whole or len(taken) > 1
        if many or len(sources) > 1:
            args["directory"] = True
        self._add(stage, each, each.name, args, files=tuple(files))

    def _match(self, source: str, each: Instruction) -> tuple[list[SourceFile], bool]:
        """Files of the context that `source` means, with paths relative to the target; whether it means a directory's content."""
        pattern = posixpath.normpath(source.lstrip("/")) if source.strip("/") else "."
        if pattern.startswith(".."):
            raise InvalidError(f"Dockerfile line {each.line}: {source!r} lies outside the build context")
        if pattern == ".":
            return [_at(file, path) for path, file in self._files.items()], True
        if (file := self._files.get(pattern)) is not None:
            return [_at(file, posixpath.basename(pattern))], False
        found: dict[str, SourceFile] = {}
        whole = False
        expression = re.compile("/".join(fnmatch.translate(part)[4:-3].replace(".*", "[^/]*") for part in pattern.split("/")), re.DOTALL)
        for path, file in self._files.items():
            match = expression.match(path)
            if match is None or (match.end() < len(path) and path[match.end()] != "/"):
                continue
            if match.end() == len(path):
                found[posixpath.basename(path)] = file
            else:
                whole = True  # a directory: its content is copied, not itself
                found[path[match.end() + 1 :]] = file
        if not found:
            raise InvalidError(f"Dockerfile line {each.line}: {each.name} {source}: there is no such file in the build context, or .dockerignore leaves it out")
        return [_at(file, path) for path, file in found.items()], whole

    def _add(
        self, stage: _Stage, each: Instruction, kind: str, args: dict[str, Any], *, files: tuple[SourceFile, ...] = (), secrets: tuple[str, ...] = ()
    ) -> None:
        stage.steps.append(Step(kind, {**args, "title": each.title}, files, secrets, self._force))


# --- the kinds of steps that only Dockerfiles have --------------------------------------------------------------------------------------


@kind("RUN")
def run(step: Step, metadata: Metadata) -> Meaning:
    argv, env, user = list(step.args["argv"]), dict(step.args["env"]), step.args["user"]
    if user and user.partition(":")[0] not in ("root", "0"):
        script = (
            'user=$1; shift; case $user in *:*) group=${user#*:}; user=${user%%:*};; *) group=$(id -g "$user" 2>/dev/null || echo "$user");; esac; '
            'exec setpriv --reuid="$user" --regid="$group" --clear-groups -- "$@"'
        )
        argv = ["/bin/sh", "-c", script, "USER", user, *argv]
    binds = tuple(tuple(bind) for bind in step.args.get("binds", ()))
    return Meaning(step.args["title"], metadata, Command(tuple(argv), env, files=step.files, home="/", network=step.args.get("network", True), binds=binds))


@kind("COPY")
@kind("ADD")
def copy(step: Step, metadata: Metadata) -> Meaning:
    args = step.args
    mode = args["mode"]
    if mode and not re.fullmatch(r"[0-7]{3,5}", mode):
        raise UnsupportedError(f"{args['title']}: --chmod takes an octal number, not {mode!r}")
    stage = ImageSpec(tuple(_step(plain) for plain in args["stage"])) if "stage" in args else None
    files = () if stage is not None else tuple(sorted(step.files, key=lambda file: file.path))
    action = Copy(
        args["target"], args["directory"], files, tuple(args.get("sources", ())), (), args["owner"], int(mode, 8) if mode else None,
        bool(args["unpack"]), args.get("url", ""), args.get("checksum", ""), tuple(sorted(args.get("texts", {}).items())),
    )  # fmt: skip
    return Meaning(args["title"], metadata, action, stage)


def resolve_env(values: Mapping[str, str], base: Mapping[str, str]) -> dict[str, str]:
    """`values` over `base`, with the variables of the base image filled in where a Dockerfile named them."""
    return {**base, **{name: _BASE_VARIABLE.sub(lambda match: base.get(match[1], ""), value) for name, value in values.items()}}


def _argument(
    each: Instruction, given: Mapping[str, str], inherited: Mapping[str, str], arguments: dict[str, str], known: Mapping[str, str] | None = None
) -> None:
    known = arguments if known is None else known
    try:
        words = shlex.split(each.text)
    except ValueError as error:
        raise InvalidError(f"Dockerfile line {each.line}: ARG: {str(error).lower()}") from error
    for word in words:
        name, equals, default = word.partition("=")
        if name in given:
            arguments[name] = given[name]
        elif equals:
            arguments[name] = substitute(default, known)
        elif name in inherited:
            arguments[name] = inherited[name]


def _platform() -> dict[str, str]:
    """ARGs about the machine that is built on and for, which are the same here (docs.docker.com/reference/dockerfile, "global scope")."""
    machine = architecture()
    found = {"PLATFORM": f"linux/{machine}", "OS": "linux", "ARCH": machine, "VARIANT": ""}
    return {f"{side}{name}": value for side in ("TARGET", "BUILD") for name, value in found.items()}


def _stage(stages: Sequence[_Stage], name: str) -> _Stage | None:
    named = next((stage for stage in reversed(stages) if stage.name and stage.name == name.lower()), None)
    if named is None and name.isdigit() and int(name) < len(stages):
        return stages[int(name)]
    return named


def _unquoted(text: str) -> str:
    text = text.strip()
    return text[1:-1] if len(text) > 1 and text[0] == text[-1] and text[0] in "'\"" else text


def _at(file: SourceFile, path: str) -> SourceFile:
    return SourceFile(path, file.digest, file.size, file.executable)


def _plain(step: Step) -> dict[str, Any]:
    """A step as a value within another step's arguments. Its files are the outer step's, too, but keep their places here."""
    files = [[file.path, file.digest, file.size, file.executable] for file in step.files]
    return {"kind": step.kind, "args": step.args, "files": files, "secrets": list(step.secrets), "force": step.force}


def _step(plain: Mapping[str, Any]) -> Step:
    files = tuple(SourceFile(*file) for file in plain["files"])
    return Step(plain["kind"], plain["args"], files, tuple(plain["secrets"]), plain["force"])
