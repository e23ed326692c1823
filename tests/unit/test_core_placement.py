"""Placement: what fits where, what is short, and that what is given back is free again."""

from hypothesis import given
from hypothesis import strategies as st

from squall.core.placement import CPU_OVERCOMMIT, Node, Placement, Short, place
from squall.model.resources import Gpu, Resources


def gpus(**kinds: int) -> dict[str, tuple[str, ...]]:
    return {kind.replace("_", "-"): tuple(f"{kind}-{number}" for number in range(count)) for kind, count in kinds.items()}


def taken(need: Resources, *nodes: Node) -> Placement:
    placed = place(need, list(nodes))
    assert isinstance(placed, Placement), placed
    placed.take()
    return placed


def test_it_goes_to_the_fullest_node_where_it_fits() -> None:
    empty, fuller, full = Node("empty", 4, 8192), Node("fuller", 4, 8192, used_cores=8.0), Node("full", 4, 8192, used_memory_mib=8000)
    assert taken(Resources(cpu_request=1, memory_request_mib=512), empty, fuller, full).node is fuller


def test_what_is_short_is_named_with_figures() -> None:
    node = Node("one", 4, 1024)
    assert place(Resources(cpu_request=5), [node]) == Short("cores", 5, 4, False)
    assert place(Resources(memory_request_mib=2048), [node]) == Short("MiB of memory", 2048, 1024, False)
    node.used_memory_mib = 1000
    assert place(Resources(memory_request_mib=128), [node]) == Short("MiB of memory", 128, 24, True)
    node.used_memory_mib, node.used_cores = 0, 4 * CPU_OVERCOMMIT
    assert place(Resources(), [node]) == Short("cores", 0.125, 0, True)
    assert place(Resources(), []) == Short("machines", 1, 0, False)


def test_a_machine_that_could_ever_do_it_counts_more_than_one_that_has_more() -> None:
    busy, small = Node("busy", 4, 4096, used_memory_mib=4000), Node("small", 4, 2000)
    assert place(Resources(memory_request_mib=3000), [small, busy]) == Short("MiB of memory", 3000, 96, True)


def test_gpus_that_modal_does_not_have_are_found_by_words_of_their_name() -> None:
    node = Node("desk", 8, 65_536, {"GEFORCE-RTX-4090": ("a",), "RTX-A6000": ("b",), "L40S": ("c",)})
    for wish, device in (("RTX-4090", "a"), ("4090", "a"), ("A6000", "b"), ("RTX-A6000", "b"), ("L40S", "c")):
        assert taken(Resources(gpus=(Gpu(wish),)), node).devices == (device,)
        node.used_gpus.clear()
    for wish in ("L4", "A600", "H10O"):
        assert place(Resources(gpus=(Gpu(wish),)), [node]) == Short(f"{wish} GPUs", 1, 0, False, ("GEFORCE-RTX-4090", "L40S", "RTX-A6000"))


def test_gpus_are_whole_devices_and_alternatives_are_tried_in_order() -> None:
    node = Node("gpus", 8, 65_536, gpus(A100_80GB=2, L4=1))
    both = Resources(gpus=(Gpu("H100"), Gpu("A100", 2)))
    first = taken(both, node)
    assert (first.gpu_type, first.devices) == ("A100-80GB", ("A100_80GB-0", "A100_80GB-1"))
    assert place(Resources(gpus=(Gpu("A100"),)), [node]) == Short("A100 GPUs", 1, 0, True, ("L4",))
    assert place(Resources(gpus=(Gpu("H100"),)), [node]) == Short("H100 GPUs", 1, 0, False, ("A100-80GB", "L4"))
    assert taken(Resources(gpus=(Gpu("any"),)), node).gpu_type == "L4"
    first.give_back()
    assert taken(Resources(gpus=(Gpu("A100-80GB"),)), node).devices == ("A100_80GB-0",)


needs = st.builds(
    Resources,
    cpu_request=st.sampled_from([0.125, 0.5, 2.0]),
    memory_request_mib=st.sampled_from([128, 1024, 4096]),
    gpus=st.lists(st.builds(Gpu, st.sampled_from(["A100", "L4", "any"]), st.integers(1, 3)), max_size=2).map(tuple),
)


@given(st.lists(st.tuples(needs, st.booleans()), max_size=60))
def test_nothing_is_given_twice_and_all_comes_back(story: list[tuple[Resources, bool]]) -> None:
    nodes = [Node("a", 2, 8192, gpus(L4=2)), Node("b", 4, 4096, gpus(A100_40GB=3))]
    placed: list[Placement] = []
    for need, ends_one in story:
        found = place(need, nodes)
        if isinstance(found, Placement):
            found.take()
            placed.append(found)
        elif ends_one and placed:
            placed.pop(0).give_back()
        for node in nodes:
            assert node.used_cores <= node.cores * CPU_OVERCOMMIT
            assert node.used_memory_mib <= node.memory_mib
        devices = [device for one in placed for device in one.devices]
        assert len(devices) == len(set(devices)) == sum(len(node.used_gpus) for node in nodes)
    for one in placed:
        one.give_back()
    assert [(node.used_cores, node.used_memory_mib, node.used_gpus) for node in nodes] == [(0, 0, set())] * 2


def test_what_is_short_in_words() -> None:
    assert [Short(what, asked, 0, True).lack for what, asked in (("H100 GPUs", 1), ("H100 GPUs", 2), ("cores", 0.5), ("MiB of memory", 1))] == [
        "1 H100 GPU", "2 H100 GPUs", "0.5 cores", "1 MiB of memory",
    ]  # fmt: skip
