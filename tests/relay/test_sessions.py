"""The stage that ships, through a relay into a database."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any
from uuid import UUID

import msgspec

from eventrec.bus import Entry, MemoryStore, make_entry
from eventrec.records.schema import Shape
from eventrec.relaying import stage_from_text

STAGE = stage_from_text("sessions?idle=30m")
VIEW = Shape("events", "screen_view", ())


def view(number: int, device: str, minute: float) -> Entry:
    payload = {"project_id": "shop", "device_id": device, "profile_id": f"of {device}", "path": f"/{number}"}
    at = 1_700_000_000_000_000_000 + int(minute * 60e9)
    return make_entry(
        VIEW, at, msgspec.json.encode(payload), None, None, UUID(int=0x8 << 76 | 0x2 << 62 | number).bytes
    )


async def test_sessions_end_once_whichever_relay_sees_them_end(
    store: MemoryStore, relay: Any, until: Any, tmp_path: Path
) -> None:
    path, stage = tmp_path / "e.db", STAGE

    def ended() -> list[tuple[str, int]]:
        with closing(sqlite3.connect(path)) as database:
            found = database.execute("SELECT type, count(*) FROM events GROUP BY type ORDER BY type").fetchall()
        return [(str(kind), int(count)) for kind, count in found]

    for number in range(0, 40, 10):
        store.append([view(number + n, f"device {n}", minute=number / 10) for n in range(10)])
        async with relay(f"sqlite:///{path}", stages=[stage]) as recorder:
            assert await recorder.flush(20)
    assert ended() == [("screen_view", 40), ("session_start", 10)]

    store.advance(86_400.0)
    async with relay(f"sqlite:///{path}", stages=[stage]) as recorder:
        await until(lambda: ended() == [("screen_view", 40), ("session_end", 10), ("session_start", 10)])
        assert await recorder.flush(20)
    async with relay(f"sqlite:///{path}", stages=[stage]) as recorder:
        assert await recorder.flush(20)

    assert ended() == [("screen_view", 40), ("session_end", 10), ("session_start", 10)]
