"""Every exception of Squall. The names and their bases follow Modal's `modal.exception`, so `except` clauses keep working.

Error
├── InvalidError                the user asked wrongly; nothing was started
│   ├── UnsupportedError        a known parameter or method that this version does not have yet
│   └── ConflictError           the object is in a state that forbids this
├── NotFoundError  AlreadyExistsError  AuthError  PermissionDeniedError  VersionError
├── RemoteError                 the user's code, or the container around it, failed
│   ├── ImageBuildError         a build step failed
│   ├── ContainerDiedError      the container ended while it ran this input
│   │   ├── OutOfMemoryError    by the kernel, at the memory limit
│   │   ├── ContainerExitedError  by sys.exit, os._exit or a return of the interpreter
│   │   └── ContainerKilledError  by a signal, for example a segmentation fault
│   ├── ContainerStartError     it never became ready (import error, enter hook, startup timeout)
│   └── UserCodeError           an exception whose class can't be rebuilt here
├── SerializationError  DeserializationError
├── ExecutionError
├── TimeoutError
│   └── FunctionTimeoutError  ExecTimeoutError  OutputExpiredError  SandboxTimeoutError  MountUploadTimeoutError ...
├── ResourceExhaustedError      a limit was reached, a queue is full, no machine is large enough
├── RequestSizeError
├── ConnectionError             no server, or it went away
├── ClientClosed
├── ServiceError                talk with the server broke; the outcome may be unknown
│   └── GeneratorInterruptedError   a generator was lost after it had given items
└── InternalError  InternalFailure  UnimplementedError  DataLossError
InputCancellation (BaseException)   raised inside a cancelled input
"""

from typing import Any, ClassVar


class Error(Exception):
    """Base of all errors that Squall raises by itself."""

    #: Stable name that crosses the wire.
    code: ClassVar[str] = "error"
    #: Whether the same request may simply be sent again.
    retryable: ClassVar[bool] = False

    def details(self) -> dict[str, Any]:
        """The facts that the message was made of: plain values that can cross the wire."""
        return {name: value for name, value in vars(self).items() if not name.startswith("_")}


class InvalidError(Error):
    """The user asked wrongly; the message names the parameter and what to write instead."""

    code = "invalid"


class UnsupportedError(InvalidError):
    """A parameter or method of the reference that this version of Squall does not have yet."""

    code = "unsupported"


class ConflictError(InvalidError):
    """The object is in a state that forbids this."""

    code = "conflict"


class NotFoundError(Error):
    """No such object."""

    code = "not_found"


class AlreadyExistsError(Error):
    """The name is taken."""

    code = "already_exists"


class AuthError(Error):
    """No credentials, or wrong ones."""

    code = "auth"


class PermissionDeniedError(Error):
    """The credentials do not allow this."""

    code = "permission_denied"


class VersionError(Error):
    """Client and server speak no common protocol version."""

    code = "version"


class RemoteError(Error):
    """The user's code, or the container around it, failed."""

    code = "remote"


class ImageBuildError(RemoteError):
    """A build step failed.

    Args:
        message: the cause in one sentence.
        step: the step as the user wrote it, for example ``pip_install nampy``.
        step_index: its place, from 1.
        steps: how many steps the image has.
        exit_code: of the command, where one ran.
        log_tail: the last lines that it printed.
        image: the id of the image.
    """

    code = "image_build"

    def __init__(
        self,
        message: str = "",
        *,
        step: str = "",
        step_index: int = 0,
        steps: int = 0,
        exit_code: int | None = None,
        log_tail: str = "",
        image: str = "",
    ) -> None:
        super().__init__(message)
        self.step, self.step_index, self.steps = step, step_index, steps
        self.exit_code, self.log_tail, self.image = exit_code, log_tail, image


