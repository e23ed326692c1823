"""`squall function`: the functions of apps, what they ask for, and how their containers start."""

from typing import Annotated, Any

import typer

from squall.cli.commands.call import AsJson, seconds
from squall.cli.commands.logs import FollowOn, Search, ShowCall, ShowContainer, Since, Source, Tail, Timestamps, Until

functions = typer.Typer(help="Functions: what they ask for, and how their containers start.", no_args_is_help=True)

autoscaler = typer.Typer(help="How many containers a function has.", no_args_is_help=True)
functions.add_typer(autoscaler, name="autoscaler")
AllVariants = Annotated[bool, typer.Option("--all-variants", help="Also of what with_options made of it.")]
Which = Annotated[str, typer.Argument(metavar="FUNCTION", help="Its name, APP.FUNCTION or its id.")]
Environment = Annotated[str | None, typer.Option("--env", "-e", metavar="NAME", help="Only of this environment.")]


@functions.command("list")
def function_list(of: Annotated[str, typer.Option("--app", help="Only of this app.")] = "", as_json: AsJson = False) -> None:
    """Functions of running and deployed apps."""
    from squall.cli.ui.existing_server import plain_errors, resolve, rows
    from squall.cli.ui.listing import Column, short_id, show
    from squall.wire.messages import ListFunctions

    columns = (
        Column("FUNCTION", ("function",)),
        Column("APP", ("app_name",)),
        Column("APP ID", ("app",), short_id),
        Column("CONTAINERS", ("containers",)),
        Column("WAITING", ("waiting",)),
        Column("STARTS", ("starts",)),
    )
    with plain_errors():
        found = rows(ListFunctions(resolve(of, "ap") if of else ""))
        show(found, columns, as_json=as_json, empty="no function is running or deployed; make one:  squall run hello.py")


@functions.command("info")
@functions.command("inspect", hidden=True)
def function_inspect(
    which: Which,
    environment: Environment = None,
    as_json: AsJson = False,
) -> None:
    """One function: what it asks for, what runs, whether its containers are copies of a template, and why not."""
    from squall.cli.ui.existing_server import find_functions, plain_errors
    from squall.cli.ui.listing import show, show_one

    with plain_errors():
        found = find_functions(which, environment)
        if as_json:
            show(found, (), as_json=True, empty="")
            return
        for number, row in enumerate(found):
            if number:
                print()
            templates = row.pop("templates")
            show_one(row, as_json=False)
            for template in templates:
                print(f"  {_template(template)}")


def _template(template: dict[str, Any]) -> str:
    if template["not_forked"]:
        return f"no template: {template['not_forked']}"
    if not template["there"]:
        return "its template has ended, or is being made"
    return f"a template of {template['memory_bytes'] / (1 << 20):.0f} MiB, its import took {seconds(template['import_s'])}"


@functions.command("logs")
def function_logs(
    which: Which,
    follow: FollowOn = False,
    container: Annotated[str, typer.Option("--container", metavar="ID", help="Only of this container.")] = "",
    call: Annotated[str, typer.Option("--call", "--function-call", metavar="ID", help="Only of this call.")] = "",
    since: Since = "",
    until: Until = "",
    search: Search = "",
    tail: Tail = None,
    source: Source = "",
    timestamps: Timestamps = False,
    all_variants: AllVariants = False,
    show_container_id: ShowContainer = False,
    show_function_call_id: ShowCall = False,
    environment: Environment = None,
) -> None:
    """What the containers of a function wrote: stdout to stdout, stderr to stderr."""
    from squall.cli.commands import logs
    from squall.cli.ui.existing_server import plain_errors

    with plain_errors():
        row = _one(which, environment)
        wanted = logs.wanted(
            function=row["function"], container=container, call=call, source=source, since=since, until=until, search=search, tail=tail,
            timestamps=timestamps, variants=all_variants, show_container=show_container_id, show_call=show_function_call_id,
        )  # fmt: skip
        logs.show(app=row["app"], on=follow, wanted=wanted)


@functions.command("calls")
def function_calls(
    which: Which,
    tail: Annotated[int, typer.Option("--tail", "-n", min=1, help="How many.")] = 30,
    since: Since = "",
    until: Until = "",
    all_variants: AllVariants = False,
    show_function_call_id: Annotated[bool, typer.Option("--show-function-call-id", hidden=True, help="It is always shown.")] = False,
    environment: Environment = None,
    as_json: AsJson = False,
) -> None:
    """The latest inputs of a function: those that wait or run, then those that ended."""
    import time

    from squall.cli.commands.call import COLUMNS
    from squall.cli.commands.logs import moment
    from squall.cli.ui.existing_server import plain_errors
    from squall.cli.ui.listing import show

    with plain_errors():
        now = time.time()
        begin, end = moment(since, now) if since else None, moment(until, now) if until else None
        found = [
            row
            for row in _inputs(_one(which, environment), all_variants)
            if (begin is None or row["created_at"] >= begin) and (end is None or row["created_at"] < end)
        ]
        show(found[:tail], COLUMNS, as_json=as_json, empty="no calls of it yet")


