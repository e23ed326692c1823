"""`squall app info | stats | rollover`, and what Modal has besides."""

from typing import Annotated

import typer

from squall.cli.commands.call import AsJson, seconds

AppName = Annotated[str, typer.Argument(metavar="APP", help="Its name, its id or the beginning of it.")]
Env = Annotated[str | None, typer.Option("--env", "-e", metavar="NAME", help="Only of this environment.")]
Since = Annotated[str, typer.Option("--since", metavar="TIME", help="Only from then on: an age (10m, 2h, 1d) or a date and time.")]
Until = Annotated[str, typer.Option("--until", metavar="TIME", help="Only before then.")]
NoColor = Annotated[bool, typer.Option("--no-color", hidden=True, help="There is none in this.")]


def register(apps: typer.Typer) -> None:
    """Put the commands where they belong."""
    apps.command("info")(info)
    apps.command("stats")(stats)
    apps.command("rollover")(rollover)
    apps.command("dashboard", hidden=True)(dashboard)
    apps.command("promote", hidden=True)(promote)


def info(which: AppName, env: Env = None, as_json: AsJson = False, no_color: NoColor = False) -> None:
    """An app: since when it runs, its versions, its functions and their addresses."""
    from squall.cli.ui.existing_server import plain_errors, resolve, rows
    from squall.cli.ui.listing import Column, show, show_one
    from squall.wire.deploys import History, WebUrls
    from squall.wire.messages import ListApps, ListFunctions

    with plain_errors():
        app = resolve(which, "ap", env)
        facts = next(dict(row) for row in rows(ListApps()) if row["id"] == app)
        urls = {row["function"]: row["url"] for row in rows(WebUrls(app))}
        versions = rows(History(app, facts["environment"])) if facts["state"] == "deployed" else []
        facts["version"] = next((row["version"] for row in versions if row["current"]), None)
        functions = [{**row, "url": urls.get(row["function"])} for row in rows(ListFunctions(app))]
        if as_json:
            show_one({**facts, "functions": functions, "urls": urls}, as_json=True)
            return
        show_one(facts, as_json=False)
        columns = (
            Column("FUNCTION", ("function",)), Column("CONTAINERS", ("containers",)), Column("WAITING", ("waiting",)), Column("CPU", ("cpu",)),
            Column("MEMORY", ("memory_mib",), lambda value: f"{value} MiB"), Column("GPU", ("gpu",), lambda value: ", ".join(value) or "-"),
            Column("URL", ("url",)),
        )  # fmt: skip
        show(functions, columns, as_json=False, empty="it has no functions that run")


def stats(which: AppName, since: Since = "", until: Until = "", env: Env = None, as_json: AsJson = False, no_color: NoColor = False) -> None:
    """How many of an app's latest inputs there are of each state, and how long they waited and ran."""
    from squall.cli.ui.existing_server import plain_errors, resolve, rows
    from squall.cli.ui.statistics import INPUTS_MAX
    from squall.wire.messages import ListCalls

    with plain_errors():
        show_stats(rows(ListCalls(resolve(which, "ap", env), "", INPUTS_MAX)), since=since, until=until, as_json=as_json)


def show_stats(found: list[dict[str, object]], *, since: str, until: str, as_json: bool) -> None:
    """Of rows of ListCalls. Raises InvalidError: a time that is none."""
    import time

    from squall.cli.commands.logs import moment
    from squall.cli.ui.listing import show_one
    from squall.cli.ui.statistics import of_inputs

    now = time.time()
    facts = of_inputs(found, since=moment(since, now) if since else None, until=moment(until, now) if until else None)
    if not as_json:
        facts = {name.removesuffix("_s"): seconds(value) if name.endswith("_s") else value for name, value in facts.items()}
    show_one(facts, as_json=as_json)


def rollover(
    which: AppName,
    strategy: Annotated[str, typer.Option("--strategy", help="rolling, or recreate: the old containers end first.")] = "rolling",
    env: Env = None,
) -> None:
    """Give a deployed app new containers, without a change of its code: its live version is deployed once more."""
    from squall.cli.commands.deploy import rollover as run

    run(which, env, strategy)


def dashboard(which: AppName, env: Env = None) -> None:
    """Squall has no pages of its own."""
    from squall.cli.ui.refusals import refuse

    refuse("squall app dashboard", f"there is no dashboard; squall app info {which}  shows the app, squall app logs {which}  what it prints")


def promote(which: AppName, version: Annotated[str, typer.Argument(metavar="VERSION")], env: Env = None) -> None:
    """Nothing is staged here."""
    from squall.cli.ui.refusals import refuse

    refuse("squall app promote", f"a version is live as soon as it is deployed; squall app rollback {which} {version}  makes an earlier one live again")
