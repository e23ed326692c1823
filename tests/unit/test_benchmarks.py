"""The benchmarks speak the one format, and their floor is a real one."""

import json

import pytest
from benchmarks import report
from benchmarks.process import Contestant, ensure_peer
from benchmarks.report import Invalid, Metric, Report
from benchmarks.suites import calls


def a_report() -> Report:
    made = Report({"b_ms": Metric("ms", 2.0), "a_per_s": Metric("1/s", 10.0, lower=False), "free": Metric("ms")})
    for value in (3.0, 1.0, 1.23456):
        made.add("b_ms", value)
    made.add("a_per_s", 9.0)
    made.add("free", 1.0)
    made.add("b_ms", 7.0, "other")
    return made


def test_a_document_has_the_median_and_the_spread() -> None:
    document = a_report().document()
    assert document["metrics"]["b_ms"] == {"value": 1.235, "unit": "ms", "target": 2.0, "runs": 3, "spread": 2.0, "lower_is_better": True}
    assert document["peers"] == {"other": {"b_ms": 7.0}}
    json.dumps(document)


def test_the_table_says_what_is_reached_and_what_is_not() -> None:
    text = report.table({"suite": "s", "commit": "c", "machine": {"summary": "m"}, **a_report().document()})
    lines = {line.split()[0]: line for line in text.splitlines()[2:]}
    assert ("✓" in lines["b_ms"], "✗" in lines["a_per_s"], "✓" in lines["free"] or "✗" in lines["free"]) == (True, True, False)
    assert list(lines) == ["b_ms", "a_per_s", "free"]  # As declared, not as measured.


def test_a_name_that_is_not_declared_is_refused() -> None:
    with pytest.raises(KeyError):
        a_report().add("surprise", 1.0)


def test_the_names_of_the_calls_suite_stay() -> None:
    """They are compared over time: a new name may come, an old one may not go."""
    assert set(calls.METRICS) >= {
        "warm_call_p50_ms",
        "warm_call_p99_ms",
        "floor_call_p50_ms",
        "warm_call_ratio_to_floor",
        "warm_call_ratio_to_ray_actor",
        "map_calls_per_s",
        "floor_map_calls_per_s",
        "map_ratio_to_floor",
        "map_ratio_to_ray_actor",
        "spawn_calls_per_s",
        "large_args_mb_per_s",
        "first_call_server_up_s",
        "first_call_no_server_s",
        "idle_server_rss_mib",
        "idle_server_cpu_percent",
    }


@pytest.mark.parametrize("module", ["floor", "processpool"])
def test_a_contestant_does_the_work_elsewhere_and_ends(module: str) -> None:
    with Contestant(module, module) as contestant:
        calls.validate(contestant)
        assert len(contestant.ask("calls", 20)["times"]) == 20
        assert contestant.ask("map", 500)["seconds"] > 0


def test_a_contestant_that_works_in_its_caller_is_no_figure() -> None:
    class Cheat:
        name = "squall"

        def ask(self, do: str) -> dict[str, object]:
            return {"container": "ct-1", "pid_namespace": "pid:[1]", "client_pid_namespace": "pid:[1]"}

    with pytest.raises(Invalid, match="namespace"):
        calls.validate(Cheat())  # type: ignore[arg-type]


def test_an_unknown_peer_is_named() -> None:
    with pytest.raises(Invalid, match="nobody"):
        ensure_peer("nobody")
