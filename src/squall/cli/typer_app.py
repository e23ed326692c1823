"""Every command but `run`, for typer: thin, each with its imports inside."""

import os
from pathlib import Path
from typing import Annotated

import typer

from squall.cli import typer_deployments
from squall.cli.commands import app_facts, config, image, unsupported
from squall.cli.commands.call import calls
from squall.cli.commands.dict import dicts
from squall.cli.commands.environment import environments
from squall.cli.commands.function import functions
from squall.cli.commands.gc import gc
from squall.cli.commands.logs import FollowOn, Search, ShowCall, ShowContainer, Since, Source, Tail, Timestamps, Until
from squall.cli.commands.queue import queues
from squall.cli.commands.secret import secrets
from squall.cli.commands.volume import volumes

app = typer.Typer(
    name="squall",
    help="Serverless Python functions on your own machines.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
server = typer.Typer(help="The local server: it starts by itself when something is run.", no_args_is_help=True)
apps = typer.Typer(help="Apps: what runs, its logs, stopping it.", no_args_is_help=True)
containers = typer.Typer(help="Containers: what runs, its logs, stopping it.", no_args_is_help=True)
app.add_typer(server, name="server")
app.add_typer(apps, name="app")
app.add_typer(containers, name="container")
app.add_typer(image.app, name="image")
app.add_typer(calls, name="call")
app.add_typer(functions, name="function")
typer_deployments.register(app, apps)
app_facts.register(apps)
app.add_typer(secrets, name="secret")
app.add_typer(volumes, name="volume")
app.add_typer(volumes, name="nfs", hidden=True)  # the older name
app.add_typer(dicts, name="dict")
app.add_typer(queues, name="queue")
app.add_typer(environments, name="environment")
app.command("gc")(gc)
config.register(app, typer_deployments.tokens)
unsupported.register({"": app, "environment": environments, "volume": volumes, "image names": image.names, "server": server})

AsJson = Annotated[bool, typer.Option("--json", help="Write JSON.")]


@app.callback(invoke_without_command=True)
def root(
    version: Annotated[bool, typer.Option("--version", help="Write the version and end.")] = False,
    profile: Annotated[str, typer.Option("--profile", metavar="NAME", help="The profile of the settings' file that this command uses.")] = "",
) -> None:
    if version:
        from squall import __version__

        typer.echo(f"squall {__version__}")
        raise typer.Exit
    if profile:
        import os

        from squall.cli.ui.existing_server import plain_errors
        from squall.sdk.client.settings import profiles

        with plain_errors():
            config.check_profile(profile, profiles())
        os.environ["MODAL_PROFILE"] = profile


@app.command(context_settings={"ignore_unknown_options": True, "allow_extra_args": True, "help_option_names": []})
def curl(context: typer.Context) -> None:
    """Run curl with a token for web functions that ask for one (requires_proxy_auth); what follows is curl's."""
    from squall.cli.commands.curl import main
    from squall.cli.ui.existing_server import plain_errors

    with plain_errors():
        raise SystemExit(main(context.args))


@app.command()
def changelog(
    last: Annotated[int, typer.Option("--last", min=1, help="Of so many versions.")] = 1,
    all_: Annotated[bool, typer.Option("--all", help="Of all versions.")] = False,
) -> None:
    """What changed, where Squall runs from its source."""
    import squall
    from squall.cli.ui.refusals import refuse

    place = Path(squall.__file__).parents[2] / "CHANGELOG.md"
    if not place.is_file():
        refuse("squall changelog", "an installed package does not carry it; CHANGELOG.md of Squall's source has it")
    head, *versions = place.read_text("utf-8").split("\n## ")
    typer.echo("\n## ".join(["", *(versions if all_ else versions[:last])]).strip())


@app.command(context_settings={"ignore_unknown_options": True, "allow_extra_args": True, "help_option_names": []})
def run(context: typer.Context) -> None:
    """Run a program: its local entrypoint here, its functions in containers."""
    from squall.cli.commands.run import main

    raise SystemExit(main(context.args))


@app.command()
def doctor(as_json: AsJson = False) -> None:
    """What this machine can do: which container driver is used and why, and what to install for more."""
    from squall.cli.commands.doctor import main

    raise SystemExit(main(as_json=as_json))


@app.command()
def shell(
    reference: Annotated[
        str | None, typer.Argument(metavar="[FILE.py::FUNCTION | CONTAINER]", help="A function, or a container that runs; neither: an image alone.")
    ] = None,
    command: Annotated[str, typer.Option("--cmd", "-c", help="Run this instead of a shell to type into.")] = "",
    image: Annotated[
        str, typer.Option("--image", metavar="NAME", help="Where no function is named: a published image, or one of a registry; default: Debian with Python.")
    ] = "",
    add_python: Annotated[str | None, typer.Option("--add-python", metavar="VERSION", help="Put this Python into the registry's image.")] = None,
    volume: Annotated[list[str] | None, typer.Option("--volume", metavar="NAME", help="A volume, at /mnt/NAME.")] = None,
    add_local: Annotated[list[Path] | None, typer.Option("--add-local", metavar="PATH", help="A file or directory of this machine, at /mnt/NAME.")] = None,
    secret: Annotated[list[str] | None, typer.Option("--secret", metavar="NAME", help="A secret, in the environment.")] = None,
    cpu: Annotated[float | None, typer.Option("--cpu", help="Cores.")] = None,
    memory: Annotated[int | None, typer.Option("--memory", metavar="MIB", help="Memory.")] = None,
    gpu: Annotated[str | None, typer.Option("--gpu", metavar="TYPE[:COUNT]", help="GPUs.")] = None,
    cloud: Annotated[str | None, typer.Option("--cloud", hidden=True)] = None,
    region: Annotated[str | None, typer.Option("--region", hidden=True)] = None,
    runtime: Annotated[str | None, typer.Option("--runtime", metavar="NAME", help="gvisor: with a kernel of its own in user space.")] = None,
    as_module: Annotated[bool, typer.Option("-m", help="The reference is a module: package.module::function.")] = False,
    pty: Annotated[bool | None, typer.Option("--pty/--no-pty", help="With a terminal or without; default: as this command has one.")] = None,
    env: Annotated[str | None, typer.Option("--env", "-e", metavar="NAME", help="The environment; default: that of SQUALL_ENVIRONMENT, else main.")] = None,
) -> None:
    """A shell in a function's image, with its volumes, secrets and limits; or in a container that runs."""
    from squall.cli.commands.shell import Alone, main

    alone = Alone(
        image=image, add_python=add_python, volumes=volume or [], local=add_local or [], secrets=secret or [], cpu=cpu, memory=memory, gpu=gpu, cloud=cloud,
        region=region, runtime=runtime, environment=env,
    )  # fmt: skip
    raise SystemExit(main(reference, alone, command=command, as_module=as_module, pty=pty, environment=env))


@server.command("start")
def server_start(
    foreground: Annotated[bool, typer.Option("--foreground", help="Stay here and log to this terminal.")] = False,
    listen: Annotated[list[str] | None, typer.Option("--listen", metavar="URL", help="Also listen on tcp://127.0.0.1:PORT or tls://HOST:PORT.")] = None,
    tls_cert: Annotated[str | None, typer.Option("--tls-cert", metavar="FILE", help="Certificate for tls://, with its chain.")] = None,
    tls_key: Annotated[str | None, typer.Option("--tls-key", metavar="FILE", help="Its private key.")] = None,
    web: Annotated[str | None, typer.Option("--web", metavar="HOST:PORT", help="Where web functions are reached; default: loopback, port 8484.")] = None,
    web_domain: Annotated[str | None, typer.Option("--web-domain", metavar="DOMAIN", help="What their addresses end in: *.DOMAIN leads here.")] = None,
    web_cert: Annotated[str | None, typer.Option("--web-cert", metavar="FILE", help="Certificate of *.DOMAIN, with its chain, for https.")] = None,
    web_key: Annotated[str | None, typer.Option("--web-key", metavar="FILE", help="Its private key.")] = None,
    driver: Annotated[str | None, typer.Option("--driver", metavar="NAME", help="Container driver; default: the best that this host allows.")] = None,
) -> None:
    """Start the local server, unless it runs."""
    from squall.cli.commands import server as commands

    flags = {"--driver": driver, "--web": web, "--web-domain": web_domain}
    files = {"--tls-cert": tls_cert, "--tls-key": tls_key, "--web-cert": web_cert, "--web-key": web_key}
    flags |= {name: os.path.abspath(file) for name, file in files.items() if file}  # the server has another working directory
    options = [part for url in listen or () for part in ("--listen", url)] + [part for name, value in flags.items() if value for part in (name, value)]
    commands.start(foreground=foreground, options=options)


@server.command("token")
def server_token() -> None:
    """The secret that clients over TCP show, in SQUALL_TOKEN."""
    from squall.cli.commands import server as commands

    commands.token()


@server.command("stop")
def server_stop() -> None:
    """Stop the local server and all that runs on it."""
    from squall.cli.commands import server as commands

    commands.stop()


@server.command("restart")
def server_restart() -> None:
    """Stop the local server and start it as it was started last. What runs goes on meanwhile, and no call is lost."""
    from squall.cli.commands import server as commands

    commands.restart()


@server.command("status")
def server_status(as_json: AsJson = False) -> None:
    """Whether it runs, where, and what it holds. Exit status 1 when it does not run."""
    from squall.cli.commands import server as commands

    commands.status(as_json=as_json)


@server.command("migrate")
def server_migrate() -> None:
    """Bring the database's schema up to date, while no server runs. A server that starts does so by itself."""
    from squall.cli.commands import database

    database.migrate()


@server.command("backup")
def server_backup(target: Annotated[Path, typer.Argument(metavar="FILE")]) -> None:
    """Write the database to a file, while the server may run. Volumes, blobs and the key of secrets are files beside it."""
    from squall.cli.commands import database

    database.backup(target)


@server.command("restore")
def server_restore(
    source: Annotated[Path, typer.Argument(metavar="FILE")], yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False
) -> None:
    """Replace the database with that of a backup, while no server runs."""
    from squall.cli.commands import database

    database.restore(source, yes=yes)


@server.command("logs")
def server_logs(follow: FollowOn = False, lines: Annotated[int, typer.Option("--lines", "-n", min=0, help="How many of the last lines.")] = 100) -> None:
    """The server's own log."""
    from squall.cli.commands import server as commands

    commands.logs(follow=follow, lines=lines)


@apps.command("list")
def app_list(
    all_: Annotated[bool, typer.Option("--all", "-a", help="Also those that ended.")] = False,
    env: Annotated[str | None, typer.Option("--env", "-e", metavar="NAME", help="Only of this environment.")] = None,
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="Only so many, the latest.")] = None,
    as_json: AsJson = False,
) -> None:
    """Apps that run or are deployed."""
    from squall.cli.ui.existing_server import plain_errors, rows
    from squall.cli.ui.listing import Column, age, short_id, show
    from squall.wire.messages import ListApps

    columns = (
        Column("APP", ("id",), short_id),
        Column("NAME", ("name", "description")),
        Column("ENV", ("environment",)),
        Column("STATE", ("state",)),
        Column("CONTAINERS", ("containers",)),
        Column("WAITING", ("waiting",)),
        Column("AGE", ("created_at",), age),
    )
    with plain_errors():
        found = [row for row in rows(ListApps()) if (all_ or row["state"] != "stopped") and env in (None, row["environment"])]
        show(
            found if limit is None else found[-limit:],
            columns,
            as_json=as_json,
            empty="no app runs; squall app list --all shows those that ended, squall run hello.py makes one",
        )


