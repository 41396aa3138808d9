"""Every row of the table in `eventrec.handler`, and what the worker does between them."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any
from uuid import UUID

import anyio
import pytest

from eventrec import (
    Backoff,
    Batch,
    BatchTooLargeError,
    DeliveryError,
    EventRecorder,
    PartialError,
    PauseError,
    PermanentError,
    TransientError,
)
from eventrec.testing import assert_conserved
from eventrec.testing.scripted import FencedHandler, Numbered, ScriptedHandler, numbers, quickly, raising, refusing


async def test_what_is_recorded_is_delivered_once_in_order() -> None:
    handler = ScriptedHandler()

    async with EventRecorder(handler, options=quickly(batch_rows=7)) as recorder:
        recorder.record_many(Numbered(n) for n in range(100))

    assert handler.delivered == list(range(100))
    assert max(map(len, handler.batches)) == 7
    assert_conserved(recorder.status(), offered=100)


async def test_the_last_single_event_is_delivered_without_a_successor() -> None:
    handler = ScriptedHandler()

    async with EventRecorder(handler, options=quickly(flush_interval=1.0)) as recorder:
        start = anyio.current_time()
        recorder.record(Numbered(0))
        await anyio.sleep(1.2)

        assert handler.delivered == [0]
        assert handler.times[0] - start == pytest.approx(1.0, abs=0.1)
    assert_conserved(recorder.status(), offered=1)


async def test_a_full_batch_goes_at_once() -> None:
    handler = ScriptedHandler()

    async with EventRecorder(handler, options=quickly(batch_rows=5, flush_interval=3600)) as recorder:
        recorder.record_many(Numbered(n) for n in range(12))
        await anyio.sleep(0.1)

        assert handler.batches == [[0, 1, 2, 3, 4], [5, 6, 7, 8, 9]]


async def test_a_batch_is_bounded_by_bytes() -> None:
    handler = ScriptedHandler()

    async with EventRecorder(handler, options=quickly(batch_bytes=1_000, flush_interval=3600)) as recorder:
        recorder.record_many(Numbered(n) for n in range(10))

    assert handler.delivered == list(range(10))
    assert max(map(len, handler.batches)) <= 5


async def test_a_transient_error_repeats_the_same_batch_after_a_back_off() -> None:
    handler = ScriptedHandler(acts=[raising(TransientError("busy"))] * 3)

    async with EventRecorder(handler, options=quickly(retry=Backoff(first=0.5, jitter="none"))) as recorder:
        recorder.record_many(Numbered(n) for n in range(5))
        assert await recorder.flush(timeout=60)

    assert handler.batches == [[0, 1, 2, 3, 4]]
    assert len(set(handler.tokens)) == 1
    gaps = [later - earlier for earlier, later in zip(handler.times, handler.times[1:], strict=False)]
    assert gaps == pytest.approx([0.5, 1.0, 2.0], abs=0.05)
    assert_conserved(recorder.status(), offered=5)


async def test_full_jitter_stays_between_nothing_and_the_back_off() -> None:
    handler = ScriptedHandler(acts=[raising(TransientError("busy"))] * 20)

    async with EventRecorder(handler, options=quickly(retry=Backoff(first=1, max=4))) as recorder:
        recorder.record(Numbered(0))
        assert await recorder.flush(timeout=600)

    gaps = [later - earlier for earlier, later in zip(handler.times, handler.times[1:], strict=False)]
    assert all(0 <= gap <= 4.01 for gap in gaps)
    assert len({round(gap, 6) for gap in gaps}) > 10


async def test_retry_after_is_a_minimum() -> None:
    handler = ScriptedHandler(acts=[raising(TransientError("slow down", retry_after=42.0))])

    async with EventRecorder(handler, options=quickly()) as recorder:
        recorder.record(Numbered(0))
        assert await recorder.flush(timeout=60)

    assert handler.times[1] - handler.times[0] >= 42.0 - 1e-6


async def test_a_permanent_error_is_bisected_down_to_the_record() -> None:
    handler = ScriptedHandler(always=refusing({3, 64}, lambda: PermanentError("never")))

    async with EventRecorder(handler, options=quickly()) as recorder:
        recorder.record_many(Numbered(n) for n in range(100))
        assert await recorder.flush(timeout=5)

    assert handler.delivered == [n for n in range(100) if n not in {3, 64}]
    assert recorder.status().subscriptions["ScriptedHandler"].dead == 2
    assert_conserved(recorder.status(), offered=100)


async def test_named_records_are_set_aside_without_bisecting() -> None:
    def act(batch: object) -> None:
        offsets = batch.offsets  # type: ignore[attr-defined]
        bad = {offset: "bad" for offset in offsets if offset in {1, 5}}
        if bad:
            raise PermanentError("two", records=bad)

    handler = ScriptedHandler(always=act)

    async with EventRecorder(handler, options=quickly()) as recorder:
        recorder.record_many(Numbered(n) for n in range(8))
        assert await recorder.flush(timeout=5)

    assert handler.batches == [[0, 2, 3, 4, 6, 7]]
    assert len(handler.tokens) == 2
    assert_conserved(recorder.status(), offered=8)


async def test_a_permanent_error_that_names_foreign_offsets_is_bisected() -> None:
    handler = ScriptedHandler(always=refusing({2}, lambda: PermanentError("odd", records={77: "not in this batch"})))

    async with EventRecorder(handler, options=quickly()) as recorder:
        recorder.record_many(Numbered(n) for n in range(4))
        assert await recorder.flush(timeout=5)

    assert handler.delivered == [0, 1, 3]
    assert_conserved(recorder.status(), offered=4)


async def test_a_partial_error_retries_only_what_may_succeed() -> None:
    def act(batch: object) -> None:
        first, second, *_ = batch.offsets  # type: ignore[attr-defined]
        errors: dict[int, DeliveryError] = {first: TransientError("later"), second: PermanentError("never")}
        handler.batches.append([n for n in numbers(batch) if n not in {0, 1}])  # type: ignore[arg-type]
        raise PartialError(errors)

    handler = ScriptedHandler(acts=[act])

    async with EventRecorder(handler, options=quickly()) as recorder:
        recorder.record_many(Numbered(n) for n in range(5))
        assert await recorder.flush(timeout=5)

    assert handler.batches == [[2, 3, 4], [0]]
    status = recorder.status().subscriptions["ScriptedHandler"]
    assert (status.delivered, status.dead) == (4, 1)
    assert_conserved(recorder.status(), offered=5)


async def test_a_partial_error_with_unknown_offsets_is_a_bug_of_the_handler() -> None:
    handler = ScriptedHandler(acts=[raising(PartialError({99: TransientError("what?")}))])

    async with EventRecorder(handler, options=quickly()) as recorder:
        recorder.record(Numbered(0))
        assert await recorder.flush(timeout=5)

    assert handler.delivered == [0]
    assert handler.opened == 2
    assert_conserved(recorder.status(), offered=1)


async def test_a_batch_too_large_is_split_and_a_single_record_too_large_is_dead() -> None:
    def act(batch: object) -> None:
        if len(batch) > 3 or 7 in numbers(batch):  # type: ignore[arg-type]
            raise BatchTooLargeError("413")

    handler = ScriptedHandler(always=act)

    async with EventRecorder(handler, options=quickly()) as recorder:
        recorder.record_many(Numbered(n) for n in range(20))
        assert await recorder.flush(timeout=5)

    assert handler.delivered == [n for n in range(20) if n != 7]
    assert max(map(len, handler.batches)) <= 3
    assert_conserved(recorder.status(), offered=20)


async def test_a_pause_holds_turns_health_red_and_tries_again_slowly(caplog: pytest.LogCaptureFixture) -> None:
    handler = ScriptedHandler(acts=[raising(PauseError("401"))] * 3)

    async with EventRecorder(handler, options=quickly(retry=Backoff(max=30))) as recorder:
        recorder.record(Numbered(0))
        await anyio.sleep(50)

        status = recorder.status()
        assert status.subscriptions["ScriptedHandler"].state == "paused: 401"
        assert not status.is_healthy
        assert await recorder.flush(timeout=1) is False
        assert len(handler.times) == 2
        await anyio.sleep(60)
        assert recorder.status().is_healthy

    assert handler.delivered == [0]
    assert [r.levelname for r in caplog.records if r.name == "eventrec.delivery"] == ["ERROR"]
    assert_conserved(recorder.status(), offered=1)


async def test_resume_ends_a_pause_at_once() -> None:
    handler = ScriptedHandler(acts=[raising(PauseError("401"))])

    async with EventRecorder(handler, options=quickly(retry=Backoff(max=3600))) as recorder:
        recorder.record(Numbered(0))
        assert await recorder.flush() is False
        recorder.resume("ScriptedHandler")
        assert await recorder.flush(timeout=1)


async def test_an_unknown_error_is_shown_once_and_gives_the_handler_a_fresh_start(
    said_by: Callable[[str], list[logging.LogRecord]],
) -> None:
    handler = ScriptedHandler(acts=[raising(ZeroDivisionError("oops"))] * 4)

    async with EventRecorder(handler, options=quickly()) as recorder:
        recorder.record(Numbered(0))
        assert await recorder.flush(timeout=60)

    assert handler.delivered == [0]
    assert (handler.opened, handler.closed) == (5, 5)
    assert [
        record.exc_info is not None for record in said_by("eventrec.delivery") if record.levelno == logging.ERROR
    ] == [True]
    assert_conserved(recorder.status(), offered=1)


async def test_an_error_that_cannot_say_what_it_is_ends_no_subscription() -> None:
    class Mute(Exception):  # noqa: N818 - foreign code names its errors as it likes
        def __str__(self) -> str:
            raise ZeroDivisionError

    mute, fine = ScriptedHandler(acts=[raising(Mute())] * 3), ScriptedHandler()
    recorder = EventRecorder(options=quickly())
    recorder.register(mute, name="mute")
    recorder.register(fine, name="fine")

    async with recorder:
        recorder.record_many(Numbered(n) for n in range(5))
        assert await recorder.flush(timeout=60)

    assert mute.delivered == fine.delivered == [0, 1, 2, 3, 4]
    assert_conserved(recorder.status(), offered=5)


async def test_a_record_that_fails_alone_while_a_neighbour_passes_is_unmapped() -> None:
    handler = ScriptedHandler(always=refusing({0, 1, 13}, lambda: ValueError("cannot map")))

    async with EventRecorder(handler, options=quickly()) as recorder:
        recorder.record_many(Numbered(n) for n in range(20))
        assert await recorder.flush(timeout=3600)

    assert sorted(handler.delivered) == [n for n in range(20) if n not in {0, 1, 13}]
    assert handler.times[-1] - handler.times[0] >= 60
    assert recorder.status().subscriptions["ScriptedHandler"].dead == 3
    assert_conserved(recorder.status(), offered=20)


async def test_an_unknown_error_of_every_record_is_an_outage_and_kills_none() -> None:
    down = True

    def act(_: object) -> None:
        if down:
            raise ValueError("all of them")

    handler = ScriptedHandler(always=act)

    async with EventRecorder(handler, options=quickly()) as recorder:
        recorder.record_many(Numbered(n) for n in range(50))
        await anyio.sleep(3600)
        assert recorder.status().subscriptions["ScriptedHandler"].state.startswith("holding: every record fails")
        down = False
        await anyio.sleep(60)

    assert sorted(handler.delivered) == list(range(50))
    assert_conserved(recorder.status(), offered=50)


async def test_on_unmapped_hold_never_buries_what_has_no_word() -> None:
    handler = ScriptedHandler(always=refusing({3}, lambda: ValueError("cannot map")))

    async with EventRecorder(handler, options=quickly(on_unmapped="hold")) as recorder:
        recorder.record_many(Numbered(n) for n in range(8))
        await anyio.sleep(3600)

        assert recorder.status().subscriptions["ScriptedHandler"].state.startswith("holding: unmapped")

    assert recorder.status().subscriptions["ScriptedHandler"].dead == 0
    assert_conserved(recorder.status(), offered=8)


async def test_a_cancellation_from_inside_the_handler_does_not_end_the_worker() -> None:
    handler = ScriptedHandler(acts=[lambda _: (_ for _ in ()).throw(anyio.get_cancelled_exc_class()())])
    if anyio.get_cancelled_exc_class().__module__.startswith("trio"):
        pytest.skip("trio's Cancelled cannot be made by a handler")

    async with EventRecorder(handler, options=quickly()) as recorder:
        recorder.record(Numbered(0))
        assert await recorder.flush(timeout=60)

    assert handler.delivered == [0]


@pytest.mark.parametrize("error", [TransientError("down"), OSError("refused")])
async def test_a_handler_that_cannot_open_is_tried_again(error: Exception) -> None:
    def fail() -> None:
        raise error

    handler = ScriptedHandler(open_acts=[fail, fail])

    async with EventRecorder(handler, options=quickly()) as recorder:
        recorder.record(Numbered(0))
        assert await recorder.flush(timeout=60)

    assert handler.delivered == [0]
    assert_conserved(recorder.status(), offered=1)


async def test_a_handler_that_failed_to_open_is_closed_at_the_end() -> None:
    def fail() -> None:
        raise TransientError("half open")

    handler = ScriptedHandler(open_acts=[fail] * 100)

    async with EventRecorder(handler, options=quickly()) as recorder:
        recorder.record(Numbered(0))
        await anyio.sleep(1.5)

    assert handler.closed == 1
    assert_conserved(recorder.status(), offered=1)


async def test_a_handler_that_hangs_while_closing_does_not_hang_its_subscription() -> None:
    class Hanging(ScriptedHandler):
        async def close(self) -> None:
            await super().close()
            if self.closed == 1:
                await anyio.sleep_forever()

    handler = Hanging(acts=[raising(ZeroDivisionError("oops"))])

    async with EventRecorder(handler, options=quickly()) as recorder:
        recorder.record(Numbered(0))
        assert await recorder.flush(timeout=60)

    assert handler.delivered == [0]


async def test_a_handler_that_refuses_to_open_pauses_and_says_why() -> None:
    def fail() -> None:
        raise PermanentError("no such schema")

    handler = ScriptedHandler(open_acts=[fail])

    async with EventRecorder(handler, options=quickly()) as recorder:
        recorder.record(Numbered(0))
        await anyio.sleep(5)
        assert recorder.status().subscriptions["ScriptedHandler"].state == "paused: no such schema"
        await anyio.sleep(60)

    assert handler.delivered == [0]


async def test_the_brake_holds_when_most_records_of_a_type_are_refused() -> None:
    handler = ScriptedHandler(always=refusing(range(100_000), lambda: PermanentError("bad deploy")))
    options = quickly(queue_events=100_000)

    async with EventRecorder(options=options) as idle:
        assert await idle.flush()
    async with EventRecorder(handler, options=options) as recorder:
        recorder.record_many(Numbered(n) for n in range(2_000))
        await anyio.sleep(60)
        status = recorder.status().subscriptions["ScriptedHandler"]
        assert status.state.startswith("paused: over half of the last 1,000 records of type 'numbered'")
        assert status.dead == 501
        await anyio.sleep(3600)
        assert recorder.status().subscriptions["ScriptedHandler"].dead == 501

        handler.always = lambda _: None
        recorder.resume("ScriptedHandler")
        assert await recorder.flush(timeout=60)

    assert len(handler.delivered) == 1_499
    assert_conserved(recorder.status(), offered=2_000)


async def test_the_brake_counts_what_arrived_though_it_looked_failed() -> None:
    def refuse_every_third(batch: Batch) -> None:
        bad = {offset: "never" for offset, n in zip(batch.offsets, numbers(batch), strict=True) if n % 3 == 0}
        if bad:
            raise PermanentError("never", records=bad)

    handler = FencedHandler(
        always=refuse_every_third, after_commit=[raising(TransientError("looked failed")) for _ in range(10)]
    )

    async with EventRecorder(handler, options=quickly(queue_events=100_000)) as recorder:
        recorder.record_many(Numbered(n) for n in range(3_000))
        assert await recorder.flush(timeout=600)

    assert handler.delivered == [n for n in range(3_000) if n % 3]
    assert recorder.status().subscriptions["FencedHandler"].dead == 1_000
    assert_conserved(recorder.status(), offered=3_000)


async def test_the_brake_holds_before_a_large_batch_is_all_letters() -> None:
    """At 40 % of the traffic one type is refused for good, in one answer that names all 4,000 of a batch."""

    def refuse(batch: Batch) -> None:
        bad = {record.offset: "bad deploy" for record in batch.records if record.type == "new"}
        if bad:
            raise PermanentError("bad deploy", records=bad)

    handler = FencedHandler(always=refuse)
    options = quickly(queue_events=100_000, batch_rows=10_000)

    async with EventRecorder(handler, options=options) as recorder:
        recorder.record_many(Numbered(n, kind="new" if n % 5 < 2 else "old") for n in range(20_000))
        await anyio.sleep(60)
        status = recorder.status().subscriptions["FencedHandler"]
        assert "over half of the last 1,000 records of type 'new'" in status.state
        assert 500 < status.dead <= 1_000
        handler.always = lambda _: None
        recorder.resume("FencedHandler")
        assert await recorder.flush(timeout=60)

    assert len(handler.delivered) == 20_000 - status.dead
    assert_conserved(recorder.status(), offered=20_000)


async def test_the_brake_hears_what_arrived_of_a_batch_that_was_taken_in_part() -> None:
    def take_two_thirds(batch: Batch) -> None:
        bad = {
            offset: PermanentError("never")
            for offset, n in zip(batch.offsets, numbers(batch), strict=True)
            if n % 3 == 0
        }
        if bad:
            handler.batches.append([n for n in numbers(batch) if n % 3])
            raise PartialError(bad)

    handler = ScriptedHandler(always=take_two_thirds)

    async with EventRecorder(handler, options=quickly(queue_events=100_000)) as recorder:
        recorder.record_many(Numbered(n) for n in range(3_000))
        assert await recorder.flush(timeout=600)

    assert handler.delivered == [n for n in range(3_000) if n % 3]
    assert_conserved(recorder.status(), offered=3_000)


@pytest.mark.parametrize("bad", [{5}, {0}, {0, 1, 2, 9}, {1, 3, 5, 7}])
async def test_without_more_attempts_a_record_whose_error_says_nothing_costs_no_neighbour(bad: set[int]) -> None:
    def refuse(batch: Batch) -> None:
        if bad & set(numbers(batch)):
            raise ValueError("who knows")

    handler = ScriptedHandler(always=refuse)

    async with EventRecorder(handler, options=quickly(retry=Backoff(attempts=2), batch_rows=10)) as recorder:
        recorder.record_many(Numbered(n) for n in range(25))
        await recorder.flush(timeout=600)
        part = recorder.status().subscriptions["ScriptedHandler"]

    assert sorted(handler.delivered) == sorted(set(range(25)) - bad)
    assert (part.dead, part.dropped) == (len(bad), {})
    assert_conserved(recorder.status(), offered=25)


@pytest.mark.parametrize("rows", [1, 3, 10, 40])
async def test_without_more_attempts_an_outage_whose_error_says_nothing_is_dropped_and_counted(rows: int) -> None:
    handler = ScriptedHandler(always=raising(ValueError("who knows")))

    async with EventRecorder(handler, options=quickly(retry=Backoff(attempts=2), batch_rows=rows)) as recorder:
        recorder.record_many(Numbered(n) for n in range(120))
        await recorder.flush(timeout=600)
        part = recorder.status().subscriptions["ScriptedHandler"]
        calls = len(handler.times)
        handler.always = lambda _: None
        recorder.record_many(Numbered(n) for n in range(120, 125))
        await recorder.flush(timeout=600)

    assert (part.dead, part.dropped) == (0, {"exhausted": 120})
    assert calls <= 2 * 120 + 2 * rows  # batches are small after a failure, and the first one is halved to its records
    assert handler.delivered == list(range(120, 125))
    assert_conserved(recorder.status(), offered=125)


async def test_without_more_attempts_a_record_that_has_no_word_waits_where_an_operator_wants_it_to() -> None:
    def refuse(batch: Batch) -> None:
        if 3 in numbers(batch):
            raise ValueError("who knows")

    handler = ScriptedHandler(always=refuse)
    options = quickly(retry=Backoff(attempts=2), batch_rows=10, on_unmapped="hold")

    async with EventRecorder(handler, options=options) as recorder:
        recorder.record_many(Numbered(n) for n in range(10))
        await recorder.flush(timeout=60)
        part = recorder.status().subscriptions["ScriptedHandler"]

    assert handler.delivered == [0, 1, 2]
    assert part.state.startswith("holding: unmapped")
    assert (part.dead, part.dropped, part.pending) == (0, {}, 7)


async def test_without_more_attempts_the_batch_is_dropped_and_counted() -> None:
    handler = ScriptedHandler(acts=[raising(TransientError("down"))] * 4)
    drops: list[tuple[str, int]] = []

    recorder = EventRecorder(
        handler,
        options=quickly(retry=Backoff(attempts=4), batch_rows=10),
        on_drop=lambda reason, count: drops.append((reason, count)),
    )
    async with recorder:
        recorder.record_many(Numbered(n) for n in range(25))
        assert await recorder.flush(timeout=600)

    assert handler.delivered == list(range(10, 25))
    assert recorder.status().subscriptions["ScriptedHandler"].dropped == {"exhausted": 10}
    assert drops == [("exhausted", 10)]
    assert_conserved(recorder.status(), offered=25)


async def test_after_an_outage_batches_start_small_and_grow() -> None:
    handler = ScriptedHandler(acts=[raising(TransientError("down"))] * 5)

    async with EventRecorder(handler, options=quickly(batch_rows=160, queue_events=20_000)) as recorder:
        recorder.record_many(Numbered(n) for n in range(2_000))
        assert await recorder.flush(timeout=600)

    sizes = [len(batch) for batch in handler.batches]
    assert sizes[:6] == [160, 20, 40, 80, 160, 160]
    assert handler.delivered == list(range(2_000))


async def test_one_line_when_an_outage_starts_and_one_when_it_ends(
    caplog: pytest.LogCaptureFixture, said_by: Callable[[str], list[logging.LogRecord]]
) -> None:
    caplog.set_level(logging.INFO)
    handler = ScriptedHandler(acts=[raising(TransientError("down"))] * 20)

    async with EventRecorder(handler, options=quickly()) as recorder:
        recorder.record_many(Numbered(n) for n in range(5))
        assert await recorder.flush(timeout=3600)

    lines = [record.getMessage().split(" subscription")[0] for record in said_by("eventrec.delivery")]
    assert lines == ["delivery interrupted", "delivery restored"]


async def test_a_filter_delivers_its_types_alone_and_counts_the_others() -> None:
    some, none, every = ScriptedHandler(), ScriptedHandler(), ScriptedHandler()
    recorder = EventRecorder(options=quickly())
    recorder.register(some, name="some", types=["b"])
    recorder.register(none, name="none", types=[])
    recorder.register(every, name="every")

    async with recorder:
        recorder.record_many(Numbered(n, kind="abc"[n % 3]) for n in range(30))
        assert await recorder.flush(timeout=5)

    assert some.delivered == list(range(1, 30, 3))
    assert none.batches == []
    assert every.delivered == list(range(30))
    filtered = {name: part.filtered for name, part in recorder.status().subscriptions.items()}
    assert filtered == {"some": 20, "none": 30, "every": 0}
    assert_conserved(recorder.status(), offered=30)


async def test_one_dead_destination_does_not_hold_up_another() -> None:
    dead = ScriptedHandler(always=raising(TransientError("down")))
    fine = ScriptedHandler()
    recorder = EventRecorder(options=quickly())
    recorder.register(dead, name="dead")
    recorder.register(fine, name="fine")

    async with recorder:
        recorder.record_many(Numbered(n) for n in range(100))
        await anyio.sleep(1.1)
        assert fine.delivered == list(range(100))

    assert recorder.status().subscriptions["dead"].dropped == {"closed": 100}
    assert_conserved(recorder.status(), offered=100)


async def test_a_slow_subscription_loses_its_own_oldest_never_anothers() -> None:
    release = anyio.Event()

    class Stuck(ScriptedHandler):
        async def handle(self, batch: Batch) -> None:
            await release.wait()
            await super().handle(batch)

    slow, fast = Stuck(), ScriptedHandler()
    recorder = EventRecorder(options=quickly(queue_events=100, batch_rows=10))
    recorder.register(slow, name="slow", types=["numbered"])
    recorder.register(fast, name="fast")

    async with recorder:
        for n in range(400):
            recorder.record(Numbered(n, kind="numbered" if n % 2 else "other"))
            await anyio.sleep(0.05)
        status = recorder.status()
        assert status.refused == {}
        assert status.is_balanced
        release.set()
        await anyio.sleep(10)

    assert fast.delivered == list(range(400))
    part = recorder.status().subscriptions["slow"]
    assert part.dropped["overflow"] == 200 - len(slow.delivered) > 0
    assert slow.delivered[-1] == 399
    assert_conserved(recorder.status(), offered=400)


@pytest.mark.parametrize("overflow", ["drop_new", "drop_old"])
async def test_when_every_subscription_is_behind_the_intake_overflows_as_told(overflow: str) -> None:
    handler = ScriptedHandler(always=raising(TransientError("down")))

    async with EventRecorder(handler, options=quickly(queue_events=100, batch_rows=10, overflow=overflow)) as recorder:
        for n in range(300):
            recorder.record(Numbered(n))
            await anyio.sleep(0.05)
        status = recorder.status()
        handler.always = lambda _: None
        await anyio.sleep(120)

    assert status.refused == {"overflow": 300 - len(handler.delivered)}
    assert len(handler.delivered) == pytest.approx(110, abs=2)
    assert handler.delivered[0] == 0
    assert (handler.delivered[-1] == 299) == (overflow == "drop_old")
    assert_conserved(recorder.status(), offered=300)


# -- the next batch is prepared while one is in flight


class PreparingHandler(FencedHandler):
    """Notes what it was asked to prepare, and while which batch."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.prepared: list[tuple[Batch, list[int] | None]] = []
        self.handled: list[Batch] = []
        self.in_flight: list[int] | None = None

    async def prepare(self, batch: Batch) -> None:
        self.prepared.append((batch, self.in_flight))

    async def handle(self, batch: Batch) -> None:
        self.in_flight = numbers(batch)
        self.handled.append(batch)
        await anyio.sleep(0.01)
        await super().handle(batch)
        self.in_flight = None


