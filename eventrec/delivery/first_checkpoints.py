"""The checkpoints that our own log is begun with: no log of ours is there without one of each subscription."""

from __future__ import annotations

from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from eventrec.runs.checkpoint import CheckpointFiles

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from eventrec.runs.checkpoint import Checkpoint
    from eventrec.runs.run import Run


class FirstCheckpoints:
    """Those of subscriptions, by name to address in `addresses`; with `sync` they are on the disk before the log.

    Attributes:
        begun: What the log was begun with; empty where the disk refused some.
    """

    def __init__(self, addresses: Mapping[str, str], *, sync: bool) -> None:
        self.begun: Mapping[str, Checkpoint] = {}
        self._addresses = addresses
        self._sync = sync

    def __repr__(self) -> str:
        return f"<FirstCheckpoints of {', '.join(self._addresses)}>"

    @contextmanager
    def begin(self, run: Run) -> Iterator[None]:
        """In the writing thread, around the making of the log of `run`.

        What the disk refuses is tried again, and said, where the checkpoints are saved on the loop.
        """
        files = CheckpointFiles(run.storage, is_named=True)
        first: Mapping[str, Checkpoint] = {}
        self.begun = first
        with suppress(Exception):  # Whatever a disk, or a name, makes of it.
            first = files.begin(self._addresses, sync=self._sync)
        yield
        with suppress(OSError):
            if self._sync and first:
                files.sync_names()
            self.begun = first
