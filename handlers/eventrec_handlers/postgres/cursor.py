"""Where a reader of PostgreSQL goes on: which transactions it has seen, or how far it has come in a range.

PostgreSQL keeps no order of arrival, but every row carries the number of the transaction that wrote it, and a snapshot
says which of these have ended. So what arrived since is what carries a number that was not seen, and every number below
the oldest transaction still open has been. Numbers are 64 bits; a row carries the lower 32.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

_ARRIVAL, _RANGE = "pg1", "pgr1"

Place: TypeAlias = "tuple[int, int, str]"
"""Where a row stands: its transaction, the oid of its table or partition, its ctid."""


@dataclass(frozen=True, slots=True)
class Arrival:
    """What has been seen of a server.

    Attributes:
        server: Which server and database; the numbers of another one mean nothing here.
        low: Every transaction below it has been seen.
        seen: The others that were.
        after: The last row that was shown, where not all rows of its transaction were.
    """

    server: str
    low: int
    seen: frozenset[int] = frozenset()
    after: Place | None = None

    def to_text(self) -> str:
        """It as a cursor."""
        return json.dumps([_ARRIVAL, self.server, self.low, sorted(self.seen), self.after], separators=(",", ":"))

    @classmethod
    def of(cls, cursor: str) -> Arrival:
        """What `to_text` gave.

        Raises:
            ValueError: It is not such a cursor.
        """
        match _parsed(cursor):
            case [kind, str(server), int(low), list(seen), after] if kind == _ARRIVAL:
                return cls(server, low, frozenset(int(one) for one in seen), None if after is None else _place(after))
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


def _place(value: Any) -> Place:
    transaction, oid, ctid = value
    return int(transaction), int(oid), str(ctid)