@functions.command("stats")
def function_stats(
    which: Which, since: Since = "", until: Until = "", all_variants: AllVariants = False, environment: Environment = None, as_json: AsJson = False
) -> None:
    """How many of a function's latest inputs there are of each state, and how long they waited and ran."""
    from squall.cli.commands.app_facts import show_stats
    from squall.cli.ui.existing_server import plain_errors

    with plain_errors():
        show_stats(_inputs(_one(which, environment), all_variants), since=since, until=until, as_json=as_json)


@functions.command("metrics", hidden=True, context_settings={"ignore_unknown_options": True, "allow_extra_args": True})
def function_metrics(which: Which) -> None:
    """Series over time are not kept."""
    from squall.cli.ui.refusals import refuse

    refuse("squall function metrics", f"series over time are not kept; squall function stats {which} --since 1h  sums up, squall function calls {which} lists")


@functions.command("variants")
def function_variants(
    which: Which,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, help="How many.")] = 200,
    environment: Environment = None,
    as_json: AsJson = False,
) -> None:
    """The variants of a function that with_options made, and what they ask for."""
    from squall.cli.ui.existing_server import plain_errors, rows
    from squall.cli.ui.listing import Column, show
    from squall.model.options import MARK
    from squall.wire.messages import ListFunctions

    columns = (
        Column("VARIANT", ("function",)), Column("ID", ("id",)), Column("CPU", ("cpu",)), Column("MEMORY", ("memory_mib",), lambda value: f"{value} MiB"),
        Column("GPU", ("gpu",), lambda value: ", ".join(value) or "-"), Column("CONTAINERS", ("containers",)),
    )  # fmt: skip
    with plain_errors():
        base = _one(which, environment)
        found = [row for row in rows(ListFunctions(base["app"])) if row["function"].startswith(f"{base['function']}{MARK}")]
        show(found[:limit], columns, as_json=as_json, empty=f"{base['function']} has no variants; f.with_options(...) makes one")


@autoscaler.command("settings")
def autoscaler_settings(which: Which, environment: Environment = None, as_json: AsJson = False) -> None:
    """How many containers a function has, as it was declared or changed since."""
    from squall.cli.ui.existing_server import plain_errors
    from squall.cli.ui.listing import show_one

    with plain_errors():
        row = _one(which, environment)
        show_one({name: row[name] for name in ("min_containers", "max_containers", "buffer_containers", "scaledown_window_s")}, as_json=as_json)


@autoscaler.command("update")
def autoscaler_update(
    which: Which,
    min_containers: Annotated[int | None, typer.Option("--min-containers", min=0)] = None,
    max_containers: Annotated[int | None, typer.Option("--max-containers", min=1)] = None,
    buffer_containers: Annotated[int | None, typer.Option("--buffer-containers", min=0)] = None,
    scaledown_window: Annotated[float | None, typer.Option("--scaledown-window", metavar="SECONDS", min=2, max=3600)] = None,
    environment: Environment = None,
) -> None:
    """Change how many containers a function has, until it is deployed anew."""
    from squall.cli.ui.existing_server import plain_errors, rows
    from squall.cli.ui.listing import show_one
    from squall.sdk.function.autoscaler import tuning

    with plain_errors():
        command = tuning(_one(which, environment)["id"], b"", min_containers, max_containers, buffer_containers, scaledown_window)
        show_one(rows(command)[0], as_json=False)


def _one(which: str, environment: str | None) -> dict[str, Any]:
    """
    Raises:
        NotFoundError: there is none of that name.
        InvalidError: there are several.
    """
    from squall.cli.ui.existing_server import find_functions
    from squall.model.errors import InvalidError, NotFoundError

    found = find_functions(which, environment)
    if not found:
        raise NotFoundError(f"there is no function {which!r}")
    if len(found) > 1:
        names = ", ".join(f"{row['app']}.{row['function']}" for row in found[:4])
        raise InvalidError(f"{which!r} is the name of several functions; name the app too: {names}")
    return found[0]


def _inputs(function: dict[str, Any], all_variants: bool) -> list[dict[str, Any]]:
    """Rows of ListCalls of a function, and of its variants."""
    from squall.cli.ui.existing_server import rows
    from squall.cli.ui.statistics import INPUTS_MAX
    from squall.model.options import MARK
    from squall.wire.messages import ListCalls

    tag = function["function"]
    every = rows(ListCalls(function["app"], "", INPUTS_MAX))
    return [row for row in every if row["function"] == tag or (all_variants and row["function"].startswith(f"{tag}{MARK}"))]
