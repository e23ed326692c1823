"""`squall volume`: files of volumes, from outside."""

import gc
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from squall.cli.commands.named_objects import AllowMissing, AsJson, Env, Yes, confirm, group, listed, moment, size

volumes = group("Volumes: directories that containers share.")
#: Of what the server calls them, in words.
_KINDS = {"dir": "directory", "link": "symlink"}
Name = Annotated[str, typer.Argument(metavar="VOLUME")]
Recursive = Annotated[bool, typer.Option("--recursive", "-r", help="Directories with all that is in them.")]
Force = Annotated[bool, typer.Option("--force", "-f", help="Write over what is there.")]


@volumes.command("create")
def create(
    name: Name,
    env: Env = None,
    quota: Annotated[str | None, typer.Option("--quota", metavar="SIZE", help="What it may hold, for example 10GiB; default: what the disk can.")] = None,
    version: Annotated[
        int | None, typer.Option("--version", metavar="1|2", help="Of Modal's two kinds; here they are the same, without the limits of either.")
    ] = None,
) -> None:
    """Create a volume."""
    from squall.cli.ui.existing_server import plain_errors, say
    from squall.sdk.storage.volume import Volume

    with plain_errors():
        Volume.objects.create(name, environment_name=env, quota=quota, version=version)
        say(f'✓ volume {name} is there; use it with  volumes={{"/data": squall.Volume.from_name("{name}")}}')


