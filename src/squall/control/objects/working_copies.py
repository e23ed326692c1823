"""Strict mounts: a container's own copy of a volume, which changes only by `commit` and `reload`, as on a service where a volume is no shared directory.

Made for tests of programs that will run there. Copies cost what copies cost (nothing but the names where the file system has reflinks).
"""

import contextlib
import os
import shutil
from pathlib import Path

from squall.model.errors import ConflictError
from squall.store.mirror import Marks, bring, changed, remove, scan


class View:
    """What one container sees of a volume. Blocking, for threads; the caller lets one method of a volume run at a time.

    Args:
        files: the volume, and `staging` a directory on its file system that no container sees.
        place: the copy. `spare`: a directory beside it on its file system.
    """

    def __init__(self, files: Path, staging: Path, place: Path, spare: Path) -> None:
        self._files, self._staging, self.place, self._spare = files, staging, place, spare
        #: The volume, and the copy, when they were last the same.
        self._there: Marks = {}
        self._here: Marks = {}

    def make(self) -> None:
        """The copy of what is committed now."""
        self.place.mkdir(parents=True, mode=0o755)
        facts = self._files.stat()
        os.chown(self.place, facts.st_uid, facts.st_gid)
        self._fetch()
        self._here = scan(self.place)

    def commit(self) -> None:
        """Bring to the volume what was changed here since the last time. Of a file that others changed too, this content counts."""
        here = scan(self.place)
        different, gone = changed(self._here, here)
        remove(self._files, gone)
        bring(self.place, self._files, here, different, self._staging)
        self._here = here
        there = scan(self._files)
        for path in different | gone:  # what others changed is still to be fetched
            if path in there:
                self._there[path] = there[path]
            else:
                self._there.pop(path, None)

    def reload(self) -> None:
        """See what others committed. What was changed here is committed first.

        Raises:
            ConflictError: a process has a file of it open, or is in one of its directories.
        """
        if user := self._user():
            raise ConflictError(f"there are open files preventing the operation: {user}")
        self.commit()
        self._fetch()
        self._here = scan(self.place)

    def drop(self) -> None:
        """Idempotent."""
        shutil.rmtree(self.place, ignore_errors=True)

    def _fetch(self) -> None:
        there = scan(self._files)
        different, gone = changed(self._there, there)
        remove(self.place, gone)
        bring(self._files, self.place, there, different, self._spare)
        self._there = there

    def _user(self) -> str:
        """A path of the copy that a process has open; empty if there is none."""
        device = self.place.stat().st_dev
        inodes = {self.place.stat().st_ino: "."}
        for folder, folders, names in os.walk(self.place):
            for name in (*folders, *names):
                inodes[os.lstat(os.path.join(folder, name)).st_ino] = os.path.relpath(os.path.join(folder, name), self.place)
        for process in Path("/proc").iterdir():
            if not process.name.isdigit():
                continue
            links = [process / "cwd"]
            with contextlib.suppress(OSError):  # it ended, as its links may have below
                links += (process / "fd").iterdir()
            for link in links:
                with contextlib.suppress(OSError):
                    facts = os.stat(link)
                    if facts.st_dev == device and facts.st_ino in inodes:
                        return inodes[facts.st_ino]
        return ""
