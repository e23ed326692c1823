"""GPUs that are lent to steps of builds: never twice, in turn, and given back whatever happens."""

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

from squall.control.nodes.build_gpus import Loans
from squall.core.placement import Node
from squall.model.errors import ContainerStartError, NotFoundError, ResourceExhaustedError
from squall.model.resources import Gpu
from squall.runtime.cdi import Edits


@dataclass
class Room:
    """What of a router and its room the loans touch."""

    nodes: list[Node]
    came: set[asyncio.Event] = field(default_factory=set)
    made_room: int = 0
    edits_of: Callable[[tuple[str, ...]], Edits] = lambda devices: Edits(env={"DEVICES": " ".join(devices)})

    @property
    def room(self) -> "Room":
        return self

    def make(self) -> None:
        self.made_room += 1

    def given_back(self) -> None:
        for event in self.came:
            event.set()


def room(**options: Any) -> tuple[Any, Node]:
    node = Node("local", 1, 100, {"A100": ("a", "b")})
    return Room([node], **options), node


async def test_who_finds_no_device_waits_for_the_first_that_comes_back() -> None:
    router, node = room()
    loans, lines = Loans(router, router.edits_of), list[str]()
    waits = asyncio.Event()

    def line(text: str) -> None:
        lines.append(text)
        waits.set()

    async def second() -> dict[str, str]:
        async with loans.lend((Gpu("A100", 2),), line) as edits:
            return dict(edits.env)

    async with loans.lend((Gpu("H100"), Gpu("A100")), line) as first:
        assert (first.env, node.used_gpus) == ({"DEVICES": "a"}, {"a"})
        asked = asyncio.create_task(second())
        await waits.wait()
        assert (lines, router.made_room) == (["waiting for 2 A100 GPUs, of which 1 are free"], 1)
        router.given_back()  # a hint that brings nothing
        given_up = asyncio.create_task(second())
        waits.clear()
        await waits.wait()
        given_up.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await given_up
    assert await asked == {"DEVICES": "a b"}
    assert (node.used_gpus, router.came) == (set(), set())


async def test_what_can_not_be_had_is_said_and_leaves_nothing_reserved() -> None:
    router, node = room()
    with pytest.raises(NotFoundError, match="no machine here has it; there are: 2 × A100"):
        async with Loans(router, router.edits_of).lend((Gpu("H100"),), print):
            pass
    async with Loans(router, router.edits_of).lend((Gpu("A100", 2),), print):
        with pytest.raises(ResourceExhaustedError, match="not free within 0.01 s"):
            async with Loans(router, router.edits_of, wait_s=0.01).lend((Gpu("any"),), print):
                pass

    def unknown(devices: tuple[str, ...]) -> Edits:
        raise ContainerStartError("no CDI file")

    router.edits_of = unknown
    with pytest.raises(ContainerStartError):
        async with Loans(router, router.edits_of).lend((Gpu("A100"),), print):
            pass
    assert (node.used_gpus, router.came) == (set(), set())
