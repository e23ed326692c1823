"""Blobs in an object store: every one is there and, while it is used, in the local directory, too."""

from collections.abc import Collection, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from squall.model.errors import DataLossError, NotFoundError
from squall.store.blobs import BlobDirectory
from squall.store.object_store import ObjectStore

#: Requests on their way to the store at a time.
_TOGETHER = 16


class RemoteBlobs(BlobDirectory):
    """As its base, which becomes a cache: a server on an empty disk finds everything again.

    Args:
        root: the local directory.
        store: the object store. A blob's key is its digest.
    """

    def __init__(self, root: Path, store: ObjectStore) -> None:
        super().__init__(root)
        self._store = store

    def missing(self, digests: Iterable[str]) -> tuple[str, ...]:
        """Those that are neither here nor in the store. Others are here afterwards. Raises ConnectionError as well."""
        absent = super().missing(digests)
        with ThreadPoolExecutor(_TOGETHER) as pool:
            return tuple(digest for digest, found in zip(absent, pool.map(self._fetch, absent), strict=True) if not found)

    def put_all(self, contents: Mapping[str, bytes | memoryview]) -> None:
        """In the store and on disk when it returns. Raises ConnectionError as well; then it may be here, and is put there the next time."""
        new = BlobDirectory.missing(self, contents)
        self.check(contents)
        with ThreadPoolExecutor(_TOGETHER) as pool:
            for _ in pool.map(lambda digest: self._store.put(digest, contents[digest]), new):
                pass
        super().put_all(contents)

    def collect(self, needed: Collection[str], before: float, *, dry: bool) -> list[tuple[str, int, float]]:
        """In both places; what is only in the store counts by when it was put there."""
        gone = {digest: (size, used_at) for digest, size, used_at in super().collect(needed, before, dry=dry)}
        for key, size, put_at in list(self._store.listing()):
            if key in gone or (put_at < before and key not in needed and not self._place(key).exists()):
                gone.setdefault(key, (size, put_at))
                if not dry:
                    self._store.delete(key)
        return [(digest, size, used_at) for digest, (size, used_at) in sorted(gone.items())]

    def _again(self, digest: str) -> bool:
        return self._fetch(digest)

    def _fetch(self, digest: str) -> bool:
        """Bring it here; False: the store does not have it, or not undamaged."""
        try:
            BlobDirectory.put_all(self, {digest: self._store.get(digest)})
        except (NotFoundError, DataLossError):
            return False
        return True
