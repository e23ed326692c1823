"""Questions that user code asks about where it runs."""

from squall.model.ids import input_id
from squall.runner.context import current_input, in_container


def is_local() -> bool:
    """False inside a container of Squall."""
    return not in_container()


def current_input_id() -> str | None:
    """The ``in-…`` id of the input that this code runs for; None outside a container."""
    found = current_input.get()
    return None if found is None else input_id(*found)


def current_function_call_id() -> str | None:
    """The ``fc-…`` id of the call that this code runs for; None outside a container."""
    found = current_input.get()
    return None if found is None else found[0]
