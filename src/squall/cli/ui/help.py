"""Help as people know it: flags stand there without a type."""

from typing import Any


def hide_types_of_flags(command: Any, parent: Any = None) -> None:
    """Typer writes ``<bool>`` beside every flag, as if it took a value. Goes through the command and all below it."""
    import typer

    context = typer.Context(command, parent=parent, **command.context_settings)
    for parameter in command.get_params(context):
        if getattr(parameter, "is_flag", False) and parameter.metavar is None:
            parameter.metavar = ""
    for below in getattr(command, "commands", {}).values():
        hide_types_of_flags(below, context)
