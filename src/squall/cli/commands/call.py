"""`squall call`: what became of calls, and why one waits."""

from typing import Annotated, Any

import typer

from squall.cli.ui.listing import Column, age, short_id

calls = typer.Typer(help="Calls: the latest, and why one waits.", no_args_is_help=True)

#: The steps of a container's start, in their order, as rows have them.
START_STEPS = ("placing_s", "image_s", "template_s", "network_s", "fork_s", "import_s", "enter_s", "first_input_s")

AsJson = Annotated[bool, typer.Option("--json", help="As JSON, every field.")]


def seconds(value: Any) -> str:
    """A duration with its unit, to three digits."""
    if not isinstance(value, int | float):
        return "-"
    return f"{value * 1e3:.3g} ms" if value < 1 else f"{value:.3g} s" if value < 120 else f"{value / 60:.0f} min"


#: Of a listing of inputs.
COLUMNS = (
    Column("CALL", ("call",), short_id),
    Column("INPUT", ("index",)),
    Column("FUNCTION", ("function",)),
    Column("STATE", ("state",)),
    Column("QUEUED", ("queued_s", "waited_s"), seconds),
    Column("RAN", ("running_s",), seconds),
    Column("TRIES", ("attempts",)),
    Column("AGE", ("created_at",), age),
    Column("WAITS FOR", ("waits_for",)),
)


@calls.command("list")
def call_list(
    of: Annotated[str, typer.Option("--app", help="Only of this app.")] = "",
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, help="How many.")] = 30,
    as_json: AsJson = False,
) -> None:
    """The latest inputs: those that wait or run, then those that ended."""
    from squall.cli.ui.existing_server import plain_errors, resolve, rows
    from squall.cli.ui.listing import show
    from squall.wire.messages import ListCalls

    with plain_errors():
        found = rows(ListCalls(resolve(of, "ap") if of else "", "", limit))
        show(found, COLUMNS, as_json=as_json, empty="no calls yet; make one:  squall run hello.py")


@calls.command("show")
def call_show(which: Annotated[str, typer.Argument(metavar="CALL", help="Its id or the beginning of it.")], as_json: AsJson = False) -> None:
    """One call: where it is, why it waits, how long each phase took."""
    from squall.cli.ui.existing_server import plain_errors, rows
    from squall.cli.ui.listing import show
    from squall.wire.messages import ListCalls

    with plain_errors():
        found = rows(ListCalls("", which, 200))
        if not found:
            raise typer.Exit(1)  # no server is running, as was said
        if as_json:
            show(found, (), as_json=True, empty="")
            return
        for row in found[:20]:
            for line in told(row):
                print(line)
        if len(found) > 20:
            print(f"… and {len(found) - 20} more inputs")


def told(row: dict[str, Any]) -> list[str]:
    """A row of ListCalls in words."""
    name = f"{row['call']} input {row['index']}"
    state = row["state"]
    lines = [f"{name}  {row['function']}  {'waiting ' + seconds(row.get('waited_s')) if state == 'queued' else state}"]
    if row.get("waits_for"):
        place = f"  place {row['position']} in its queue" if row.get("position") else ""
        lines.append(f"  waits for {row['waits_for']}{place}")
    if row.get("error"):
        lines.append(f"  {row['error']}")
    phases = [("queued", row.get("queued_s")), ("ran", row.get("running_s"))]
    shown = ", ".join(f"{what} {seconds(value)}" for what, value in phases if value is not None)
    if shown:
        lines.append(f"  {shown}")
    if start := row.get("start"):
        steps = [(name.removesuffix("_s").replace("_", " "), start[name]) for name in START_STEPS if start[name]]
        if start["copy_of"] is None:
            steps = [("program" if name == "fork" else name, value) for name, value in steps]
        lines.append(f"  its container's start {seconds(start['total_s'])}: " + ", ".join(f"{name} {seconds(value)}" for name, value in steps))
        if start["not_forked"]:
            lines.append(f"  it was no copy of its function's template: {start['not_forked']}")
    lines += [f"  {seconds(event['ago_s'])} ago: {event['what']}" for event in row.get("story") or ()]
    tries = f"try {row['attempts']}" + (f", {row['lost']} lost by the platform" if row["lost"] else "")
    lines += [f"  an attempt failed: {attempt['error']}" for attempt in row.get("failed_attempts", ())[-5:]]
    if row.get("container"):
        lines.append(f"  in {row['container']}  ({tries})   logs: squall container logs {str(row['container'])[:21]}")
    elif row["attempts"]:
        lines.append(f"  {tries}")
    return lines


@calls.command("cancel")
def call_cancel(which: Annotated[str, typer.Argument(metavar="CALL", help="Its id or the beginning of it.")]) -> None:
    """Stop a call: what waits never runs, what runs is interrupted."""
    from squall.cli.ui.existing_server import ask, plain_errors, rows, say
    from squall.model.errors import NotFoundError
    from squall.sdk.function.call import FunctionCall
    from squall.wire.messages import ListCalls, ListContainers

    with plain_errors():
        found = rows(ListCalls("", which, 1))
        if not found or found[0]["state"] not in ("queued", "running"):
            raise NotFoundError(f"{which} does not wait or run any more")
        FunctionCall.from_id(found[0]["call"]).cancel()
        ask(ListContainers())  # an answer means that the message before it was read
        say(f"✓ {found[0]['call']} is cancelled")
