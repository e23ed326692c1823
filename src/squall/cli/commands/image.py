"""`squall image`: what was built, why, how large, and a look inside."""

import os
from typing import TYPE_CHECKING, Annotated, Any

import typer

from squall.cli.commands.named_objects import Env

if TYPE_CHECKING:
    from squall.sdk.app.app import App
    from squall.sdk.image.image import Image

app = typer.Typer(help="Images: what was built and why, its logs, a shell in it, room for new ones.", no_args_is_help=True)

names = typer.Typer(help="Names that images were published as.", no_args_is_help=True)
app.add_typer(names, name="names")

AsJson = Annotated[bool, typer.Option("--json", help="Write JSON.")]
Which = Annotated[str, typer.Argument(metavar="IMAGE", help="Its id, the beginning of it, or the name it was published as.")]
Target = Annotated[str, typer.Argument(metavar="FILE.py[::NAME]", help="NAME is an image or a function; without it, all images of the program.")]


@app.command("list")
def list_(as_json: AsJson = False) -> None:
    """Images that were built here, and builds that failed."""
    from squall.cli.ui.existing_server import plain_errors
    from squall.cli.ui.listing import Column, age, show
    from squall.wire.messages import ImageRequest

    columns = (
        Column("IMAGE", ("id",), lambda value: str(value)[:15]),
        Column("NAMES", ("names",), lambda value: ", ".join(value) or "-"),
        Column("STATE", ("state",)),
        Column("SIZE", ("bytes",), size),
        Column("LAYERS", ("layers",)),
        Column("BUILT", ("built_at",), age),
        Column("USED", ("used_at",), age),
        Column("FUNCTIONS", ("functions",), lambda value: ", ".join(value) or "-"),
        Column("RECIPE", ("recipe",), lambda value: value if len(value) <= 90 else f"{value[:89]}…"),
    )
    with plain_errors():
        show(_rows(ImageRequest("list")), columns, as_json=as_json, empty="no images yet; they come with the first run:  squall run hello.py")


@app.command()
def inspect(which: Which, as_json: AsJson = False) -> None:
    """An image's layers, environment and users."""
    from squall.cli.ui.existing_server import plain_errors
    from squall.cli.ui.listing import Column, age, show, show_one
    from squall.wire.messages import ImageRequest

    with plain_errors():
        row = dict(_rows(ImageRequest("inspect", which))[0])
        if as_json:
            show_one(row, as_json=True)
            return
        layers = row.pop("layers")
        row["bytes"] = size(row["bytes"])
        row["built_at"], row["used_at"] = f"{age(row['built_at'])} ago", f"{age(row['used_at'])} ago"
        row["seconds"] = f"{row['seconds']:.1f} s"
        for name in ("names", "functions", "entrypoint", "cmd"):
            row[name] = " ".join(row[name]) if row[name] else None
        row["env"] = " ".join(f"{name}={value}" for name, value in row["env"].items())
        show_one(row, as_json=False)
        columns = (
            Column("LAYER", ("key",), lambda value: str(value)[:12]),
            Column("SIZE", ("bytes",), size),
            Column("FILES", ("files",)),
            Column("TOOK", ("seconds",), lambda value: f"{value:.1f} s"),
            Column("BUILT", ("built_at",), age),
            Column("STEP", ("title",)),
        )
        show(layers, columns, as_json=False, empty="")