async def test_the_next_batch_is_prepared_while_one_is_in_flight() -> None:
    handler = PreparingHandler()

    async with EventRecorder(handler, options=quickly(batch_rows=10)) as recorder:
        recorder.record_many(Numbered(n) for n in range(50))
        assert await recorder.flush(timeout=60)

    assert handler.delivered == list(range(50))
    assert [in_flight for _, in_flight in handler.prepared] == [list(range(n, n + 10)) for n in (0, 10, 20, 30)]
    assert [batch for batch, _ in handler.prepared] == handler.handled[1:]
    assert_conserved(recorder.status(), offered=50)


@pytest.mark.parametrize("failing", [1, 2, 3])
async def test_what_was_prepared_for_a_batch_that_fails_is_made_again_or_used_rightly(failing: int) -> None:
    acts = [lambda _: None] * failing
    handler = PreparingHandler(
        acts=[*acts, raising(TransientError("down")), raising(TransientError("down"))],
        always=refusing({7, 23, 24}, lambda: PermanentError("never")),
        after_commit=[*acts, raising(TransientError("looked failed"))],
    )
    recorder = EventRecorder(options=quickly(batch_rows=10))
    recorder.register(handler, name="preparing", types=["a", "c"])

    async with recorder:
        recorder.record_many(Numbered(n, kind="abc"[n % 3]) for n in range(200))
        assert await recorder.flush(timeout=600)

    assert handler.delivered == [n for n in range(200) if n % 3 != 1 and n not in {23, 24}]
    assert_conserved(recorder.status(), offered=200)


