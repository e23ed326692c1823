"""Holds for every test: what needs root says so, and nothing is left behind. A leak fails the run that made it."""

import gc
import os
import shutil
import sys
import uuid
from collections.abc import Iterator

import pytest
from hypothesis import settings

from support import leaks

# A shared machine stalls for seconds at times; Hypothesis would call that a slow example.
settings.register_profile("squall", deadline=None)
settings.load_profile("squall")

#: A server or container may take this long to be gone after its last user.
GRACE_S = 15.0


def pytest_configure(config: pytest.Config) -> None:
    os.environ[leaks.MARKER] = uuid.uuid4().hex


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests marked `root` are skipped where they are impossible; in CI they run, and fail."""
    possible = sys.platform == "linux" and os.geteuid() == 0 and shutil.which("runc", path=os.environ.get("PATH", "") + ":/usr/sbin") is not None
    if possible or os.environ.get("CI"):
        return
    for item in items:
        if item.get_closest_marker("root"):
            item.add_marker(pytest.mark.skip(reason="needs root and runc"))


@pytest.fixture(scope="session", autouse=True)
def nothing_left_behind() -> Iterator[None]:
    """After the last test: no process, mount, cgroup, network namespace or link that was not there before the first."""
    marker = os.environ[leaks.MARKER]
    before = leaks.snapshot(marker)
    yield
    left = leaks.wait_clean(before, marker, GRACE_S)
    assert not left, "left behind:\n" + "\n".join(f"  {kind}: {name}" for kind, names in left.items() for name in sorted(names))


@pytest.fixture(autouse=True)
def no_descriptor_left(request: pytest.FixtureRequest) -> Iterator[None]:
    """After each test: no file, socket or pipe of this process that was not open before it."""
    before = leaks.descriptors()
    yield
    left = {number: what for number, what in leaks.descriptors().items() if before.get(number) != what}
    if left:
        gc.collect()  # What only a reference cycle holds is closed by the collector, in its own time.
        left = {number: what for number, what in leaks.descriptors().items() if before.get(number) != what}
    assert not left, f"descriptors left open: {left}"
