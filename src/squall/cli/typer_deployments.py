"""The commands around what stays: deploy, serve, versions, schedules, tokens. Thin, each with its imports inside."""

from typing import Annotated

import typer

schedules = typer.Typer(help="Schedules: what runs by itself, and when.", no_args_is_help=True)
tokens = typer.Typer(help="Tokens for the HTTP API and for web functions that ask for one.", no_args_is_help=True)

AsJson = Annotated[bool, typer.Option("--json", help="Write JSON.")]
Program = Annotated[str, typer.Argument(metavar="FILE[::APP]", help="The program, or with -m a module.")]
Module = Annotated[bool, typer.Option("-m", "--module", help="The target is a module, as for python -m.")]
Name = Annotated[str | None, typer.Option("--name", help="Of the app, instead of its own.")]
Environment = Annotated[str | None, typer.Option("--env", "-e", help="The environment.")]
Timestamps = Annotated[bool, typer.Option("--timestamps", help="The time before each line of containers.")]
AppName = Annotated[str, typer.Argument(metavar="APP", help="Its name or id.")]


def register(app: typer.Typer, apps: typer.Typer) -> None:
    """Put the commands where they belong."""
    app.command("deploy")(deploy)
    app.command("serve")(serve)
    app.add_typer(schedules, name="schedule")
    app.add_typer(tokens, name="token")
    apps.command("history")(app_history)
    apps.command("rollback")(app_rollback)
    apps.command("rename")(app_rename)


def deploy(
    target: Program,
    module: Module = False,
    name: Name = None,
    tag: Annotated[str, typer.Option("--tag", help="A word of yours for the version, such as a commit.")] = "",
    environment: Environment = None,
    strategy: Annotated[
        str, typer.Option("--strategy", help="rolling: new containers are ready before the old drain; recreate: the old end first.")
    ] = "rolling",
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Write only the URLs of web functions.")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Show build logs and container states.")] = False,
    stream_logs: Annotated[bool, typer.Option("--stream-logs", help="Then show what the app prints, until Ctrl-C.")] = False,
    timestamps: Timestamps = False,
    staged: Annotated[bool, typer.Option("--staged", hidden=True)] = False,
) -> None:
    """Make an app run until it is stopped: its functions can be called by name, its web functions have URLs, its schedules run."""
    from squall.cli.commands.deploy import main
    from squall.cli.ui.refusals import refuse

    if staged:
        refuse("squall deploy --staged", "a version is live as soon as it is deployed; deploy it under another --name or in another --env first")
    raise SystemExit(
        main(
            target, as_module=module, name=name, tag=tag, environment=environment, strategy=strategy, quiet=quiet, verbose=verbose, stream_logs=stream_logs,
            timestamps=timestamps,
        )
    )  # fmt: skip


def serve(
    target: Program,
    module: Module = False,
    name: Annotated[str | None, typer.Option("--name", "-n", help="Of the app, instead of its own.")] = None,
    environment: Environment = None,
    timeout: Annotated[float | None, typer.Option("--timeout", help="Seconds, after which it ends by itself.")] = None,
    verbose: Annotated[bool, typer.Option("--verbose", "-v")] = False,
    timestamps: Timestamps = False,
) -> None:
    """Run an app while this terminal is open, with its web functions and schedules, and take up every change of its files when they are saved."""
    from squall.cli.commands.serve import main

    raise SystemExit(main(target, as_module=module, environment=environment, verbose=verbose, timeout_s=timeout, name=name, timestamps=timestamps))


def app_history(app: AppName, environment: Environment = None, as_json: AsJson = False) -> None:
    """The versions of a deployed app, newest first."""
    from squall.cli.commands.deploy import history

    history(app, environment, as_json=as_json)


def app_rollback(
    app: AppName,
    version: Annotated[str | None, typer.Argument(metavar="[VERSION]", help="By default the one before.")] = None,
    environment: Environment = None,
    strategy: Annotated[str, typer.Option("--strategy", help="rolling, or recreate: the old containers end first.")] = "rolling",
) -> None:
    """Make an earlier version live again, as a new one."""
    from squall.cli.commands.deploy import rollback

    rollback(app, version, environment, strategy)


