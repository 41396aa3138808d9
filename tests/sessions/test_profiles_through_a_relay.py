"""Sessions and profiles in one relay, killed and cut anywhere: what lies in the tables is what the whole list says."""

from __future__ import annotations

import random
import sqlite3
import time
from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import pytest

from eventrec import TIMESTAMP, EventRecorder, Layout, LayoutColumn, from_payload
from eventrec.bus import STAGE_PREFIX, Entry, LeaseLostError, MemoryBus, MemoryStore, Shard, Step
from eventrec.errors import TransientError
from eventrec.records.entry import EXPLICIT_ID
from eventrec.relay import RelayOptions
from eventrec.sessions import Profiles, Sessions, SessionStage
from eventrec.sessions.moments import moment_at
from eventrec.testing import assert_conserved
from eventrec.testing.profiles import (
    ExpectedProfile,
    PersonEvent,
    brute_force_profiles,
    last_rows,
    moment_of,
    person_entry,
)
from eventrec.testing.sessions import VisitEvent, brute_force, collapsed
from eventrec.testing.stages import payloads

T = 1_760_000_000_000
MINUTE = 60_000
LEASE_SECONDS = 10
QUICK = RelayOptions(lease_seconds=5.0, save_seconds=0.01, due_seconds=0.02)

PROFILES = Layout(
    "profiles",
    [
        *(
            LayoutColumn(name, from_payload(name), "text", nullable=False, default="")
            for name in ("id", "project_id", "first_name", "last_name", "email", "avatar")
        ),
        LayoutColumn("is_external", from_payload("is_external"), "boolean", nullable=False, default=False),
        LayoutColumn("properties", from_payload("properties"), "json"),
        LayoutColumn("groups", from_payload("groups"), "json"),
        LayoutColumn("created_at", from_payload("created_at"), "timestamptz"),
        LayoutColumn("last_seen_at", TIMESTAMP, "timestamptz"),
        LayoutColumn("version", from_payload("version"), "bigint"),
    ],
)


def people(chance: random.Random, count: int) -> list[PersonEvent]:
    """Events of some visitors, of whom half say who they are; each device's in the order of their time."""
    events = []
    for i in range(count):
        number = chance.randrange(6)
        is_update = number % 2 == 0 and chance.random() < 0.2
        events.append(
            PersonEvent(
                id=str(i),
                at=T + i * 4 * MINUTE,
                project="shop",
                device=f"d{number}",
                profile=f"p{number}" if number % 2 == 0 else "",
                type="identify" if is_update else chance.choice(["screen_view", "click"]),
                names={"email": f"{chance.randrange(3)}@x.org"} if is_update else {},
                properties={"plan": {"seats": chance.randrange(9)}} if is_update else {},
                observed={"path": f"/{chance.randrange(5)}", "country": chance.choice(["SE", "DE"])},
                groups=chance.choice([(), (), ("g",), ("h",)]),
            )
        )
    return events


def expected_of(events: list[PersonEvent]) -> list[ExpectedProfile]:
    """What profiles come to behind sessions, which add their starts and ends to the events.

    Its properties are checked apart: what they are last depends on when a session was found to be over.
    """
    sessions = brute_force(
        VisitEvent(
            id=event.id, at=event.at, project=event.project, device=event.device, profile=event.profile, path="/"
        )
        for event in events
    )
    ends = [
        PersonEvent(
            id=f"end {number}",
            at=each.ended_event,
            project=each.project,
            device=each.device,
            profile=each.profile,
            type="session_end",
        )
        for number, each in enumerate(sessions)
    ]
    return brute_force_profiles([*events, *ends])


def check(found: list[dict[str, Any]], events: list[PersonEvent]) -> None:
    """The last rows are those of all events, and no row is there twice."""
    assert len({(row["id"], row["version"]) for row in found}) == len(found)
    last = last_rows(sorted(found, key=lambda row: int(row["version"])))
    expected = expected_of(events)
    assert sorted(last) == [(each.project, each.id) for each in expected]
    for each in expected:
        row = last[each.project, each.id]
        assert (row["is_external"], row["email"]) == (each.is_external, each.email)
        assert (moment_of(row, "created_at"), moment_of(row)) == (each.created_at, each.last_seen_at)
        assert row["properties"].get("plan.seats") == each.properties.get("plan", {}).get("seats")


# -- on a bus, with answers that are lost


