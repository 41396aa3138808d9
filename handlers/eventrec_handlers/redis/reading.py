"""The commits of a log as records, from where a cursor is; damaged ones are told and passed."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Any, Final

from eventrec import PauseError, get_logger
from eventrec.bus import Content, ContentDecoder, ContentError, Records

if TYPE_CHECKING:
    from collections.abc import Sequence
    from uuid import UUID

    from eventrec.bus import Entry

_SIZE: Final = 6
"""Where an entry says what it counts, in bytes."""

_KEPT: Final = 8
"""Commits that stay decoded: a cursor that takes less than one comes back for its rest."""

_MAX_COMMITS: Final = 64
_FIRST_COMMITS: Final = 4
"""How many commits one call may bring, and how many it does while their size is not known."""

_OTHER_VERSIONS: Final = range(2, 32)
"""What a content of another version of ours begins with. Anything else in its place is damage."""

_logger = get_logger("eventrec.redis")


class CommitReader:
    """Decodes what `XRANGE` answers about one shard. For one loop; `where` is the shard, for operators."""

    def __init__(self, where: str) -> None:
        self._where = where
        self._decoder = ContentDecoder()
        self._kept: OrderedDict[tuple[UUID, int], tuple[int, Content]] = OrderedDict()
        self._records_each = 0.0
        self._bytes_each = 0.0
        self._told: set[tuple[UUID, bytes]] = set()

    def commits(self, max_records: int, max_bytes: int) -> int:
        """How many commits to ask for so that about so many records come, as the last ones were."""
        if not self._records_each:
            return _FIRST_COMMITS
        wanted = min(max_records / self._records_each, max_bytes / max(self._bytes_each, 1.0))
        return max(1, min(_MAX_COMMITS, int(wanted) + 1))

    def kept(self, log_id: UUID, start: int, *, max_records: int, max_bytes: int) -> Records | None:
        """The rest of a commit that is decoded already and holds `start`; None: none is."""
        for (of, begin), (end, content) in self._kept.items():
            if of == log_id and begin <= start < end:
                entries = _cut(content.entries[start - begin :], max_records, max_bytes)
                stop = start + len(entries)
                return Records(start, stop, range(start, stop), entries, content.static_context)
        return None

    def records(
        self,
        log_id: UUID,
        found: Sequence[Any],
        start: int,
        end: int,
        *,
        dropped: int = 0,
        max_records: int,
        max_bytes: int,
    ) -> Records:
        """Records from `start` on, of the stream entries `found`: without a hole, and of one static context.

        What lies between `start` and where the answer begins is lost, all of it as its `lost_as` says: what is below
        `dropped` made room for newer records. `end`, more than `start`, is where the log ends: entries behind it came
        later, or are not ours.

        Raises:
            PauseError: A commit is of a version that this eventrec does not know.
        """
        ours = [(*_place(id_), id_, fields) for id_, fields in found if is_commit(fields)]
        ours = [commit for commit in ours if commit[1] <= end]
        first, is_damaged = self._beginning(log_id, ours, start)
        next_, size = first, 0
        entries: list[Entry] = []
        context: bytes | None = None
        for begin, stop, id_, fields in ours:
            if stop <= next_ or begin >= stop:
                continue
            content = self._content(log_id, id_, begin, stop, fields) if begin <= next_ else None
            if content is None or (entries and content.static_context != context):
                break
            context = content.static_context
            taken = _cut(
                content.entries[next_ - begin :], max_records - len(entries), max_bytes - size, at_least=not entries
            )
            entries += taken
            size += sum(entry[_SIZE] for entry in taken)
            next_ += len(taken)
            if next_ < stop:
                break
        if not entries and next_ == start:
            # Nothing that is ours up to where the next entry stands, or the log ends: all of that is gone.
            passed = max((stop for _, stop, *_ in ours), default=start)
            first = next_ = passed if passed > start else end
        if is_damaged:
            return Records(first, next_, range(first, next_), entries, context, "corrupt")
        if start < dropped < first:
            return Records(dropped, dropped)
        return Records(first, next_, range(first, next_), entries, context, "overflow" if start < dropped else "lost")

    def _beginning(self, log_id: UUID, ours: Sequence[Any], start: int) -> tuple[int, bool]:
        """Where an answer from `start` on begins, and whether what lies between cannot be read; else it is not there.

        Where both are so, only up to where the other begins: that is told by the next answer.
        """
        at = start
        for begin, stop, id_, fields in ours:
            if stop <= at or begin >= stop:
                continue
            if begin > at:
                return (begin, False) if at == start else (at, True)
            if self._content(log_id, id_, begin, stop, fields) is not None:
                break
            at = stop
        return at, at > start

    def _content(self, log_id: UUID, id_: bytes, begin: int, stop: int, fields: Any) -> Content | None:
        """What is in a commit; None: nothing that can be read."""
        known = self._kept.get((log_id, begin))
        if known is not None and known[0] == stop:
            self._kept.move_to_end((log_id, begin))
            return known[1]
        raw = _field(fields, b"c")
        if raw and raw[0] in _OTHER_VERSIONS:
            raise PauseError(
                f"{self._where}: a commit of {log_id} has content of version {raw[0]}, which needs a later eventrec"
            )
        content, error = self._decoded(raw, stop - begin)
        if raw is None or content is None:
            self._tell(log_id, id_, stop - begin, error)
            return None
        self._records_each = (self._records_each or stop - begin) * 0.75 + (stop - begin) * 0.25
        self._bytes_each = (self._bytes_each or len(raw)) * 0.75 + len(raw) * 0.25
        self._kept[log_id, begin] = stop, content
        if len(self._kept) > _KEPT:
            self._kept.popitem(last=False)
        return content

    def _decoded(self, raw: bytes | None, count: int) -> tuple[Content | None, str]:
        """The content of a commit of `count` records; None and why, where it is not."""
        if raw is None:
            return None, "it has no field c"
        try:
            content = self._decoder.decode(raw)
        except ContentError as exc:
            return None, str(exc)
        if len(content.entries) != count:
            return None, f"it holds {len(content.entries)} records"
        return content, ""

    def _tell(self, log_id: UUID, id_: bytes, count: int, error: str) -> None:
        """Warn of a commit that cannot be read, once."""
        if (log_id, id_) in self._told:
            return
        if len(self._told) > _MAX_COMMITS:
            self._told.clear()
        self._told.add((log_id, id_))
        _logger.warning(
            "a commit on the bus cannot be read, its records are lost",
            shard=self._where,
            log=str(log_id),
            entry=id_.decode(),
            records=count,
            error=error,
        )


def _place(id_: bytes) -> tuple[int, int]:
    """The offsets that a stream entry holds: none where its id is not ours."""
    end, count = map(int, id_.split(b"-"))
    return max(0, end - count), end


def is_commit(fields: Any) -> bool:
    """Whether the stream entry with these is ours."""
    return _field(fields, b"c") is not None


def _field(fields: Any, name: bytes) -> bytes | None:
    """A field of a stream entry, as the driver gives them."""
    found = (
        fields.get(name) if isinstance(fields, dict) else dict(zip(fields[::2], fields[1::2], strict=False)).get(name)
    )
    return found if isinstance(found, bytes) else None


def _cut(entries: list[Entry], max_records: int, max_bytes: int, *, at_least: bool = True) -> list[Entry]:
    """As many of the first ones as may be; one, if `at_least`, whatever its size."""
    size = taken = 0
    for entry in entries[: max(max_records, 1 if at_least else 0)]:
        size += entry[_SIZE]
        if size > max_bytes and (taken or not at_least):
            break
        taken += 1
    return entries[:taken]
