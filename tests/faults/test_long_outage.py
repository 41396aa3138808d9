"""A day without one of three destinations, on virtual time, with real databases and a real log of bounded size."""

from __future__ import annotations

import json
import logging
import os
import sqlite3
import sys
from collections.abc import Awaitable, Callable
from contextlib import closing
from pathlib import Path
from typing import Any, Final

import anyio
import anyio.to_thread
import pytest

from eventrec import (
    Batch,
    DestinationCheckpoints,
    EventHandler,
    EventRecorder,
    EventRecorderOptions,
    TransientError,
    handler_from_url,
)
from eventrec.delivery.worker.batching import RAMP
from eventrec.runs.survey import tree_size
from eventrec.runtime import backend, threads
from eventrec.status import Status
from eventrec.testing import assert_conserved
from eventrec.testing.clock import VirtualTimeLoop
from eventrec.testing.scripted import Numbered
from eventrec_handlers._thread import WorkThread

PER_SECOND: Final = 10
HOUR: Final = 3_600
MEMORY: Final = 64 << 20
"""Bytes that the process may grow by in the outage."""


class Visit(Numbered):
    """A number in some 250 bytes."""

    @property
    def payload(self) -> object:
        return {"number": self.number, "path": "/products/" + "x" * 200}


class WorkingLoop(VirtualTimeLoop):
    """Virtual time that waits for threads."""

    def waiting(self, function: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        """`function`, which waits for a thread."""

        async def wrapped(*args: Any, **options: Any) -> Any:
            self.at_work += 1
            try:
                return await function(*args, **options)
            finally:
                self.at_work -= 1

        return wrapped


class Interrupted(EventHandler):
    """A real handler whose destination nobody reaches while it `is_down`. Remembers the sizes of its batches."""

    def __init__(self, url: str) -> None:
        self.is_down = False
        self.sizes: list[int] = []
        self.attempts = 0
        self._inner = handler_from_url(url)

    async def open(self) -> None:
        self._reach()
        await self._inner.open()

    async def handle(self, batch: Batch) -> None:
        self._reach()
        await self._inner.handle(batch)
        self.sizes.append(len(batch))

    async def close(self) -> None:
        await self._inner.close()

    @property
    def checkpoints(self) -> DestinationCheckpoints | None:
        return self._inner.checkpoints

    def _reach(self) -> None:
        if self.is_down:
            self.attempts += 1
            raise TransientError("nobody answers")


def in_sqlite(database: Path) -> list[int]:
    with closing(sqlite3.connect(database)) as connection:
        return [n for (n,) in connection.execute("SELECT payload ->> 'number' FROM events ORDER BY 1")]


def in_lines(lines: Path) -> list[int]:
    found = (line for path in lines.rglob("*.jsonl") for line in path.read_bytes().splitlines())
    return sorted(json.loads(line)["payload"]["number"] for line in found)


def resident() -> int:
    """Bytes of this process in memory."""
    status = Path("/proc/self/statm")
    return int(status.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") if status.exists() else 0


class Outage:
    """An outage of `seconds`, with a minute before it and all the time that is needed after it."""

    def __init__(self, home: Path, seconds: int, *, bound: int) -> None:
        self.home = home
        self.seconds = seconds
        self.bound = bound
        self.offered = 0
        self.largest_lag = 0.0
        """Seconds that one of the two healthy subscriptions was behind at most."""
        self.max_bytes = 0
        self.grown = 0
        self.dead = Interrupted(f"sqlite:///{home}/dead.db")
        self.at_its_end: Status | None = None
        self.recorder = EventRecorder(
            log=home / "log", options=EventRecorderOptions(max_log_bytes=bound, keep_free=0, close_timeout=60)
        )
        self.recorder.register(self.dead, name="dead")
        self.recorder.register(f"sqlite:///{home}/fine.db", name="fine")
        self.recorder.register(f"jsonl:///{home}/lines", name="lines")

    async def run(self, loop: WorkingLoop) -> None:
        async with self.recorder:
            await self.record_for(60, loop)
            self.dead.is_down = True
            at_first = resident()
            for _ in range(self.seconds // 60):
                await self.record_for(60, loop)
                self.grown = max(self.grown, resident() - at_first)
                self.max_bytes = max(self.max_bytes, tree_size(self.home / "log"))
            self.at_its_end = self.recorder.status()
            self.dead.is_down = False
            self.dead.sizes.clear()
            while self.recorder.status().subscriptions["dead"].pending > PER_SECOND * 5:
                await self.record_for(10, loop)
            await self.record_for(10, loop)  # the log is looked at again, however fast it was made up for
            loop.at_work += 1  # what is left of it takes the time it takes

    async def record_for(self, seconds: int, loop: WorkingLoop) -> None:
        write = loop.waiting(self.recorder.record_durable)
        for _ in range(seconds):
            for _ in range(PER_SECOND - 1):
                assert self.recorder.record(Visit(self.offered))
                self.offered += 1
            await write(Visit(self.offered), until="written")
            self.offered += 1
            await anyio.sleep(1)
            parts = self.recorder.status().subscriptions
            behind = max(self.offered - parts[name].scanned for name in ("fine", "lines"))
            self.largest_lag = max(self.largest_lag, behind / PER_SECOND)


@pytest.fixture
def loop(monkeypatch: pytest.MonkeyPatch) -> WorkingLoop:
    loop = WorkingLoop()
    monkeypatch.setattr(backend, "in_daemon_thread", loop.waiting(threads.in_daemon_thread))
    monkeypatch.setattr(anyio.to_thread, "run_sync", loop.waiting(anyio.to_thread.run_sync))
    monkeypatch.setattr(WorkThread, "run", loop.waiting(WorkThread.run))
    return loop


@pytest.mark.parametrize(
    ("hours", "bound"),
    [
        pytest.param(1 / 3, 1 << 20, marks=pytest.mark.slow, id="20 minutes"),
        pytest.param(24, 64 << 20, marks=[pytest.mark.faults, pytest.mark.timeout(1_800)], id="a day"),
    ],
)
def test_one_dead_destination_costs_a_bounded_log_and_four_lines(
    tmp_path: Path, loop: WorkingLoop, caplog: pytest.LogCaptureFixture, hours: float, bound: int
) -> None:
    caplog.set_level(logging.INFO, logger="eventrec")
    outage = Outage(tmp_path, round(hours * HOUR), bound=bound)

    anyio.run(outage.run, loop, backend_options={"loop_factory": lambda: loop})

    offered, status = outage.offered, outage.recorder.status()
    lines = [(record.levelname, record.getMessage().partition("=")[0].rpartition(" ")[0]) for record in caplog.records]
    sys.stdout.write(
        f"{offered:,} events; lag {outage.largest_lag} s; log {outage.max_bytes:,} bytes; memory"
        f" +{outage.grown >> 20} MiB; {outage.dead.attempts:,} attempts; {status.subscriptions['dead']}; {lines}\n"
    )
    assert in_sqlite(tmp_path / "fine.db") == list(range(offered))
    assert in_lines(tmp_path / "lines") == list(range(offered))
    assert outage.largest_lag <= 5
    stored = in_sqlite(tmp_path / "dead.db")
    assert len(stored) == len(set(stored))
    dead = status.subscriptions["dead"]
    assert dead.dropped == {"retention": offered - len(stored)}
    assert dead.delivered == len(stored)
    for name in ("fine", "lines"):
        assert (status.subscriptions[name].delivered, status.subscriptions[name].dropped) == (offered, {})
    assert status.refused == {}
    assert_conserved(status, offered=offered)
    assert outage.max_bytes <= bound * 1.05
    assert outage.grown <= MEMORY
    assert lines == [
        ("WARNING", "delivery interrupted"),
        ("WARNING", "records forfeited to the disk bound"),
        ("INFO", "delivery restored"),
        ("INFO", "log directory within its bound again"),
    ]
    assert outage.dead.sizes[0] <= 1_000 // RAMP
