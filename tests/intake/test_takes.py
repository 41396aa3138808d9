"""What was taken from the intake, without a thread: it is encoded once, and appended once, whatever the log refuses."""

from __future__ import annotations

import itertools
import math
from functools import partial
from pathlib import Path
from uuid import UUID

import pytest

from eventrec.errors import LogFullError
from eventrec.intake.consumer import Consumer, Counts
from eventrec.intake.queue import Intake
from eventrec.intake.takes import Takes
from eventrec.intake.tickets import Ticket, Tickets
from eventrec.log.disk import DiskStorage
from eventrec.log.log import Log, LogOptions
from eventrec.records.content import ContentDecoder
from eventrec.records.entry import PAYLOAD, Entry, make_entry
from eventrec.records.schema import Shape

LOG_ID = UUID("00000000-0000-7000-8000-000000000001")
SHAPE = Shape("events", "numbered")


class Staged:
    """An intake with entries of `size` bytes each, and what empties it."""

    def __init__(self, count: int, *, size: int = 10) -> None:
        self.intake = Intake(
            max_events=None, max_bytes=64 << 20, max_event_bytes=1 << 20, overflow="drop_new", wake=lambda: None
        )
        self.consumer = Consumer(self.intake, write_interval=0.25)
        self.tickets = Tickets()
        self.takes = Takes(self.intake, self.consumer, self.tickets, now=lambda: 1, static_context=None)
        self.entries: list[Entry] = [make_entry(SHAPE, n, b"%*d" % (size, n)) for n in range(count)]
        for entry in self.entries:
            assert self.intake.offer(self.intake.cell(), entry) is None


def payloads(log: Log) -> list[bytes]:
    log.write()
    decoder = ContentDecoder()
    with log.reader() as reader:
        commits = itertools.chain.from_iterable(iter(partial(reader.read, max_bytes=1 << 20), []))
        return [entry[PAYLOAD] for commit in commits for entry in decoder.decode(commit.content).entries]


def test_nothing_is_taken_from_an_empty_intake(tmp_path: Path) -> None:
    staged = Staged(0)

    with Log.create(DiskStorage(tmp_path)) as log:
        assert not staged.takes.take(LOG_ID)
        assert staged.takes.append_to(log) == []


def test_commits_are_told_with_their_offsets_and_entries_in_order(tmp_path: Path) -> None:
    staged = Staged(5_000)

    with Log.create(DiskStorage(tmp_path)) as log:
        assert staged.takes.take(LOG_ID)
        assert repr(staged.takes) == "<Takes 1 contents in hand>"
        assert staged.takes.take(LOG_ID)
        commits = staged.takes.append_to(log)

        assert [(each.first, each.end) for each in commits] == [(0, 4_096), (4_096, 5_000)]
        assert [entry for each in commits for entry in each.entries] == staged.entries
        assert sum(each.size for each in commits) == staged.intake.freed_bytes
        assert payloads(log) == [entry[PAYLOAD] for entry in staged.entries]


def test_what_the_log_refuses_stays_in_hand_and_comes_before_what_is_taken_after_it(tmp_path: Path) -> None:
    staged = Staged(9, size=400_000)
    ticket = Ticket(staged.entries[-1])
    staged.tickets.expect(ticket)

    with Log.create(DiskStorage(tmp_path), LogOptions(kept_bytes=1 << 20)) as log:
        log.limit(0)
        assert staged.takes.take(LOG_ID)
        with pytest.raises(LogFullError):
            staged.takes.append_to(log)

        counts = staged.consumer.counts
        assert counts == Counts(appended=log.appended, in_intake=0, in_hand=9 - log.appended)
        assert 0 < log.appended < 9
        assert ticket.offset == 8

        log.limit(math.inf)
        later = make_entry(SHAPE, 9, b"later")
        assert staged.intake.offer(staged.intake.cell(), later) is None
        assert staged.takes.take(LOG_ID)
        commits = staged.takes.append_to(log)

        assert commits[0].first == counts.appended
        assert payloads(log) == [entry[PAYLOAD] for entry in [*staged.entries, later]]
    assert staged.consumer.counts == Counts(appended=10, in_intake=0, in_hand=0)
    assert staged.intake.held_events == 0
