"""Which dead letters wait, in all their logs: what is listed, replayed, purged or swept."""

from __future__ import annotations

from collections import Counter
from contextlib import closing, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from eventrec.delivery.letters.log import letters_of
from eventrec.errors import LogError
from eventrec.log.disk import DiskStorage
from eventrec.log.verify import describe
from eventrec.runs.checkpoint import CHECKPOINTS, Checkpoint, CheckpointFiles, Progress
from eventrec.runs.directory import LogDirectory, list_runs
from eventrec.runs.files import file_name
from eventrec.runs.mirrors import Mirrors
from eventrec.runs.run import Run

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from uuid import UUID

    from eventrec.delivery.letters.dead_letters import DeadLetter, Key

LOCK: Final = "replay"
"""Name of the lock that a process holds while it replays or purges the letters of a run."""


@dataclass(frozen=True, slots=True)
class KeptLetter:
    """A letter, and where it is kept. `last` is where the last one about its record is: that one alone may wait."""

    run: UUID
    number: int
    letter: DeadLetter
    last: UUID
    is_waiting: bool
    """Whether it is to be replayed or purged."""
    is_open: bool
    """Whether it would wait, were it the last one."""


def kept_letters(directory: Path) -> Iterator[KeptLetter]:
    """Every letter below `directory`, oldest first; of letters about the same record the last one alone waits."""
    known = _LastLetters(directory)
    for run in known.runs:
        for number, letter in letters_of(directory, run):
            latest = known.last.get(letter.key, (run, number))
            is_open = known.is_open(run, number, letter.subscription)
            yield KeptLetter(run, number, letter, latest[0], is_open and latest == (run, number), is_open)


def waiting_in(directory: Path, *, is_said: bool = True) -> dict[str, int]:
    """How many letters below `directory` wait, by subscription. Blocking.

    `is_said`: what cannot be read, and may wait too, is logged.
    """
    known = _LastLetters(directory, is_said=is_said)
    waiting = Counter(key[2] for key, (run, number) in known.last.items() if known.is_open(run, number, key[2]))
    return dict(sorted(waiting.items()))


class _LastLetters:
    """Where the last letter about each record is, and how far replays and purges are."""

    def __init__(self, directory: Path, *, is_said: bool = True) -> None:
        self.runs = list_runs(directory)
        self.last: dict[Key, tuple[UUID, int]] = {}
        for run in self.runs:
            for number, letter in letters_of(directory, run, is_said=is_said):
                self.last[letter.key] = run, number
        # After the letters: of one that is written and replayed meanwhile both are known, or neither.
        self._done = {
            (run, name): each.progress.scanned
            for run in self.runs
            for name, each in replay_checkpoints(directory, run).load(is_said=is_said).items()
        }

    def is_open(self, run: UUID, number: int, subscription: str) -> bool:
        """Whether the letter `number` of `run` was neither replayed nor purged."""
        return number >= self._done.get((run, subscription), 0)


def purge(directory: Path, run: UUID, subscription: str, *, below: int) -> None:
    """Give up the letters of `subscription` in `run` with numbers less than `below`. Durable on return. Blocking.

    Raises:
        LogLockedError: They are being replayed.
        OSError: The disk refused.
    """
    with closing(DiskStorage(directory / str(run))) as storage:
        lock = storage.lock(LOCK)
        try:
            files = replay_checkpoints(directory, run)
            saved = files.load().get(subscription) or Checkpoint(subscription=subscription, progress=Progress(0, 0, 0))
            progress = saved.progress
            if below > progress.scanned:
                waiting = [
                    number
                    for number, letter in letters_of(directory, run, progress.scanned)
                    if letter.subscription == subscription and number < below
                ]
                progress.drop("purged", len(waiting))
                progress.settle_to(below, dropped=len(waiting))
                files.save(saved, sync=True)
                files.sync_names()
        finally:
            lock.release(delete=True)


def sweep_letters(directory: Path, *, waits_for_mirrors: bool = True) -> None:
    """Delete the logs of letters that are read whole, that no process writes, and of which no letter waits. Blocking.

    One whose letter came after that of an older log stays as long as that one: else the older letter would wait again.
    So does one that a mirror has not got, or not as settled: there its letters would wait for ever.
    """
    needed = _needed(directory)
    for id_ in list_runs(directory):
        if id_ in needed or (run := Run.adopt(directory, id_)) is None:
            continue
        # Its owner may have written another one before it let go.
        if id_ in _needed(directory) or (waits_for_mirrors and _is_lacked(directory, run)):
            run.release()
        else:
            run.retire()
            # It may have been all that needed a later one.
            needed = _needed(directory)
    with suppress(OSError):
        directory.rmdir()


def forfeit_settled(directory: Path) -> None:
    """Delete the logs of letters that are kept for mirrors alone: there is no room for new letters. Blocking."""
    with suppress(OSError, LogError):
        if Mirrors(directory.parent).names():
            sweep_letters(directory, waits_for_mirrors=False)


def _is_lacked(directory: Path, run: Run) -> bool:
    """Whether a mirror lacks letters of `run`, or what became of them; also where that is not known."""
    try:
        mirrors = Mirrors(directory.parent).of_log(run.id, is_dead=True)
        if not mirrors:
            return False
        found, saved = describe(run.storage), CheckpointFiles(run.storage).look()
    except (OSError, LogError):
        return True
    end = 0 if found is None else found.end
    scanned = {file_name(name): each.progress.scanned for name, each in saved.checkpoints.items()}
    return any(each.lacks(end, scanned) for each in mirrors.values())


def _needed(directory: Path) -> set[UUID]:
    """The logs whose letters wait, or keep an older one from waiting."""
    kept = list(kept_letters(directory))
    needed = {each.run for each in kept if each.is_waiting}
    needed |= {each.last for each in kept if each.is_open and each.last != each.run}
    return needed | unreadable_logs(directory).keys()


def unreadable_logs(directory: Path) -> dict[UUID, str]:
    """The logs of letters below `directory` that cannot be read whole, each with the first reason. Blocking.

    Letters in them may wait that this process cannot see: such a log is never deleted.
    """
    found: dict[UUID, str] = {}
    log = LogDirectory.of(directory)
    ours = set(log.runs())
    for id_ in log.ids():
        if id_ in ours:
            reasons: list[str] = []
            for _ in letters_of(log, id_, on_unreadable=reasons.append):
                pass
            if reasons:
                found[id_] = reasons[0]
        elif log.may_be_ours(id_):
            found[id_] = "this user may not open it"
    return found


def has_unknown_version(directory: Path, run: UUID) -> bool:
    """Whether some letters of `run` are for a later eventrec to read: a replay would move past them. Blocking."""
    found: list[None] = []
    for _ in letters_of(directory, run, on_unknown_version=lambda: found.append(None)):
        pass
    return bool(found)


def replay_checkpoints(directory: Path, run: UUID) -> CheckpointFiles:
    """How far replays of the letters of `run` are, by subscription."""
    return CheckpointFiles(directory / str(run) / CHECKPOINTS)
