"""Dead letters, and logs of other runs, as an operator sees them: status, health and metrics say the same."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from uuid import UUID

import anyio
import anyio.to_thread
import pytest
from prometheus_client import CollectorRegistry

from eventrec import Batch, EventRecorder, PermanentError, TransientError
from eventrec.bridges.prometheus import RecorderCollector
from eventrec.delivery.letters import counts
from eventrec.delivery.letters.counts import LetterCounter, LetterCounts, WaitingLetters
from eventrec.delivery.letters.dead_letters import DeadLetter
from eventrec.delivery.letters.kept import purge, waiting_in
from eventrec.records.entry import make_entry
from eventrec.records.schema import Shape
from eventrec.runs.checkpoint import CHECKPOINTS
from eventrec.runs.directory import DEAD, list_runs
from eventrec.runs.files import file_name
from eventrec.status import Status
from eventrec.testing import assert_conserved
from eventrec.testing.scripted import FencedHandler, Numbered, quickly, raising, refusing

pytestmark = pytest.mark.usefixtures("looking_often")

NAME = "FencedHandler"


def metric(recorder: EventRecorder, name: str) -> float | None:
    registry = CollectorRegistry()
    registry.register(RecorderCollector(recorder))
    labels = {} if name == "eventrec_left_logs" else {"subscription": NAME}
    return registry.get_sample_value(name, labels)


async def seen(recorder: EventRecorder, is_so: Callable[[Status], bool]) -> Status:
    with anyio.fail_after(120):
        while not is_so(status := recorder.status()):  # noqa: ASYNC110 - delivery changes it
            await anyio.sleep(0.02)
    return status


def refuse(*numbers: int) -> FencedHandler:
    return FencedHandler(always=refusing(set(numbers), lambda: PermanentError("out of range")))


async def leave_letters(directory: Path, *numbers: int) -> None:
    async with EventRecorder(refuse(*numbers), log=directory, options=quickly(batch_rows=4)) as recorder:
        recorder.record_many(Numbered(n) for n in range(10))
        assert await recorder.flush(timeout=60)


async def leave_records(directory: Path, count: int) -> None:
    down = FencedHandler(always=raising(TransientError("no route to host")))
    async with EventRecorder(down, log=directory, options=quickly()) as recorder:
        recorder.record_many(Numbered(n) for n in range(count))
        await recorder.close(0.2)


async def test_letters_of_the_own_log_are_told_at_once(tmp_path: Path) -> None:
    async with EventRecorder(refuse(3, 5), log=tmp_path, options=quickly(batch_rows=4)) as recorder:
        recorder.record_many(Numbered(n) for n in range(10))
        assert await recorder.flush(timeout=60)
        status = recorder.status()

    assert status.dead_letters == status.died == {NAME: 2}
    assert status.health.reasons == (f"{NAME}: 2 dead letters",)


async def test_letters_of_earlier_runs_are_told_till_they_are_dealt_with(tmp_path: Path) -> None:
    await leave_letters(tmp_path, 3, 5)
    await leave_letters(tmp_path, 7)

    async with EventRecorder(FencedHandler(), log=tmp_path, options=quickly()) as recorder:
        recorder.record(Numbered(0))
        assert await recorder.flush(timeout=60)
        before = await seen(recorder, lambda status: status.dead_letters == {NAME: 3})
        told = [metric(recorder, name) for name in ("eventrec_dead_letters", "eventrec_dead_total", "eventrec_healthy")]
        for run in await anyio.to_thread.run_sync(list_runs, tmp_path / DEAD):
            await anyio.to_thread.run_sync(lambda: purge(tmp_path / DEAD, run, NAME, below=10))  # noqa: B023 - called at once
        after = await seen(recorder, lambda status: status.dead_letters == {})

        assert metric(recorder, "eventrec_dead_letters") == 0

    # They wait for an operator, and yet no subscription does.
    assert (before.health.ready, before.health.reasons) == (True, (f"{NAME}: 3 dead letters",))
    assert before.died == {NAME: 0}
    assert told == [3, 0, 1]
    assert after.health.reasons == ()


async def test_what_dies_of_an_earlier_run_counts_also_once_its_log_is_done(tmp_path: Path) -> None:
    await leave_records(tmp_path, 10)

    async with EventRecorder(refuse(3, 5), log=tmp_path, options=quickly(batch_rows=4)) as recorder:
        status = await seen(recorder, lambda status: status.died == {NAME: 2} and not status.adopted)

        assert metric(recorder, "eventrec_dead_total") == 2

    assert status.dead_letters == {NAME: 2}
    assert status.health.reasons == (f"{NAME}: 2 dead letters",)
    assert status.subscriptions[NAME].dead == 0
    assert_conserved(status, offered=0)


async def test_an_earlier_log_that_is_held_is_unhealthy_wherever_it_is_asked(tmp_path: Path) -> None:
    def refuse_all(batch: Batch) -> None:
        raise PermanentError("bad deploy", records=dict.fromkeys(batch.offsets, "bad deploy"))

    await leave_records(tmp_path, 1_500)

    handler = FencedHandler(always=refuse_all)
    async with EventRecorder(handler, log=tmp_path, options=quickly()) as recorder:
        held = await seen(recorder, lambda status: any(part[NAME].held for part in status.adopted.values()))
        told = [metric(recorder, name) for name in ("eventrec_healthy", "eventrec_left_logs", "eventrec_dead_total")]
        handler.always = lambda _: None
        recorder.resume(NAME)
        well = await seen(recorder, lambda status: not status.adopted)
        told_after = [metric(recorder, name) for name in ("eventrec_healthy", "eventrec_left_logs")]

    assert (held.health.ready, held.is_healthy) == (False, False)
    assert told == [0, 1, 501]
    assert (well.health.ready, well.is_healthy, well.died) == (True, True, {NAME: 501})
    assert told_after == [1, 0]


async def test_what_waits_is_one_letter_a_record_of_those_that_no_replay_has_passed(tmp_path: Path) -> None:
    await leave_letters(tmp_path, 1, 3, 5)
    (run,) = await anyio.to_thread.run_sync(list_runs, tmp_path / DEAD)

    before = await anyio.to_thread.run_sync(waiting_in, tmp_path / DEAD)
    await anyio.to_thread.run_sync(lambda: purge(tmp_path / DEAD, run, NAME, below=2))
    after = await anyio.to_thread.run_sync(waiting_in, tmp_path / DEAD)

    assert (before, after) == ({NAME: 3}, {NAME: 1})


@pytest.mark.parametrize("is_said", [True, False])
async def test_an_unreadable_checkpoint_of_another_subscription_changes_no_count(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, *, is_said: bool
) -> None:
    await leave_letters(tmp_path, 1, 3, 5)
    (run,) = await anyio.to_thread.run_sync(list_runs, tmp_path / DEAD)
    await anyio.to_thread.run_sync(lambda: purge(tmp_path / DEAD, run, NAME, below=2))
    (tmp_path / DEAD / str(run) / CHECKPOINTS / file_name("other")).write_bytes(b"not ours")

    waiting = await anyio.to_thread.run_sync(lambda: waiting_in(tmp_path / DEAD, is_said=is_said))

    assert waiting == {NAME: 1}
    assert ("checkpoint unreadable" in caplog.text) is is_said


async def test_letters_that_are_written_beside_a_count_are_counted_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(counts, "LOOK_SECONDS", 0.001)
    monkeypatch.setattr(counts, "_LEFT_OUT", 1_000)
    written = [0]

    def count(_: Path) -> LetterCounts:
        return LetterCounts({"s": written[0]}, {})

    waiting = WaitingLetters(tmp_path)
    waiting._counter = LetterCounter(count=count)
    entry = make_entry(Shape("events", "t"), 1, b"{}")
    letter = DeadLetter(UUID(int=7), 0, "s", "Handler", "never", 1.0, entry)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(waiting.run)
        for number in range(1, 4):
            with waiting.writing():
                written[0] = number  # it is there, and not noted yet
                waiting._counter._seen = None
                await anyio.sleep(0.003)
                waiting.note_written([letter])
            assert waiting.counts == {"s": number}
            await anyio.sleep(0.02)
            assert waiting.counts == {"s": number}
        tasks.cancel_scope.cancel()


def test_a_directory_without_letters_has_none(tmp_path: Path) -> None:
    assert LetterCounter().of(tmp_path / "nothing") == ({}, {})