async def test_what_prepare_raises_is_met_again_by_handle() -> None:
    class Failing(PreparingHandler):
        async def prepare(self, batch: Batch) -> None:
            raise ZeroDivisionError

    handler = Failing()

    async with EventRecorder(handler, options=quickly(batch_rows=10)) as recorder:
        recorder.record_many(Numbered(n) for n in range(50))
        assert await recorder.flush(timeout=60)

    assert handler.delivered == list(range(50))


async def test_reading_ahead_never_passes_over_what_is_open() -> None:
    """A filtered or forfeited range behind a batch in flight is settled only after that batch."""
    release = anyio.Event()

    class Stuck(PreparingHandler):
        async def handle(self, batch: Batch) -> None:
            await release.wait()
            await super().handle(batch)

    handler, fast = Stuck(), ScriptedHandler()
    recorder = EventRecorder(options=quickly(queue_events=40, batch_rows=5))
    recorder.register(handler, name="stuck", types=["a"])
    recorder.register(fast, name="fast")

    async with recorder:
        for n in range(200):
            recorder.record(Numbered(n, kind="a" if n < 8 or n > 150 else "b"))
            await anyio.sleep(0.05)
            assert recorder.status().is_balanced
            assert recorder.status().subscriptions["stuck"].scanned == 0
        release.set()
        await anyio.sleep(10)

    assert fast.delivered == list(range(200))
    part = recorder.status().subscriptions["stuck"]
    assert len(handler.delivered) + part.dropped.get("overflow", 0) == 8 + 49
    assert_conserved(recorder.status(), offered=200)


