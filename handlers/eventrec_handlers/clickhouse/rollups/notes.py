"""What was done for a rollup, as our own table keeps it: rows are added, never changed, so processes need no lock.

    begun      {block, version, fingerprint}
                                    the last block of events before the view was made; of several the lowest holds
    settled    {block, counts}      every insert that no view has seen had ended: up to that block; what counts, by uuid
    sliced     {slicing, bounds}    how the rows before are parted by time
               {…, instead}         finer than another slicing, a slice of which took too long; the first one holds
    filled     {slicing, slice, part}
    complete   {slicing, parts}     all of them are counted: by these partitions; the first one holds
    kept       {retention}          that of the states, in seconds, or null

A note is about tables that had a certain uuid: what was dropped and made again begins from its beginning.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

from eventrec_handlers.clickhouse.errors import UNKNOWN_TABLE, Failure
from eventrec_handlers.clickhouse.rollups.views import NOTES
from eventrec_handlers.clickhouse.sql import literal

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from eventrec_handlers.clickhouse.node import Node
    from eventrec_handlers.clickhouse.rollups.views import KeptRollup


Slice: TypeAlias = "tuple[int | None, int | None]"
"""From when to when; None: from the first, to the last."""


@dataclass(slots=True)
class Notes:
    """Those of one rollup, and what is there of it.

    Attributes:
        tables: The uuid of its table of states; "": it is not there.
        counts: The uuids of all that counts, and of the events: they tell whether something was made again; "": it is
            not all there.
        seen: The uuid of the table of rows that were seen; "": it is not there.
        block: The last one of which nothing was counted; None: it has not begun.
        settled: The last one of which it is known what was counted; None: not yet.
        slicings: Each by its name: the times that part the rows.
        finer: The name of each slicing that is not used any more, to the one in its place.
        filled: Partitions of slices that are counted: slicing and slice to partition.
        parts: The partitions that count; None: it is not complete.
        retention: Of the states, in seconds.
        has_retention: Whether that was ever noted.
        others: Other declarations of its name that were begun and not dropped: key to version and fingerprint.
        filled_parts: The partitions of all statements that were noted.
        settled_seen: What `seen` was then.
        counted_before: Whether something counted into these tables that is not there any more.
    """

    tables: str = ""
    counts: str = ""
    seen: str = ""
    block: int | None = None
    settled: int | None = None
    slicings: dict[str, list[int]] = field(default_factory=dict)
    finer: dict[str, str] = field(default_factory=dict)
    filled: dict[tuple[str, int], int] = field(default_factory=dict)
    parts: Sequence[int] | None = None
    retention: float | None = None
    has_retention: bool = False
    others: dict[str, tuple[int, str]] = field(default_factory=dict)
    filled_parts: set[int] = field(default_factory=set)
    counted_before: bool = False
    settled_seen: str = ""

    @property
    def is_broken(self) -> bool:
        """Whether something was taken away, or made again, since it counted: what it has missed is not known."""
        has_lost_notes = self.block is None and bool(self.counts)  # it is noted before anything counts
        has_lost_seen = self.parts is None and self.settled is not None and self.seen != self.settled_seen
        return bool(self.tables) and (self.counted_before or has_lost_notes or has_lost_seen)

    @property
    def slicing(self) -> str | None:
        """The name of the slicing that is used; None: there is none yet."""
        name = next(iter(self.slicings), None)
        while name is not None and name in self.finer:
            name = self.finer[name]
        return name

    def slices(self) -> list[Slice]:
        """Of the slicing that is used: from when to when each is; None: from the first, to the last."""
        return [] if self.slicing is None else _slices(self.slicings[self.slicing])

    def counted(self) -> dict[int, int]:
        """Those of them that are counted, by number, each with its partition: of several the one noted first.

        What was counted as a slice of another slicing, and is one of this as well, is counted.
        """
        found: dict[Slice, int] = {}
        for (name, at), part in self.filled.items():
            if name in self.slicings:
                found.setdefault(_slices(self.slicings[name])[at], part)
        return {at: found[one] for at, one in enumerate(self.slices()) if one in found}

    @property
    def is_complete(self) -> bool:
        """Whether the states tell of every event."""
        return self.parts is not None and self.block is not None and bool(self.counts) and not self.counted_before

    def take(self, kind: str, said: Mapping[str, Any]) -> None:
        """Take in a note, after those before it."""
        match kind:
            case "begun":
                self.block = said["block"] if self.block is None else min(self.block, said["block"])
            case "settled" | "complete" if said["counts"] != self.counts:
                self.counted_before = True
            case "settled":
                self.settled, self.settled_seen = said["block"], said["seen"]
            case "sliced":
                self.slicings.setdefault(said["slicing"], said["bounds"])
                if "instead" in said:
                    self.finer.setdefault(said["instead"], said["slicing"])
            case "filled":
                self.filled.setdefault((said["slicing"], said["slice"]), said["part"])
                self.filled_parts.add(said["part"])
            case "complete" if self.parts is None:
                self.parts = said["parts"]
            case "kept":
                self.has_retention, self.retention = True, said["retention"]


def _slices(bounds: Sequence[int]) -> list[Slice]:
    return list(zip((None, *bounds), (*bounds, None), strict=True))


async def read_notes(node: Node, kept: KeptRollup) -> Notes:
    """What a node knows of a rollup.

    Raises:
        Failure: It does not tell.
    """
    names = (*kept.names.values(), kept.plan.table)
    listed = ", ".join(map(literal, (*names, kept.name("seen"))))
    there = {
        str(name): (str(uuid), fed)
        for name, uuid, fed in await node.query(
            "SELECT name, toString(uuid), dependencies_table FROM system.tables"  # noqa: S608 - literals
            f" WHERE database = currentDatabase() AND name IN ({listed})"
        )
    }
    # A view goes with a table that is renamed, and not to another one that is given its name.
    is_fed = kept.plan.table in there and kept.name("feeding") in there[kept.plan.table][1]
    counts = ",".join(there[name][0] for name in names) if is_fed and there.keys() >= set(names) else ""
    states, seen = (there.get(kept.name(kind), ("",))[0] for kind in ("states", "seen"))
    notes = Notes(tables=states, counts=counts, seen=seen)
    for key, tables, kind, said in await _rows(node, kept.plan.name):
        read = json.loads(said)
        if key == kept.key:
            if tables == notes.tables:
                notes.take(kind, read)
        elif kind == "begun":
            notes.others[key] = (read["version"], read["fingerprint"])
        elif kind == "dropped":
            notes.others.pop(key, None)
    return notes


async def note(node: Node, about: tuple[str, str], kind: str, said: Mapping[str, object], *, tables: str = "") -> None:
    """Add a note about a rollup and a key, and its `tables` of that uuid."""
    values = ", ".join(map(literal, (*about, tables, kind, json.dumps(said))))
    await node.run(f"INSERT INTO {NOTES} (rollup, key, tables, kind, said) VALUES ({values})")  # noqa: S608 - literals


async def _rows(node: Node, rollup: str) -> list[list[Any]]:
    try:
        return await node.query(
            f"SELECT key, tables, kind, said FROM {NOTES} WHERE rollup = {literal(rollup)} ORDER BY noted_at, said"  # noqa: S608 - literals
        )
    except Failure as exc:
        if exc.code == UNKNOWN_TABLE:
            return []
        raise
