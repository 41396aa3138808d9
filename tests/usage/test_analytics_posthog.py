"""`Analytics` to PostHog by URL: what arrives there, run after run."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from eventrec import Analytics, EventModel
from eventrec.consent.choices import ChoicesFile
from eventrec.consent.places import places_of
from eventrec.testing.posthog import FakePostHog, Said
from eventrec.usage import usage_options

QUICK = usage_options().model_copy(update={"flush_interval": 0.05})


class Opened(EventModel):
    kind: str


@pytest.fixture
def posthog() -> Iterator[FakePostHog]:
    with FakePostHog() as fake:
        yield fake


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    return {"HOME": str(tmp_path)}


@pytest.fixture
def run(posthog: FakePostHog, environment: dict[str, str]) -> Callable[[], Analytics]:
    options: dict[str, Any] = {"properties": {"edition": "free"}, "options": QUICK, "disclose": str}
    url = posthog.url()
    return lambda: Analytics("my-app", url, environment=environment, **options)


def until(holds: Callable[[], object]) -> None:
    latest = time.monotonic() + 20
    while not holds():
        assert time.monotonic() < latest
        time.sleep(0.01)


def named(posthog: FakePostHog, name: str) -> list[dict[str, Any]]:
    return [event for event in posthog.events if event["event"] == name]


def test_events_of_each_kind_arrive_as_posthog_knows_them(
    posthog: FakePostHog, run: Callable[[], Analytics], environment: dict[str, str]
) -> None:
    with run() as first:
        first.record(Opened(kind="first"))
        first.close(5)
    assert posthog.requests == []

    with run() as second:
        second.identify(plan="free")
        second.set_person(plan="paid")
        second.record(Opened(kind="second"))
        until(lambda: len(posthog.events) == 4)

    choices = ChoicesFile(places_of("my-app", environment).choices).load()
    assert choices is not None
    assert {event["distinct_id"] for event in posthog.events} == {choices.id}
    (identify,), (person,) = named(posthog, "$identify"), named(posthog, "$set")
    assert identify["properties"] == {"session_id": second.session_id}
    assert identify["$set"] == {"plan": "free"}
    assert person["properties"] == {"$set": {"plan": "paid"}}
    old, new = sorted(named(posthog, "opened"), key=lambda event: str(event["timestamp"]))
    for event, analytics, kind in ((old, first, "first"), (new, second, "second")):
        said = event["properties"]
        assert (said["kind"], said["session_id"], said["event_id"]) == (kind, analytics.session_id, 1)
        assert said["edition"] == "free"
        assert "distinct_id" not in said


@pytest.mark.parametrize("status", [401, 403, 429, 500, 503])
def test_an_answer_that_is_not_a_yes_stops_the_session_and_loses_nothing(
    posthog: FakePostHog, run: Callable[[], Analytics], status: int
) -> None:
    run().close()
    posthog.answer_with(Said(status, {"detail": "no"}))

    with run() as analytics:
        analytics.record(Opened(kind="kept"))
        until(lambda: analytics.why_off == "a send failed")
        assert analytics.record(Opened(kind="not taken")) is False
        assert analytics.flush(20) is False
    assert len(posthog.requests) == 1
    assert analytics.status().refused == {"stopped": 1}

    posthog.answer_normally()
    with run():
        until(lambda: posthog.events)
    assert [event["properties"]["kind"] for event in posthog.events] == ["kept"]


def test_a_key_that_is_refused_is_shown_nowhere(
    posthog: FakePostHog, run: Callable[[], Analytics], caplog: pytest.LogCaptureFixture
) -> None:
    run().close()
    posthog.key = "phc_another"

    with run() as analytics:
        analytics.record(Opened(kind="kept"))
        until(lambda: analytics.why_off)

    assert "phc_test" not in caplog.text + str(analytics.status()) + repr(analytics)
