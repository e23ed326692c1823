"""Commands of Modal that have no meaning on one's own machines: hidden, and refused with what to do instead."""

from typing import Any

import typer

_BILLING = "the machines are your own; squall app stats  and  squall container list  show what runs"
_PEOPLE = "a server has no accounts; whoever has a token of it may use it:  squall server token,  squall token create"
#: Words of the command -> what to do instead.
COMMANDS = {
    "billing": _BILLING,
    "workspace": _PEOPLE,
    "environment billing": _BILLING,
    "environment roles": _PEOPLE,
    "environment members": _PEOPLE,
    "environment update": "an environment keeps its name: create another one, and deploy into it with --env. The names of web functions end in what"
    "  squall server start --web-domain  says",
    **{
        f"server {word}": f"squall server is about Squall itself; for a server of an app:  squall function {same} APP.NAME"
        for word, same in {"info": "info", "stats": "stats", "requests": "calls", "metrics": "stats", "autoscaler": "autoscaler settings"}.items()
    },
    "server deploy": "write the server into a program, with @app.server() or @squall.web_server(), and squall deploy FILE.py",
    "endpoint": "write the model's server as a web function and deploy it: squall deploy FILE.py",
    "skills": "the documentation is in the folder docs of Squall's source",
    "dashboard": "there is no dashboard; squall app list,  squall call list  and  squall container list  show what runs",
    "volume dashboard": "there is no dashboard; squall volume ls VOLUME  shows what is in it",
    "image names history": "only the latest image of a name is kept; squall image names list  shows it",
}


def register(groups: dict[str, typer.Typer]) -> None:
    """`groups`: those that are there, by their words; "" is the command itself."""
    for words, instead in COMMANDS.items():
        group, _, word = words.rpartition(" ")
        groups[group].command(word, hidden=True, add_help_option=False, context_settings={"ignore_unknown_options": True, "allow_extra_args": True})(
            _refusing(words, instead)
        )


def _refusing(words: str, instead: str) -> Any:
    def command(context: typer.Context) -> None:
        from squall.cli.ui.refusals import refuse

        refuse(f"squall {words}", instead)

    command.__doc__ = "Not supported."
    return command
