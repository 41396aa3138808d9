"""Records, pieces and subscriptions for tests of single units."""

from __future__ import annotations

from collections.abc import Callable
from uuid import UUID

import pytest

from eventrec.delivery.sources.memory import MemorySource
from eventrec.delivery.subscription import Subscription
from eventrec.delivery.worker.piece import Piece
from eventrec.records.entry import Entry, make_entry
from eventrec.records.schema import Shape
from eventrec.testing.scripted import ScriptedHandler, quickly


@pytest.fixture
def entry() -> Callable[..., Entry]:
    """Makes an entry whose payload is a number."""

    def make(number: int, kind: str = "a") -> Entry:
        return make_entry(Shape("events", kind), number, b"%d" % number)

    return make


@pytest.fixture
def piece(entry: Callable[..., Entry]) -> Callable[..., Piece]:
    """Makes a piece of records at these offsets, which ends behind the last one, or at `end`."""

    def make(*offsets: int, end: int | None = None) -> Piece:
        made = Piece(offsets[-1] + 1 if end is None else end)
        for offset in offsets:
            made.add(offset, entry(offset))
        return made

    return make


@pytest.fixture
def source(entry: Callable[..., Entry]) -> MemorySource:
    """Ten records that another subscription has not read, so that they stay."""
    source = MemorySource(UUID(int=7), max_events=1_000, max_bytes=1 << 20)
    source.subscribe("another", "earliest", lambda *_: None)
    source.append([entry(number, "ab"[number % 2]) for number in range(10)])
    return source


@pytest.fixture
def subscription() -> Subscription:
    """Of type `a` alone."""
    settings = quickly(batch_rows=3, flush_interval=1.0).resolve(has_log=True).delivery
    return Subscription("s", ScriptedHandler(), settings, frozenset("a"))
