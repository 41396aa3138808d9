"""Reads events back from a directory of JSON Lines, beside its writers."""

from __future__ import annotations

import heapq
from collections import Counter
from functools import partial
from hashlib import blake2b
from itertools import islice
from operator import itemgetter
from typing import TYPE_CHECKING, Final, NamedTuple, TypeVar

import msgspec

from eventrec import EventPage, EventReader
from eventrec_handlers._cursors import CursorText
from eventrec_handlers._thread import WorkThread
from eventrec_handlers.jsonl.disk import errors_translated
from eventrec_handlers.jsonl.folder import read_at
from eventrec_handlers.jsonl.sidecar import file_order
from eventrec_handlers.jsonl.stored import event_of, lines, lines_backwards, stored_directories

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from eventrec import StoredEvent
    from eventrec_handlers.jsonl.stored import File, Line, StoredDirectory

T = TypeVar("T", bound="_Arrival | _Range")

MAX_FOREIGN: Final = 100_000
"""Lines of other programs in one directory that a page of `latest` or `follow` passes over before it looks no further.
"""

_HEAD: Final = 64
"""Bytes by which a file is known again: they hold the id of its first line."""


class JsonlReader(EventReader):
    """Reads the directory `path`: whatever lines count there, of every log and subscription.

    Each of these has an order of arrival: its files, and in them the lines. Events of several are merged by their
    timestamps. What is rotated, taken away, or replaced meanwhile is noticed. There is no index: `latest` reads from
    the ends, `range` reads all there is, for each page.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._thread = WorkThread("eventrec-jsonl-reader")

    def __repr__(self) -> str:
        return f"<JsonlReader {str(self._path)!r}>"

    async def close(self) -> None:
        self._thread.end()

    async def latest(self, *, limit: int, types: Collection[str] | None = None) -> EventPage:
        self.check_limit(limit)
        return await self._run(partial(_latest, self._directories(), limit, types))

    async def range(
        self,
        start: int | None = None,
        end: int | None = None,
        *,
        limit: int,
        types: Collection[str] | None = None,
        cursor: str | None = None,
    ) -> EventPage:
        self.check_limit(limit)
        after = None if cursor is None else _CURSORS.decoded(cursor, _Range).last
        return await self._run(partial(_range, self._directories(), start, end, limit, types, after))

    async def follow(self, cursor: str, *, limit: int, types: Collection[str] | None = None) -> EventPage:
        self.check_limit(limit)
        return await self._run(
            partial(_follow, self._directories(), _CURSORS.decoded(cursor, _Arrival).places, limit, types)
        )

    def _directories(self) -> Iterator[StoredDirectory]:
        return stored_directories(self._path, is_awaited=self.is_awaited)

    async def _run(self, read: Callable[[], EventPage]) -> EventPage:
        def translated() -> EventPage:
            with errors_translated():
                return read()

        return await self._thread.run(translated)


# -- cursors ----------------------------------------------------------------------------------------------------------


class _At(msgspec.Struct, frozen=True, array_like=True):
    """How far a directory was read: the bytes before `length` of `file`, whose first line has this `head`."""

    file: str
    length: int
    head: str
    inode: int


class _Arrival(msgspec.Struct, frozen=True, tag="arrival"):
    """The cursor of `latest` and `follow`."""

    places: dict[str, _At]


class _Range(msgspec.Struct, frozen=True, tag="range"):
    """The cursor of `range`: timestamp, directory, file and byte of the last line that was given."""

    last: tuple[int, str, str, int] | None


_CURSORS: Final = CursorText("JsonlReader", _Arrival, _Range)


# -- from here on everything runs in the thread -----------------------------------------------------------------------


class _Found(NamedTuple):
    """An event, and where its line stands."""

    event: StoredEvent
    directory: str
    file: File
    begin: int


class _Part:
    """What one directory has to offer to a page.

    Attributes:
        events: At most as many as were asked for.
        foreign: Lines that are not events: where they stand, and why.
        end: How far was read; None: there is nothing to read.
    """

    def __init__(self, directory: StoredDirectory) -> None:
        self.name = directory.name
        self.events: list[_Found] = []
        self.foreign: list[tuple[tuple[File, int], str]] = []
        self.end: tuple[File, int] | None = None
        self._inode = directory.folder.stat().st_ino
        self._heads: dict[str, str] = {}

    def read(
        self,
        directory: StoredDirectory,
        unread: Iterable[tuple[File, int]],
        *,
        types: Collection[str] | None,
        limit: int,
    ) -> None:
        """Read files of `directory`, each from a byte on."""
        for file, begin in unread:
            with directory.opened(file) as descriptor:
                self._heads[file.name] = _head(descriptor)
                self.end = (file, begin)
                for line in lines(descriptor, begin, file.length):
                    if self._has_enough(limit):
                        return
                    self._add(file, line, types)
                    self.end = (file, line.end)

    def read_backwards(
        self, directory: StoredDirectory, files: Sequence[File], *, types: Collection[str] | None, limit: int
    ) -> None:
        """Read files of `directory` from their end; goes on behind that end, however far was read."""
        if files:
            with directory.opened(files[-1]) as descriptor:
                self._heads[files[-1].name] = _head(descriptor)
                self.end = (files[-1], files[-1].length)
        for file in reversed(files):
            with directory.opened(file) as descriptor:
                for line in lines_backwards(descriptor, file.length):
                    if self._has_enough(limit):
                        return
                    self._add(file, line, types)

    def read_up_to(self, taken: int) -> _At | None:
        """How to go on where the first `taken` of the events were given."""
        end = self.events[taken][2:] if taken < len(self.events) else self.end
        return None if end is None else _At(end[0].name, end[1], self._heads[end[0].name], self._inode)

    def faults(self, taken: int) -> Iterator[str]:
        """Why lines are not events, as far as they are passed over where the first `taken` of the events were given."""
        end = self.events[taken][2:] if taken < len(self.events) else None
        return (why for at, why in self.foreign if end is None or at < end)

    def _has_enough(self, limit: int) -> bool:
        return len(self.events) >= limit or len(self.foreign) >= MAX_FOREIGN

    def _add(self, file: File, line: Line, types: Collection[str] | None) -> None:
        event = event_of(line)
        if event is None:
            self.foreign.append(((file, line.begin), f"{self.name}/{file.name}: not a line of ours"))
        elif types is None or event.type in types:
            self.events.append(_Found(event, self.name, file, line.begin))


def _latest(stored: Iterator[StoredDirectory], limit: int, types: Collection[str] | None) -> EventPage:
    foreign: Counter[str] = Counter()
    newest: list[StoredEvent] = []
    ends = {}
    for directory in stored:
        part = _Part(directory)
        part.read_backwards(directory, directory.files(), types=types, limit=limit)
        newest = heapq.nlargest(limit, newest + [found.event for found in part.events], key=_timestamp)
        ends[directory.name] = part.read_up_to(len(part.events))
        foreign.update(part.faults(len(part.events)))
        foreign.update(directory.faults)
    return EventPage.of(reversed(newest), _arrival(ends), foreign)


def _follow(
    stored: Iterator[StoredDirectory], seen: Mapping[str, _At], limit: int, types: Collection[str] | None
) -> EventPage:
    foreign: Counter[str] = Counter()
    parts = []
    for directory in stored:
        part = _Part(directory)
        part.read(directory, _unread(directory, seen.get(directory.name)), types=types, limit=limit)
        parts.append(part)
        foreign.update(directory.faults)
    merged = heapq.merge(*(part.events for part in parts), key=lambda found: found.event.timestamp)
    given = list(islice(merged, limit))
    taken = Counter(found.directory for found in given)
    ends = {part.name: part.read_up_to(taken[part.name]) or seen.get(part.name) for part in parts}
    for part in parts:
        foreign.update(part.faults(taken[part.name]))
    return EventPage.of((found.event for found in given), _arrival(ends), foreign)


def _unread(directory: StoredDirectory, at: _At | None) -> list[tuple[File, int]]:
    """The files of which something may be new, and from which byte on."""
    files = directory.files()
    order = None if at is None else file_order(at.file)
    if at is None or order is None:
        return [(file, 0) for file in files]
    later = [(file, 0) for file in files if file.order > order]
    for file in files:
        if file.name == at.file:
            with directory.opened(file) as descriptor:
                if file.length >= at.length and _head(descriptor) == at.head:
                    return [(file, at.length), *later]
            later.insert(0, (file, 0))  # another one of this name
    # Without the file that was read, it was taken away; unless it is another folder, made since.
    return later if directory.folder.stat().st_ino == at.inode else [(file, 0) for file in files]


def _arrival(ends: Mapping[str, _At | None]) -> str:
    return _CURSORS.encoded(_Arrival({name: at for name, at in ends.items() if at is not None}))


def _range(  # noqa: PLR0917 - called by `range` alone, which has names for them
    stored: Iterator[StoredDirectory],
    start: int | None,
    end: int | None,
    limit: int,
    types: Collection[str] | None,
    after: tuple[int, str, str, int] | None,
) -> EventPage:
    foreign: Counter[str] = Counter()

    def found() -> Iterator[tuple[tuple[int, str, str, int], StoredEvent]]:
        for directory in stored:
            for file in directory.files():
                with directory.opened(file) as descriptor:
                    for line in lines(descriptor, 0, file.length):
                        event = event_of(line)
                        if event is None:
                            foreign[f"{directory.name}/{file.name}: not a line of ours"] += 1
                            continue
                        key = (event.timestamp, directory.name, file.name, line.begin)
                        if (
                            (types is None or event.type in types)
                            and (start is None or start <= event.timestamp)
                            and (end is None or event.timestamp < end)
                            and (after is None or after < key)
                        ):
                            yield key, event
            foreign.update(directory.faults)

    given = heapq.nsmallest(limit, found(), key=itemgetter(0))
    last = given[-1][0] if given else after
    return EventPage.of((event for _, event in given), _CURSORS.encoded(_Range(last)), foreign)


def _head(descriptor: int) -> str:
    return blake2b(read_at(descriptor, _HEAD, 0), digest_size=8).hexdigest()


def _timestamp(event: StoredEvent) -> int:
    return event.timestamp