@app.command()
def build(
    target: Target,
    force: Annotated[bool, typer.Option("--force", help="Build every step again.")] = False,
    publish: Annotated[str, typer.Option("--publish", metavar="NAME[:TAG]", help="Let Image.from_name mean it.")] = "",
    as_json: AsJson = False,
) -> None:
    """Build the images of a program now, without running it."""
    from squall.cli.ui.display import Display
    from squall.cli.ui.existing_server import plain_errors
    from squall.cli.ui.listing import Column, show
    from squall.sdk.client.client import Client
    from squall.sdk.client.settings import environment_of
    from squall.sdk.output.output import use_sink
    from squall.wire.messages import ImageRequest

    with plain_errors():
        found = images(target)
        if publish and len(found) != 1:
            from squall.model.errors import InvalidError

            raise InvalidError(f"{target} has {len(found)} images; name the one that is to be published: {target}::NAME")
        display = Display()
        built: list[dict[str, Any]] = []
        try:
            with use_sink(display):
                for name, (image, owner) in found.items():
                    image._build(owner, force=force)
                    built.append({"name": name, "id": image.object_id})
                    if publish:
                        Client.default().request(ImageRequest("publish", image.object_id, {"name": publish, "environment": environment_of(None)}))
        finally:
            display.close()
            Client.default().close_idle()
        show(built, (Column("IMAGE", ("id",)), Column("OF", ("name",))), as_json=as_json, empty=f"{target} has no images")


@app.command()
def explain(target: Target, as_json: AsJson = False) -> None:
    """What building would do: for each step whether its layer is there, and if not, what changed."""
    from squall.cli.ui.existing_server import plain_errors
    from squall.cli.ui.listing import Column, show
    from squall.model.specs import build_scope
    from squall.sdk.client.client import Client
    from squall.sdk.client.settings import environment_of
    from squall.sdk.image.steps import ReferTo
    from squall.sdk.source.sources import Shipment
    from squall.wire.messages import ExplainImage, Rows

    with plain_errors():
        rows: list[dict[str, Any]] = []
        environment = environment_of(None, "main")
        for name, (image, owner) in images(target).items():
            recipe = image._spec(Shipment(), ReferTo(None, environment))
            answer = Client.default().request(ExplainImage(recipe, build_scope(environment, owner.name if owner is not None else None)))
            assert isinstance(answer, Rows)
            rows += [{"image": name, **row} for row in answer.rows]
        Client.default().close_idle()
        columns = (
            Column("IMAGE", ("image",)),
            Column("STEP", ("step",)),
            Column("", ("hit",), lambda hit: "hit" if hit else "miss"),
            Column("WHAT", ("title",), lambda title: title if len(title) <= 60 else f"{title[:59]}…"),
            Column("WHY", ("reason",)),
        )
        show(rows, columns, as_json=as_json, empty=f"{target} has no images")


@app.command()
def logs(which: Which, as_json: AsJson = False) -> None:
    """What the steps of a build printed, of a failed one too."""
    import sys

    from squall.cli.ui.existing_server import plain_errors, say
    from squall.cli.ui.listing import show
    from squall.wire.messages import ImageRequest

    with plain_errors():
        rows = _rows(ImageRequest("logs", which))
        if as_json:
            show(rows, (), as_json=True, empty="")
            return
        for row in rows:
            say(f"• {row['title']}")
            sys.stdout.write(row["log"])
            sys.stdout.flush()


@app.command()
def shell(
    which: Which,
    failed: Annotated[bool, typer.Option("--failed", help="As it was just before the step that failed.")] = False,
    command: Annotated[str, typer.Option("--command", "-c", help="Run this instead of a shell to type into.")] = "",
) -> None:
    """A shell in a container of the image. What it writes is thrown away. Needs root, on the server's machine."""
    from squall.cli.commands.inspect_image import look
    from squall.cli.ui.existing_server import plain_errors
    from squall.wire.messages import ImageRequest

    with plain_errors():
        row = _rows(ImageRequest("shell", which, {"failed": failed}))[0]
        raise SystemExit(look(row, command))