# -- destinations that keep their checkpoint


async def test_a_commit_that_looked_failed_is_not_repeated() -> None:
    handler = FencedHandler(after_commit=[raising(TransientError("connection lost"))] * 2)

    async with EventRecorder(handler, options=quickly(batch_rows=5)) as recorder:
        recorder.record_many(Numbered(n) for n in range(20))
        assert await recorder.flush(timeout=60)

    assert handler.delivered == list(range(20))
    assert_conserved(recorder.status(), offered=20)


async def test_a_moved_checkpoint_fences_off_what_comes_late() -> None:
    handler = FencedHandler()

    async with EventRecorder(handler, options=quickly(batch_rows=5)) as recorder:
        recorder.record_many(Numbered(n) for n in range(10))
        assert await recorder.flush(timeout=60)
        (key,) = handler.next
        handler.next[key] = 17
        recorder.record_many(Numbered(n) for n in range(10, 20))
        assert await recorder.flush(timeout=60)

    assert handler.delivered == [*range(10), 17, 18, 19]
    assert_conserved(recorder.status(), offered=20)


async def test_dead_letters_filters_and_splits_do_not_stop_a_fenced_destination() -> None:
    handler = FencedHandler(
        always=refusing({3, 4, 40}, lambda: PermanentError("never")),
        after_commit=[raising(TransientError("looked failed"))] * 7,
    )
    recorder = EventRecorder(options=quickly(batch_rows=8))
    recorder.register(handler, name="fenced", types=["a", "c"])

    async with recorder:
        recorder.record_many(Numbered(n, kind="abc"[n % 3]) for n in range(60))
        assert await recorder.flush(timeout=600)

    wanted = [n for n in range(60) if n % 3 != 1 and n not in {3, 4, 40}]
    assert handler.delivered == wanted
    assert recorder.status().subscriptions["fenced"].dead == 1
    assert_conserved(recorder.status(), offered=60)


