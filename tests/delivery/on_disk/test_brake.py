"""A subscription that is paused since most records of a type were refused stays so for the processes that follow."""

from __future__ import annotations

import time
from functools import partial
from pathlib import Path

import anyio
import anyio.to_thread
import pytest

from eventrec import Batch, EventRecorder, PermanentError, TransientError
from eventrec.runs.checkpoint import CHECKPOINTS, CheckpointFiles
from eventrec.runs.directory import list_runs
from eventrec.runs.requests import OperatorRequest, save_request
from eventrec.status import Status
from eventrec.testing import assert_conserved
from eventrec.testing.scripted import FencedHandler, Numbered, quickly, raising

pytestmark = pytest.mark.usefixtures("looking_often")

EVENTS = 2_000
BURIED = 501
NAME = "FencedHandler"


def refuse_all(batch: Batch) -> None:
    raise PermanentError("bad deploy", records=dict.fromkeys(batch.offsets, "bad deploy"))


async def a_run_that_pauses(directory: Path) -> None:
    async with EventRecorder(FencedHandler(always=refuse_all), log=directory, options=quickly()) as recorder:
        recorder.record_many(Numbered(n) for n in range(EVENTS))
        assert not await recorder.flush(timeout=60)
        part = recorder.status().subscriptions[NAME]
        await recorder.close(0)
    assert part.state.startswith("paused: over half of the last 1,000 records of type 'numbered'")
    assert part.dead == BURIED


async def a_later_run(directory: Path, handler: FencedHandler) -> Status:
    """Until the log of the one before is delivered, or waits for an operator."""
    recorder = EventRecorder(handler, log=directory, options=quickly())
    async with recorder:
        with anyio.fail_after(120):
            while not any(part.held for log in recorder.status().adopted.values() for part in log.values()):
                if len(handler.delivered) == EVENTS - BURIED:
                    break
                await anyio.sleep(0.02)
        status = recorder.status()
        await recorder.close(0)
    assert_conserved(status, offered=0)
    return status


def dead_in(status: Status) -> int:
    return sum(part.dead for log in status.adopted.values() for part in log.values())


async def test_each_process_that_follows_buries_one_record_and_pauses_again(tmp_path: Path) -> None:
    await a_run_that_pauses(tmp_path)

    later = [await a_later_run(tmp_path, FencedHandler(always=refuse_all)) for _ in range(3)]

    assert [dead_in(status) for status in later] == [BURIED + 1, BURIED + 2, BURIED + 3]
    assert not any(status.health.ready for status in later)


async def test_one_that_never_reached_the_destination_forgets_nothing(tmp_path: Path) -> None:
    await a_run_that_pauses(tmp_path)
    down = FencedHandler(always=raising(TransientError("no route to host")))
    async with EventRecorder(down, log=tmp_path, options=quickly()) as recorder:
        with anyio.fail_after(120):
            while not down.times:  # noqa: ASYNC110 - a disk changes it
                await anyio.sleep(0.02)
        await recorder.close(0)

    status = await a_later_run(tmp_path, FencedHandler(always=refuse_all))

    assert dead_in(status) == BURIED + 1


async def test_where_the_destination_takes_them_after_all_everything_is_delivered(tmp_path: Path) -> None:
    await a_run_that_pauses(tmp_path)
    handler = FencedHandler()

    await a_later_run(tmp_path, handler)

    assert sorted(handler.delivered) == list(range(BURIED, EVENTS))


async def test_an_operator_ends_it_also_while_no_process_runs(tmp_path: Path) -> None:
    await a_run_that_pauses(tmp_path)
    request = OperatorRequest(subscription=NAME, asked=time.time())
    await anyio.to_thread.run_sync(save_request, tmp_path, request)

    status = await a_later_run(tmp_path, FencedHandler(always=refuse_all))

    assert dead_in(status) == 2 * BURIED


async def test_the_checkpoint_names_the_type_in_the_format_that_earlier_versions_read(tmp_path: Path) -> None:
    await a_run_that_pauses(tmp_path)
    (run,) = await anyio.to_thread.run_sync(partial(list_runs, tmp_path))
    files = CheckpointFiles(tmp_path / str(run) / CHECKPOINTS)

    saved = (await anyio.to_thread.run_sync(files.load))[NAME]

    assert (saved.version, saved.refused_types) == (1, ["numbered"])