class ContainerDiedError(RemoteError):
    """The container ended while it ran this input. `container` is its id."""

    code = "container_died"

    def __init__(self, message: str = "", *, container: str = "") -> None:
        super().__init__(message)
        self.container = container


class OutOfMemoryError(ContainerDiedError):
    """The kernel ended the container at its memory limit. Both figures are bytes."""

    code = "out_of_memory"

    def __init__(self, message: str = "", *, container: str = "", limit_bytes: int | None = None, peak_bytes: int | None = None) -> None:
        super().__init__(message, container=container)
        self.limit_bytes, self.peak_bytes = limit_bytes, peak_bytes


class ContainerExitedError(ContainerDiedError):
    """The process in the container ended by itself with `exit_code`."""

    code = "container_exited"

    def __init__(self, message: str = "", *, container: str = "", exit_code: int = 0) -> None:
        super().__init__(message, container=container)
        self.exit_code = exit_code


class ContainerKilledError(ContainerDiedError):
    """A signal ended the container; `signal` is its number."""

    code = "container_killed"

    def __init__(self, message: str = "", *, container: str = "", signal: int = 0) -> None:
        super().__init__(message, container=container)
        self.signal = signal


class ContainerStartError(RemoteError):
    """The container never became ready: its runner or an enter hook failed, or the startup timeout passed."""

    code = "container_start"


class UserCodeError(RemoteError):
    """The user's code raised an exception whose class can't be rebuilt here; `type_name` names it."""

    code = "user_code"

    def __init__(self, message: str = "", *, type_name: str = "", remote_traceback: str = "") -> None:
        super().__init__(message)
        self.type_name, self.remote_traceback = type_name, remote_traceback


class SerializationError(Error):
    """A value can't be pickled; the message names it."""

    code = "serialization"


class DeserializationError(Error):
    """A value can't be unpickled here; the message names what is missing."""

    code = "deserialization"


class ExecutionError(Error):
    """An unexpected condition while running, for example a function used before its app runs."""

    code = "execution"


class TimeoutError(Error):
    """Base of all timeouts. Not a subclass of the builtin of this name, as in Modal."""

    code = "timeout"


class FunctionTimeoutError(TimeoutError):
    """An input ran longer than the function's `timeout`."""

    code = "function_timeout"


class ExecTimeoutError(TimeoutError):
    """A command ran longer than its deadline."""

    code = "exec_timeout"


class OutputExpiredError(TimeoutError):
    """The result is no longer stored: results of spawned calls are kept for seven days."""

    code = "output_expired"


class SandboxTimeoutError(TimeoutError):
    """A sandbox reached its lifetime."""

    code = "sandbox_timeout"


class SandboxTerminatedError(Error):
    """Somebody ended a sandbox."""

    code = "sandbox_terminated"


class SandboxFilesystemError(Error):
    """An operation on a sandbox's files failed."""

    code = "sandbox_filesystem"


class SandboxFilesystemNotFoundError(SandboxFilesystemError):
    """No such file."""

    code = "sandbox_filesystem_not_found"


class SandboxFilesystemPathAlreadyExistsError(SandboxFilesystemError):
    """Something is there already."""

    code = "sandbox_filesystem_exists"


class SandboxFilesystemPermissionError(SandboxFilesystemError):
    """The file's mode forbids it."""

    code = "sandbox_filesystem_permission"


class SandboxFilesystemIsADirectoryError(SandboxFilesystemError):
    """It is a directory."""

    code = "sandbox_filesystem_is_directory"


class SandboxFilesystemNotADirectoryError(SandboxFilesystemError):
    """It is no directory."""

    code = "sandbox_filesystem_not_directory"


class SandboxFilesystemDirectoryNotEmptyError(SandboxFilesystemError):
    """The directory is not empty."""

    code = "sandbox_filesystem_not_empty"


class SandboxFilesystemFileTooLargeError(SandboxFilesystemError):
    """The file is too large to be read at once."""

    code = "sandbox_filesystem_too_large"


