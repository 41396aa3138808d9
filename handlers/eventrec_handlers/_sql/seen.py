"""Records that came with an id, told apart in tables that have no column for it: their ids are kept beside them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from eventrec import ID

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from eventrec import LayoutRows

SEEN: Final = "eventrec_seen"
"""Our own table of them: table_name, id, seen_at."""

SEEN_FOR: Final = 7 * 86_400.0
"""Seconds that an id is kept."""


def remembered_ids(rows: LayoutRows) -> dict[bytes, int]:
    """The ids that are to be kept of `rows`, each with the offset of its first record."""
    found: dict[bytes, int] = {}
    if rows.layout.column_of(ID) is None:
        for id_, offset in zip(rows.explicit_ids, rows.offsets, strict=True):
            if id_ is not None:
                found.setdefault(id_, offset)
    return found


def new_rows(rows: LayoutRows, first: dict[bytes, int], new: Collection[bytes]) -> Sequence[bool]:
    """For each row whether it is to be stored, where of the ids in `first` only those in `new` were not seen before."""
    return [
        id_ is None or (id_ in new and first[id_] == offset)
        for id_, offset in zip(rows.explicit_ids, rows.offsets, strict=True)
    ]
