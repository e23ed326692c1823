"""`squall function`: the functions of apps, what they ask for, and how their containers start."""

from typing import Annotated, Any

import typer

from squall.cli.commands.call import AsJson, seconds

functions = typer.Typer(help="Functions: what they ask for, and how their containers start.", no_args_is_help=True)

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
