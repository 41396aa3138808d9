"""The plugin as a stranger meets it: through pytest, with warnings as errors."""

import subprocess
import sys
import tomllib
from importlib.metadata import entry_points
from pathlib import Path

import pytest

from eventrec.testing import RecordedEvents
from eventrec.testing.scripted import Numbered

ROOT = Path(__file__).parents[2]
PLUGIN = "eventrec.testing.plugin"

# The tree may have been installed before it had the entry point.
OPTIONS = () if PLUGIN in {point.value for point in entry_points(group="pytest11")} else ("-p", PLUGIN)

TESTS = """
import asyncio
from typing import Annotated

from eventrec import Column, EventModel, EventRecorder


class OrderPlaced(EventModel, table="orders"):
    order_id: int
    customer: Annotated[str, Column()]


def test_events_are_seen_as_soon_as_they_are_recorded(recorded_events):
    with recorded_events.recorder.context(user="u"):
        assert recorded_events.recorder.record(OrderPlaced(order_id=1, customer="ada"))

    (event,) = recorded_events
    assert (event.type, event.table, event.payload) == ("order_placed", "orders", {"order_id": 1})
    assert (event.columns, event.context) == ({"customer": "ada"}, {"user": "u"})
    assert recorded_events.types == ["order_placed"] and recorded_events.of_type("other") == []
    assert recorded_events[:1] == [event] and recorded_events[0] is event


def test_each_test_has_events_of_its_own(recorded_events):
    assert len(recorded_events) == 0


def test_what_is_refused_is_not_there(recorded_events):
    assert not recorded_events.recorder.record(object())
    assert list(recorded_events) == []


def test_code_under_test_may_open_flush_and_close_the_recorder(recorded_events, conservation):
    async def application(recorder):
        async with recorder:
            recorder.record_many(OrderPlaced(order_id=n, customer="x") for n in range(3))
            assert await recorder.flush(timeout=60)

    recorder = conservation(recorded_events.recorder, offered=lambda: 3)
    asyncio.run(application(recorder))
    assert [event.payload["order_id"] for event in recorded_events] == [0, 1, 2]
    assert recorder.status().subscriptions["recorded_events"].delivered == 3
    recorded_events.clear()
    assert not recorded_events


def test_account_that_disagrees_fails(conservation):
    conservation(EventRecorder(), offered=lambda: 7)
"""

IDLE = """
import sys

def test_nothing_was_loaded_that_nobody_asked_for():
    rooms = {"recorded", "conformance", "proxy"}
    assert not {f"eventrec.testing.{room}" for room in rooms} & set(sys.modules)
"""


def run(directory: Path, test: str) -> str:
    """What pytest says of `test`, without any other configuration, warnings being errors."""
    file = directory / "test_it.py"
    file.write_text(test, encoding="utf-8")
    command = [sys.executable, "-m", "pytest", "-W", "error", "-q", "-p", "no:cacheprovider", f"--rootdir={directory}"]
    done = subprocess.run([*command, *OPTIONS, str(file)], cwd=directory, check=False, capture_output=True, text=True)
    return done.stdout + done.stderr


@pytest.mark.slow
def test_fixtures_do_what_they_say(tmp_path: Path) -> None:
    said = run(tmp_path, TESTS)

    assert "ERROR test_it.py::test_account_that_disagrees_fails" in said, said
    assert "offered 7 outside, counted" in said
    assert "5 passed, 1 error" in said


@pytest.mark.slow
def test_run_that_does_not_use_it_loads_nothing_for_it(tmp_path: Path) -> None:
    assert "1 passed" in run(tmp_path, IDLE)


def test_it_is_an_entry_point_of_pytest() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]

    assert project["entry-points"]["pytest11"] == {"eventrec": PLUGIN}


def test_events_are_seen_where_recorders_are_switched_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EVENTREC_DISABLED", "1")

    recorded = RecordedEvents()

    assert recorded.recorder.record(Numbered(1))
    assert recorded.types == ["numbered"]
