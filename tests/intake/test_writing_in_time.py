"""Where much is recorded, what was taken is written before more is taken."""

from __future__ import annotations

import threading
from pathlib import Path
from uuid import UUID

import pytest

from eventrec import EventRecorder, EventRecorderOptions, ReceivedEvent
from eventrec.intake.takes import Takes
from eventrec.log.log import Log
from eventrec.testing import assert_conserved

EVENTS = 20_000
TAKE = 4_096
EVENT = ReceivedEvent(type="numbered", payload=b"{}")


def test_of_a_backlog_one_take_is_written_before_the_next_where_time_is_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    is_recorded = threading.Event()
    written: list[int] = []
    take, write = Takes.take, Log.write

    def waiting(self: Takes, log_id: UUID, *, limit: int) -> bool:
        """The first one does not begin before all is in the intake."""
        assert is_recorded.wait(30)
        return take(self, log_id, limit=limit)

    def counted(self: Log) -> None:
        before = self.written
        write(self)
        written.append(self.written - before)

    monkeypatch.setattr(Takes, "take", waiting)
    monkeypatch.setattr(Log, "write", counted)
    options = EventRecorderOptions(write_interval=0, queue_events=2 * EVENTS)
    recorder = EventRecorder(log=tmp_path, options=options, environment={})
    with recorder.sync() as sync:
        for _ in range(EVENTS):
            assert sync.record(EVENT)
        is_recorded.set()

    assert sum(written) == EVENTS
    assert written[0] == TAKE
    assert_conserved(recorder.status(), offered=EVENTS)