@app.command()
def prune(
    older_than: Annotated[str, typer.Option("--older-than", metavar="AGE", help="Only what was not used for so long: 12h, 7d.")] = "",
    budget: Annotated[str, typer.Option("--budget", metavar="SIZE", help="Only until all layers have at most this: 500MB, 20GB.")] = "",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would go.")] = False,
    as_json: AsJson = False,
) -> None:
    """Remove images that no function uses and that have no name, and the layers that only they had."""
    from squall.cli.ui.existing_server import plain_errors, say
    from squall.cli.ui.listing import show_one
    from squall.wire.messages import ImageRequest

    with plain_errors():
        options: dict[str, Any] = {"try_only": dry_run}
        if older_than:
            options["older_than_s"] = _quantity(older_than, {"s": 1, "m": 60, "min": 60, "h": 3600, "d": 86_400, "w": 604_800}, "an age, such as 12h or 7d")
        if budget:
            units = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40}
            options["budget_bytes"] = _quantity(budget, units, "a size, such as 500MB or 20GB")
        row = _rows(ImageRequest("prune", "", options))[0]
        if as_json:
            show_one(row, as_json=True)
        else:
            what = f"{len(row['images'])} images, {row['layers']} layers, {size(row['bytes'])}"
            say(f"• would remove {what}" if dry_run else f"✓ removed {what}")


@app.command()
def export(
    which: Which,
    target: Annotated[str, typer.Argument(metavar="TARGET", help="oci:DIR, docker-archive:FILE, or the name of an image in a registry.")],
    as_json: AsJson = False,
) -> None:
    """Write an image to a directory or a registry. REGISTRY_USERNAME and REGISTRY_PASSWORD of this environment are its credentials."""

    from squall.cli.ui.existing_server import plain_errors, say
    from squall.cli.ui.listing import show_one
    from squall.wire.messages import ImageRequest

    with plain_errors():
        secrets = {name: os.environ[name] for name in ("REGISTRY_USERNAME", "REGISTRY_PASSWORD") if name in os.environ}
        kind, _, path = target.partition(":")
        if kind in ("oci", "oci-archive", "docker-archive", "dir") and path:
            target = f"{kind}:{os.path.abspath(path)}"
        row = _rows(ImageRequest("export", which, {"target": target, "secrets": secrets}))[0]
        show_one(row, as_json=True) if as_json else say(f"✓ {row['image']} is at {row['target']}")


@app.command()
def publish(which: Which, name: Annotated[str, typer.Argument(metavar="NAME[:TAG]")], env: Env = None) -> None:
    """Give an image a name, for Image.from_name."""
    from squall.cli.ui.existing_server import plain_errors, say
    from squall.sdk.client.settings import environment_of
    from squall.wire.messages import ImageRequest

    with plain_errors():
        row = _rows(ImageRequest("publish", which, {"name": name, "environment": environment_of(env)}))[0]
        say(f"✓ {row['name']} is {row['image']}")


@app.command()
def unpublish(name: Annotated[str, typer.Argument(metavar="NAME[:TAG]")], env: Env = None) -> None:
    """Take a name away. The image stays until it is pruned."""
    from squall.cli.ui.existing_server import plain_errors, say
    from squall.sdk.client.settings import environment_of
    from squall.wire.messages import ImageRequest

    with plain_errors():
        say(f"✓ {_rows(ImageRequest('unpublish', name, {'environment': environment_of(env)}))[0]['name']} means no image any more")


@names.command("list")
def names_list(
    env: Env = None, prefix: Annotated[str, typer.Option("--prefix", metavar="TEXT", help="Only names that begin so.")] = "", as_json: AsJson = False
) -> None:
    """Names that images were published as."""
    from squall.cli.ui.existing_server import plain_errors
    from squall.cli.ui.listing import Column, age, show
    from squall.model.specs import OF_ENVIRONMENT
    from squall.sdk.client.settings import environment_of
    from squall.wire.messages import ImageRequest

    with plain_errors():
        wanted = environment_of(env, "main")
        found = []
        for row in _rows(ImageRequest("list")):
            for each in row["names"]:
                environment, named, name = each.rpartition(OF_ENVIRONMENT)
                if (environment if named else "main") == wanted and name.startswith(prefix):
                    found.append({"name": name, "environment": wanted, "id": row["id"], "built_at": row["built_at"]})
        columns = (Column("NAME", ("name",)), Column("IMAGE", ("id",), lambda value: str(value)[:15]), Column("BUILT", ("built_at",), age))
        show(sorted(found, key=lambda row: row["name"]), columns, as_json=as_json, empty="no names; squall image publish IMAGE NAME  gives one")


