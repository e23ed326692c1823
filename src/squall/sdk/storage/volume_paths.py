"""Paths in volumes, and the errors about them, which are the builtin ones as well."""

import contextlib
from collections.abc import Iterator
from pathlib import PurePosixPath

from squall.model.errors import AlreadyExistsError, InvalidError, NotFoundError


class PathNotFoundError(NotFoundError, FileNotFoundError):
    """No such path in the volume. Also the builtin's, because programs expect either."""


class PathExistsError(AlreadyExistsError, FileExistsError):
    """Something is at this path of the volume already."""


@contextlib.contextmanager
def as_builtin() -> Iterator[None]:
    """Missing and existing paths are raised as errors that are also the builtin ones."""
    try:
        yield
    except NotFoundError as error:
        raise PathNotFoundError(str(error)) from None
    except AlreadyExistsError as error:
        raise PathExistsError(str(error)) from None


def as_folder(parameter: str, path: object) -> str:
    """A directory in a volume, relative to its root; the root itself is empty.

    Raises:
        InvalidError: not a path, or one that does not go down from the root; naming the `parameter`.
    """
    text = as_text(path)
    parts = PurePosixPath(text.lstrip("/")).parts
    if not text or ".." in parts or "\0" in text:
        raise InvalidError(f"{parameter}={text!r} is no directory of the volume; write it from the volume's root, without '..', for example \"models/small\"")
    return "/".join(parts)


def as_text(path: object) -> str:
    """
    Raises:
        InvalidError: not a path, or one that is no UTF-8.
    """
    if not isinstance(path, str | PurePosixPath):
        raise InvalidError(f"{path!r} is not a path in a volume")
    text = str(path)
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InvalidError(f"the path {text!r} can't be written as UTF-8") from error
    return text