async def test_a_destination_that_went_back_counts_what_is_gone() -> None:
    handler = FencedHandler()

    async with EventRecorder(handler, options=quickly(batch_rows=5)) as recorder:
        recorder.record_many(Numbered(n) for n in range(10))
        assert await recorder.flush(timeout=60)
        (key,) = handler.next
        handler.next[key] = 4
        recorder.record_many(Numbered(n) for n in range(10, 15))
        assert await recorder.flush(timeout=60)

    status = recorder.status().subscriptions["FencedHandler"]
    assert (status.rewound, status.dropped) == (6, {"rewound": 6})
    assert handler.delivered == list(range(15))
    assert_conserved(recorder.status(), offered=15)


async def test_another_destination_answering_pauses_until_an_operator_decides() -> None:
    handler = FencedHandler()

    async with EventRecorder(handler, options=quickly()) as recorder:
        recorder.record(Numbered(0))
        assert await recorder.flush(timeout=60)
        handler.id = "another"
        handler.acts = [raising(TransientError("cut"))]
        recorder.record(Numbered(1))
        assert await recorder.flush(timeout=60) is False
        assert recorder.status().subscriptions["FencedHandler"].state == "paused: destination changed"
        recorder.resume("FencedHandler")
        assert await recorder.flush(timeout=60) is False
        recorder.resume("FencedHandler", start="latest")
        assert await recorder.flush(timeout=60)
        assert recorder.status().is_healthy

    assert handler.delivered == [0, 1]
    assert_conserved(recorder.status(), offered=2)