@names.command("delete")
def names_delete(
    name: Annotated[str, typer.Argument(metavar="NAME[:TAG]")],
    env: Env = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", hidden=True, help="Nothing is asked anyhow.")] = False,
) -> None:
    """Take a name away. The image stays until it is pruned."""
    unpublish(name, env)


@app.command()
def pull(
    reference: Annotated[str, typer.Argument(metavar="IMAGE", help="In a registry, such as python:3.12-slim.")],
    name: Annotated[str, typer.Option("--name", metavar="NAME[:TAG]", help="Let Image.from_name mean it.")] = "",
    registry_secret: Annotated[str, typer.Option("--registry-secret", metavar="NAME", help="A secret with REGISTRY_USERNAME and REGISTRY_PASSWORD.")] = "",
    force_build: Annotated[bool, typer.Option("--force-build", help="Look the tag up again.")] = False,
    env: Env = None,
) -> None:
    """Take an image from a registry, so that it is there when a function needs it. Writes its id."""
    from squall.cli.ui.display import Display
    from squall.cli.ui.existing_server import plain_errors
    from squall.sdk.client.client import Client
    from squall.sdk.image.image import Image
    from squall.sdk.output.output import use_sink
    from squall.sdk.storage.secret import Secret

    with plain_errors():
        display = Display()
        try:
            secret = Secret.from_name(registry_secret, environment_name=env) if registry_secret else None
            image = Image.from_registry(reference, secret, force_build=force_build)
            with use_sink(display):
                image._build(None, force=force_build)
        finally:
            display.close()
            Client.default().close_idle()
        typer.echo(image.object_id)
        if name:
            publish(image.object_id, name, env)


def images(target: str) -> "dict[str, tuple[Image, App | None]]":
    """Images of a program by name: one called so, or that of a function; without a name all that its functions run in, or else its own variables.

    Each comes with the app that it is for: that of the function, or the only one of the program.

    Raises:
        InvalidError: no such file, or nothing called so.
    """
    from squall.cli.program.loader import import_file
    from squall.model.errors import InvalidError
    from squall.sdk.app.app import App
    from squall.sdk.image.image import Image

    place, _, name = target.partition("::")
    module = import_file(place)
    apps = list({id(value): value for value in vars(module).values() if isinstance(value, App)}.values())
    only = apps[0] if len(apps) == 1 else None
    variables = {key: (value, only) for key, value in vars(module).items() if isinstance(value, Image)}
    functions: dict[str, tuple[Image, App | None]] = {}
    default = Image.debian_slim()
    for value in apps:
        for tag, (_, declaration) in value._declared.items():
            functions[tag] = (declaration.image or value._image or default, value)
    if name:
        found = variables.get(name) or functions.get(name)
        if found is None:
            known = ", ".join((*variables, *functions)) or "nothing that has an image"
            raise InvalidError(f"{place} has no image or function {name!r}; it has {known}")
        return {name: found}
    distinct: dict[int, tuple[str, tuple[Image, App | None]]] = {}
    for key, found in (functions or variables).items():
        distinct.setdefault(id(found[0]), (key, found))
    return dict(distinct.values())


def size(value: Any) -> str:
    """Bytes in the largest unit that says enough."""
    if not isinstance(value, int | float):
        return "-"
    for unit, factor in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if value >= factor:
            return f"{value / factor:.{1 if value < 10 * factor else 0}f} {unit}"
    return f"{value} B"


def _quantity(text: str, units: dict[str, int], what: str) -> int:
    import re

    from squall.model.errors import InvalidError

    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([A-Za-z]*)", text.strip())
    if match is None or match[2] not in units:
        raise InvalidError(f"{text!r} is not {what}")
    return int(float(match[1]) * units[match[2]])


def _rows(command: Any) -> list[dict[str, Any]]:
    """The server's answer; one is started if need be, since images are there without one."""
    from squall.sdk.client.client import Client
    from squall.wire.messages import Rows

    client = Client.default()
    try:
        answer = client.request(command)
    finally:
        client.close_idle()
    assert isinstance(answer, Rows)
    return list(answer.rows)
