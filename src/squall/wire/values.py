"""Values of user code as bytes: pickle protocol 5, by cloudpickle where plain pickle does not do."""

import mmap
import pickle
from typing import Any

from squall.model.errors import DeserializationError, RequestSizeError, SerializationError
from squall.wire.framing import FRAME_BYTES_MAX

#: What fits into a frame, beside what else the messages have that carry it.
OUTCOME_BYTES_MAX = FRAME_BYTES_MAX - (64 << 10)

_ATOMS = frozenset({int, float, str, bytes, bool, type(None), complex})
_EMPTY = pickle.dumps(((), {}), 5)


def plain(value: Any, depth: int = 3) -> bool:
    """Whether plain pickle is certain to do: nothing here is defined by user code. Looks three levels deep and at short containers only, to stay cheap."""
    kind = type(value)
    if kind in _ATOMS:
        return True
    if depth == 0:
        return False
    if kind is tuple or kind is list:
        return len(value) <= 32 and all(plain(item, depth - 1) for item in value)
    if kind is dict:
        return len(value) <= 32 and all(type(key) in _ATOMS and plain(item, depth - 1) for key, item in value.items())
    return False


def dumps(value: Any, what: str = "value") -> bytes:
    """`value` as bytes.

    Args:
        what: names the value in the error, for example ``argument 'rows' of train``.

    Raises:
        SerializationError: it can't be pickled; the message names `what`, its type and the reason.
    """
    if plain(value):
        return pickle.dumps(value, 5)
    try:
        return cast_bytes(pickler().dumps(value, protocol=5))
    except Exception as error:  # pickling runs user code, which may raise anything
        raise SerializationError(f"{what} (a {type(value).__module__}.{type(value).__qualname__}) can't be pickled: {error}") from error


def dump_outcome(value: Any, what: str) -> bytes:
    """As `dumps`, of what a function gives back, which travels in a message.

    Raises:
        RequestSizeError: it does not fit into one.
    """
    data = dumps(value, what)
    if len(data) > OUTCOME_BYTES_MAX:
        raise RequestSizeError(f"{what} has {len(data)} bytes, more than the {OUTCOME_BYTES_MAX} of a message; put it into a volume, and return its path")
    return data


def pickler() -> Any:
    """The module cloudpickle, imported when it is first needed. With the errors: it takes a class by its name only from modules that are loaded."""
    import cloudpickle

    import squall.exception  # noqa: F401

    return cloudpickle


def cast_bytes(data: Any) -> bytes:
    """cloudpickle has no types; what it returns are bytes."""
    assert isinstance(data, bytes)
    return data


def dump_arguments(args: tuple[Any, ...], kwargs: dict[str, Any], function: str) -> bytes:
    """``(args, kwargs)`` as bytes. Raises SerializationError that names the argument at fault."""
    if not args and not kwargs:
        return _EMPTY
    try:
        return dumps((args, kwargs), f"the arguments of {function}")
    except SerializationError:
        for place, value in enumerate(args):
            dumps(value, f"argument {place + 1} of {function}")
        for name, value in kwargs.items():
            dumps(value, f"argument {name!r} of {function}")
        raise


def loads(data: bytes | mmap.mmap, what: str = "value") -> Any:
    """The value again.

    Raises:
        DeserializationError: a module is missing here, or unpickling raised; the message says which.
    """
    try:
        return pickle.loads(data)
    except ModuleNotFoundError as error:
        raise DeserializationError(f"{what} can't be unpickled here: there is no module named {error.name!r}") from error
    except Exception as error:  # unpickling runs user code, which may raise anything
        raise DeserializationError(f"{what} can't be unpickled here: {type(error).__name__}: {error}") from error
