"""Which logs of a served directory may have something new for a mirror, and which are left alone for now."""

from __future__ import annotations

from time import monotonic
from typing import TYPE_CHECKING, Final, TypeAlias
from uuid import UUID

from eventrec.mirroring.served_run import ServedRun
from eventrec.runs.directory import DEAD

if TYPE_CHECKING:
    from eventrec.runs.directory import LogDirectory

_LISTS_EVERY: Final = 1.0
"""Seconds, where the directory says of itself that no log came: two may come in one moment of its clock."""

_QUIET_SECONDS: Final = 5.0
"""How often a log is looked at that no process holds, and in which nothing moved for as long."""

Key: TypeAlias = tuple[UUID, bool]
"""A log, and whether it is one of dead letters."""


class Schedule:
    """The logs of `directory`, and its dead letters. Blocking; from one thread at a time.

    Attributes:
        runs: All logs that are known.
        parts: The directory of logs, and that of dead letters.
    """

    def __init__(self, directory: LogDirectory) -> None:
        self.parts = {False: directory, True: directory / DEAD}
        self.runs: dict[Key, ServedRun] = {}
        self._stopped: set[Key] = set()
        self._not_before: dict[Key, float] = {}
        self._quiet: dict[Key, float] = {}
        """When each of those was looked at last."""
        self._ended: set[Key] = set()
        """Those that no process held, and that had their last turn."""
        self._moved: dict[Key, float] = {}
        self._lively: list[Key] = []
        self._listed_at = -_LISTS_EVERY
        self._changed: list[float] = []

    def __repr__(self) -> str:
        return f"<Schedule of {len(self.runs)} logs, {len(self._lively)} lively>"

    def due(self) -> list[Key]:
        """The logs that may have something new, the newest last."""
        now, changed = monotonic(), [part.modified() for part in self.parts.values()]
        if changed != self._changed or now - self._listed_at >= _LISTS_EVERY:
            self._changed, self._listed_at = changed, now
            for is_dead, part in self.parts.items():
                for id_ in part.runs():
                    self.runs.setdefault((id_, is_dead), ServedRun(part, id_, is_dead=is_dead))
            for key, at in list(self._quiet.items()):
                if now - at >= _QUIET_SECONDS:
                    del self._quiet[key]
            self._lively = sorted(self.runs.keys() - self._quiet.keys())
        return [key for key in self._lively if key in self.runs and self._is_due(key, now)]

    def letters_due(self) -> list[Key]:
        """The logs of dead letters that may have some that were not given out: those too that came just now."""
        part = self.parts[True]
        for id_ in part.runs():
            self.runs.setdefault((id_, True), ServedRun(part, id_, is_dead=True))
        found = [(key, run) for key, run in self.runs.items() if key[1] and key not in self._quiet]
        return sorted(key for key, run in found if self.is_waiting(key) or not run.stream or run.look())

    def is_waiting(self, key: Key) -> bool:
        """Whether it is left alone for now, be it that there is something or not."""
        return key in self._stopped or monotonic() < self._not_before.get(key, 0.0)

    def _is_due(self, key: Key, now: float) -> bool:
        if key in self._stopped or key in self._quiet or now < self._not_before.get(key, 0.0):
            return False
        if self._not_before.pop(key, None) is not None:
            return True  # What could not be read is there still.
        run = self.runs[key]
        if not run.stream or run.look():
            self._moved[key] = now
            self._ended.discard(key)
            return True
        if now - self._moved.get(key, 0.0) >= _QUIET_SECONDS and (key in self._ended or not run.is_held()):
            self._quiet[key] = now
            if key not in self._ended:
                # Its last checkpoint may have waited for that: it has one turn more.
                self._ended.add(key)
                return True
        return False

    def rest(self) -> None:
        """Give back what quiet logs hold open."""
        for key in self._quiet:
            if key in self.runs:
                self.runs[key].rest()

    def rest_of(self, key: Key) -> None:
        """Give back what that log holds open, until its next turn."""
        if key in self.runs:
            self.runs[key].rest()

    def stop(self, key: Key) -> None:
        """Leave it alone until `resume`."""
        self._stopped.add(key)

    def resume(self, key: Key) -> None:
        """It is due again."""
        self._stopped.discard(key)

    def is_stopped(self, key: Key) -> bool:
        """Whether it is left alone."""
        return key in self._stopped

    def pause(self, key: Key, seconds: float) -> None:
        """Leave it alone for so long."""
        self._not_before[key] = monotonic() + seconds

    def forget(self, key: Key) -> None:
        """It is gone."""
        self.runs.pop(key, None)
        self._quiet.pop(key, None)
        self._moved.pop(key, None)
        self._not_before.pop(key, None)
        self._stopped.discard(key)
        self._ended.discard(key)

    def close(self) -> None:
        """Give everything back."""
        for run in self.runs.values():
            run.close()
