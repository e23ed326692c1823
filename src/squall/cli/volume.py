"""`squall volume`: files of volumes, from outside."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Annotated, Any

import typer

from squall.cli.objects import AllowMissing, AsJson, Env, Yes, confirm, group, listed, moment, printable, size

volumes = group("Volumes: directories that containers share.")
Name = Annotated[str, typer.Argument(metavar="VOLUME")]
Recursive = Annotated[bool, typer.Option("--recursive", "-r", help="Directories with all that is in them.")]
Force = Annotated[bool, typer.Option("--force", "-f", help="Write over what is there.")]


@volumes.command("create")
def create(name: Name, env: Env = None) -> None:
    """Create a volume."""
    from squall.cli.talk import plain_errors, say
    from squall.sdk.volume import Volume

    with plain_errors():
        Volume.objects.create(name, environment_name=env)
        say(f'✓ volume {name} is there; use it with  volumes={{"/data": squall.Volume.from_name("{name}")}}')


@volumes.command("list")
def list_(env: Env = None, as_json: AsJson = False) -> None:
    """Volumes of an environment."""
    from squall.cli.listing import Column, age, short_id, show
    from squall.cli.talk import plain_errors

    columns = (
        Column("NAME", ("name",)),
        Column("AGE", ("created_at",), age),
        Column("MOUNTED BY", ("mounted_by",), ", ".join),
        Column("ID", ("id",), short_id),
    )
    with plain_errors():
        show(listed("volume", env), columns, as_json=as_json, empty="no volumes yet; make the first one with  squall volume create NAME")


@volumes.command("ls")
def ls(
    name: Name, path: Annotated[str, typer.Argument(metavar="[PATH]")] = "/", recursive: Recursive = False, as_json: AsJson = False, env: Env = None
) -> None:
    """What lies at a path."""
    from squall.cli.listing import Column, show
    from squall.cli.talk import plain_errors

    columns = (
        Column("NAME", ("path",), printable), Column("TYPE", ("type",)), Column("MODIFIED", ("modified_at",), moment), Column("SIZE", ("size_bytes",), size),
    )  # fmt: skip
    with plain_errors():
        found = [
            {"path": entry.path, "type": entry.type.name.lower(), "modified_at": entry.mtime, "size_bytes": entry.size}
            for entry in _volume(name, env).listdir(path, recursive=recursive)
        ]
        show(found, columns, as_json=as_json, empty=f"{printable(path)} is empty")


@volumes.command("put")
def put(
    name: Name,
    local: Annotated[Path, typer.Argument(metavar="LOCAL", help="A file or a directory; - is stdin.")],
    remote: Annotated[str, typer.Argument(metavar="[REMOTE]", help="Where; ending in / a directory to put it into.")] = "/",
    force: Force = False,
    env: Env = None,
) -> None:
    """Upload a file or a directory."""
    from squall.cli.talk import plain_errors, say
    from squall.model.errors import InvalidError
    from squall.sdk.twins import talk
    from squall.sdk.volume import VolumeUploadBatch

    with plain_errors():
        volume = _volume(name, env)
        batch = VolumeUploadBatch(volume, force)
        if str(local) == "-":
            batch.put_file(sys.stdin.buffer, remote)
        elif local.is_dir():
            batch.put_directory(local, f"{remote}{local.resolve().name}" if remote.endswith("/") else remote)
        elif local.exists():
            batch.put_file(local, remote)
        else:
            raise InvalidError(f"{str(local)!r} is not there")
        with _progress("uploading", len(batch._files)) as step:
            talk(volume.client, batch.upload(step))
        say(f"✓ {len(batch._files)} {'file is' if len(batch._files) == 1 else 'files are'} in volume {name}")


@volumes.command("get")
def get(
    name: Name,
    remote: Annotated[str, typer.Argument(metavar="REMOTE", help="A file or a directory.")],
    local: Annotated[Path, typer.Argument(metavar="[LOCAL]", help="Where to; - is stdout.")] = Path(),
    force: Force = False,
    env: Env = None,
) -> None:
    """Download a file or a directory."""
    from squall.cli.talk import plain_errors, say

    with plain_errors():
        volume = _volume(name, env)
        if str(local) == "-":
            for part in volume.read_file(remote):
                sys.stdout.buffer.write(part)
            return
        files = [(entry.path, target) for entry, target in _targets(volume, remote, local)]
        _refuse_existing([target for _, target in files], force)
        with _progress("downloading", len(files)) as step:
            done = 0
            for number, (path, target) in enumerate(files, 1):
                done += _download(volume, path, target)
                step(number, done)
        say(f"✓ {len(files)} {'file' if len(files) == 1 else 'files'}, {size(done)}")


@volumes.command("rm")
def rm(name: Name, path: Annotated[str, typer.Argument(metavar="PATH")], recursive: Recursive = False, env: Env = None) -> None:
    """Delete a file, or with -r a directory."""
    from squall.cli.talk import plain_errors

    with plain_errors():
        _volume(name, env).remove_file(path, recursive=recursive)


@volumes.command("cp")
def cp(name: Name, paths: Annotated[list[str], typer.Argument(metavar="FROM... TO")], recursive: Recursive = False, env: Env = None) -> None:
    """Copy within a volume."""
    from squall.cli.talk import plain_errors
    from squall.model.errors import InvalidError

    with plain_errors():
        if len(paths) < 2:
            raise InvalidError("say what to copy, and where to")
        _volume(name, env).copy_files(paths[:-1], paths[-1], recursive=recursive)


@volumes.command("du")
def du(name: Name, path: Annotated[str, typer.Argument(metavar="[PATH]")] = "/", as_json: AsJson = False, env: Env = None) -> None:
    """How much lies at a path."""
    from squall.cli.listing import show_one
    from squall.cli.talk import plain_errors

    with plain_errors():
        found = [entry for entry in _volume(name, env).listdir(path, recursive=True) if entry.type.name == "FILE"]
        show_one({"files": len(found), "bytes": sum(entry.size for entry in found)}, as_json=as_json)


@volumes.command("rename")
def rename(old: Annotated[str, typer.Argument(metavar="OLD")], new: Annotated[str, typer.Argument(metavar="NEW")], env: Env = None, yes: Yes = False) -> None:
    """Give a volume another name. Programs that name it have to be changed; apps that run keep it."""
    from squall.cli.talk import plain_errors, say
    from squall.sdk.volume import Volume

    with plain_errors():
        Volume.rename(old, new, environment_name=env)
        say(f"✓ volume {old} is {new} now")


@volumes.command("delete")
def delete(name: Name, env: Env = None, allow_missing: AllowMissing = False, yes: Yes = False) -> None:
    """Delete a volume with all its files."""
    from squall.cli.talk import plain_errors, say
    from squall.sdk.volume import Volume

    with plain_errors():
        confirm(f"Delete the volume {name} with all its files?", yes)
        Volume.objects.delete(name, allow_missing=allow_missing, environment_name=env)
        say(f"✓ volume {name} is deleted")


def _volume(name: str, env: str | None) -> Any:
    from squall.sdk.volume import Volume

    return Volume.from_name(name, environment_name=env)


def _targets(volume: Any, remote: str, local: Path) -> Iterator[tuple[Any, Path]]:
    """Files at `remote`, each with the place where it goes."""
    root = PurePosixPath(remote.strip("/"))
    entries = volume.listdir(remote, recursive=True)
    single = len(entries) == 1 and entries[0].path == str(root)
    for entry in entries:
        if entry.type.name == "FILE":
            below = PurePosixPath(entry.path).relative_to(root) if not single and str(root) != "." else PurePosixPath(entry.path)
            if single:
                yield entry, local / root.name if local.is_dir() else local
            else:
                yield entry, (local / root.name if local.is_dir() and root.name else local) / below


def _refuse_existing(targets: list[Path], force: bool) -> None:
    from squall.model.errors import AlreadyExistsError

    there = [] if force else [target for target in targets if os.path.lexists(target)]
    if there:
        raise AlreadyExistsError(f"{there[0]} is there already{f', and {len(there) - 1} others' if len(there) > 1 else ''}; --force writes over it")


def _download(volume: Any, path: str, target: Path) -> int:
    """Through a file beside it, so that a download that is cut leaves nothing that looks whole."""
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f".{target.name}.part")
    try:
        with part.open("wb") as file:
            count: int = volume.read_file_into_fileobj(path, file)
        os.replace(part, target)
        return count
    finally:
        part.unlink(missing_ok=True)


@contextmanager
def _progress(what: str, files: int) -> Iterator[Any]:
    """A bar on a terminal, nothing elsewhere."""
    if not sys.stderr.isatty() or files < 2:
        yield lambda number, done: None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=files)
        yield lambda number, done: bar.update(task, completed=number)
