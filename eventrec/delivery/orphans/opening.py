"""Orphans locked and opened: what is in each, or why we have it not."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, TypeAlias

from eventrec.delivery.orphans.opened_orphan import OpenedOrphan, open_orphan
from eventrec.errors import LogError
from eventrec.runs.requests import load_requests
from eventrec.runs.run import Run

if TYPE_CHECKING:
    from collections.abc import Collection
    from uuid import UUID

    from eventrec.delivery.letters.log import LetterLog
    from eventrec.delivery.orphans.locks import OrphanLocks
    from eventrec.runs.directory import LogDirectory
    from eventrec.runs.requests import OperatorRequest

Refusal: TypeAlias = "OSError | LogError | Literal['held', 'gone']"
"""Why an orphan is not ours: its bytes or the disk; another process holds it; it is not there, or not ours."""

Tried: TypeAlias = "tuple[UUID, tuple[Run, OpenedOrphan] | Refusal]"
"""An orphan, with its lock and what is in it, or why we have neither."""


class OrphanOpener:
    """Opens those in `directory`, under `locks`. Blocking; for one thread at a time.

    `latest` are the subscriptions of ours that begin with what comes, if they are new.
    """

    def __init__(
        self, directory: LogDirectory, locks: OrphanLocks, *, letters: LetterLog, latest: Collection[str]
    ) -> None:
        self._directory = directory
        self._locks = locks
        self._letters = letters
        self._latest = latest

    def __repr__(self) -> str:
        return f"<OrphanOpener in {self._directory}>"

    def open(self, ids: list[UUID]) -> tuple[list[Tried], list[OperatorRequest]]:
        """What became of `ids`; and what operators ask, where one of them is ours.

        Raises:
            OSError: The dead letters cannot be read. None of `ids` is ours then.
            LogError: Likewise.
        """
        found = self._locks.take(ids)
        try:
            if all(not isinstance(run, Run) for _, run in found):
                return [(id_, run) for id_, run in found if not isinstance(run, Run)], []
            self._letters.learn()
            requests = load_requests(self._directory, since=0.0)
        except BaseException:
            self._locks.release(ids)
            raise
        return [self._open_one(*each) for each in found], requests

    def _open_one(self, id_: UUID, run: Run | Literal["held", "gone"]) -> Tried:
        if not isinstance(run, Run):
            return id_, run
        try:
            return id_, (run, open_orphan(run, self._latest))
        except (OSError, LogError) as exc:
            run.release()
            return id_, exc
