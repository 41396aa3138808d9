"""Records that came with an id, told apart in tables that do not do so themselves: their ids are kept beside them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol

from eventrec import ID

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from eventrec import LayoutRows

SEEN: Final = "eventrec_seen"
"""Our own table of them: table_name, id, seen_at."""

SEEN_FOR: Final = 7 * 86_400.0
"""Seconds that an id is kept."""


class Identified(Protocol):
    """Rows of a table.

    Attributes:
        kept_ids: For each row the id that its record brought with it, or None; empty where none did, and where the
            table itself tells rows of one id apart.
        offsets: For each row the offset of its record.
    """

    @property
    def kept_ids(self) -> Sequence[bytes | None]: ...

    @property
    def offsets(self) -> Sequence[int]: ...


def ids_to_keep(rows: LayoutRows) -> Sequence[bytes | None]:
    """The `kept_ids` of rows of a layout: none where it has a column for the id."""
    return rows.explicit_ids if rows.layout.column_of(ID) is None else ()


def remembered_ids(*parts: Identified) -> dict[bytes, int]:
    """The ids that are to be kept of `parts`, rows of one table, each with the offset of its first record."""
    found: dict[bytes, int] = {}
    for rows in parts:
        for id_, offset in zip(rows.kept_ids, rows.offsets if rows.kept_ids else (), strict=True):
            if id_ is not None:
                found[id_] = min(offset, found.get(id_, offset))
    return found


def new_rows(rows: Identified, first: dict[bytes, int], new: Collection[bytes]) -> Sequence[bool]:
    """For each row whether it is to be stored, where of the ids in `first` only those in `new` were not seen before."""
    return [
        id_ is None or (id_ in new and first[id_] == offset)
        for id_, offset in zip(rows.kept_ids, rows.offsets, strict=True)
    ]
