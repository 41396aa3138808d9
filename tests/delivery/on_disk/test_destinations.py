"""A destination that is restored, replaced, or emptied, and a log that still has what it lost."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar
from uuid import UUID

import anyio
import anyio.to_thread
import pytest

from eventrec import Batch, EventRecorder, PermanentError, TransientError
from eventrec.delivery.orphans import adoption
from eventrec.delivery.orphans import queue as orphans
from eventrec.runs.directory import list_runs
from eventrec.testing import assert_conserved
from eventrec.testing.scripted import FencedHandler, Numbered, ScriptedHandler, quickly, raising, refusing

pytestmark = pytest.mark.usefixtures("looking_often")


async def eventually(condition: object, seconds: float = 120) -> None:
    with anyio.fail_after(seconds):
        while not condition():  # type: ignore[operator]  # noqa: ASYNC110 - a thread or a disk changes it
            await anyio.sleep(0.01)


async def test_a_restored_destination_is_given_again_what_it_lost(tmp_path: Path) -> None:
    handler = FencedHandler()

    async with EventRecorder(handler, log=tmp_path, options=quickly(batch_rows=5)) as recorder:
        recorder.record_many(Numbered(n) for n in range(20))
        assert await recorder.flush(timeout=60)
        (key,) = handler.next
        handler.next[key] = 10
        del handler.batches[2:]
        recorder.record_many(Numbered(n) for n in range(20, 25))
        assert await recorder.flush(timeout=60)
        status = recorder.status()

    assert handler.delivered == list(range(25))
    assert (status.subscriptions["FencedHandler"].rewound, status.subscriptions["FencedHandler"].dropped) == (10, {})
    assert_conserved(status, offered=25)


async def test_a_destination_that_lost_our_row_is_given_everything_that_is_kept(tmp_path: Path) -> None:
    handler = FencedHandler()

    async with EventRecorder(handler, log=tmp_path, options=quickly(batch_rows=5)) as recorder:
        recorder.record_many(Numbered(n) for n in range(20))
        assert await recorder.flush(timeout=60)
        handler.next.clear()
        handler.batches.clear()
        handler.acts = [raising(TransientError("restored"))]
        recorder.record(Numbered(20))
        assert await recorder.flush(timeout=60)

    assert handler.delivered == list(range(21))
    assert_conserved(recorder.status(), offered=21)


@pytest.mark.parametrize(("start", "again"), [("earliest", list(range(21))), ("latest", [20])])
async def test_a_new_destination_is_given_what_was_decided(tmp_path: Path, start: str, again: list[int]) -> None:
    handler = FencedHandler()

    async with EventRecorder(handler, log=tmp_path, options=quickly(batch_rows=5)) as recorder:
        recorder.record_many(Numbered(n) for n in range(20))
        assert await recorder.flush(timeout=60)
        handler.id = "another"
        handler.next.clear()
        handler.batches.clear()
        handler.acts = [raising(TransientError("cut"))]
        recorder.record(Numbered(20))
        assert await recorder.flush(timeout=10) is False
        assert handler.batches == []
        recorder.resume("FencedHandler", start=start)  # type: ignore[arg-type]
        assert await recorder.flush(timeout=60)
        status = recorder.status()

    assert handler.delivered == again
    assert status.subscriptions["FencedHandler"].dropped == {}
    assert_conserved(status, offered=21)


@dataclass
class TokenHandler(ScriptedHandler):
    """Drops what comes under a token that it has seen, and says nothing of how far it is."""

    dedupes_by_token: ClassVar[bool] = True
    seen: set[str] = field(default_factory=set)
    after_keeping: list[BaseException] = field(default_factory=list)

    def keep(self, batch: Batch) -> None:
        if batch.token not in self.seen:
            self.seen.add(batch.token)
            super().keep(batch)
        if self.after_keeping:
            raise self.after_keeping.pop(0)


async def test_a_decision_is_meant_for_more_logs_than_are_delivered_at_once(tmp_path: Path) -> None:
    old = FencedHandler(always=refusing(range(1, 100, 2), lambda: TransientError("down")))
    for number in range(adoption.MAX_ADOPTED + 2):
        async with EventRecorder(old, log=tmp_path, options=quickly(close_timeout=0.1)) as recorder:
            recorder.record(Numbered(2 * number))
            assert await recorder.flush(timeout=60)
            recorder.record(Numbered(2 * number + 1))
    new = FencedHandler(id="another")

    async with EventRecorder(new, log=tmp_path, options=quickly()) as recorder:
        await eventually(lambda: recorder.status().waiting_logs == adoption.MAX_ADOPTED)
        recorder.resume("FencedHandler", start="latest")
        await eventually(lambda: len(new.delivered) == adoption.MAX_ADOPTED + 2, 30)

    assert sorted(new.delivered) == [2 * number + 1 for number in range(adoption.MAX_ADOPTED + 2)]


async def test_a_batch_that_may_have_arrived_is_sent_again_as_it_was_by_the_next_run(tmp_path: Path) -> None:
    handler = TokenHandler(after_keeping=[TransientError("looked failed")] * 100)
    recorder = EventRecorder(handler, log=tmp_path, options=quickly(batch_rows=7, flush_interval=3600))
    await recorder.open()
    recorder.record_many(Numbered(n) for n in range(10))
    await eventually(lambda: handler.batches)
    await recorder.close(timeout=0)
    assert handler.batches == [list(range(7))]

    handler.after_keeping.clear()
    async with EventRecorder(handler, log=tmp_path, options=quickly(batch_rows=3)) as second:
        second.record_many(Numbered(n) for n in range(10, 13))
        await eventually(lambda: len(handler.delivered) == 13)
        await eventually(lambda: len(list(tmp_path.iterdir())) == 1)

    assert sorted(handler.delivered) == list(range(13))
    assert list(tmp_path.iterdir()) == []


async def test_a_bisected_batch_is_sent_again_as_the_half_it_was(tmp_path: Path) -> None:
    handler = TokenHandler(always=refusing({5}, lambda: PermanentError("never")))
    sent: list[tuple[str, list[int]]] = []
    keep, stop = handler.keep, [False]

    def keeping(batch: Batch) -> None:
        keep(batch)
        sent.append((batch.token, handler.batches[-1]))
        if len(sent) == 1:
            stop[0] = True
        if stop[0]:
            raise TransientError("looked failed")

    handler.keep = keeping  # type: ignore[method-assign]
    recorder = EventRecorder(handler, log=tmp_path, options=quickly(batch_rows=8))
    await recorder.open()
    recorder.record_many(Numbered(n) for n in range(8))
    await eventually(lambda: stop[0])
    await recorder.close(timeout=0)
    stop[0] = False

    async with EventRecorder(handler, log=tmp_path, options=quickly(batch_rows=8)):
        await eventually(lambda: len(handler.delivered) == 7)

    assert sorted(handler.delivered) == [0, 1, 2, 3, 4, 6, 7]
    assert len({token for token, _ in sent}) == len(handler.batches)


@dataclass
class StampedHandler(FencedHandler):
    """Refuses stamps while it `is_down`, and counts them."""

    is_down: bool = True
    stamps: int = 0

    async def retire(self, log_id: UUID, subscription: str, end: int) -> None:
        self.stamps += 1
        if self.is_down:
            raise TransientError("nobody answers")
        await super().retire(log_id, subscription, end)


async def test_a_log_that_cannot_be_stamped_is_tried_again_in_patience_and_said_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(adoption, "SCAN_SECONDS", 0.2)
    monkeypatch.setattr(orphans, "FIRST_PAUSE", 0.5)
    handler = StampedHandler()
    async with EventRecorder(handler, log=tmp_path, options=quickly()) as recorder:
        recorder.record(Numbered(0))
        assert await recorder.flush(timeout=60)
    caplog.clear()
    handler.stamps = 0

    async with EventRecorder(handler, log=tmp_path, options=quickly()):
        await anyio.sleep(1.3)
        tried = handler.stamps
        lines = [record for record in caplog.records if "log not retired" in record.getMessage()]
        handler.is_down = False
        with anyio.fail_after(120):
            while len(await anyio.to_thread.run_sync(list_runs, tmp_path)) > 1:  # noqa: ASYNC110 - a disk changes it
                await anyio.sleep(0.05)

    assert 1 <= tried <= 3
    assert len(lines) == 1
    assert handler.delivered == [0]


class SlowHandler(FencedHandler):
    """Takes its time for each batch."""

    async def handle(self, batch: Batch) -> None:
        await anyio.sleep(0.2)
        await super().handle(batch)


async def test_of_a_dead_a_slow_and_a_fine_destination_none_waits_for_another(tmp_path: Path) -> None:
    dead, slow, fine = FencedHandler(always=raising(TransientError("down"))), SlowHandler(), FencedHandler()
    recorder = EventRecorder(log=tmp_path, options=quickly(batch_rows=25, flush_interval=0.05, close_timeout=0.5))
    for name, handler in {"dead": dead, "slow": slow, "fine": fine}.items():
        recorder.register(handler, name=name)

    async with recorder:
        recorder.record_many(Numbered(n) for n in range(500))
        await eventually(lambda: len(fine.delivered) == 500, seconds=5)
        assert len(slow.delivered) < 250
        assert dead.delivered == []
        # The next batches of the fine one do not wait for those of the slow one either.
        recorder.record(Numbered(500))
        await eventually(lambda: len(fine.delivered) == 501, seconds=2)
        assert len(slow.delivered) < 400
        dead.always = lambda _: None
        await eventually(lambda: len(dead.delivered) == 501, seconds=10)
        await eventually(lambda: len(slow.delivered) == 501, seconds=20)

    assert dead.delivered == slow.delivered == fine.delivered == list(range(501))
    assert_conserved(recorder.status(), offered=501)
