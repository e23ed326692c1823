"""Messages between the server and a node's agent: each is the same after a way over the wire, and an order names layers instead of telling where they are."""

from pathlib import Path
from typing import Any, get_args

import msgspec
import pytest

from squall.control.calls.live_function import LiveFunction
from squall.images.built import BuiltImage
from squall.model.ids import ImageId
from squall.model.specs import FunctionSpec
from squall.wire.agent import (
    BecameReady,
    ContainerRecord,
    ContainerState,
    CouldNotStart,
    Died,
    EndedContainer,
    Finished,
    Heartbeat,
    ImageName,
    InHand,
    KeepContainer,
    KillContainer,
    NodeHello,
    Order,
    PrepareImage,
    Report,
    StartContainer,
    Started,
    Tell,
    Told,
    Usage,
)
from squall.wire.messages import Fault, Flight, Landed, More, Print, Rejoin, Result, Revoke, Revoked, Run, StartFailed, Stop

IMAGE = ImageName("im-1", ("k1", "k2"), {"A": "b"}, "/root", "/usr/bin/python3", "3.11", ("/entry",))
RECORD = ContainerRecord("ct-1", "ap-1", "f", "fu-1", b"spec", "im-1", ("k3",), b"", "node", "A100", ("GPU-1",), "0.1", 0.5, 0.1)
ORDERS = [
    StartContainer("ct-1", "ap-1", "app", "fu-1", b"spec", IMAGE, ("k3",), {"f": "fu-1"}, {"B": "c"}, b"p", ("GPU-1",), "A100", "node"),
    KeepContainer("ct-1"),
    Tell("ct-1", Run(7, "fc-1", 0, b"data", "m", 3, True)),
    Tell("ct-1", Stop((7,))),
    Tell("ct-1", More(7, 2)),
    Tell("ct-1", Revoke((7,))),
    KillContainer("ct-1"),
    PrepareImage(IMAGE, ("k3",)),
    Heartbeat(),
]
REPORTS = [
    NodeHello(
        3,
        (ContainerState("ct-1", RECORD), ContainerState("ct-2", in_hand=(InHand(7, 1, 5),), finished=(Finished(Result(6, 0, b"v"), 2),))),
        (EndedContainer(Died("ct-3"), ContainerState("ct-3")),),
    ),
    Heartbeat({"ct-1": Usage(0.5, 1 << 20)}, 3),
    Started("ct-1", 12, 0.02, "image", "it says fork=False", "/entry"),
    BecameReady("ct-1", 0.5, 0.1, {"image_s": 0.0, "ready_s": 0.6}),
    CouldNotStart("ct-1", Fault(0, "container_start", "no", {"reason": "x"})),
    Told("ct-1", Result(7, 0, b"value", 0.1)),
    Told("ct-1", Print(7, 1, b"line\n")),
    Told("ct-1", Revoked((7,))),
    Told("ct-1", StartFailed(1, b"raised")),
    Told("ct-1", Rejoin((Flight(7, "fc-1", 0, "", 0.1),), (Landed(6, "fc-1", 1, 0, b"v", 0.1),), True)),
    Died("ct-1", None, 9, True, 1 << 20, 7),
]


@pytest.mark.parametrize(("message", "union"), [*((order, Order) for order in ORDERS), *((report, Report) for report in REPORTS)], ids=str)
def test_a_message_is_the_same_after_a_way_over_the_wire(message: Any, union: Any) -> None:
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(message), type=union) == message


def test_every_kind_of_message_is_among_those() -> None:
    assert {type(order) for order in ORDERS} == set(get_args(Order))
    assert {type(report) for report in REPORTS} == set(get_args(Report))


def test_an_order_names_layers_and_tells_no_paths() -> None:
    image = BuiltImage(ImageId("im-1"), (Path("/data/layers/k1/fs"), Path("/data/layers/k2/fs")), {}, "/root", "/usr/bin/python3", "3.11")
    function = LiveFunction("fu-1", "ap-1", "app", FunctionSpec("f", "m", "f", 0), b"", image, (Path("/data/layers/k3/fs"),), {})
    assert (function.image_name.layers, function.layer_names) == (("k1", "k2"), ("k3",))
