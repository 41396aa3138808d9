"""The dead letters of one run as a source: what a replay reads."""

from __future__ import annotations

from bisect import bisect_left
from hashlib import blake2b
from typing import TYPE_CHECKING
from uuid import UUID

import anyio

from eventrec.delivery.letters.log import letters_of
from eventrec.delivery.sources.source import Records
from eventrec.records.context import merged_context
from eventrec.records.entry import SIZE
from eventrec.records.ids import Ids
from eventrec.runtime.backend import in_thread

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from eventrec.delivery.letters.dead_letters import DeadLetter
    from eventrec.delivery.letters.kept import KeptLetter
    from eventrec.delivery.sources.source import OnLost, Start
    from eventrec.records.entry import Entry


class LetterSource:
    """The letters of one run that wait for `subscription`, as records: all else between them is a hole."""

    def __init__(self, directory: Path, run: UUID, subscription: str, letters: Sequence[KeptLetter]) -> None:
        self.id = UUID(bytes=blake2b(b"replay" + run.bytes, digest_size=16).digest(), version=4)
        self.run = run
        self.end = max((kept.number for kept in letters), default=-1) + 1
        self.moved = anyio.Event()
        """Set when something was acknowledged."""
        self._directory = directory
        self._waiting = sorted(
            kept.number for kept in letters if kept.is_waiting and kept.letter.subscription == subscription
        )

    def __repr__(self) -> str:
        return f"<LetterSource {self.run} waiting={len(self)}>"

    def __len__(self) -> int:
        return len(self._waiting)

    def subscribe(self, name: str, start: Start, on_lost: OnLost) -> LetterCursor:
        """A cursor at the first letter, whatever `start` says. One that cannot be read any more is `corrupt`."""
        del start
        return LetterCursor(self, name, on_lost)

    @property
    def furthest(self) -> int:
        return self.end

    async def oldest(self) -> int:
        return 0

    async def wait_past(self, offset: int) -> None:
        """Return if there is a letter at `offset` or later: none is added."""
        while self.end <= offset:
            await anyio.sleep_forever()

    def read(self, start: int, max_records: int, max_bytes: int) -> Records:
        """Blocking. The letters from `start` on; not behind one that cannot be read, so that begins the next read."""
        found: dict[int, Entry] = {}
        size = 0
        waiting = iter(self._waiting[bisect_left(self._waiting, start) :])
        expected = next(waiting, None)
        for number, letter in letters_of(self._directory, self.run, start):
            if expected is None or number > expected or len(found) >= max_records:
                break
            if number < expected:
                continue
            entry = self._entry(letter)
            size += entry[SIZE]
            if size > max_bytes and found:
                break
            found[number] = entry
            expected = next(waiting, None)
        end = self.end if expected is None else expected
        return Records(start, end, tuple(found), tuple(found.values()))

    def _entry(self, letter: DeadLetter) -> Entry:
        shape, timestamp, payload, context, extras, explicit, size = letter.entry
        context = merged_context(letter.static_context, context)
        id_ = explicit if explicit is not None else Ids(letter.log_id).as_bytes(letter.offset, 0, None)
        return (shape, timestamp, payload, context, extras, id_, size)

    def note_acknowledged(self) -> None:
        """Something is settled."""
        moved, self.moved = self.moved, anyio.Event()
        moved.set()


class LetterCursor:
    """Where the replay is: `next` is the number of the first letter that was neither read nor lost."""

    def __init__(self, source: LetterSource, name: str, on_lost: OnLost) -> None:
        self.next = 0
        self._source = source
        self._name = name
        self._on_lost = on_lost

    def __repr__(self) -> str:
        return f"<LetterCursor {self._name!r} next={self.next}>"

    async def read(self, *, max_records: int, max_bytes: int) -> Records:
        start = self.next
        records = await in_thread(self._source.read, start, max_records, max_bytes)
        if records.end == start < self._source.end:
            self.next += 1
            self._on_lost("corrupt", 1, ())
            return Records(self.next, self.next)
        self.next = records.end
        return records

    async def wait(self) -> None:
        await self._source.wait_past(self.next)

    def seek(self, offset: int) -> None:
        self.next = offset

    def acknowledge(self, next_offset: int) -> None:
        del next_offset
        self._source.note_acknowledged()
