"""An application's usage, as PostHog gets it."""

from __future__ import annotations

from pathlib import Path

import pytest

from eventrec import EventModel
from eventrec.testing.posthog import FakePostHog
from eventrec.usage.analytics import Analytics, usage_options

pytestmark = pytest.mark.handlers

QUICK = usage_options().model_copy(update={"flush_interval": 0.05})


class SettingsOpened(EventModel, type="settings-opened"):
    tab: str


def test_second_run_sends_both_sessions_each_under_its_own_id(posthog: FakePostHog, tmp_path: Path) -> None:
    places = {name: str(tmp_path / name) for name in ("HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME")}
    sessions: list[str] = []
    for run in range(2):
        with Analytics(
            "my-app",
            posthog.url(),
            properties={"app_env": "test"},
            disclose=lambda _: None,
            options=QUICK,
            environment=places,
        ) as analytics:
            sessions.append(analytics.session_id)
            analytics.identify(plan="free")
            analytics.record(SettingsOpened(tab=f"{run}"))
            analytics.set_person(email="me@example.org")
            if not analytics.is_first_run:
                posthog.wait_for_events(6)
                assert analytics.flush(20)
        if not run:
            assert not posthog.requests

    assert len(posthog.events) == 6
    assert len({event["distinct_id"] for event in posthog.events}) == 1
    for run, session in enumerate(sessions):
        append, identify = (
            next(
                event
                for event in posthog.events
                if event["event"] == name and event["properties"]["session_id"] == session
            )
            for name in ("settings-opened", "$identify")
        )
        assert {"tab": f"{run}", "event_id": 1, "app_env": "test"}.items() <= append["properties"].items()
        assert append["properties"].keys() >= {"my_app_version", "python_version", "target", "debug"}
        assert identify["$set"] == {"plan": "free"}
        assert identify["properties"] == {"session_id": session}
    assert [event["properties"] for event in posthog.events if event["event"] == "$set"] == [
        {"$set": {"email": "me@example.org"}}
    ] * 2
