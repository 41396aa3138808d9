"""A record that no log can hold, whatever it is that made it: it is lost alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from eventrec import EventRecorder, EventRecorderOptions, LogFullError
from eventrec.events.encoder import Encoder
from eventrec.records.entry import PAYLOAD
from eventrec.testing import assert_conserved
from eventrec.testing.scripted import FencedHandler, Numbered


class Strange(bytes):
    """Bytes that msgpack does not take."""

    __slots__ = ()


class Long(Numbered):
    """Of its kind no two go into one commit."""

    @property
    def payload(self) -> object:
        return {"number": self.number, "text": "x" * (600 << 10)}


@pytest.fixture
def strange(monkeypatch: pytest.MonkeyPatch) -> set[int]:
    """The numbers of records that are made wrong."""
    numbers: set[int] = set()
    encode = Encoder.encode

    def spoiling(self: Encoder, event: object) -> Any:
        entry: Any = encode(self, event)
        self.plans.clear()
        if isinstance(event, Numbered) and event.number in numbers:
            return (*entry[:PAYLOAD], Strange(entry[PAYLOAD]), *entry[PAYLOAD + 1 :])
        return entry

    monkeypatch.setattr(Encoder, "encode", spoiling)
    return numbers


async def test_a_record_that_no_log_can_hold_is_lost_alone(tmp_path: Path, strange: set[int]) -> None:
    strange |= {0, 3, 9}
    handler = FencedHandler()
    drops: list[tuple[str, int]] = []
    recorder = EventRecorder(
        handler,
        log=tmp_path,
        options=EventRecorderOptions(flush_interval=0.01),
        on_drop=lambda reason, count: drops.append((reason, count)),
    )
    async with recorder:
        assert recorder.record_many(Numbered(number) for number in range(10)) == 10
        assert await recorder.flush(timeout=30)
        with pytest.raises(LogFullError, match="no log can hold it"):
            await recorder.record_durable(Numbered(3))
        position = await recorder.record_durable(Numbered(10))
        assert await recorder.flush(timeout=30)
        status = recorder.status()

    assert position is not None
    assert position.offset == 7
    assert handler.delivered == [1, 2, 4, 5, 6, 7, 8, 10]
    assert status.refused == {"not_written": 4}
    assert status.failure is None
    assert sum(count for _, count in drops) == 4
    assert_conserved(status, offered=12)


async def test_what_stands_before_it_is_not_written_twice(tmp_path: Path, strange: set[int]) -> None:
    strange.add(3)
    handler = FencedHandler()
    async with EventRecorder(handler, log=tmp_path, options=EventRecorderOptions(flush_interval=0.01)) as recorder:
        for number in range(5):
            assert recorder.record(Long(number))
        assert await recorder.flush(timeout=30)
        status = recorder.status()

    assert handler.delivered == [0, 1, 2, 4]
    assert_conserved(status, offered=5)
