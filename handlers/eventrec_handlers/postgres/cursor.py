"""Where a reader of PostgreSQL goes on: which transactions it has seen, or how far it has come in a range.

PostgreSQL keeps no order of arrival, but every row carries the number of the transaction that wrote it, and a snapshot
says which of these have ended. So what arrived since is what carries a number that was not seen, and every number below
the oldest transaction still open has been. Numbers are 64 bits; a row carries the lower 32.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Mapping

_ARRIVAL: Final = "pg1"
_RANGE: Final = "pgr1"

ArrivalKey: TypeAlias = "tuple[int, int, str]"
"""Where a row stands in the order of arrival: its transaction, the oid of its table or partition, its ctid."""


@dataclass(frozen=True, slots=True)
class Arrival:
    """What has been seen of a server.

    Attributes:
        server: Which server and database; the numbers of another one mean nothing here.
        low: Every transaction below it has been seen.
        seen: The others that were.
        after: The last row that was shown, where not all rows of its transaction were.
        behind: What has been seen of tables, by oid, that could not be read with the others; it names none itself.
    """

    server: str
    low: int
    seen: frozenset[int] = frozenset()
    after: ArrivalKey | None = None
    behind: Mapping[int, Arrival] = field(default_factory=dict)

    def of_table(self, oid: int) -> Arrival:
        """What has been seen of the table of this oid."""
        return self.behind.get(oid, self)

    def to_text(self) -> str:
        """It as a cursor."""
        parts = [_ARRIVAL, self.server, *self._parts()]
        if self.behind:
            parts.append([[oid, *one._parts()] for oid, one in sorted(self.behind.items())])  # noqa: SLF001 - its own
        return json.dumps(parts, separators=(",", ":"))

    def _parts(self) -> list[Any]:
        return [self.low, sorted(self.seen), self.after]

    @classmethod
    def of(cls, cursor: str) -> Arrival:
        """What `to_text` gave.

        Raises:
            ValueError: It is not such a cursor.
        """
        try:
            match _parsed(cursor):
                case [kind, str(server), int(low), list(seen), after, *rest] if kind == _ARRIVAL and len(rest) <= 1:
                    tables = rest[0] if rest else ()
                    behind = {int(oid): cls(server, int(at), _numbers(has), _key(to)) for oid, at, has, to in tables}
                    return cls(server, low, _numbers(seen), _key(after), behind)
        except (TypeError, ValueError):
            pass
        raise ValueError(_NOT_OURS.format(cursor))


@dataclass(frozen=True, slots=True)
class Reached:
    """The last row of a page of a range: its time in microseconds, its table and id, and where it stands."""

    microseconds: int
    table: str
    id: str
    oid: int
    ctid: str

    def to_text(self) -> str:
        """It as a cursor."""
        return json.dumps([_RANGE, self.microseconds, self.table, self.id, self.oid, self.ctid], separators=(",", ":"))

    @classmethod
    def of(cls, cursor: str) -> Reached | None:
        """What `to_text` gave; None for the cursor of a range in which nothing was found yet.

        Raises:
            ValueError: It is not such a cursor.
        """
        match _parsed(cursor):
            case [kind, int(microseconds), str(table), str(id_), int(oid), str(ctid)] if kind == _RANGE:
                return cls(microseconds, table, id_, oid, ctid)
            case [kind] if kind == _RANGE:
                return None
        raise ValueError(_NOT_OURS.format(cursor))


START: Final = json.dumps([_RANGE])
"""The cursor of a range in which nothing was found."""

_NOT_OURS: Final = "not a cursor of a reader of PostgreSQL: {!r}"


def _parsed(cursor: str) -> Any:
    try:
        return json.loads(cursor)
    except (TypeError, ValueError, RecursionError):
        raise ValueError(_NOT_OURS.format(cursor)) from None


def _numbers(values: list[Any]) -> frozenset[int]:
    return frozenset(int(one) for one in values)


def _key(value: Any) -> ArrivalKey | None:
    if value is None:
        return None
    transaction, oid, ctid = value
    return int(transaction), int(oid), str(ctid)
