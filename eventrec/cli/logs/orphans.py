"""The logs that earlier runs left, while a recorder of ours delivers them to one subscription."""

from __future__ import annotations

import time
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Final

from eventrec.cli.exit_codes import CommandError, ExitCode
from eventrec.cli.logs.directory import listed, refuse_memory, see
from eventrec.registry import GROUP, default_name, handler_from_url, resolve_url, scheme_of
from eventrec.runs.checkpoint import CHECKPOINTS, CheckpointFiles
from eventrec.runs.directory import list_runs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path
    from uuid import UUID

    from eventrec.cli.logs.directory import SeenLog
    from eventrec.status import Status

_AT_ONCE: Final = 8
_STALLED_SECONDS: Final = 10.0
"""Several looks of a recorder at its directory, each of which adopts `_AT_ONCE` logs or leaves them alone."""

_LOOK_SECONDS: Final = 1.0


class Orphans:
    """Those among `logs` that no process holds, and what is still to be delivered from them to the subscription `name`.

    A log is done once it is deleted, or holds nothing more for `name`.
    """

    def __init__(
        self, directory: Path, name: str, logs: Iterable[SeenLog], *, now: Callable[[], float] = time.monotonic
    ) -> None:
        self.name = name
        self._directory = directory
        self._now = now
        self._ends = {log.id: log.end for log in logs if log.state == "orphan"}
        self.ids = frozenset(self._ends)
        self.left = {log.id: log.pending_or_lost(name) for log in logs if log.state == "orphan"}
        """Records each of them still holds for `name`, as far as that is known, with those that its end has lost."""
        self.records = sum(self.left.values())
        """What they held at the beginning."""
        self._moved_at = now()
        self._looked_at = 0.0

    @property
    def pending(self) -> int:
        """Records left in all of them."""
        return sum(self.left.values())

    @property
    def is_stalled(self) -> bool:
        """Whether none of them is being delivered, and that will not change: they cannot be read, or are taken."""
        tries = 1 + len(self.left) // _AT_ONCE
        return bool(self.left) and self._now() - self._moved_at > tries * _STALLED_SECONDS

    def look(self, status: Status) -> None:
        """Update from the account of the recorder that delivers them. Blocks for milliseconds."""
        adopted = {id_: parts for id_ in self.left if (parts := status.adopted.get(str(id_))) is not None}
        for id_, parts in adopted.items():
            if self.name in parts:
                self.left[id_] = parts[self.name].pending
        there = set(list_runs(self._directory))
        for id_ in [id_ for id_ in self.left if id_ not in there]:
            self._note_done(id_)
        now = self._now()
        if adopted:
            self._moved_at = now
        elif now - self._looked_at < _LOOK_SECONDS:
            return
        self._looked_at = now
        for id_ in [id_ for id_ in self.left if id_ not in adopted]:
            self._look_at(id_)

    def _look_at(self, id_: UUID) -> None:
        """A log that our recorder has not adopted: not yet, not any more, or because another process has."""
        saved = CheckpointFiles(self._directory / str(id_) / CHECKPOINTS).load().get(self.name)
        if saved is not None and saved.progress.scanned >= self._ends[id_]:
            self._note_done(id_)

    def _note_done(self, id_: UUID) -> None:
        del self.left[id_]
        self._moved_at = self._now()

    def look_again(self) -> int:
        """What they hold for `name` now that no recorder of ours delivers them any more: exact, from the files."""
        count = 0
        for id_ in self._ends:
            seen = see(self._directory, id_)
            count += seen.pending_or_lost(self.name) if seen is not None else 0
        return count


def trying_state(status: Status, name: str) -> str | None:
    """How the subscription `name` is doing where it is tried again, in an adopted log or in the recorder's own."""
    parts = [log[name] for log in status.adopted.values() if name in log]
    parts += [status.subscriptions[name]] if name in status.subscriptions else []
    states = [part.state for part in parts]
    return next((state for state in states if state.startswith(("retrying", "opening"))), None)


def held_state(status: Status) -> str | None:
    """Why a subscription of an adopted log stands still, if one does."""
    parts = (part for log in status.adopted.values() for part in log.values())
    return next((part.state for part in parts if part.held), None)


def chosen_name(to: str, given: str | None, known: Sequence[str]) -> str:
    """The subscription to deliver as: `given`, or the one among those in the logs that a URL like `to` has by itself.

    Raises:
        CommandError: That is not exactly one, though the logs know some.
        HandlerURLError: The URL is wrong.
    """
    url = resolve_url(to)
    handler, scheme = handler_from_url(url), scheme_of(url)
    refuse_memory(to)
    if given is not None:
        if known and given not in known:
            raise CommandError(f"--name: the logs know {listed(known)}, and no {given!r}", ExitCode.USAGE)
        return given
    points = entry_points(group=GROUP)
    same = {point.value for point in points if point.name == scheme}
    fitting = {scheme, type(handler).__name__, *(point.name for point in points if point.value in same)}
    found = [name for name in known if name in fitting]
    if len(found) == 1:
        return found[0]
    if known:
        wrong = f"several fit {scheme!r}" if found else f"none fits {scheme!r}"
        raise CommandError(f"--name is needed: the logs know {listed(known)}, {wrong}", ExitCode.USAGE)
    return default_name(url)
