"""What `drain --type` leaves out: counted before anything is delivered, and refused where it would be gone for good."""

from __future__ import annotations

from collections import Counter
from contextlib import closing, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from eventrec.cli.exit_codes import CommandError, ExitCode
from eventrec.cli.logs.directory import listed
from eventrec.cli.terminal import counted
from eventrec.errors import ContentError, LogError
from eventrec.log.disk import DiskStorage
from eventrec.log.reader import LogReader
from eventrec.records.content import ContentDecoder, is_ours
from eventrec.records.entry import SHAPE

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable
    from uuid import UUID

    from eventrec.cli.logs.directory import SeenLog


@dataclass(frozen=True, slots=True)
class _OfOneLog:
    """`count` records of a log are left out, of whose subscription `before` were left out already."""

    count: int
    before: int


class LeftOut:
    """The records of `logs` that the subscription `name` is still to pass, and that are not of one of `types`.

    They are gone once a log is done, unless another subscription has them, or waits for them. Logs that cannot be read
    count nothing: what is wrong with them delivery says.

    Raises:
        CommandError: They would be gone, or a type is not found beside others that are there, and not `discards`.
    """

    def __init__(self, logs: Iterable[SeenLog], name: str, types: Collection[str], *, discards: bool) -> None:
        self._name = name
        self._by_log: dict[UUID, _OfOneLog] = {}
        found: Counter[str] = Counter()
        gone: Counter[str] = Counter()
        for log in logs:
            counts = _pending_types(log, name)
            left_out = Counter({kind: count for kind, count in counts.items() if kind not in types})
            saved = log.checkpoints.get(name)
            self._by_log[log.id] = _OfOneLog(left_out.total(), saved.progress.filtered if saved is not None else 0)
            found += counts
            if not log.names - {name}:
                gone += left_out
        if not discards:
            _refuse(types, found, gone)

    def count(self, rest: Iterable[SeenLog]) -> int:
        """How many of them were passed, where of the logs only `rest` is there still."""
        there, total = {log.id: log for log in rest}, 0
        for id_, expected in self._by_log.items():
            if id_ not in there:
                total += expected.count
                continue
            saved = there[id_].checkpoints.get(self._name)
            total += max(0, saved.progress.filtered - expected.before) if saved is not None else 0
        return total


def _refuse(types: Collection[str], found: Counter[str], gone: Counter[str]) -> None:
    unknown = sorted(set(types) - found.keys())
    others = sorted(found.keys() - set(types))
    if unknown and others:
        what = f"the logs hold {listed(others)}, and nothing of type {listed(unknown)}"
    elif gone:
        what = (
            f"{counted(gone.total(), 'record')} of other types ({listed(sorted(gone))}) would be gone with their logs"
        )
    else:
        return
    raise CommandError(f"--type: {what}; nothing was changed; --discard-others gives them up", ExitCode.USAGE)


def _pending_types(log: SeenLog, name: str) -> Counter[str]:
    saved = log.checkpoints.get(name)
    start = log.first if saved is None else saved.progress.scanned
    found: Counter[str] = Counter()
    decoder = ContentDecoder()
    with (
        suppress(OSError, LogError),
        closing(DiskStorage(log.path)) as storage,
        LogReader(storage, start, is_ours=lambda opening: is_ours(opening, log_id=log.id)) as reader,
    ):
        for commit in reader.commits():
            with suppress(ContentError):
                entries = decoder.decode(commit.content).entries
                found.update(
                    entry[SHAPE].type for offset, entry in enumerate(entries, commit.offset) if offset >= start
                )
    return found
