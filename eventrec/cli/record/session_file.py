"""A session file of Rerun's analytics: read while no process writes it, removed only once all of it is delivered."""

from __future__ import annotations

import os
from collections import Counter
from hashlib import blake2b
from typing import TYPE_CHECKING, Final

from eventrec.cli.record.held_file import HeldFile
from eventrec.cli.record.sources import InputSource, LeftAloneError
from eventrec.ingest.posthog_wal import HalfWrittenLineError, SessionReading, pieces, session_of
from eventrec.ingest.received import LineError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from eventrec.cli.record.sources import Found


MAX_SEEN: Final = 100_000
"""Lines among which equal ones are told apart: by time, two stand next to each other."""


class SessionFile(InputSource):
    """The session file at `path`. With `removes`, `finish` deletes it where every event of it is delivered.

    A half-written line does not keep it from that: nothing more can be had from one. A line that is not understood
    does.
    """

    def __init__(self, path: Path, *, distinct_id: str | None, table: str, max_event_bytes: int, removes: bool) -> None:
        self.name = str(path)
        self.max_event_bytes = max_event_bytes
        self._path = path
        self._removes = removes
        session = session_of(path.name)
        self._reading = (
            None
            if session is None
            else SessionReading(session=session, distinct_id=distinct_id, table=table, max_event_bytes=max_event_bytes)
        )
        self._held: HeldFile | None = None
        self._size: int | None = None
        self._not_understood = 0
        self._seen: Counter[bytes] = Counter()

    def look(self) -> None:
        if self._reading is None:
            raise LeftAloneError("its name is not that of a session file, <session id>.json")
        self._held = HeldFile(self._path)

    def open(self) -> int:
        if self._held is None:
            raise RuntimeError(f"{self.name} is not held")
        return os.dup(self._held.descriptor)

    def events(self, lines: Sequence[bytes]) -> Iterable[tuple[int, Found]]:
        for place, line in enumerate(lines):
            for text in pieces(line):
                yield place, self._event_or_why_not(text)

    def note_refused(self, exc: LineError) -> None:
        self._not_understood += not isinstance(exc, HalfWrittenLineError)

    def note_end(self, size: int) -> None:
        self._size = size
        self._seen.clear()
        if not self._removes:
            self._close()

    def finish(self, *, is_delivered: bool) -> str | None:
        try:
            if self._removes:
                self._remove(is_delivered=is_delivered)
        except LeftAloneError as exc:
            return f"{self.name} is kept: {exc}"
        except OSError as exc:
            return f"{self.name} is kept, it cannot be removed: {exc.strerror}"
        finally:
            self._close()
        return None

    def _event_or_why_not(self, text: bytes) -> Found:
        if self._reading is None:
            raise RuntimeError(f"{self.name} is not a session file")
        digest = blake2b(text, digest_size=16).digest()
        try:
            event = self._reading.event(text, repeat=self._seen[digest])
        except LineError as exc:
            return exc
        if len(self._seen) >= MAX_SEEN:
            self._seen.clear()
        self._seen[digest] += 1
        return event

    def _remove(self, *, is_delivered: bool) -> None:
        if self._held is None or self._size is None or not is_delivered:
            raise LeftAloneError("not all of it is delivered")
        if self._not_understood:
            raise LeftAloneError("it holds lines that are not understood")
        self._held.remove(self._size)

    def _close(self) -> None:
        held, self._held = self._held, None
        if held is not None:
            held.close()
