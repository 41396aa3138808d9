"""What the model of delivery found, each once and small: see `test_model.py`."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import ClassVar
from uuid import UUID

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventrec import Backoff, Batch, BatchTooLargeError, EventRecorder, PermanentError, TransientError
from eventrec.delivery.letters.dead_letters import DeadLetter
from eventrec.delivery.sources.memory import MemorySource
from eventrec.delivery.subscription import Subscription
from eventrec.delivery.worker.batching import Batching
from eventrec.delivery.worker.worker import Worker
from eventrec.events.encoder import Encoder
from eventrec.runs.checkpoint import Checkpoint
from eventrec.runs.requests import OperatorRequest
from eventrec.testing import assert_conserved
from eventrec.testing.scripted import FencedHandler, Numbered, ScriptedHandler, numbers, quickly, raising, refusing

ID = UUID(int=7)


@dataclass
class TokenHandler(ScriptedHandler):
    """Drops what comes under a token that it has seen."""

    dedupes_by_token: ClassVar[bool] = True
    seen: dict[str, list[int]] = field(default_factory=dict)

    async def handle(self, batch: Batch) -> None:
        assert self.seen.setdefault(batch.token, numbers(batch)) == numbers(batch)
        await super().handle(batch)


@dataclass
class PreparingHandler(FencedHandler):
    async def prepare(self, batch: Batch) -> None:
        pass


class Letters:
    """In memory. `before` is called first."""

    def __init__(self) -> None:
        self.offsets: list[int] = []
        self.before: Callable[[], None] = lambda: None

    async def write(self, letters: Sequence[DeadLetter]) -> None:
        self.before()
        self.offsets += [letter.offset for letter in letters]

    def known(self, log_id: UUID, subscription: str) -> Collection[int]:
        return self.offsets


def log_of(count: int) -> MemorySource:
    """A log that forgets nothing: another subscription has read none of it."""
    source = MemorySource(ID, max_events=1_000, max_bytes=1 << 20)
    source.subscribe("another", "earliest", lambda *_: None)
    grow(source, *range(count))
    return source


def grow(source: MemorySource, *numbered: int) -> None:
    entries = [Encoder().encode(Numbered(number)) for number in numbered]
    source.append([entry for entry in entries if isinstance(entry, tuple)])


async def never() -> None:
    """Freeze nothing."""


def worker(
    handler: ScriptedHandler,
    source: MemorySource,
    letters: Letters | None = None,
    *,
    checkpoint: Checkpoint | None = None,
    freeze: Callable[[], Awaitable[None]] = never,
    rows: int = 10,
    attempts: int | None = None,
) -> Worker:
    retry = Backoff(jitter="none", max=8, attempts=attempts)
    settings = quickly(batch_rows=rows, flush_interval=0.1, retry=retry).resolve(has_log=True)
    subscription = Subscription("s", handler, settings.delivery)
    return Worker(subscription, source, letters or Letters(), checkpoint=checkpoint, freeze=freeze)


@asynccontextmanager
async def running(*workers: Worker) -> AsyncIterator[None]:
    async with anyio.create_task_group() as tasks:
        for each in workers:
            tasks.start_soon(each.run)
        yield
        tasks.cancel_scope.cancel()
    for each in workers:
        assert each.status().is_balanced


# -- where the destination is


async def test_a_last_attempt_that_arrived_all_the_same_fences_off_nothing_behind_it() -> None:
    handler = FencedHandler(after_commit=[raising(TransientError("looked failed"))])
    options = quickly(batch_rows=5, retry=Backoff(jitter="none", attempts=1))

    async with EventRecorder(handler, options=options) as recorder:
        recorder.record_many(Numbered(n) for n in range(20))
        assert await recorder.flush(timeout=60)

    assert handler.delivered == list(range(20))
    assert recorder.status().subscriptions["FencedHandler"].dropped == {"exhausted": 5}
    assert_conserved(recorder.status(), offered=20)


async def test_what_was_read_ahead_is_not_lost_when_another_process_delivered_half_of_it() -> None:
    handler = PreparingHandler()
    source = log_of(6)

    def moves(_: Batch) -> None:
        handler.next[ID, "s"] = 5
        raise TransientError("cut")

    handler.acts = [moves]
    async with running(delivery := worker(handler, source, rows=4)):
        await anyio.sleep(10)

    assert handler.delivered == [5]
    assert delivery.progress.delivered == 6


async def test_what_another_process_set_aside_is_not_counted_as_delivered() -> None:
    handler, letters = FencedHandler(next={(ID, "s"): 9}), Letters()
    letters.offsets = [1, 6]

    async with running(delivery := worker(handler, log_of(10), letters, rows=4)):
        await anyio.sleep(10)

    assert handler.delivered == [9]
    assert (delivery.progress.delivered, delivery.progress.dead) == (8, 2)


@pytest.mark.parametrize(("start", "again"), [("earliest", [0, 1, 2]), ("latest", [2])])
async def test_a_decision_about_a_new_destination_outlives_an_answer_that_is_lost(start: str, again: list[int]) -> None:
    class Losing(FencedHandler):
        lost = 0

        async def resume(self, log_id: UUID, subscription: str, start: int) -> int:
            answer = await super().resume(log_id, subscription, start)
            if self.id == "another" and not self.lost:
                self.lost += 1
                del self.next[log_id, subscription]
                raise TransientError("cut")
            return answer

    handler = Losing()
    source = log_of(2)
    async with running(delivery := worker(handler, source)):
        await anyio.sleep(1)
        handler.id = "another"
        handler.next.clear()
        handler.batches.clear()
        handler.acts = [raising(TransientError("cut"))]
        grow(source, 2)
        await anyio.sleep(5)
        delivery.resume(start)  # type: ignore[arg-type]
        await anyio.sleep(5)

    assert handler.lost == 1
    assert handler.delivered == again
    assert delivery.progress.dropped == {}


async def test_a_piece_that_an_answer_took_out_of_hand_is_not_given_up() -> None:
    class Failing(FencedHandler):
        failures = 2

        async def resume(self, log_id: UUID, subscription: str, start: int) -> int:
            if self.id == "another" and self.failures:
                self.failures -= 1
                raise TransientError("cut")
            return await super().resume(log_id, subscription, start)

    handler = Failing()
    source = log_of(2)
    async with running(delivery := worker(handler, source, attempts=2)):
        await anyio.sleep(1)
        handler.id = "another"
        handler.next.clear()
        handler.batches.clear()
        handler.acts = [raising(TransientError("cut"))]
        grow(source, 2)
        await anyio.sleep(1)
        delivery.resume("earliest")
        await anyio.sleep(60)

    assert handler.delivered == [0, 1, 2]
    assert delivery.progress.dropped == {}


async def test_a_new_destination_is_given_what_is_in_hand_where_nothing_else_is_kept() -> None:
    handler = FencedHandler()
    recorder = EventRecorder(options=quickly())
    recorder.register(handler, name="fenced", on_new_destination="earliest")

    async with recorder:
        recorder.record(Numbered(0))
        assert await recorder.flush(timeout=60)
        handler.id = "another"
        handler.next.clear()
        handler.acts = [raising(TransientError("cut"))]
        recorder.record_many([Numbered(1), Numbered(2)])
        assert await recorder.flush(timeout=60)

    assert handler.delivered == [0, 1, 2]
    assert_conserved(recorder.status(), offered=3)


async def test_a_new_destination_may_begin_below_where_the_subscription_did() -> None:
    handler = FencedHandler()
    source = log_of(5)
    latest = worker(handler, source)
    delivery = Worker(replace(latest.subscription, start="latest"), source, Letters())

    async with running(delivery):
        grow(source, 5)
        await anyio.sleep(1)
        handler.id = "another"
        handler.next.clear()
        handler.acts = [raising(TransientError("cut"))]
        grow(source, 6)
        await anyio.sleep(5)
        delivery.resume("earliest")
        await anyio.sleep(5)
        assert handler.delivered == [5, *range(7)]
        handler.next.clear()
        handler.acts = [raising(TransientError("cut"))]
        grow(source, 7)
        await anyio.sleep(5)

    assert (delivery.progress.start, handler.delivered) == (0, [5, *range(7), *range(8)])


async def test_a_destination_that_went_back_is_not_stamped_as_done() -> None:
    class Stamped(FencedHandler):
        stamps: ClassVar[list[int]] = []

        async def retire(self, log_id: UUID, subscription: str, end: int) -> None:
            self.stamps.append(end)

    handler = Stamped()
    delivery = worker(handler, log_of(5))
    async with running(delivery):
        await anyio.sleep(1)
    await delivery.close()
    handler.next[ID, "s"] = 2

    await delivery.retire()

    assert handler.stamps == []
    assert delivery.progress.scanned == 2


# -- suspects: records that failed alone, while it was not known whose fault it was


def unmapped(batch: Batch) -> None:
    if 0 in numbers(batch):
        raise ValueError("cannot map")


async def test_a_suspect_is_dead_though_its_neighbours_commit_looked_failed() -> None:
    handler, letters = FencedHandler(always=unmapped, after_commit=[raising(TransientError("cut"))]), Letters()

    async with running(delivery := worker(handler, log_of(2), letters)):
        await anyio.sleep(600)

    assert (handler.delivered, letters.offsets) == ([1], [0])
    assert (delivery.progress.delivered, delivery.progress.dead) == (1, 1)


async def test_a_suspect_is_dead_though_its_letter_could_not_be_written_at_once() -> None:
    handler, letters = FencedHandler(always=unmapped), Letters()

    def full() -> None:
        letters.before = lambda: None
        handler.next[ID, "s"] += 1  # another process goes on meanwhile
        raise OSError("full")

    letters.before = full
    async with running(worker(handler, log_of(3), letters)):
        await anyio.sleep(600)

    assert 0 in letters.offsets


async def test_a_destination_that_goes_back_while_letters_wait_is_given_again_what_it_lost() -> None:
    handler, letters = FencedHandler(always=unmapped), Letters()

    def full() -> None:
        letters.before = lambda: None
        handler.next.clear()
        handler.batches.clear()
        raise OSError("full")

    letters.before = full
    source = log_of(2)
    async with running(worker(handler, source, letters)):
        await anyio.sleep(300)
        grow(source, 2)
        await anyio.sleep(300)

    assert (handler.delivered, letters.offsets) == ([1, 2], [0])


async def test_a_suspect_is_dead_though_the_process_died_before_its_letter() -> None:
    handler, letters = FencedHandler(always=unmapped), Letters()
    source = log_of(2)
    frozen: list[Checkpoint] = []

    async def freeze() -> None:
        frozen.append(delivery.checkpoint())

    def die() -> None:
        raise OSError("dead")

    letters.before = die
    async with running(delivery := worker(handler, source, letters, freeze=freeze)):
        await anyio.sleep(600)
    assert (handler.delivered, letters.offsets) == ([1], [])
    letters.before = lambda: None

    async with running(second := worker(handler, source, letters, checkpoint=frozen[-1])):
        await anyio.sleep(600)

    assert (handler.delivered, letters.offsets) == ([1], [0])
    assert (second.progress.delivered, second.progress.dead) == (1, 1)


async def test_a_suspect_that_arrived_after_all_is_not_set_aside_by_the_next_process() -> None:
    handler, letters = FencedHandler(always=raising(ValueError("who knows"))), Letters()
    source = log_of(2)
    frozen: list[Checkpoint] = []

    async def freeze() -> None:
        frozen.append(delivery.checkpoint())

    async with running(delivery := worker(handler, source, letters, freeze=freeze)):
        await anyio.sleep(120)
        assert delivery.status().state.startswith("holding: every record fails")
        handler.always = lambda _: None
        delivery.resume()
        await anyio.sleep(10)
    async with running(worker(handler, source, letters, checkpoint=frozen[-1])):
        await anyio.sleep(60)

    assert (handler.delivered, letters.offsets) == ([0, 1], [])


async def test_a_record_that_arrived_before_an_unknown_error_is_not_set_aside() -> None:
    def fail(batch: Batch) -> None:
        if len(batch) > 1:
            raise ValueError("who knows")

    def fail_at_last(batch: Batch) -> None:
        if 1 in numbers(batch):
            raise ValueError("who knows")

    handler = FencedHandler(always=fail, after_commit=[fail_at_last] * 2)
    letters = Letters()

    async with running(worker(handler, log_of(2), letters)):
        await anyio.sleep(600)

    assert (handler.delivered, letters.offsets) == ([0, 1], [])


async def test_suspects_that_are_taken_back_keep_their_tokens_apart() -> None:
    handler = TokenHandler(always=raising(ValueError("who knows")))

    async with running(delivery := worker(handler, log_of(3))):
        await anyio.sleep(120)
        assert delivery.status().state.startswith("holding: every record fails")
        handler.always = refusing({0, 1}, lambda: ValueError("who knows"))
        delivery.resume()
        await anyio.sleep(600)

    assert handler.delivered == [2]


# -- batches that must be sent again as they were


async def test_a_batch_is_not_sent_before_it_is_frozen_however_often_freezing_fails() -> None:
    happened: list[str] = []

    async def freeze() -> None:
        await anyio.lowlevel.checkpoint()
        happened.append("frozen" if "full" in happened else "full")
        if happened == ["full"]:
            raise TransientError("the checkpoint cannot be saved")

    handler = TokenHandler(always=lambda _: happened.append("sent"))
    async with running(worker(handler, log_of(2), freeze=freeze)):
        await anyio.sleep(60)

    assert happened == ["full", "frozen", "sent"]


async def test_a_token_is_not_given_again_to_what_is_read_after_a_restart() -> None:
    def act(batch: Batch) -> None:
        if len(batch) > 1:
            raise BatchTooLargeError("413")
        if numbers(batch) == [0]:
            raise PermanentError("never")

    handler, letters = TokenHandler(always=act), Letters()
    source = log_of(2)
    saved: list[Checkpoint] = []

    async def freeze() -> None:
        saved.append(delivery.checkpoint())
        if len(saved) == 3:  # the right half, of which nothing is known any more
            await anyio.sleep_forever()

    async with running(delivery := worker(handler, source, letters, freeze=freeze)):
        await anyio.sleep(60)
    assert letters.offsets == [0]
    handler.always = lambda _: None

    second = worker(handler, source, letters, checkpoint=replace_attempt(saved[-1]))
    async with running(second):
        await anyio.sleep(60)

    assert handler.delivered == [1]


def replace_attempt(checkpoint: Checkpoint) -> Checkpoint:
    """As saved when the left half was settled, and the right one not yet frozen."""
    return Checkpoint(subscription="s", progress=checkpoint.progress, generation=2)


async def test_a_batch_that_may_have_arrived_is_held_and_not_parted_by_guessing() -> None:
    handler = TokenHandler(always=raising(TransientError("cut")))
    source = log_of(2)

    async with running(delivery := worker(handler, source)):
        await anyio.sleep(1)
        handler.always = raising(ValueError("broken"))
        await anyio.sleep(600)
        state = delivery.status().state
        handler.always = lambda _: None
        await anyio.sleep(60)

    assert state == "holding: a batch that may have arrived fails: ValueError: broken"
    assert (handler.batches, len(set(handler.tokens))) == ([[0, 1]], 1)


async def test_a_frozen_record_of_which_there_is_a_letter_is_not_sent_again() -> None:
    handler, letters = TokenHandler(always=refusing({1}, lambda: PermanentError("22", records={1: "bad"}))), Letters()
    source = log_of(3)
    saved: list[Checkpoint] = []

    async def freeze() -> None:
        if saved:
            await anyio.sleep_forever()
        saved.append(delivery.checkpoint())

    async with running(delivery := worker(handler, source, letters, freeze=freeze)):
        await anyio.sleep(60)
    assert letters.offsets == [1]
    handler.always = lambda _: None

    async with running(second := worker(handler, source, letters, checkpoint=saved[0])):
        await anyio.sleep(60)

    assert (handler.delivered, letters.offsets) == ([0, 2], [1])
    assert (second.progress.delivered, second.progress.dead) == (2, 1)


# -- records that an operator skips


async def test_a_record_that_has_arrived_is_not_skipped() -> None:
    handler, letters = FencedHandler(after_commit=[raising(TransientError("looked failed"))]), Letters()

    async with running(delivery := worker(handler, log_of(1), letters)):
        await anyio.sleep(0.3)
        delivery.apply(OperatorRequest(subscription="s", asked=0, skip=0, log=ID))
        await anyio.sleep(60)

    assert (handler.delivered, letters.offsets) == ([0], [])


async def test_a_request_about_a_settled_record_says_nothing_about_later() -> None:
    handler, letters = FencedHandler(), Letters()
    source = log_of(1)

    async with running(delivery := worker(handler, source, letters)):
        await anyio.sleep(10)
        delivery.apply(OperatorRequest(subscription="s", asked=0, skip=0, log=ID))
        handler.next.clear()
        handler.acts = [raising(TransientError("restored"))]
        grow(source, 1)
        await anyio.sleep(60)

    assert (handler.delivered, letters.offsets) == ([0, 0, 1], [])


# -- time


@given(st.floats(0, 1e6), st.floats(1e-3, 1e4))
def test_what_is_not_due_yet_waits_for_some_time(oldest: float, interval: float) -> None:
    batching = Batching(quickly(flush_interval=interval).resolve(has_log=True).delivery, now=0.0)
    now = oldest + interval

    assert batching.is_due(rows=1, size=1, scanned=1, oldest=oldest, more=False, now=now)
    assert batching.seconds_left(oldest=oldest, now=now) == 0
