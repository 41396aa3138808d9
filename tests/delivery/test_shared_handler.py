"""One handler for several logs: opened and closed once, whoever comes first, and what its opening says."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any
from uuid import UUID

import pytest

from eventrec import DeliveryError, PauseError, PermanentError, TransientError
from eventrec.delivery.orphans.locks import OrphanLocks
from eventrec.delivery.shared_handler import SharedHandler
from eventrec.delivery.worker.piece import Piece
from eventrec.records.entry import make_entry
from eventrec.records.schema import Shape
from eventrec.runs.directory import LogDirectory
from eventrec.runs.run import Run, new_run_id
from eventrec.testing.scripted import FencedHandler, ScriptedHandler

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def refuses(error: Exception) -> Callable[[], None]:
    def act() -> None:
        raise error

    return act


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (TransientError("busy"), TransientError),
        (PermanentError("never"), PauseError),
        (PauseError("401"), PauseError),
        (ValueError("odd"), ValueError),
    ],
    ids=lambda value: getattr(value, "__name__", str(value)),
)
async def test_what_opening_it_again_says_is_not_a_word_about_the_batch(
    said: Exception, expected: type[Exception]
) -> None:
    piece = Piece(1)
    piece.add(0, make_entry(Shape("events", "a"), 1, b"{}"))
    handler = ScriptedHandler(open_acts=[lambda: None, refuses(said)])
    lease = SharedHandler(handler).lease(is_orphan=False)
    await lease.open()
    await lease.close()

    with pytest.raises(expected) as raised:
        await lease.handle(piece.as_batch(UUID(int=7), "s", 0))

    assert isinstance(raised.value, DeliveryError) is isinstance(said, DeliveryError)
    assert handler.batches == []


async def test_of_several_that_open_and_close_it_the_first_does() -> None:
    handler = ScriptedHandler()
    shared = SharedHandler(handler)
    leases = [shared.lease(is_orphan=is_orphan) for is_orphan in (False, True)]

    for lease in leases:
        await lease.open()
    for lease in leases:
        await lease.close()

    assert (handler.opened, handler.closed) == (1, 1)


async def test_a_destination_that_keeps_no_checkpoints_any_more_pauses() -> None:
    class Forgetful(FencedHandler):
        keeps = True

        @property
        def checkpoints(self) -> Any:
            return self if self.keeps else None

    handler = Forgetful()
    lease = SharedHandler(handler).lease(is_orphan=False)
    checkpoints = lease.checkpoints
    assert checkpoints is not None
    handler.keeps = False

    with pytest.raises(PauseError, match="keeps no checkpoints any more"):
        await checkpoints.resume(UUID(int=7), "s", 0)


# -- the locks of those that wait for it


def test_where_one_lock_cannot_be_looked_at_none_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = [Run.create(tmp_path, new_run_id()) for _ in range(2)]
    for run in runs:
        run.release()
    locks = OrphanLocks(LogDirectory(tmp_path), threading.Lock())
    try_adopt, tried = Run.try_adopt, list[UUID]()

    def refuse_the_second(directory: Any, id_: UUID) -> Any:
        tried.append(id_)
        if len(tried) > 1:
            raise MemoryError
        return try_adopt(directory, id_)

    with monkeypatch.context() as patch:
        patch.setattr(Run, "try_adopt", refuse_the_second)
        with pytest.raises(MemoryError):
            locks.take([run.id for run in runs])

    for run in runs:
        adopted = Run.adopt(tmp_path, run.id)
        assert adopted is not None
        adopted.release()


def test_a_child_of_a_fork_leaves_them_to_its_parent_even_where_every_descriptor_is_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Run.create(tmp_path, new_run_id())
    run.release()
    locks = OrphanLocks(LogDirectory(tmp_path), threading.Lock())
    ((_, taken),) = locks.take([run.id])
    locks.release([new_run_id()])
    forgotten: list[Run] = []

    def forget(inherited: Run) -> None:
        forgotten.append(inherited)
        raise OSError(9, "Bad file descriptor")

    with monkeypatch.context() as patch:
        patch.setattr(Run, "forget", forget)
        locks.abandon()

    assert forgotten == [taken]
    assert locks.still_held([run.id]) == [run.id]
    locks.release_all()
    assert locks.still_held([run.id]) == []
