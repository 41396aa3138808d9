"""Reading the logs of letters: what cannot be read is said with its reason, and left as it is."""

from __future__ import annotations

import errno
import json
from functools import partial
from typing import TYPE_CHECKING
from uuid import UUID

import anyio
import pytest

from eventrec import Batch, PauseError, PermanentError
from eventrec.delivery.letters import kept
from eventrec.delivery.letters.content import encode_letters
from eventrec.delivery.letters.dead_letters import DeadLetter
from eventrec.delivery.letters.kept import purge, sweep_letters, unreadable_logs
from eventrec.delivery.letters.log import LetterLog, letters_of
from eventrec.delivery.replay import replay
from eventrec.log import descriptors
from eventrec.log.disk import DiskStorage
from eventrec.log.log import Log
from eventrec.log.segment import segment_name
from eventrec.records.entry import make_entry
from eventrec.records.schema import Shape
from eventrec.runs.directory import LOCK, LogDirectory, list_runs
from eventrec.runs.run import Run, new_run_id
from eventrec.testing.scripted import ScriptedHandler, quickly, raising

if TYPE_CHECKING:
    from pathlib import Path

    from eventrec.delivery.letters.kept import KeptLetter

LOG = UUID(int=7)


def refuse(batch: Batch, *, below: int) -> None:
    numbers = {
        offset: json.loads(record.payload)["number"]
        for offset, record in zip(batch.offsets, batch.records, strict=True)
    }
    if bad := [offset for offset, number in numbers.items() if number < below]:
        raise PermanentError("still never", records=dict.fromkeys(bad, "still never"))


def letter(offset: int) -> DeadLetter:
    entry = make_entry(Shape("events", "a"), 1, b'{"number":%d}' % offset)
    return DeadLetter(LOG, offset, "s", "Handler", "never", 1.0, entry, None)


def leave(directory: Path, *offsets: int) -> UUID:
    """A log of letters about the records at `offsets`, a commit for each, that no process holds."""
    run = Run.create(directory, new_run_id())
    with Log.create(run.storage) as log:
        for offset in offsets:
            log.append_encoded(encode_letters([letter(offset)], run.id), 1)
    run.release()
    return run.id


def read(directory: Path, id_: UUID) -> tuple[list[int], list[str]]:
    """The offsets that letters are about, and what could not be read."""
    reasons: list[str] = []
    found = [each.offset for _, each in letters_of(directory, id_, on_unreadable=reasons.append)]
    return found, reasons


def test_a_log_that_is_gone_has_no_letters_and_one_that_is_not_a_directory_says_so(tmp_path: Path) -> None:
    gone, odd = new_run_id(), new_run_id()
    (tmp_path / str(odd)).touch()

    assert read(tmp_path, gone) == ([], [])
    found, (reason,) = read(tmp_path, odd)
    assert (found, "Not a directory" in reason) == ([], True)