@apps.command("stop")
def app_stop(
    which: Annotated[str, typer.Argument(metavar="APP", help="Its id, the beginning of it, or its name.")],
    env: Annotated[str | None, typer.Option("--env", "-e", metavar="NAME", help="Only of this environment.")] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", hidden=True, help="Nothing is asked anyhow.")] = False,
) -> None:
    """Stop an app: its inputs are cancelled, its containers end."""
    from squall.cli.ui.existing_server import ask, plain_errors, resolve, say
    from squall.wire.messages import StopApp

    with plain_errors():
        found = resolve(which, "ap", env)
        ask(StopApp(found))
        say(f"✓ {found} is stopped")


@apps.command("logs")
def app_logs(
    which: Annotated[str, typer.Argument(metavar="APP", help="Its id, the beginning of it, or its name.")],
    follow: FollowOn = False,
    function: Annotated[str, typer.Option("--function", metavar="NAME", help="Only of this function or class.")] = "",
    container: Annotated[str, typer.Option("--container", metavar="ID", help="Only of this container.")] = "",
    call: Annotated[str, typer.Option("--call", "--function-call", metavar="ID", help="Only of this call.")] = "",
    since: Since = "",
    until: Until = "",
    search: Search = "",
    tail: Tail = None,
    source: Source = "",
    timestamps: Timestamps = False,
    show_container_id: ShowContainer = False,
    show_function_call_id: ShowCall = False,
    env: Annotated[str | None, typer.Option("--env", "-e", metavar="NAME", help="Only of this environment.")] = None,
) -> None:
    """What the app's containers wrote: stdout to stdout, stderr to stderr."""
    from squall.cli.commands import logs
    from squall.cli.ui import existing_server

    with existing_server.plain_errors():
        wanted = logs.wanted(
            function=function, container=container, call=call, source=source, since=since, until=until, search=search, tail=tail,
            timestamps=timestamps, show_container=show_container_id, show_call=show_function_call_id,
        )  # fmt: skip
        logs.show(app=existing_server.resolve(which, "ap", env), on=follow, wanted=wanted)


