"""After a copy: random generators that remember a state get a new one, so that no two containers draw the same."""

import os
import sys


def reseed() -> None:
    """`random` and the C library's users of `os.urandom` (secrets, uuid4) take care of themselves; these do not. Only what is imported already is touched."""
    modules = sys.modules
    numpy_random = modules.get("numpy.random")
    if numpy_random is not None:
        numpy_random.seed()
    ssl = modules.get("ssl")
    if ssl is not None:
        # OpenSSL notices a fork by another pid, which all containers may have.
        ssl.RAND_add(os.urandom(64), 64.0)
    uuid = modules.get("uuid")
    if uuid is not None:
        uuid._last_timestamp = None  # type: ignore[attr-defined]
    process = getattr(modules.get("multiprocessing.process"), "_current_process", None)
    if process is not None:
        process.authkey = os.urandom(32)
