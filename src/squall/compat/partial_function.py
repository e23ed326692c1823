"""`modal.partial_function`: the class of what a decorator such as `method` makes."""

from squall.sdk.app.decorators import Partial as PartialFunction

__all__ = ["PartialFunction"]
