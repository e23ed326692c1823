"""Which templates a node keeps: made when needed, shared where they may be, ended with their app or when memory is short."""

import os
import secrets
import shutil
import socket
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import cloudpickle
import msgspec
import pytest

import squall
from squall.images.builder import BuiltImage
from squall.model.ids import ContainerId, ImageId
from squall.model.specs import FunctionSpec
from squall.runtime.contract import Bind, Container, ContainerSpec
from squall.runtime.fork import ForkDriver
from squall.runtime.host import inspect_host
from squall.wire.agent import ImageName, StartContainer
from squall.wire.messages import Boot
from squall.worker.orders import ContainerPlan
from squall.worker.templates import Copied, Templates
from support.containers import children, drop, free_folder, rootfs, shift_owner, traces

pytestmark = [pytest.mark.root, pytest.mark.skipif(inspect_host().driver != "fork" and not os.environ.get("CI"), reason="this host can't copy templates")]
LIBRARY = "/.squall/lib"


@dataclass
class Node:
    driver: ForkDriver
    templates: Templates
    runner: Path
    agent: Path
    containers: list[Container] = field(default_factory=list)

    async def start(self, function: str, code: str = "pass", **fields: object) -> Copied:
        """A container of a function whose import runs `code`."""
        number = len(self.containers) + 1
        name = ContainerId(f"ct-{number}")
        spec = FunctionSpec(function, "m", "f", 0, pickled=cloudpickle.dumps(_Import(code)), fork=bool(fields.pop("fork", True)))
        image = BuiltImage(ImageId("im"), (rootfs(),), {}, "/root", "/usr/bin/python3", "3.11")
        packed = msgspec.msgpack.encode(spec)
        named = ImageName(image.id, (), {}, image.workdir, image.python, image.python_version)
        order = msgspec.structs.replace(StartContainer(name, "ap-1", "app", function, packed, named, (), {}, {}), **fields)
        env = {"PATH": "/usr/bin:/bin", "HOME": "/root", "LANG": "C.UTF-8", "SQUALL_CONTAINER_ID": name, "SQUALL_CONTAINER_SOCKET": "/.squall/run/agent.sock"}
        wanted = ContainerSpec(
            id=name, layers=(*image.layers, self.runner), argv=("x",), env=env, stdout=1, stderr=2, binds=(Bind(self.agent, "/.squall/run"),)
        )
        boot = Boot(name, order.app, "app", function, packed, {}, order.env, order.parameters)
        copied = await self.templates.start(ContainerPlan(order, spec, image, (self.runner,)), wanted, boot, library=LIBRARY)
        assert isinstance(copied, Copied), copied
        self.containers.append(copied.container)
        return copied

    @property
    def there(self) -> set[str]:
        """Ids of the templates whose processes live."""
        return {name for name, template in self.driver._templates.items() if not template.ended.is_set()}


class _Import:
    def __init__(self, code: str) -> None:
        self.code = code

    def __reduce__(self) -> object:
        return eval, (f"exec({self.code!r}, {{}}) or print",)


@pytest.fixture
async def node() -> AsyncIterator[Node]:
    folder = free_folder()
    instance = f"w{secrets.token_hex(3)}"
    runner = folder / "runner"
    for package in (squall, msgspec, cloudpickle):
        source = Path(package.__path__[0])
        shutil.copytree(source, runner / LIBRARY.strip("/") / source.name, ignore=shutil.ignore_patterns("testing", "__pycache__"))
    shift_owner(runner)
    before = children()
    driver = ForkDriver(run=folder / "run", data=folder / "data", instance=instance, ready_networks=2)
    await driver.open()
    # An agent that says nothing: runners connect to it and wait.
    agent = folder / "io" / "any"
    agent.mkdir(parents=True)
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(str(agent / "agent.sock"))
    (agent / "agent.sock").chmod(0o666)
    listening.listen(100)
    it = Node(driver, Templates(driver), runner, agent)
    yield it
    listening.close()
    for container in it.containers:
        await container.remove()
    await it.templates.close()
    await driver.close()
    try:
        assert traces(instance, folder / "run", folder / "data") == []
        assert children() - before == set()
    finally:
        drop(folder)


async def test_functions_share_the_image_template_and_have_their_own(node: Node) -> None:
    code = "import sys; assert 'squall.sdk.app.app' in sys.modules"  # by the image template
    found = [await node.start(function, code) for function in ("a", "b", "a")]
    assert [one.of for one in found] == ["function", "function", "function"]
    assert len(node.there) == 3


async def test_environment_and_parameters_make_another_template(node: Node) -> None:
    await node.start("a", env={"COLOUR": "red"})
    await node.start("a", env={"COLOUR": "blue"})
    await node.start("a", env={"COLOUR": "blue"}, parameters=b"x")
    await node.start("a", env={"COLOUR": "blue"})
    assert len(node.there) == 4


async def test_templates_end_with_their_app_and_copies_go_on(node: Node) -> None:
    kept, other = await node.start("a"), await node.start("b", app="ap-2")
    await node.templates.forget_app("ap-1")
    assert len(node.there) == 2
    assert kept.container.usage() is not None or other.container.usage() is not None
    await node.start("b", app="ap-2")
    assert len(node.there) == 2


async def test_the_one_used_longest_ago_makes_room(node: Node) -> None:
    node.templates.memory_bytes = 64 << 20
    large = "import builtins, os; builtins.B = os.urandom(20 << 20)"
    for function in ("a", "b"):
        await node.start(function, large)
    first = set(node.there)
    await node.start("a", large)
    await node.start("c", large)
    assert len(node.there) == 3
    again = await node.start("a", large)
    assert again.of == "function"
    assert node.there & first, "a was used after b, so b had to go"


async def test_a_reason_is_kept_and_nothing_tried_twice(node: Node) -> None:
    code = "import threading, time; threading.Thread(target=time.sleep, args=(1000,), daemon=True).start()"
    first, second = await node.start("a", code), await node.start("a", code)
    assert (first.of, second.of) == ("image", "image")
    assert first.reason == second.reason
    assert first.reason is not None
    assert "thread" in first.reason
    (told,) = node.templates.explain("a")
    assert (told["there"], told["not_forked"]) == (False, first.reason)
    assert len(node.there) == 1
    assert (await node.start("b", fork=False)).reason == "the function says fork=False"


async def test_what_the_import_printed_goes_to_the_first_container(node: Node) -> None:
    first, second = await node.start("a", "print('importing')"), await node.start("a", "print('importing')")
    assert (first.output, second.output) == (((1, "importing\n"),), ())


async def test_a_function_whose_copies_do_not_lock_themselves_down_imports_for_itself(node: Node) -> None:
    code = "from squall.runner import template_enclosure as it\nit.close_up = lambda order: None"
    for _ in range(2):
        copied = await node.start("fu-hostile", code)
        assert copied.of == "image"
        assert copied.reason is not None
        assert "not locked down" in copied.reason
    assert len(node.there) == 1  # the image's