@containers.command("list")
def container_list(
    of: Annotated[str, typer.Option("--app", "--app-id", help="Only of this app.")] = "",
    all_: Annotated[bool, typer.Option("--all", "-a", help="Also those that ended.")] = False,
    env: Annotated[str | None, typer.Option("--env", "-e", metavar="NAME", help="Only of this environment.")] = None,
    as_json: AsJson = False,
) -> None:
    """Containers that run."""
    from squall.cli.ui.existing_server import plain_errors, resolve, rows
    from squall.cli.ui.listing import Column, age, mebibytes, short_id, show
    from squall.wire.messages import ListApps, ListContainers

    columns = (
        Column("CONTAINER", ("id",), short_id),
        Column("FUNCTION", ("function",)),
        Column("STATE", ("state",)),
        Column("INPUTS", ("inputs",)),
        Column("DONE", ("inputs_done",)),
        Column("CPU", ("cpu_s",), lambda value: f"{value:.1f} s"),
        Column("MEMORY", ("memory_bytes",), mebibytes),
        Column("AGE", ("created_at",), age),
        Column("APP", ("app",), short_id),
        Column("REASON", ("reason",)),
    )
    with plain_errors():
        found = rows(ListContainers(resolve(of, "ap", env) if of else "", all_))
        if env is not None:
            here = {row["id"] for row in rows(ListApps()) if row["environment"] == env}
            found = [row for row in found if row["app"] in here]
        show(found, columns, as_json=as_json, empty="no containers; they come with the first call:  squall run hello.py")