async def test_a_destination_that_is_back_in_its_place_needs_no_operator() -> None:
    handler = FencedHandler()

    async with EventRecorder(handler, options=quickly(retry=Backoff(first=0.01, max=0.1, jitter="none"))) as recorder:
        recorder.record(Numbered(0))
        assert await recorder.flush(timeout=60)
        handler.id = "another"
        handler.acts = [raising(TransientError("cut"))]
        recorder.record(Numbered(1))
        while recorder.status().subscriptions["FencedHandler"].state != "paused: destination changed":  # noqa: ASYNC110
            await anyio.sleep(0.01)
        handler.id = "destination"
        with anyio.fail_after(30):
            while not recorder.status().is_healthy:  # noqa: ASYNC110
                await anyio.sleep(0.01)

    assert handler.delivered == [0, 1]
    assert_conserved(recorder.status(), offered=2)


async def test_it_is_found_in_its_place_though_a_connection_to_the_other_one_stands(
    said_by: Callable[[str], list[logging.LogRecord]],
) -> None:
    """As behind a name or a proxy: where a handler leads to is found where it is opened."""

    class NamedHandler(FencedHandler):
        place = "destination"
        times_opened = 0

        async def open(self) -> None:
            self.id = self.place
            self.times_opened += 1

    handler = NamedHandler()

    async with EventRecorder(handler, options=quickly(retry=Backoff(first=0.01, max=0.1, jitter="none"))) as recorder:
        recorder.record(Numbered(0))
        assert await recorder.flush(timeout=60)
        handler.place = "another"
        await handler.open()
        handler.acts = [raising(TransientError("cut"))]
        recorder.record(Numbered(1))
        with anyio.fail_after(30):
            while handler.times_opened < 5:  # noqa: ASYNC110
                await anyio.sleep(0.01)
        paused = recorder.status()
        said = [each for each in said_by("eventrec.delivery") if "on hold" in each.getMessage()]
        handler.place = "destination"
        with anyio.fail_after(30):
            while not recorder.status().is_healthy:  # noqa: ASYNC110
                await anyio.sleep(0.01)

    assert not paused.is_healthy
    assert len(said) == 1
    assert handler.delivered == [0, 1]
    assert_conserved(recorder.status(), offered=2)


