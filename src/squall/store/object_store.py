"""Object stores (S3, GCS, Azure) through `obstore`, with their errors in Squall's words. Everything blocks.

The import of obstore waits for the first use: most servers have no object store.
"""

import contextlib
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

from squall.model.errors import ConnectionError, InvalidError, NotFoundError, PermissionDeniedError

#: A store that does not answer is asked for so long, and a few times.
_OPTIONS: dict[str, Any] = {
    "client_options": {"timeout": "20s", "connect_timeout": "10s", "allow_http": True},
    "retry_config": {"max_retries": 3, "retry_timeout": timedelta(seconds=20)},
}


class ObjectStore:
    """One bucket, below one prefix."""

    def __init__(self, store: Any) -> None:
        self._store = store

    def get(self, key: str) -> bytes:
        """
        Raises:
            NotFoundError, PermissionDeniedError, ConnectionError.
        """
        import obstore

        with _said(key):
            return bytes(obstore.get(self._store, key).bytes())

    def put(self, key: str, data: bytes | memoryview) -> None:
        """Raises PermissionDeniedError, ConnectionError. When it returns, the store has it."""
        import obstore

        with _said(key):
            obstore.put(self._store, key, bytes(data))

    def delete(self, key: str) -> None:
        """Idempotent."""
        import obstore

        with _said(key), contextlib.suppress(FileNotFoundError):
            obstore.delete(self._store, key)

    def listing(self, prefix: str = "") -> Iterator[tuple[str, int, float]]:
        """Key, bytes and time of the last change (Unix seconds) of everything."""
        import obstore

        with _said(prefix):
            for some in obstore.list(self._store, prefix or None):
                for each in some:
                    yield str(each["path"]), int(each["size"]), each["last_modified"].timestamp()

    def probe(self, prefix: str = "") -> None:
        """Ask for anything below `prefix`; nothing there is no error."""
        import obstore

        with _said(prefix):
            next(iter(obstore.list(self._store, prefix or None, chunk_size=1)), None)


def s3_store(bucket: str, *, endpoint: str | None, region: str, key: str, secret: str, token: str, path_style: bool) -> ObjectStore:
    """A bucket that speaks S3. Without a key nothing is signed. An empty region is us-east-1."""
    from obstore.store import S3Store

    known: dict[str, Any] = {"endpoint": endpoint} if endpoint else {}
    known |= {"access_key_id": key, "secret_access_key": secret} if key else {"skip_signature": True}
    known |= {"session_token": token} if token else {}
    return ObjectStore(S3Store(bucket, region=region or "us-east-1", virtual_hosted_style_request=not path_style, **known, **_OPTIONS))


def open_url(url: str) -> ObjectStore:
    """``s3://bucket/prefix``, ``gs://…``, ``az://…``: keys come from the variables of each cloud (AWS_ACCESS_KEY_ID, AWS_ENDPOINT_URL …).

    Raises:
        InvalidError: another kind of URL, or settings that do not fit.
    """
    from obstore.store import from_url

    if url.partition("://")[0] not in ("s3", "gs", "az", "azure"):
        raise InvalidError(f"SQUALL_BLOBS={url!r} is no object store; write s3://BUCKET/PREFIX, gs://BUCKET/PREFIX or az://CONTAINER/PREFIX")
    try:
        return ObjectStore(from_url(url, **_OPTIONS))
    except Exception as error:  # obstore has a class for each setting
        raise InvalidError(f"SQUALL_BLOBS={url!r}: {_short(error)}") from error


@contextlib.contextmanager
def _said(key: str) -> Iterator[None]:
    from obstore import exceptions

    try:
        yield
    except FileNotFoundError as error:
        raise NotFoundError(f"the object store has no {key}: {_short(error)}") from error
    except (exceptions.PermissionDeniedError, exceptions.UnauthenticatedError) as error:
        raise PermissionDeniedError(_short(error)) from error
    except exceptions.BaseError as error:
        if "status code: 404" in str(error):  # of a list; only its text says so
            raise NotFoundError(_short(error)) from error
        if "status code: 403" in str(error) or "status code: 401" in str(error):
            raise PermissionDeniedError(_short(error)) from error
        raise ConnectionError(f"the object store does not answer: {_short(error)}") from error


def _short(error: Exception) -> str:
    """Without the store's long debugging text after the first lines."""
    return " ".join(str(error).split("\n\nDebug source:")[0].split())[:300]
