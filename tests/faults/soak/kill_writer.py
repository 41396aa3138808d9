"""A recorder that lives many short lives, and dies at a step or a moment that it is told: `kill_writer.py`.

Reads a life from each line of stdin, as JSON, and prints what became of it: see `lives.py`.
"""

from __future__ import annotations

import itertools
import mmap
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import anyio
import msgspec
import trio  # noqa: F401 - before the fork

from eventrec import Backoff, ColumnSchema, ColumnType, Event, EventRecorder, EventRecorderOptions, Row
from eventrec.delivery.orphans import adoption
from eventrec.events.event import ReceivedEvent
from eventrec.runs import leftovers
from eventrec.runs.directory import DEAD
from eventrec_handlers import jsonl, postgres, sqlite
from lives import answer_lives, live_and_die
from steps import Steps, name_steps

HANDLERS = {"sqlite": sqlite.from_url, "postgresql": postgres.from_url, "jsonl": jsonl.from_url}

OPTIONS = EventRecorderOptions(
    batch_rows=5,
    flush_interval=0.005,
    write_interval=0.001,
    sync_interval=0.01,
    segment_bytes=400,
    retry=Backoff(first=0.01, max=0.1),
)

PATIENCE = 50.0
"""Seconds: a life that is not killed and takes longer hangs."""


class Life(msgspec.Struct):
    """Record `events` numbers from `first` on into `log`, deliver all that is there to `url`, and end.

    It records until the file `until` exists, where one is named, whatever `events` says; the first `burst` at once.
    With `hurries` it delivers nothing more once it has recorded. Where it `is_fine`, a destination takes every event.
    It dies when `step` is passed for the `nth` time, or `seconds` after it was born. `tidies` as if leftovers were old.
    """

    url: str
    log: str
    backend: Literal["asyncio", "trio"] = "asyncio"
    first: int = 0
    events: int = 0
    until: str | None = None
    burst: int = 0
    hurries: bool = False
    batch_rows: int = 5
    segment_bytes: int = 400
    is_fine: bool = False
    step: str | None = None
    nth: int = 1
    seconds: float | None = None
    tidies: bool = False


class Death(msgspec.Struct):
    """Numbers below `offered` were recorded, those below `told` said to be written; -1: none."""

    offered: int
    told: int
    seconds: float
    is_killed: bool


# -- events, some of which the destination refuses --------------------------------------------------------------------


@dataclass(frozen=True)
class Sold(Event):
    """SQLite has no integers of 64 bits without a sign, PostgreSQL no NUL."""

    number: int
    amount: int = 1
    note: str = ""

    @property
    def type(self) -> str:
        return "sold"

    @property
    def payload(self) -> object:
        return {"number": self.number, "note": self.note}

    def extra_schema(self) -> Sequence[ColumnSchema]:
        return (ColumnSchema("amount", ColumnType.UINT64),)

    def extra_rows(self) -> Sequence[Row]:
        return ((self.amount,),)


def event(number: int, url: str) -> Event:
    """Every ninth is one that its destination refuses for good."""
    if number % 9 != 4:
        return Sold(number)
    match url.partition(":")[0]:
        case "sqlite":
            return Sold(number, amount=2**63)
        case "jsonl":
            return ReceivedEvent("sold", b'{"number":%d,}' % number, None, "events", None)
        case _:
            return Sold(number, note="\0")


# -- a life -----------------------------------------------------------------------------------------------------------


async def live(life: Life, counts: Any) -> None:
    adoption.SCAN_SECONDS = 0.02  # type: ignore[misc]
    if life.tidies:
        leftovers.LEFTOVER_SECONDS = 0  # type: ignore[misc]
    options = OPTIONS.model_copy(update={"batch_rows": life.batch_rows, "segment_bytes": life.segment_bytes})
    recorder = EventRecorder(log=life.log, options=options)
    scheme = life.url.partition(":")[0]
    recorder.register(HANDLERS[scheme](life.url), name=scheme)
    with anyio.fail_after(PATIENCE):
        async with recorder:
            with said_of(recorder):
                await work(recorder, life, counts)


async def work(recorder: EventRecorder, life: Life, counts: Any) -> None:
    for number in _numbers(life):
        counts[0] = number + 1
        made = Sold(number) if life.is_fine else event(number, life.url)
        if number % 4 == 3 and number >= life.first + life.burst:
            await recorder.record_durable(made, until="written")
            counts[1] = number + 1
        else:
            recorder.record(made)
    if life.hurries:
        await recorder.close(0)
        return
    await recorder.flush()
    while len(_left(Path(life.log), tidies=life.tidies)) > 1:  # noqa: ASYNC110 - the disk says it
        await anyio.sleep(0.002)


@contextmanager
def said_of(recorder: EventRecorder) -> Iterator[None]:
    """Whoever cannot end in good order says how it is."""
    try:
        yield
    except BaseException:
        sys.stderr.write(f"{recorder.status().to_dict()}\n")
        raise


def _numbers(life: Life) -> Iterator[int]:
    if life.until is None:
        yield from range(life.first, life.first + life.events)
        return
    until = Path(life.until)
    yield from itertools.takewhile(lambda _: not until.exists(), itertools.count(life.first))


def _left(directory: Path, *, tidies: bool) -> list[str]:
    names = [path.name for path in directory.iterdir() if path.name != DEAD]
    return names if tidies else [name for name in names if not name.startswith(".new-")]


def main() -> None:
    counts = memoryview(mmap.mmap(-1, 16)).cast("q")  # shared with every child

    def death_of(life: Life) -> Death:
        counts[0] = counts[1] = -1
        code, seconds = live_and_die(partial(_live_in_steps, life, counts), seconds=life.seconds, patience=PATIENCE)
        if code not in (0, -signal.SIGKILL):
            sys.exit(f"ended with {code}: {life}")
        return Death(counts[0], counts[1], seconds, is_killed=code != 0)

    answer_lives(Life, death_of)


def _live_in_steps(life: Life, counts: Any) -> None:
    name_steps(Steps(life.step, life.nth))
    anyio.run(live, life, counts, backend=life.backend)


if __name__ == "__main__":
    main()