@volumes.command("list")
def list_(env: Env = None, as_json: AsJson = False) -> None:
    """Volumes of an environment."""
    from squall.cli.ui.existing_server import plain_errors
    from squall.cli.ui.listing import Column, age, short_id, show

    columns = (
        Column("NAME", ("name",)),
        Column("AGE", ("created_at",), age),
        Column("QUOTA", ("quota_bytes",), size),
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
    from squall.cli.ui.existing_server import plain_errors
    from squall.cli.ui.listing import printable, show, table
    from squall.sdk.client.sync_async import talk

    gc.disable()  # a hundred thousand entries, which all live to the end, would be looked through a hundred times
    with plain_errors():
        volume = _volume(name, env)
        found = talk(volume.client, volume.entries(path, recursive))
        kinds = [_KINDS.get(entry.type, entry.type) for entry in found]
        if as_json or not found:
            rows = [
                {"path": entry.path, "type": kind, "modified_at": int(entry.mtime), "size_bytes": entry.size} for entry, kind in zip(found, kinds, strict=True)
            ]
            show(rows, (), as_json=as_json, empty=f"{printable(path)} is empty")
            return
        names = [printable(entry.path) for entry in found]
        moments = [moment(int(entry.mtime)) for entry in found]
        table({"NAME": names, "TYPE": kinds, "MODIFIED": moments, "SIZE": [size(entry.size) for entry in found]})


@volumes.command("put")
def put(
    name: Name,
    local: Annotated[Path, typer.Argument(metavar="LOCAL", help="A file or a directory; - is stdin.")],
    remote: Annotated[str, typer.Argument(metavar="[REMOTE]", help="Where; ending in / a directory to put it into.")] = "/",
    force: Force = False,
    resume: Annotated[bool, typer.Option("--resume", help="Leave out files that are there with the same content.")] = False,
    env: Env = None,
) -> None:
    """Upload a file or a directory. A large file whose upload was cut goes on where it ended."""
    from squall.cli.commands import volume_transfer
    from squall.cli.ui.existing_server import plain_errors, say

    with plain_errors():
        sent, left_out = volume_transfer.put(_volume(name, env), local, remote, force=force, resume=resume)
        say(f"✓ {_files(sent)} in volume {name}{f', {left_out} had been there' if left_out else ''}")


@volumes.command("get")
def get(
    name: Name,
    remote: Annotated[str, typer.Argument(metavar="REMOTE", help="A file or a directory.")],
    local: Annotated[Path, typer.Argument(metavar="[LOCAL]", help="Where to; - is stdout.")] = Path(),
    force: Force = False,
    env: Env = None,
) -> None:
    """Download a file or a directory. A large file whose download was cut goes on where it ended."""
    from squall.cli.commands import volume_transfer
    from squall.cli.ui.existing_server import plain_errors, say

    with plain_errors():
        volume = _volume(name, env)
        if str(local) == "-":
            for part in volume.read_file(remote):
                sys.stdout.buffer.write(part)
            return
        files, total = volume_transfer.get(volume, remote, local, force=force)
        say(f"✓ {files} {'file' if files == 1 else 'files'}, {size(total)}")


@volumes.command("rm")
def rm(name: Name, path: Annotated[str, typer.Argument(metavar="PATH")], recursive: Recursive = False, env: Env = None) -> None:
    """Delete a file, or with -r a directory."""
    from squall.cli.ui.existing_server import plain_errors

    with plain_errors():
        _volume(name, env).remove_file(path, recursive=recursive)


@volumes.command("cp")
def cp(name: Name, paths: Annotated[list[str], typer.Argument(metavar="FROM... TO")], recursive: Recursive = False, env: Env = None) -> None:
    """Copy within a volume."""
    from squall.cli.ui.existing_server import plain_errors
    from squall.model.errors import InvalidError

    with plain_errors():
        if len(paths) < 2:
            raise InvalidError("say what to copy, and where to")
        _volume(name, env).copy_files(paths[:-1], paths[-1], recursive=recursive)


@volumes.command("du")
def du(name: Name, path: Annotated[str, typer.Argument(metavar="[PATH]")] = "/", as_json: AsJson = False, env: Env = None) -> None:
    """How much lies at a path."""
    from squall.cli.ui.existing_server import plain_errors
    from squall.cli.ui.listing import show_one

    with plain_errors():
        found = [entry for entry in _volume(name, env).listdir(path, recursive=True) if entry.type.name == "FILE"]
        show_one({"files": len(found), "bytes": sum(entry.size for entry in found)}, as_json=as_json)


@volumes.command("rename")
def rename(old: Annotated[str, typer.Argument(metavar="OLD")], new: Annotated[str, typer.Argument(metavar="NEW")], env: Env = None, yes: Yes = False) -> None:
    """Give a volume another name. Programs that name it have to be changed; apps that run keep it."""
    from squall.cli.ui.existing_server import plain_errors, say
    from squall.sdk.storage.volume import Volume

    with plain_errors():
        Volume.rename(old, new, environment_name=env)
        say(f"✓ volume {old} is {new} now")


@volumes.command("quota")
def quota(name: Name, amount: Annotated[str, typer.Argument(metavar="SIZE", help="For example 20GiB; more than before.")], env: Env = None) -> None:
    """Let a volume that was made with a quota hold more. It may be in use."""
    from squall.cli.ui.existing_server import plain_errors, say

    with plain_errors():
        _volume(name, env).set_quota(amount)
        say(f"✓ volume {name} may hold {amount}")


@volumes.command("snapshot")
def snapshot(
    name: Name,
    note: Annotated[str, typer.Option("--note", "-m", help="What to remember of it.")] = "",
    delete: Annotated[str, typer.Option("--delete", metavar="SNAPSHOT", help="Delete this one instead.")] = "",
    env: Env = None,
) -> None:
    """Keep the files of a volume as they are now."""
    from squall.cli.ui.existing_server import plain_errors, say

    with plain_errors():
        volume = _volume(name, env)
        if delete:
            volume.forget(_snapshot(volume, delete))
            say(f"✓ snapshot {delete} is deleted")
            return
        made = volume.snapshot(note)
        say(f"✓ {_files(made.files)} kept, {size(made.bytes)}; to get back:  squall volume restore {name} {made.id}")


@volumes.command("history")
def history(name: Name, as_json: AsJson = False, env: Env = None) -> None:
    """Snapshots of a volume, newest first."""
    from squall.cli.ui.existing_server import plain_errors
    from squall.cli.ui.listing import Column, age, show

    columns = (
        Column("SNAPSHOT", ("id",)), Column("AGE", ("created_at",), age), Column("FILES", ("files",)), Column("SIZE", ("bytes",), size),
        Column("NOTE", ("note",)),
    )  # fmt: skip
    with plain_errors():
        found = [
            {"id": kept.id, "created_at": kept.created_at.timestamp(), "files": kept.files, "bytes": kept.bytes, "note": kept.note}
            for kept in _volume(name, env).history()
        ]
        show(found, columns, as_json=as_json, empty=f"no snapshots yet; make the first one with  squall volume snapshot {name}")


@volumes.command("restore")
def restore(
    name: Name, snapshot: Annotated[str, typer.Argument(metavar="SNAPSHOT", help="Its id or the end of it.")], env: Env = None, yes: Yes = False
) -> None:
    """Make the files of a volume what they were in a snapshot. What they are now is kept in another one first."""
    from squall.cli.ui.existing_server import plain_errors, say

    with plain_errors():
        volume = _volume(name, env)
        found = _snapshot(volume, snapshot)
        confirm(f"Make the files of the volume {name} what they were in {found}?", yes)
        kept = volume.snapshot(f"before {found} was restored")
        volume.restore(found)
        say(f"✓ volume {name} is what it was; back again:  squall volume restore {name} {kept.id}")


@volumes.command("shell")
def shell(
    name: Name,
    command: Annotated[str, typer.Option("--command", "-c", metavar="COMMAND", help="Run this instead of a shell to type into.")] = "",
    path: Annotated[str, typer.Option("--path", help="Where the volume is mounted.")] = "/mnt/volume",
    read_only: Annotated[bool, typer.Option("--read-only", help="Look and change nothing.")] = False,
    env: Env = None,
) -> None:
    """A shell in a container that has the volume. Needs root, on the server's machine."""
    from squall.cli.commands.volume_shell import run
    from squall.cli.ui.existing_server import plain_errors

    with plain_errors():
        raise SystemExit(run(_volume(name, env), command, path, read_only=read_only))


@volumes.command("delete")
def delete(name: Name, env: Env = None, allow_missing: AllowMissing = False, yes: Yes = False) -> None:
    """Delete a volume with all its files."""
    from squall.cli.ui.existing_server import plain_errors, say
    from squall.sdk.storage.volume import Volume

    with plain_errors():
        confirm(f"Delete the volume {name} with all its files?", yes)
        Volume.objects.delete(name, allow_missing=allow_missing, environment_name=env)
        say(f"✓ volume {name} is deleted")


def _volume(name: str, env: str | None) -> Any:
    from squall.sdk.storage.volume import Volume

    return Volume.from_name(name, environment_name=env)


def _snapshot(volume: Any, which: str) -> str:
    """The id of the snapshot whose id ends so.

    Raises:
        NotFoundError: none, or several.
    """
    from squall.model.errors import NotFoundError

    found = [kept.id for kept in volume.history() if kept.id.endswith(which)]
    if len(found) != 1:
        raise NotFoundError(f"there {'are several snapshots' if found else 'is no snapshot'} {which} of the volume; squall volume history shows all")
    return str(found[0])


def _files(count: int) -> str:
    return "1 file is" if count == 1 else f"{count} files are"
