"""`squall deploy`, and `squall app history | rollback | rename`."""

import sys
from pathlib import Path
from typing import Any

from squall.cli.commands import logs
from squall.cli.ui.display import Display
from squall.cli.ui.existing_server import ask, plain_errors, say
from squall.model.errors import InvalidError
from squall.sdk.client.settings import environment_of
from squall.wire.deploys import Deployed, History, RenameApp, Rollback
from squall.wire.messages import Rows

_SIGNS = {"new": "+", "changed": "~", "gone": "-"}


def main(
    target: str, *, as_module: bool, name: str | None, tag: str, environment: str | None, strategy: str, quiet: bool = False, verbose: bool = False,
    stream_logs: bool = False, timestamps: bool = False,
) -> int:  # fmt: skip
    """Deploy; the exit status. `stream_logs`: then show what the app prints, until Ctrl-C."""
    from squall.cli.program.loader import load_app
    from squall.cli.ui.errors import is_users, paragraph, users_traceback
    from squall.sdk.app.deploy import Deployment
    from squall.sdk.output.output import use_sink

    display = Display(quiet=quiet, verbose=verbose)
    places: dict[str, Path] = {}
    try:
        app = load_app(target, as_module=as_module)
        with use_sink(display):
            deployment = Deployment(app, name=name, environment=environment)
            places = deployment.places
            for line in plan_lines(deployment.plan()):
                display.line(line)
            deployed = deployment.apply(tag=tag, strategy=strategy, on_event=display.event)
        assert deployment.spec.name is not None
        for line in deployed_lines(deployed, deployment.spec.name):
            display.line(line)
        display.close()
        for url in deployed.urls.values():
            if quiet:
                print(url)
        if stream_logs:
            with plain_errors():
                logs.show(app=deployed.app, on=True, replay=False, wanted=logs.Wanted(timestamps=timestamps))
        return 0
    except KeyboardInterrupt:
        display.error("✗ interrupted; the server may still finish the deployment: squall app list shows it")
        return 130
    except BaseException as error:
        if isinstance(error, SystemExit):
            raise
        display.close()
        sys.stdout.flush()
        if is_users(error):
            display.error(users_traceback(error, places).rstrip())
        else:
            display.error(f"✗ {paragraph(error, places, log=quiet)}")
        return 1
    finally:
        display.close()


def plan_lines(rows: list[dict[str, Any]]) -> list[str]:
    """What a deployment changes, a line for each function that it changes, and what it keeps running when nobody calls."""
    lines = []
    functions = [row for row in rows if row["change"] != "idle"]
    width = max((len(str(row["function"])) for row in functions), default=0)
    for row in functions:
        if row["change"] == "same":
            continue
        words = ", ".join(row["words"]) or str(row["change"])
        if row["change"] == "new" and row["words"]:
            words = f"new, {words}"
        if row.get("schedule") and row["change"] != "gone":
            words += f", schedule {row['schedule']}{_next(row.get('next_at'))}"
        lines.append(f"  {_SIGNS[row['change']]} {(row['function'] or 'app').ljust(width)}  {words}")
    if not lines:
        lines.append("  nothing changes in what is declared")
    for row in rows:
        if row["change"] == "idle":
            lines.append(f"  keeps running when idle: {row['function']}  {row['words']}")
    return lines


def _next(at: float | None) -> str:
    if at is None:
        return " (it never comes)"
    from datetime import datetime

    return f" → next run {datetime.fromtimestamp(at).astimezone():%a %d %b %H:%M %Z}"


def deployed_lines(deployed: Deployed, name: str) -> list[str]:
    """What is live now, and where."""
    back = f"   (version {deployed.version - 1} drains; squall app rollback {name} goes back)" if deployed.version > 1 else f"   ({deployed.app})"
    width = max((len(tag) for tag in deployed.urls), default=0)
    return [
        f"✓ {name} version {deployed.version} is live in {deployed.took_s:.2f} s{back}",
        *(f"  {tag.ljust(width)}  {url}" for tag, url in deployed.urls.items()),
    ]


def history(app: str, environment: str | None, *, as_json: bool) -> None:
    """The versions of a deployed app."""
    from squall.cli.ui.listing import Column, age, show

    columns = (
        Column("VERSION", ("version",)),
        Column("LIVE", ("current",), lambda value: "live" if value else ""),
        Column("AGE", ("created_at",), age),
        Column("TAG", ("tag",)),
        Column("FUNCTIONS", ("functions",)),
        Column("NOTE", ("note",)),
    )
    with plain_errors():
        answer = ask(History(app, environment_of(environment, "main")))
        assert isinstance(answer, Rows)
        show(answer.rows, columns, as_json=as_json, empty="no versions")


def rollback(app: str, version: str | None, environment: str | None, strategy: str) -> None:
    """Make an earlier version the live one again."""
    with plain_errors():
        number = 0
        if version is not None:
            digits = version.removeprefix("v")
            if not digits.isdigit() or int(digits) < 1:
                raise InvalidError(f"{version!r} is no version: squall app history {app} shows them")
            number = int(digits)
        deployed = ask(Rollback(app, number, environment_of(environment, "main"), strategy))
        assert isinstance(deployed, Deployed)
        for line in deployed_lines(deployed, app):
            say(line)


def rollover(app: str, environment: str | None, strategy: str) -> None:
    """Deploy the live version once more, so that its containers are new."""
    with plain_errors():
        deployed = ask(Rollback(app, 0, environment_of(environment, "main"), strategy, again=True))
        assert isinstance(deployed, Deployed)
        for line in deployed_lines(deployed, app):
            say(line)


def rename(app: str, name: str, environment: str | None) -> None:
    """Give a deployed app another name."""
    with plain_errors():
        ask(RenameApp(app, name, environment_of(environment, "main")))
        say(f"✓ {app} is called {name} now")
