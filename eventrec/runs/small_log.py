"""A log that an earlier run left, read at once: small, undamaged, and with nothing that needs a closer look."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from eventrec.errors import ContentError, CorruptCommitError
from eventrec.log.commit import VERSION, decode_commit
from eventrec.log.segment import HEADER_SIZE, decode_header, index_name, list_segments_in, segment_name
from eventrec.records.entry import total_size
from eventrec.runs.checkpoint import CHECKPOINTS, CheckpointFiles
from eventrec.runs.directory import LOCK

if TYPE_CHECKING:
    from uuid import UUID

    from eventrec.log.disk import DiskStorage
    from eventrec.records.content import ContentDecoder
    from eventrec.records.entry import Entry
    from eventrec.runs.checkpoint import Checkpoint
    from eventrec.runs.run import Run

MAX_BYTES: Final = 64 << 10
"""Of its segment: as much as is read in one go."""

MAX_OFFSET: Final = (1 << 48) - 1


@dataclass(frozen=True, slots=True, eq=False)
class SmallLog:
    """All of the log of `run`, whose lock is ours.

    Attributes:
        first: The offset of its first record; those of the others follow without a hole.
        size: What the records count in bytes.
        checkpoints: All that it has, by subscription.
        length: Bytes of its segment.
    """

    run: Run
    first: int
    entries: list[Entry]
    size: int
    static_context: bytes | None
    checkpoints: dict[str, Checkpoint]
    length: int

    @property
    def end(self) -> int:
        """The next offset."""
        return self.first + len(self.entries)

    def has_grown(self) -> bool:
        """Blocking. Whether another process wrote into it since it was read.

        Raises:
            OSError: That cannot be seen.
        """
        storage = self.run.storage
        return list_segments_in(storage.list()) != [self.first] or (
            storage.size(segment_name(self.first)).length != self.length
        )


def read_small_log(run: Run, decoder: ContentDecoder) -> SmallLog | None:
    """Read the log of `run`. Blocking; changes nothing. None: it is to be opened as any log, whatever is the matter.

    Raises:
        OSError: The disk does not give it.
    """
    storage = run.storage
    names = {entry.name for entry in storage.entries()}
    firsts = list_segments_in(names)
    if len(firsts) != 1:
        return None
    first = firsts[0]
    if names - {index_name(first)} != {LOCK, CHECKPOINTS, segment_name(first)}:
        return None
    content = _content(storage, segment_name(first))
    try:
        entries, contexts = _decoded(content, first, run.id, decoder)
    except (CorruptCommitError, ContentError):
        return None
    checkpoints = CheckpointFiles(storage).load_all()
    if len(contexts) != 1 or first + len(entries) > MAX_OFFSET or checkpoints is None:
        return None
    size = total_size(entries)
    return SmallLog(run, first, entries, size, contexts.pop(), checkpoints, len(content))


def _decoded(content: bytes, first: int, id_: UUID, decoder: ContentDecoder) -> tuple[list[Entry], set[bytes | None]]:
    """The records of a whole segment, and their static contexts.

    Raises:
        CorruptCommitError, ContentError: It is too large, or anything in it is not as it was written.
    """
    if len(content) > MAX_BYTES or decode_header(content[:HEADER_SIZE]) != VERSION:
        raise ContentError(f"more than {MAX_BYTES} bytes, or another version")
    entries: list[Entry] = []
    contexts: set[bytes | None] = set()
    at = HEADER_SIZE
    while at < len(content):
        commit = decode_commit(content, at)
        found = decoder.decode(commit.content)
        if commit.offset != first + len(entries) or found.log_id != id_ or len(found.entries) != commit.n:
            raise ContentError("a gap, or a commit of another log")
        entries += found.entries
        contexts.add(found.static_context)
        at += commit.size
    return entries, contexts


def _content(storage: DiskStorage, name: str) -> bytes:
    file = storage.open(name, "read")
    try:
        return file.read(0, MAX_BYTES + 1)
    finally:
        file.close()