async def serve(shard: Shard, holder: str, *, max_records: int) -> None:
    """Both stages in turn, as a relay does until it has caught up."""
    for stage in (SessionStage(Sessions()), SessionStage(Profiles())):
        lease = await shard.acquire(STAGE_PREFIX + stage.name, holder, seconds=LEASE_SECONDS)
        assert lease is not None
        progress = await shard.progress(lease)
        for log in await shard.logs():
            at = progress.get(log.id, 0)
            while (records := await shard.read(log.id, at, max_records=max_records, max_bytes=1 << 20)).end > at:
                keys = stage.keys(log.id, records)
                state = dict(zip(keys, await shard.state(stage.name, keys), strict=True))
                output = stage.process(log.id, records, state, await shard.time())
                await shard.commit(lease, Step(output, log.id, at, records.end))
                at = records.end
        while due := await shard.due(stage.name, limit=3):
            await shard.commit(lease, Step(stage.expire(dict(due), await shard.time())))
        await shard.release(lease)
        shard = shard.outlet(stage.name)


async def given_out(shard: Shard) -> list[Entry]:
    """All that the last stage has given out."""
    found: list[Entry] = []
    outlet = shard.outlet("sessions").outlet("profiles")
    for log in await outlet.logs():
        at = 0
        while (records := await outlet.read(log.id, at, max_records=100, max_bytes=1 << 20)).end > at:
            found += records.entries
            at = records.end
    return found


@pytest.mark.anyio
@pytest.mark.parametrize("seed", range(2))
async def test_cut_anywhere_no_change_of_a_profile_is_lost_and_none_is_there_twice(seed: int) -> None:
    chance = random.Random(seed)
    events = people(chance, 120)
    store, faults = MemoryStore(), Counter[str]()

    async def fail(call: str) -> None:
        if chance.random() < 0.06:
            faults[call] += 1
            raise TransientError("cut")

    async def serve_once(holder: str, *, is_calm: bool) -> bool:
        store.arriving = store.answering = None
        async with MemoryBus(store) as bus:
            (shard,) = await bus.shards()
            store.arriving = store.answering = None if is_calm else fail
            try:
                await serve(shard, holder, max_records=chance.randrange(5, 40))
            except (TransientError, LeaseLostError):
                store.advance(LEASE_SECONDS + 1)
                return False
            finally:
                store.arriving = store.answering = None
            return True

    for start in range(0, len(events), 20):
        store.append([person_entry(event) for event in events[start : start + 20]])
        await serve_once(f"relay {start}", is_calm=False)
    while not await serve_once("one more", is_calm=False):
        pass
    store.advance(1_800)
    while not await serve_once("while sessions end", is_calm=False):
        pass
    await serve_once("the last", is_calm=True)

    async with MemoryBus(store) as bus:
        (shard,) = await bus.shards()
        found = await given_out(shard)
        held = await shard.outlet("sessions").size("profiles")
    assert faults["commit"] > 0
    assert len({entry[EXPLICIT_ID] for entry in found}) == len(found)
    assert len(payloads(found, "screen_view", "click", "identify")) == len(events)
    check(payloads(found, "profile"), events)
    assert held == len(expected_of(events))


# -- through relays into tables


def stored(database: Path, table: str, columns: str) -> list[Any]:
    with closing(sqlite3.connect(database)) as connection:
        names = {name for (name,) in connection.execute("SELECT name FROM sqlite_master")}
        return connection.execute(f'SELECT {columns} FROM "{table}"').fetchall() if table in names else []


def profiles_in(database: Path) -> list[dict[str, Any]]:
    names = [column.name for column in PROFILES.columns]
    found = [dict(zip(names, row, strict=True)) for row in stored(database, "profiles", ", ".join(names))]
    for row in found:
        row |= {name: msgspec.json.decode(row[name]) for name in ("properties", "groups")}
        row["is_external"] = bool(row["is_external"])
        row |= {name: moment_at(row[name] // 1_000_000).isoformat() for name in ("created_at", "last_seen_at")}
    return found


def test_relays_store_sessions_and_profiles_as_they_were_by_a_layout(tmp_path: Path) -> None:
    events = people(random.Random(3), 160)
    store, database = MemoryStore(), tmp_path / "out.db"
    sessions = brute_force(
        VisitEvent(id=each.id, at=each.at, project="shop", device=each.device, profile=each.profile, path="/")
        for each in events
    )

    for start in range(0, 160, 40):
        store.append([person_entry(event) for event in events[start : start + 40]])
        recorder = EventRecorder(
            f"sqlite:///{database}",
            log=tmp_path / f"relay{start}",
            bus=MemoryBus(store),
            stages=["sessions", "profiles"],
            layouts=[PROFILES],
            relay=QUICK,
        )
        with recorder.sync() as running:
            assert running.flush(60)
            if start == 120:
                store.advance(1_801)
                deadline = time.monotonic() + 20
                while sum(kind == "session_end" for (kind,) in stored(database, "events", "type")) < len(sessions):
                    assert time.monotonic() < deadline, "sessions did not end"
                    time.sleep(0.02)
                assert running.flush(60)
        assert_conserved(running.status())

    rows = collapsed(msgspec.json.decode(text) for (text,) in stored(database, "sessions", "payload"))
    assert len(rows) == len(sessions)
    check(profiles_in(database), events)
