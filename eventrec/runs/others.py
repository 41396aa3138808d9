"""What subscriptions that other processes deliver still need of a run: looked at again before anything of it goes.

A process that follows a live log (`eventrec deliver`) keeps its checkpoints in that log's own folder. So its owner
learns of them there, also of those that appear while it writes; and in the directory, for which subscriptions its logs
are followed, since one of them may not have a checkpoint in this log yet.
"""

from __future__ import annotations

from contextlib import closing, suppress
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from eventrec.runs.checkpoint import CHECKPOINTS, CheckpointFiles
from eventrec.runs.files import file_name
from eventrec.runs.followers import Followers

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from eventrec.runs.checkpoint import Saved
    from eventrec.runs.run import Run

UNKNOWN: Final = "?"
"""Stands for the subscriptions whose names are not known."""


class OtherCheckpoints:
    """The checkpoints in `run` that are not of the subscriptions `ours`; `saved` is what was seen of them last.

    One that cannot be read holds what it held before, or everything from `first` on. A run that no subscription
    delivers, neither of ours nor of others, is held from `first` on for one that is to come; and so it is for those
    for which the logs of the directory are followed, be it that no process does so now.
    """

    def __init__(self, run: Run, ours: Collection[str], saved: Saved, *, first: int) -> None:
        self._run = run
        self._ours = frozenset(ours)
        self._first = first
        self._floor = 0
        self._is_given_up = False
        self._said: frozenset[str] = saved.unreadable
        self.needed: dict[str, int] = {}
        """From which offset on each of them needs the run, as of the last look."""
        self._take(saved)

    def __repr__(self) -> str:
        return f"<OtherCheckpoints {self.needed}>"

    def look(self) -> None:
        """Look again. Blocking.

        Raises:
            OSError: They cannot be listed: all that was not forfeited is needed.
        """
        try:
            followers = Followers(self._run.directory).names()
            saved = CheckpointFiles(self._run.storage).look(said=self._said)
        except OSError:
            if not self._is_given_up:
                self.needed = {**self.needed, UNKNOWN: max(self._first, self._floor)}
            raise
        self._said = saved.unreadable
        self._take(saved, followers)

    def _take(self, saved: Saved, followers: Mapping[str, str] = MappingProxyType({})) -> None:
        before = {file_name(name): (name, offset) for name, offset in self.needed.items()}
        needed = {name: each.progress.scanned for name, each in saved.checkpoints.items() if name not in self._ours}
        for file in (saved.unreadable | saved.newer) - {file_name(name) for name in self._ours}:
            name, offset = before.get(file, (UNKNOWN, self._first))
            needed[name] = min(offset, needed.get(name, offset))
        known = {file_name(name) for name in self._ours | saved.checkpoints.keys()} | saved.unreadable | saved.newer
        needed |= {name: self._first for file, name in followers.items() if file not in known}
        if not needed and not self._ours:
            needed[UNKNOWN] = self._first
        # It is replaced at once: the account is asked for from any thread.
        self.needed = {} if self._is_given_up else {name: max(each, self._floor) for name, each in needed.items()}

    def lowest(self, limit: int) -> int:
        """Below which offset none of them needs anything, as of the last look; `limit` at most."""
        return min([limit, *self.needed.values()])

    def sync(self) -> None:
        """On return what was seen of them survives a power cut, once the folder is synced too. Blocking.

        Raises:
            OSError: It may not: nothing may go.
        """
        if self.needed:
            with closing(self._run.storage.folder(CHECKPOINTS)) as folder:
                for name in self.needed:
                    with suppress(FileNotFoundError), closing(folder.open(file_name(name), "read")) as file:
                        file.sync()

    def forfeit(self, end: int) -> dict[str, int]:
        """What they need below `end` is not held any longer: how many records each, at most."""
        lost = {name: end - offset for name, offset in self.needed.items() if offset < end}
        self._floor = max(self._floor, end)
        self.needed = {name: max(offset, end) for name, offset in self.needed.items()}
        return lost

    def give_up(self) -> None:
        """Nothing is held for them any longer."""
        self._is_given_up = True
        self.needed = {}
