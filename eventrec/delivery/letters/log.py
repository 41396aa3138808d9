"""Dead letters in a log of their own, beside the logs: `<log>/dead/<id of the run that set them aside>/`.

A letter is synced before anything else says that its record is settled, and its key (log id, offset, subscription) is
remembered: what is there is never sent again, except by replay. So a kill between the two neither doubles nor repeats.
"""

from __future__ import annotations

import threading
import time
from contextlib import closing, nullcontext
from functools import partial
from typing import TYPE_CHECKING, Final

from eventrec.delivery.letters.content import UnknownVersionError, decode_letters, encode_letters, is_letters_of
from eventrec.delivery.letters.dead_letters import Notices
from eventrec.errors import ContentError, LogError
from eventrec.log.head import SPARED_BY_LETTERS
from eventrec.log.reader import LogReader
from eventrec.log.walk import Tail
from eventrec.records.content import Shapes
from eventrec.records.entry import total_size
from eventrec.runs.directory import LOCK, LogDirectory, list_runs
from eventrec.runs.leftovers import sweep
from eventrec.runs.own_log import OwnLog
from eventrec.runs.survey import tree_size
from eventrec.runtime.backend import in_thread
from eventrec.runtime.logging import described, get_logger, text_of

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Collection, Iterator, Sequence
    from contextlib import AbstractContextManager
    from uuid import UUID

    from eventrec.delivery.letters.dead_letters import DeadLetter, DeadLetters, Key
    from eventrec.log.disk import DiskStorage
    from eventrec.log.log import Log
    from eventrec.runs.run import Run

_MAX_IN_A_COMMIT: Final = 1_000

_FILES_TO_BEGIN: Final = 6
"""A directory, a lock, a folder, a segment, what it is made from, and one that is left."""

_logger = get_logger("eventrec.dead_letters")


