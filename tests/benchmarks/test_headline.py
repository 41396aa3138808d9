"""The arithmetic of the benchmarks: what is met, what is left out, and what is written of it."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from types import ModuleType

import pytest

HERE = Path(__file__).parent


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    monkeypatch.syspath_prepend(str(HERE / "headline"))
    yield import_module("measured")
    for name in ("measured", "headline"):
        sys.modules.pop(name, None)


def test_a_ratio_is_met_on_the_right_side_of_its_bound_by_the_median(measured: ModuleType) -> None:
    assert measured.Ratio("r", [0.1, 0.2, 9.0], "at most", 0.2).is_met
    assert not measured.Ratio("r", [0.1, 0.3, 0.3], "at most", 0.2).is_met
    assert measured.Ratio("r", [1.0, 2.0, 3.0], "at least", 2).is_met
    assert not measured.Ratio("r", [1.0, 1.9, 3.0], "at least", 2).is_met


def test_ways_run_once_a_round_in_turns_and_ratios_are_of_one_round(measured: ModuleType) -> None:
    done: list[str] = []

    def way(name: str, *values: float) -> object:
        left = list(values)

        def run() -> float:
            done.append(name)
            return left.pop(0)

        return run

    row = measured.Row("r", "what", "s", "lower")
    measured.interleaved(row, {"a": way("a", 1, 10, 100), "b": way("b", 2, 40, 500)}, ["b"], 3)
    row.ask("b / a", "b", "a", at_most=4)

    assert done == ["a", "b", "b", "a", "a", "b"]
    assert [each.is_ours for each in row.ways] == [False, True]
    assert row.ratios[0].values == [2, 4, 5]
    assert row.ratios[0].is_met


def test_a_peer_that_is_not_installed_is_left_out_and_said(measured: ModuleType) -> None:
    def missing() -> float:
        raise ImportError("No module named 'peer'")

    row = measured.Row("r", "what", "s", "lower")
    measured.interleaved(row, {"peer": missing, "ours": lambda: 1.0}, ["ours"], 2)
    row.ask("ours / peer", "ours", "peer", at_most=1)

    assert [way.name for way in row.ways] == ["ours"]
    assert row.left_out == ["peer: No module named 'peer'"]
    assert row.ratios == []


def test_what_is_written_says_misses_machine_and_what_is_left_out(measured: ModuleType) -> None:
    headline = import_module("headline")
    row = measured.Row("r", "what it is", "µs", "lower", left_out=["peer: not here"])
    row.ways = [measured.Way("ours", [3.0, 1.0, 2.0], is_ours=True), measured.Way("base", [1.0, 1.0, 1.0])]
    row.ask("ours / base", "ours", "base", at_most=1.5)
    machine = dict.fromkeys(
        ("processor", "cores", "memory_gib", "system", "python", "file_system", "fdatasync_ms", "load_before", "at"),
        "x",
    ) | {"versions": {"peer": "1.0"}}

    text = headline.markdown({"machine": machine, "noise_ms": [1.0, 2.0], "plan": "three rounds"}, [row])

    assert "| **ours** | 2 | 1 – 3 |" in text
    assert "| ours / base | at most 1.5 | 2 | 1 – 3 | **missed** |" in text
    assert "Left out: peer: not here." in text
    assert json.loads(json.dumps(row.to_json()))["ratios"][0]["is_met"] is False


def test_requirements_are_pinned_and_name_no_place() -> None:
    lines = (HERE / "requirements.txt").read_text(encoding="utf-8").splitlines()

    pins = [line for line in lines if line and not line.startswith("#")]
    assert all(line.count("==") == 1 and "://" not in line and "--" not in line for line in pins)
    assert sorted(pins) == pins
