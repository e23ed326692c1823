"""Errors of a generator that gave items before it failed: it isn't run again, since its caller would get the same items twice."""

from squall.model.errors import Error, GeneratorInterruptedError, rebuild


def interrupted(function: str, delivered: int | None, container: str = "") -> GeneratorInterruptedError:
    """Of a generator that was lost by no fault of its code.

    Args:
        function: its name, for people.
        delivered: the items that its caller has had; None: the server that knew is gone.
    """
    lost = f"its container {container} was lost" if container else "its connection or its server was lost"
    had = "before the server was restarted" if delivered is None else f"after {counted(delivered)}"
    message = f"{function} was interrupted {had}: {lost}. A generator isn't run again once it has given items; call it again for the rest"
    return GeneratorInterruptedError(message, items_delivered=delivered, container=container)


def after_items(error: Error, delivered: int) -> Error:
    """The same error, which also says how many items were delivered before."""
    return rebuild(error.code, f"{error}\n  It had given {counted(delivered)} by then, and isn't run again", {**error.details(), "items_delivered": delivered})


def counted(items: int) -> str:
    return "1 item" if items == 1 else f"{items} items"