def test_damage_between_letters_costs_what_it_hit(tmp_path: Path) -> None:
    id_ = leave(tmp_path, 1, 2, 3)
    segment = tmp_path / str(id_) / segment_name(0)
    content = bytearray(segment.read_bytes())
    content[len(content) // 2] ^= 1
    segment.write_bytes(content)

    found, (reason,) = read(tmp_path, id_)

    assert (found, reason.endswith("bytes are damaged")) == ([1, 3], True)


@pytest.mark.parametrize("has_lock", [True, False])
def test_a_torn_end_is_damage_unless_a_process_is_writing_it(tmp_path: Path, *, has_lock: bool) -> None:
    id_ = leave(tmp_path, 1, 2)
    segment = tmp_path / str(id_) / segment_name(0)
    segment.write_bytes(segment.read_bytes()[:-3])
    if not has_lock:
        (tmp_path / str(id_) / LOCK).unlink()
    else:
        run = Run.adopt(tmp_path, id_)
        assert run is not None
        assert read(tmp_path, id_) == ([1], [])
        run.release()

    assert read(tmp_path, id_) == ([1], ["its end is damaged"])


def test_a_commit_that_holds_something_else_is_left_out(tmp_path: Path) -> None:
    id_ = leave(tmp_path, 1)
    with Log.open(DiskStorage(tmp_path / str(id_))) as log:
        log.append([b"\x02no letters"])

    found, reasons = read(tmp_path, id_)

    assert (found, len(reasons)) == ([1], 1)


def test_a_log_that_this_user_may_not_open_is_unreadable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    id_ = new_run_id()
    (tmp_path / str(id_)).mkdir()
    assert unreadable_logs(tmp_path) == {}

    monkeypatch.setattr(LogDirectory, "may_be_ours", lambda *_: True)

    assert unreadable_logs(tmp_path) == {id_: "this user may not open it"}


def test_a_log_whose_owner_wrote_another_letter_before_it_let_go_is_not_swept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    id_ = leave(tmp_path, 1)
    kept_letters, looks = kept.kept_letters, list[object]()

    def seen_first(directory: Path) -> list[KeptLetter]:
        looks.append(directory)
        return list(kept_letters(directory)) if len(looks) > 1 else []

    monkeypatch.setattr(kept, "kept_letters", seen_first)

    sweep_letters(tmp_path)

    assert list_runs(tmp_path) == [id_]
    run = Run.adopt(tmp_path, id_)
    assert run is not None, "it was let go"
    run.release()


def test_a_replay_whose_destination_holds_begins_no_further_log(tmp_path: Path) -> None:
    for offset in (1, 2):
        leave(tmp_path, offset)
    handler = ScriptedHandler(always=raising(PauseError("401")))
    letters = LetterLog(tmp_path, new_run_id, max_bytes=1 << 20)

    settings = quickly().resolve(has_log=True).delivery

    result = anyio.run(partial(replay, tmp_path, handler, name="s", settings=settings, letters=letters))

    assert (result.is_done, result.delivered, len(handler.times)) == (False, 0, 1)
    assert result.state.startswith("paused: 401")


def test_letters_that_cannot_be_synced_at_the_end_are_said_and_the_lock_is_given_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    letters, id_ = LetterLog(tmp_path, new_run_id, max_bytes=1 << 20), None
    letters._write([letter(1)])

    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(descriptors, "sync", refuse)
    with pytest.raises(OSError, match="Input/output"):
        letters._write([letter(2)])
    letters.close()
    letters.close()

    assert caplog.text.count("dead letters not synced") == 1
    (id_,) = list_runs(tmp_path)
    run = Run.adopt(tmp_path, id_)
    assert run is not None
    run.release()


@pytest.mark.parametrize("is_open", [True, False])
def test_in_the_child_of_a_fork_what_was_inherited_is_closed_and_nothing_written(
    tmp_path: Path, *, is_open: bool
) -> None:
    letters = LetterLog(tmp_path, new_run_id, max_bytes=1 << 20)
    if is_open:
        letters._write([letter(1)])
    assert ("appended=1" in repr(letters)) is is_open
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}

    letters.abandon()

    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    assert repr(letters) == f"<LetterLog in {tmp_path}: None>"


def test_a_log_of_letters_that_a_newer_version_wrote_says_so(tmp_path: Path) -> None:
    id_ = leave(tmp_path, 1)
    segment = tmp_path / str(id_) / segment_name(0)
    content = bytearray(segment.read_bytes())
    content[6] = 9
    content[10:] = bytes(byte ^ 0xFF for byte in content[10:])
    segment.write_bytes(content)

    found, (reason,) = read(tmp_path, id_)

    assert (found, "format version 9" in reason) == ([], True)


def test_what_is_purged_already_is_not_purged_twice(tmp_path: Path) -> None:
    id_ = leave(tmp_path, 1, 2)

    for _ in range(2):
        purge(tmp_path, id_, "s", below=1)

    saved = kept.replay_checkpoints(tmp_path, id_).load()["s"]
    assert (saved.progress.scanned, saved.progress.dropped) == (1, {"purged": 1})


def test_what_a_replay_refuses_again_is_a_new_letter_about_the_old_record(tmp_path: Path) -> None:
    leave(tmp_path, 7)
    handler = ScriptedHandler(always=raising(PermanentError("still never")))
    letters = LetterLog(tmp_path, new_run_id, max_bytes=1 << 20)
    settings = quickly().resolve(has_log=True).delivery

    result = anyio.run(partial(replay, tmp_path, handler, name="s", settings=settings, letters=letters))
    letters.close()

    assert (result.is_done, result.delivered, result.dead) == (True, 0, 1)
    waiting = [each.letter for each in kept.kept_letters(tmp_path) if each.is_waiting]
    assert [(each.log_id, each.offset, each.reason) for each in waiting] == [(LOG, 7, "still never")]


def test_each_replay_watches_anew_what_is_refused_again(tmp_path: Path) -> None:
    """It is an operator's: what the one before was paused for does not stop it at the first letter."""
    leave(tmp_path, *range(1_200))
    settings = quickly().resolve(has_log=True).delivery
    refused, states = [], []

    for _ in range(2):
        handler = ScriptedHandler(always=lambda batch: refuse(batch, below=900))
        letters = LetterLog(tmp_path, new_run_id, max_bytes=1 << 24)
        result = anyio.run(partial(replay, tmp_path, handler, name="s", settings=settings, letters=letters))
        letters.close()
        refused.append(result.dead)
        states.append(result.state)

    assert refused[0] == 501
    assert states[0].startswith("paused: over half of the last 1,000 records of type 'a'")
    assert refused[1] >= 399
    assert result.delivered == 300