@containers.command("logs")
def container_logs(
    which: Annotated[str, typer.Argument(metavar="CONTAINER", help="Its id or the beginning of it.")],
    follow: FollowOn = False,
    since: Since = "",
    until: Until = "",
    search: Search = "",
    tail: Tail = None,
    source: Source = "",
    timestamps: Timestamps = False,
    all_: Annotated[bool, typer.Option("--all", hidden=True, help="As without it and --tail: everything.")] = False,
) -> None:
    """What a container wrote: stdout to stdout, stderr to stderr."""
    from squall.cli.commands import logs
    from squall.cli.ui import existing_server
    from squall.model.errors import InvalidError

    with existing_server.plain_errors():
        if all_ and tail is not None:
            raise InvalidError("--all is everything, and --tail the last lines: choose one")
        wanted = logs.wanted(function="", container="", call="", source=source, since=since, until=until, search=search, tail=tail, timestamps=timestamps)
        logs.show(container=existing_server.resolve(which, "ct"), on=follow, wanted=wanted)


@containers.command("exec", context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
def container_exec(
    which: Annotated[str, typer.Argument(metavar="CONTAINER", help="Its id or the beginning of it.")],
    command: Annotated[list[str], typer.Argument(metavar="COMMAND...", help="What to run, and its arguments.")],
    pty: Annotated[bool | None, typer.Option("--pty/--no-pty", help="With a terminal or without; default: as this command has one.")] = None,
) -> None:
    """Run a command in a container that runs; its exit status is this one's."""
    from squall.cli.commands import exec
    from squall.cli.ui.existing_server import plain_errors, resolve

    with plain_errors():
        raise SystemExit(exec.run(resolve(which, "ct"), command[1:] if command[0] == "--" else command, pty=pty))


@containers.command("stop")
def container_stop(
    which: Annotated[str, typer.Argument(metavar="CONTAINER", help="Its id or the beginning of it.")],
    graceful: Annotated[bool, typer.Option("--graceful", help="With what it runs now; it gets nothing more.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", hidden=True, help="Nothing is asked anyhow.")] = False,
) -> None:
    """End a container. What it runs is tried again in another one."""
    from squall.cli.ui.existing_server import ask, plain_errors, resolve, say
    from squall.wire.messages import StopContainer

    with plain_errors():
        found = resolve(which, "ct")
        ask(StopContainer(found, graceful))
        say(f"✓ {found} ends with what it runs" if graceful else f"✓ {found} is stopped")