class SnapshotCreationError(Error):
    """A snapshot of a sandbox can't be made."""

    code = "snapshot_creation"


class LogsFetchError(Error):
    """A question about logs has too large an answer."""

    code = "logs_fetch"


class WorkspaceManagementError(Error):
    """Members, roles or settings can't be changed so."""

    code = "workspace_management"


class MountUploadTimeoutError(TimeoutError):
    """Uploading local files took too long."""

    code = "mount_upload_timeout"


class VolumeUploadTimeoutError(TimeoutError):
    """Uploading to a volume took too long."""

    code = "volume_upload_timeout"


class InteractiveTimeoutError(TimeoutError):
    """Nobody attached to an interactive function in time."""

    code = "interactive_timeout"


class ResourceExhaustedError(Error):
    """A limit was reached: a full queue, a full disk, or a request larger than any machine here."""

    code = "resource_exhausted"


class RequestSizeError(Error):
    """A message is larger than the protocol's limit."""

    code = "request_size"


class ConnectionError(Error):
    """No server answers, or it went away."""

    code = "connection"
    retryable = True


class ClientClosed(Error):
    """The client was used after it was closed."""

    code = "client_closed"


class ServiceError(Error):
    """Talk with the server broke down; whether the request took effect is unknown."""

    code = "service"
    retryable = True


class GeneratorInterruptedError(ServiceError):
    """The container or the server of a generator was lost while it ran. It isn't run again, since its caller would get the same items twice.

    `items_delivered`: how many items its caller has had; None: the server that knew is gone. `container` is the id, where it is known.
    """

    code = "generator_interrupted"
    retryable = False

    def __init__(self, message: str = "", *, items_delivered: int | None = None, container: str = "") -> None:
        super().__init__(message)
        self.items_delivered, self.container = items_delivered, container


class InternalError(Error):
    """A defect of Squall."""

    code = "internal"


class InternalFailure(Error):
    """The platform failed; the input was given up after its platform retries."""

    code = "internal_failure"
    retryable = True


class UnimplementedError(Error):
    """The server does not know this request."""

    code = "unimplemented"


class DataLossError(Error):
    """Stored data does not match its checksum."""

    code = "data_loss"


class ModuleNotMountable(Exception):
    """A local module can't be shipped: it has no source files."""


class UserCodeException(Exception):
    """With `return_exceptions=True` and `wrap_returned_exceptions=True`: holds the exception of the user's code."""

    def __init__(self, exc: BaseException) -> None:
        super().__init__(exc)
        self.exc = exc


class InputCancellation(BaseException):
    """Raised inside a cancelled input. A BaseException, so that `except Exception` does not swallow it."""


class DeprecationError(UserWarning):
    """Category of warnings about old spellings, and raised for names that are gone."""


class AsyncUsageWarning(UserWarning):
    """A blocking call was made inside a running event loop; the message names the `.aio` form."""


class InternalAPIWarning(UserWarning):
    """For programs that reach for the inside of Modal's client; Squall never gives it."""


class ServerWarning(UserWarning):
    """A warning from the server."""


def _tree(base: type[Error]) -> list[type[Error]]:
    return [base, *(error for child in base.__subclasses__() for error in _tree(child))]


# Tracebacks name them by the module that users import them from.
for _found in [*globals().values()]:
    if isinstance(_found, type) and issubclass(_found, BaseException):
        _found.__module__ = "squall.exception"

#: Code -> class, for every error that can cross the wire.
BY_CODE: dict[str, type[Error]] = {error.code: error for error in _tree(Error)}


def rebuild(code: str, message: str, details: dict[str, Any]) -> Error:
    """The error that `code` names, with its message and facts. An unknown code gives a plain `Error`."""
    kind = BY_CODE.get(code, Error)
    error = kind.__new__(kind)
    Exception.__init__(error, message)
    error.__dict__.update(details)
    return error
