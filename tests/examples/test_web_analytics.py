"""The web example: from browsers through Redis, a relay and sessions into ClickHouse, and what it then shows."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, get_type_hints

import pytest

from eventrec.sessions.profiles import ProfileRow
from eventrec.testing.clickhouse_http import ClickHouseServer, need_clickhouse
from eventrec.testing.redis import RedisServer, installed
from eventrec.testing.sessions import VisitEvent, brute_force

EXAMPLE = Path(__file__).parents[2] / "examples" / "web_analytics"
VISITORS = 60


@pytest.fixture
def servers() -> Iterator[tuple[RedisServer, ClickHouseServer]]:
    need_clickhouse()
    with RedisServer(installed("valkey")) as redis, ClickHouseServer() as clickhouse:
        yield redis, clickhouse


@pytest.fixture(scope="module")
def browsers(load_module: Callable[[Path], Any]) -> Any:
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.syspath_prepend(str(EXAMPLE))
        yield load_module(EXAMPLE / "browsers.py")
    sys.modules.pop("web_events", None)


def test_the_profile_that_the_catalogue_declares_is_the_row_that_the_relay_makes(browsers: Any) -> None:
    del browsers  # which has loaded it
    declared = sys.modules["web_events"].Profile

    fields = {name: field.annotation for name, field in declared.model_fields.items()}

    assert fields == get_type_hints(ProfileRow)


@pytest.mark.slow
def test_a_day_of_visits_is_stored_once_with_its_sessions_and_shown(
    servers: tuple[RedisServer, ClickHouseServer], browsers: Any, tmp_path: Path
) -> None:
    redis, clickhouse = servers
    where = ("--redis", redis.url(), "--clickhouse", clickhouse.url(), "--visitors", str(VISITORS))

    done = subprocess.run(
        [sys.executable, str(EXAMPLE / "web_analytics.py"), *where],
        capture_output=True,
        text=True,
        check=False,
        cwd=EXAMPLE,
    )

    assert done.returncode == 0, done.stdout + done.stderr
    made = [
        (number, at, event)
        for number in (1, 2)
        for at, event in browsers.visits(seed=number, visitors=VISITORS // 2, seconds=86_400)
    ]
    names = {
        "ScreenView": "screen_view",
        "AddToCart": "add_to_cart",
        "Purchase": "purchase",
        "SignUp": "sign_up",
        "Identify": "identify",
    }
    expected = Counter(names[type(event).__name__] for _, _, event in made)
    stored = {name: int(count) for name, count in clickhouse.query("SELECT name, count() FROM events GROUP BY name")}
    sessions = brute_force(
        VisitEvent(
            id=f"{number}-{order}",
            at=int(at * 1_000),
            project=event.project_id,
            device=event.device_id,
            type=names[type(event).__name__],
            path=event.path,
        )
        for order, (number, at, event) in enumerate(made)
    )
    assert stored == expected | {"session_start": len(sessions), "session_end": len(sessions)}
    ((net, views),) = clickhouse.query("SELECT sum(sign), sum(sign * screen_view_count) FROM sessions")
    assert (int(net), int(views)) == (len(sessions), expected["screen_view"])
    ((longest,),) = clickhouse.query("SELECT max(duration) FROM events WHERE name = 'session_end'")
    assert abs(int(longest) - max(each.duration for each in sessions)) <= 1
    people = [(event.profile_id or event.device_id, event) for _, _, event in made]
    stored_people = {
        id_: (bool(int(is_known)), email, plan)
        for id_, is_known, email, plan in clickhouse.query(
            "SELECT id, toUInt8(is_external), email, properties['plan'] FROM profiles FINAL"
        )
    }
    said = {id_: event for id_, event in people if names[type(event).__name__] == "identify"}
    assert stored_people == {
        id_: (bool(event.profile_id), said[id_].email, said[id_].properties["plan"])
        if id_ in said
        else (bool(event.profile_id), "", "")
        for id_, event in people
    }
    for name in ("live_visitors", "top_pages", "visits", "people", "durations", "ways", "sales"):
        assert f"\n{name}\n" in done.stdout