async def test_another_destination_is_taken_at_once_where_that_was_decided_before() -> None:
    handler = FencedHandler()
    recorder = EventRecorder(options=quickly())
    recorder.register(handler, name="fenced", on_new_destination="latest")

    async with recorder:
        recorder.record(Numbered(0))
        assert await recorder.flush(timeout=60)
        handler.id = "another"
        handler.next.clear()
        handler.acts = [raising(TransientError("cut"))]
        recorder.record(Numbered(1))
        assert await recorder.flush(timeout=60)

    assert handler.delivered == [0, 1]
    assert_conserved(recorder.status(), offered=2)


class OftenAsked(FencedHandler):
    """Is asked where it is after five seconds without a batch; the first `unanswered` times it does not say."""

    unanswered = 0

    @property
    def idle_check_seconds(self) -> float:
        return 5.0

    async def resume(self, log_id: UUID, subscription: str, start: int) -> int:
        answer = await super().resume(log_id, subscription, start)
        if self.unanswered:
            self.unanswered -= 1
            raise TransientError("away")
        return answer


async def test_a_destination_that_may_forget_is_asked_while_there_is_nothing_to_send() -> None:
    handler = OftenAsked()

    async with EventRecorder(handler, options=quickly()) as recorder:
        recorder.record(Numbered(0))
        assert await recorder.flush(timeout=60)
        asked = len(handler.resumed)
        await anyio.sleep(16)
        asked_idle = len(handler.resumed) - asked
        handler.unanswered = 2
        await anyio.sleep(16)
        recorder.record(Numbered(1))
        assert await recorder.flush(timeout=60)

    assert asked_idle == 3
    assert handler.unanswered == 0
    assert handler.delivered == [0, 1]
    assert_conserved(recorder.status(), offered=2)