def app_rename(app: AppName, name: Annotated[str, typer.Argument(metavar="NAME")], environment: Environment = None) -> None:
    """Give a deployed app another name. Its web addresses change with it."""
    from squall.cli.commands.deploy import rename

    rename(app, name, environment)


@schedules.command("list")
def schedule_list(as_json: AsJson = False) -> None:
    """What runs by itself, when it ran last, and when it runs next."""
    from squall.cli.ui.existing_server import plain_errors, rows
    from squall.cli.ui.listing import Column, age, clock, show
    from squall.wire.deploys import ListSchedules

    columns = (
        Column("NAME", ("name",)),
        Column("SCHEDULE", ("schedule",)),
        Column("NEXT", ("next_at",), clock),
        Column("LAST", ("last_at",), age),
        Column("STATE", ("paused",), lambda value: "paused" if value else "on"),
        Column("LAST CALL", ("last_call",)),
    )
    with plain_errors():
        show(rows(ListSchedules()), columns, as_json=as_json, empty="nothing is scheduled; give a function schedule=squall.Cron(...) and squall deploy it")


@schedules.command("run")
def schedule_run(name: Annotated[str, typer.Argument(metavar="NAME", help="app.function, or the function's own name.")]) -> None:
    """Run a scheduled function now, beside its schedule; writes the call's id."""
    from squall.cli.ui.existing_server import ask, plain_errors
    from squall.wire.deploys import RunSchedule
    from squall.wire.messages import Names

    with plain_errors():
        answer = ask(RunSchedule(name))
        assert isinstance(answer, Names)
        typer.echo(answer.names[0])


@schedules.command("pause")
def schedule_pause(
    name: Annotated[str, typer.Argument(metavar="NAME", help="app.function, the function's own name, or an app for all of its.")],
    resume: Annotated[bool, typer.Option("--resume", help="Go on.")] = False,
) -> None:
    """Stop a schedule until it is resumed. Ticks of the time between are not made up for."""
    from squall.cli.ui.existing_server import ask, plain_errors, say
    from squall.wire.deploys import PauseSchedule
    from squall.wire.messages import Names

    with plain_errors():
        answer = ask(PauseSchedule(name, not resume))
        assert isinstance(answer, Names)
        for each in answer.names:
            say(f"✓ {each} {'goes on' if resume else 'is paused; --resume goes on'}")


@tokens.command("create")
def token_create(
    kind: Annotated[
        str,
        typer.Option(
            "--kind",
            help="proxy: for web functions with requires_proxy_auth; api: for the HTTP API; call: only to look and to call functions; read: only to look.",
        ),
    ] = "api",
    proxy: Annotated[bool, typer.Option("--proxy", help="The same as --kind proxy.")] = False,
    name: Annotated[str, typer.Option("--name", help="A word of yours for it.")] = "",
) -> None:
    """Make a token: writes its id and its secret, which is shown only now."""
    from squall.cli.ui.existing_server import ask, plain_errors
    from squall.wire.deploys import CreateToken
    from squall.wire.messages import Names

    with plain_errors():
        answer = ask(CreateToken("proxy" if proxy else kind, name))
        assert isinstance(answer, Names)
        typer.echo(" ".join(answer.names))


@tokens.command("list")
def token_list(as_json: AsJson = False) -> None:
    """Tokens, without their secrets."""
    from squall.cli.ui.existing_server import plain_errors, rows
    from squall.cli.ui.listing import Column, age, show
    from squall.wire.deploys import ListTokens

    columns = (Column("ID", ("id",)), Column("KIND", ("kind",)), Column("NAME", ("name",)), Column("AGE", ("created_at",), age))
    with plain_errors():
        show(rows(ListTokens()), columns, as_json=as_json, empty="no tokens; squall token create makes one")


@tokens.command("delete")
def token_delete(token: Annotated[str, typer.Argument(metavar="ID")]) -> None:
    """Take a token away: from now on it opens nothing."""
    from squall.cli.ui.existing_server import ask, plain_errors, say
    from squall.wire.deploys import DeleteToken

    with plain_errors():
        ask(DeleteToken(token))
        say(f"✓ {token} is gone")
