"""How far a subscription is, in two numbers, what became of what lies behind it, and the file that remembers it."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import TYPE_CHECKING, Final
from urllib.parse import quote

import msgspec

from eventrec.runtime.logging import get_logger

if TYPE_CHECKING:
    from pathlib import Path

_logger = get_logger("eventrec.delivery")

_SUFFIX: Final = ".json"
_LONGEST: Final = 100
"""A file name has at most 255 bytes, and a quoted name of a subscription may have three times as many."""


@dataclass(slots=True)
class Progress:
    """`acknowledged` is the destination's next offset; below `scanned`, which is never less, everything is settled.

    They differ after a filtered range, a dead letter or a forfeit, of which the destination learns with the next batch.
    The counters obey `scanned - start + rewound == delivered + filtered + dead + dropped` between two moves.
    """

    start: int
    acknowledged: int
    scanned: int
    delivered: int = 0
    filtered: int = 0
    dead: int = 0
    dropped: dict[str, int] = field(default_factory=dict)
    replayed: int = 0
    rewound: int = 0

    def drop(self, reason: str, count: int) -> None:
        """`count` records are lost for `reason`."""
        if count:
            self.dropped[reason] = self.dropped.get(reason, 0) + count


class Attempt(msgspec.Struct, frozen=True, kw_only=True):
    """A batch that may have reached the destination: it is sent again as it was, under the same token, or not at all.

    `offsets` are those of its records, `dead` and `delivered` those of its range that were settled before. `suspects`
    failed alone before it, each with its reason: where this batch arrives they are dead.
    """

    start: int
    end: int
    generation: int
    offsets: list[int]
    dead: list[int] = []
    delivered: list[int] = []
    suspects: dict[int, str] = {}


class Checkpoint(msgspec.Struct, frozen=True, kw_only=True):
    """What a run remembers of one subscription. `destination` is the id of the database it goes to, if that has one.

    `generation` is the first that no batch from `acknowledged` on has had: a piece that is read again after a restart
    may end where a refused one did, and must not share its token. `saved` is when, in seconds since the epoch.
    """

    subscription: str
    progress: Progress
    destination: str | None = None
    attempt: Attempt | None = None
    generation: int = 0
    saved: float = 0.0
    version: int = 1


class CheckpointFiles:
    """The checkpoints of one run, a JSON file for each subscription, replaced at once. Blocking; from one thread."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def load(self) -> dict[str, Checkpoint]:
        """Every checkpoint, by subscription. One that cannot be read is logged and missing: it starts again."""
        found: dict[str, Checkpoint] = {}
        if not self._directory.is_dir():
            return found
        for path in self._directory.iterdir():
            if path.suffix != _SUFFIX:
                continue
            try:
                checkpoint = msgspec.json.decode(path.read_bytes(), type=Checkpoint)
            except (OSError, msgspec.MsgspecError) as exc:
                _logger.exception("checkpoint unreadable", file=str(path), error=str(exc))
                continue
            found[checkpoint.subscription] = checkpoint
        return found

    def save(self, checkpoint: Checkpoint, *, sync: bool) -> None:
        """Replace the file. With `sync` it survives a power cut, on return, once `sync_names` was called too.

        Raises:
            OSError: It was not; the last one stands.
        """
        path = self._directory / file_name(checkpoint.subscription)
        new = path.with_suffix(".new")
        descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        try:
            encoded = memoryview(msgspec.json.encode(msgspec.structs.replace(checkpoint, saved=time.time())))
            while encoded:
                encoded = encoded[os.write(descriptor, encoded) :]
            if sync:
                os.fsync(descriptor)
        finally:
            os.close(descriptor)
        new.replace(path)

    def remove(self, subscription: str) -> None:
        """Delete the file, if there is one. On return that survives a power cut.

        Raises:
            OSError: It may not, or the file is there still.
        """
        (self._directory / file_name(subscription)).unlink(missing_ok=True)
        self.sync_names()

    def sync_names(self) -> None:
        """On return the replacements so far survive a power cut.

        Raises:
            OSError: They may not.
        """
        descriptor = os.open(self._directory, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def file_name(subscription: str) -> str:
    """The name of its checkpoint's file: nothing in it means anything to a file system."""
    quoted = quote(subscription, safe="").replace(".", "%2E")
    if len(quoted) > _LONGEST:
        quoted = quoted[: _LONGEST // 2] + blake2b(subscription.encode(), digest_size=16).hexdigest()
    return quoted + _SUFFIX
