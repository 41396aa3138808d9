"""Sessions through a relay into a database: what lies in its tables is what the whole list comes to."""

from __future__ import annotations

import random
import sqlite3
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec

from eventrec import EventRecorder
from eventrec.bus import MemoryBus, MemoryStore
from eventrec.relay import RelayOptions
from eventrec.testing import assert_conserved
from eventrec.testing.sessions import VisitEvent, brute_force, collapsed, entry_of

T = 1_760_000_000_000
QUICK = RelayOptions(lease_seconds=5.0, save_seconds=0.01, due_seconds=0.02)


def stored(database: Path, table: str) -> list[dict[str, Any]]:
    """The payloads in a table, as `eventrec.testing.stages.payloads` has them."""
    with closing(sqlite3.connect(database)) as connection:
        names = {name for (name,) in connection.execute("SELECT name FROM sqlite_master")}
        query = f'SELECT id, type, timestamp, payload FROM "{table}" ORDER BY rowid'
        rows = connection.execute(query).fetchall() if table in names else []
    return [{**msgspec.json.decode(text), "_id": id_, "_type": kind, "_at": at} for id_, kind, at, text in rows]


def test_a_relay_stores_each_event_once_and_each_session_as_it_was(tmp_path: Path) -> None:
    chance = random.Random(5)
    events = [
        VisitEvent(
            id=str(i),
            at=T + i * 90_000 + chance.randrange(-30, 30) * 60_000,
            project="shop",
            device=f"d{chance.randrange(6)}",
            type=chance.choice(["screen_view", "click"]),
            path=chance.choice(["/a", "/b", ""]),
            revenue=chance.choice([0.0, 0.5]),
        )
        for i in range(200)
    ]
    store, database = MemoryStore(), tmp_path / "out.db"
    expected = brute_force(events)

    for start in range(0, 200, 50):
        store.append([entry_of(event, number=event.id) for event in events[start : start + 50]])
        recorder = EventRecorder(
            f"sqlite:///{database}",
            log=tmp_path / f"relay{start}",
            bus=MemoryBus(store),
            stages=["sessions?gap=30m"],
            relay=QUICK,
        )
        with recorder.sync() as running:
            assert running.flush(60)
            if start == 150:
                store.advance(1_801)
                deadline = time.monotonic() + 20
                while sum(each["_type"] == "session_end" for each in stored(database, "events")) < len(expected):
                    assert time.monotonic() < deadline, "sessions did not end"
                    time.sleep(0.02)
                assert running.flush(60)
        assert_conserved(running.status())

    found = stored(database, "events")
    rows = collapsed(stored(database, "sessions"))
    assert sorted(each["number"] for each in found if "number" in each) == sorted(event.id for event in events)
    assert len({each["_id"] for each in found}) == len(found) == len(events) + 2 * len(expected)
    assert sorted(
        (
            row["device_id"],
            row["screen_view_count"],
            row["event_count"],
            row["duration"],
            row["revenue"],
            row["exit_path"],
        )
        for row in rows.values()
    ) == sorted(
        (each.device, each.screen_view_count, each.event_count, each.duration, each.revenue, each.exit_path)
        for each in expected
    )
    ends = [each for each in found if each["_type"] == "session_end"]
    assert sorted((each["session_id"], each["duration"]) for each in ends) == sorted(
        (id_, row["duration"]) for id_, row in rows.items()
    )


def test_what_is_held_back_waits_across_relays(tmp_path: Path) -> None:
    store, database = MemoryStore(), tmp_path / "out.db"
    kinds = (("screen_view", 0), ("click", 1_000), ("screen_view", 4_000), ("session_end", 9_000))

    for kind, at in kinds:
        event = VisitEvent(
            id=kind + str(at), at=T + at, project="p", device="d", type=kind, path="/" if at == 0 else ""
        )
        store.append([entry_of(event, session_id="s")])
        recorder = EventRecorder(
            f"sqlite:///{database}",
            log=tmp_path / f"relay{at}",
            bus=MemoryBus(store),
            stages=["reference-sessions"],
            relay=QUICK,
        )
        with recorder.sync() as running:
            assert running.flush(60)
        assert_conserved(running.status())

    found = [(each["_type"], each["path"], each.get("duration")) for each in stored(database, "events")]
    assert found == [
        ("click", "/", None),
        ("screen_view", "/", 4_000),
        ("screen_view", "", 5_000),
        ("session_end", "", None),
    ]
