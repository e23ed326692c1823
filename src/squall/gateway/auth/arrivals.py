"""Specs and options are checked where they arrive, whoever sent them: a client, the HTTP API, or code in a container."""

from squall.model.options import options_of
from squall.model.validation import check_app, check_counts, check_options
from squall.wire.deploys import Deploy, PlanDeploy
from squall.wire.messages import Command, DeriveFunction, StartApp, TuneFunction


def check(command: Command) -> None:
    """
    Raises:
        InvalidError: naming the field that can't be so.
    """
    match command:
        case StartApp() | Deploy() | PlanDeploy():
            check_app(command.spec)
        case DeriveFunction():
            check_options(options_of(command.options))
        case TuneFunction():
            check_counts(command.min_containers, command.max_containers, command.buffer_containers, command.scaledown_window_s)
