"""Which checkpoints are to be saved: what changed, and what is to be synced."""

from __future__ import annotations

from eventrec.delivery.saving import Saving
from eventrec.runs.checkpoint import Checkpoint, Progress


def at(name: str, scanned: int) -> dict[str, Checkpoint]:
    return {name: Checkpoint(subscription=name, progress=Progress(0, 0, scanned, filtered=scanned))}


def test_what_changed_is_due_until_it_is_saved() -> None:
    saving = Saving()
    now = at("a", 1) | at("b", 0)

    assert saving.due(now, sync=False) == now
    saving.note(now, synced_at=None)

    assert saving.due(now, sync=False) == {}
    assert saving.due(now | at("a", 2), sync=False) == at("a", 2)
    assert repr(saving) == "<Saving saved=['a', 'b'] unsynced=['a', 'b']>"


def test_what_is_not_synced_is_due_again_where_all_is_to_be() -> None:
    saving = Saving()
    now = at("a", 1) | at("b", 0)
    saving.note(now, synced_at=None)
    assert saving.due(now, sync=True) == now
    assert not saving.covers({"a"})
    assert saving.covers({"a", "b", "c"})

    saving.note(now, synced_at=5.0)

    assert saving.due(now, sync=True) == {}
    assert saving.unsynced == set()


def test_a_sync_is_due_at_once_and_then_after_each_interval() -> None:
    saving = Saving()
    assert saving.is_due(0.0, interval=10.0)

    saving.note(at("a", 1), synced_at=5.0)

    assert not saving.is_due(14.9, interval=10.0)
    assert saving.is_due(15.0, interval=10.0)


def test_what_went_with_the_directory_is_due_again() -> None:
    saving = Saving()
    saving.note(at("a", 1), synced_at=5.0)

    saving.lose_all()

    assert saving.due(at("a", 1), sync=False) == at("a", 1)
