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
GRACE_S = 60.0


#: Where a run of several processes begins: what takes longest first, so that none is still at it when the others are done.
FIRST = ("faults", "sim", "e2e", "container")

BEFORE = pytest.StashKey[dict[str, set[str]]]()


def pytest_configure(config: pytest.Config) -> None:
    os.environ[leaks.MARKER] = uuid.uuid4().hex


def pytest_sessionstart(session: pytest.Session) -> None:
    """Of several processes each looks after its own processes; what bears no owner's mark is for the one that began them."""
    if os.environ.get("PYTEST_XDIST_WORKER"):
        os.environ[leaks.SHARED] = "1"
    elif session.config.getoption("numprocesses", None):
        session.config.stash[BEFORE] = leaks.snapshot(os.environ[leaks.MARKER])


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    before = session.config.stash.get(BEFORE, None)
    if before is None:
        return
    left = leaks.wait_clean(before, os.environ[leaks.MARKER], GRACE_S)
    if left:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
        reporter = session.config.pluginmanager.get_plugin("terminalreporter")
        if reporter is not None:
            reporter.write_line("\n" + leaks.story(left), red=True)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests marked `root` are skipped where they are impossible; in CI they run, and fail."""
    items.sort(key=lambda item: next((place for place, kind in enumerate(FIRST) if f"tests/{kind}/" in item.nodeid), len(FIRST)))
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
    assert not left, leaks.story(left)


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