class LetterLog:
    """The letters that this run sets aside, below `directory`, and the keys of those that others did.

    The log is made with the first letter, and is `id_()`'s. It takes no more once all letters there take `max_bytes`,
    nor what a full disk needs for checkpoints: without these nothing would make room there. `copy` is given each letter
    too, once it is safe here; `make_room` is called once before letters are refused. `on_kept` is called, on the loop's
    thread, with those that are synced, inside of what `while_writing` gives.
    """

    def __init__(
        self,
        directory: os.PathLike[str],
        id_: Callable[[], UUID],
        *,
        max_bytes: int,
        copy: DeadLetters | None = None,
        make_room: Callable[[], object] = lambda: None,
        on_kept: Callable[[Sequence[DeadLetter]], object] = lambda _: None,
        while_writing: Callable[[], AbstractContextManager[object]] = nullcontext,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._directory = directory
        self._max_bytes = max_bytes
        self._copy = copy
        self._make_room = make_room
        self._on_kept = on_kept
        self._while_writing = while_writing
        self._notices = Notices(now)
        self._writing = threading.Lock()
        self._own = OwnLog(directory, id_, on_gone=_say_gone)
        self._is_closed = False
        self._is_unreadable = False
        self._appended: set[Key] = set()
        """Keys of letters that our log has taken, and whose writer was not told so: they are not taken twice."""
        self._keys: dict[tuple[UUID, str], set[int]] = {}
        self._read_to: dict[UUID, int] = {}

    def __repr__(self) -> str:
        return f"<LetterLog in {self._directory}: {self._own.log!r}>"

    async def write(self, letters: Sequence[DeadLetter]) -> None:
        """Keep `letters`. On return they are synced.

        Raises:
            OSError: They could not be kept, or a bound is reached.
        """
        with self._while_writing():
            self._on_kept(await in_thread(self._write, letters))
        self._notices.say(letters)
        if self._copy is not None:
            await self._copy.write(letters)
        self._appended.difference_update(letter.key for letter in letters)

    def known(self, log_id: UUID, subscription: str) -> Collection[int]:
        return self._keys.get((log_id, subscription), ())

    def _write(self, letters: Sequence[DeadLetter]) -> list[DeadLetter]:
        """Those of `letters` that our log had not taken before."""
        with self._writing:
            if self._is_closed:
                raise OSError("the recorder is closed")
            size = total_size(letter.entry for letter in letters)
            if tree_size(self._directory) + size > self._max_bytes or not self._has_room(size):
                self._make_room()
            if (held := tree_size(self._directory)) + size > self._max_bytes:
                raise OSError(f"{held:,} bytes of dead letters are kept, of {self._max_bytes:,} allowed")
            if not self._has_room(size):
                raise OSError("no room for dead letters on the disk, beside what is spared for checkpoints")
            try:
                run, log = self._own.make()
                self._own.look()
                new = [letter for letter in letters if letter.key not in self._appended]
                for start in range(0, len(new), _MAX_IN_A_COMMIT):
                    some = new[start : start + _MAX_IN_A_COMMIT]
                    log.append_encoded(encode_letters(some, run.id), len(some))
                    self._appended.update(letter.key for letter in some)
                log.write()
                log.sync()
            except LogError as exc:
                raise OSError(str(exc)) from exc
        self._remember(letters)
        return new

    def _has_room(self, size: int) -> bool:
        try:
            storage = LogDirectory.of(self._directory).opened()
        except OSError:
            return True  # The disk says it when the directory is made.
        log = self._own.log
        waiting = 0 if log is None else log.unsynced_bytes
        return storage.has_room(size=size + waiting + SPARED_BY_LETTERS, files=_FILES_TO_BEGIN if log is None else 0)

    def _remember(self, letters: Sequence[DeadLetter]) -> None:
        for letter in letters:
            self._keys.setdefault((letter.log_id, letter.subscription), set()).add(letter.offset)

    def learn(self) -> None:
        """Read the keys of the letters that others wrote since the last look, and delete logs half made. Blocking.

        Where this user may not look, that is said once: what others set aside there may be sent again.

        Raises:
            OSError: The system refused, for now.
        """
        try:
            sweep(self._directory)
            ids = list_runs(self._directory)
        except PermissionError as exc:
            if not self._is_unreadable:
                _logger.warning("dead letters unreadable", directory=str(self._directory), error=described(exc))
            self._is_unreadable = True
            return
        self._is_unreadable = False
        for id_ in ids:
            if self._own.run is not None and id_ == self._own.run.id:
                continue
            for offset, letter in letters_of(self._directory, id_, self._read_to.get(id_, 0)):
                self._read_to[id_] = offset + 1
                self._remember([letter])

    def close(self) -> None:
        """Let go of the log: the letters stay. Blocking; errors end in a log line."""
        with self._writing:
            self._is_closed = True
            try:
                self._own.let_go()
            except LogError as exc:
                _logger.warning("dead letters not synced", error=str(exc))

    def abandon(self) -> None:
        """In the child of a fork: close what was inherited, and touch nothing."""
        self._own.abandon()


def _say_gone(run: Run, log: Log) -> None:
    _logger.error("dead letters gone", log=str(run.path), lost_below=log.kept_from)


def letters_of(
    directory: os.PathLike[str],
    id_: UUID,
    start: int = 0,
    *,
    on_unreadable: Callable[[str], object] = lambda _: None,
    on_unknown_version: Callable[[], object] = lambda: None,
    is_said: bool = True,
) -> Iterator[tuple[int, DeadLetter]]:
    """The letters that the run `id_` set aside, from number `start` on, each with its number there.

    What cannot be read is left out, and logged where that `is_said`; `on_unreadable` is told why, once a place, and
    `on_unknown_version` that a later eventrec may read it. Nothing is changed; the run may still be writing.
    """
    shapes = Shapes()
    try:
        storage = LogDirectory.of(directory).opened().folder(str(id_))
    except OSError as exc:
        if not isinstance(exc, FileNotFoundError):
            on_unreadable(text_of(exc))
        return
    with closing(storage), LogReader(storage, start, is_ours=partial(is_letters_of, id_=id_)) as reader:
        try:
            for commit in reader.commits():
                try:
                    letters = decode_letters(commit.content, shapes)
                except ContentError as exc:
                    if isinstance(exc, UnknownVersionError):
                        on_unknown_version()
                    # A changed version is not a defect: no traceback.
                    _say_unreadable(_logger.error, is_said, log=str(id_), offset=commit.offset, error=str(exc))
                    on_unreadable(text_of(exc))
                    continue
                for offset, letter in enumerate(letters, commit.offset):
                    if offset >= start:
                        yield offset, letter
        except (OSError, LogError) as exc:
            _say_unreadable(_logger.warning, is_said, log=str(id_), error=str(exc))
            on_unreadable(text_of(exc))
        for fault in _faults(reader, storage):
            on_unreadable(fault)


def _say_unreadable(say: Callable[..., object], is_said: bool, /, **values: object) -> None:  # noqa: FBT001 - as it was given
    if is_said:
        say("dead letters unreadable", **values)


def _faults(reader: LogReader, storage: DiskStorage) -> Iterator[str]:
    """What `reader`, which has read all of `storage`, had to pass over."""
    if reader.gaps:
        yield f"{reader.skipped:,} bytes are damaged"
    # The end of a log that is being written may be seen while a commit is half written.
    if reader.tail in (Tail.TORN, Tail.DAMAGED) and not _is_held(storage):
        yield "its end is damaged"


def _is_held(storage: DiskStorage) -> bool:
    try:
        return storage.is_locked(LOCK)
    except OSError:
        return False
