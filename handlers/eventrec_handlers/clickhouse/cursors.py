"""Where a reader goes on, as text: behind a row of a time, or behind what has arrived."""

from __future__ import annotations

import json
from typing import Any, Final, TypeAlias

RowKey: TypeAlias = tuple[int, str, str, str, int, int]
"""Where a row stands among all: its moment, table, id, partition, block, and number in the block."""

Arrival: TypeAlias = dict[str, dict[str, tuple[int, int]]]
"""Up to where tables were read: table to partition to block and number in the block."""

_ROW_KEY: Final = [int, str, str, str, int, int]


def encoded_row_key(key: RowKey) -> str:
    """`key` as a cursor."""
    return json.dumps(["place", *key])


def decoded_row_key(cursor: str) -> RowKey:
    """What `encoded_row_key` was given.

    Raises:
        ValueError: It is not such a cursor.
    """
    match _decoded(cursor):
        case ["place", *parts] if [type(part) for part in parts] == _ROW_KEY:
            moment, table, id_, partition, block, number = parts
            return moment, table, id_, partition, block, number
    raise _refused(cursor)


def encoded_arrival(arrival: Arrival) -> str:
    """`arrival` as a cursor."""
    return json.dumps(["arrival", arrival])


def decoded_arrival(cursor: str) -> Arrival:
    """What `encoded_arrival` was given.

    Raises:
        ValueError: It is not such a cursor.
    """
    match _decoded(cursor):
        case ["arrival", dict(tables)] if all(_is_table(table) for table in tables.values()):
            return {
                table: {name: (block, number) for name, (block, number) in partitions.items()}
                for table, partitions in tables.items()
            }
    raise _refused(cursor)


def _is_table(partitions: object) -> bool:
    return isinstance(partitions, dict) and all(
        isinstance(last, list) and [type(part) for part in last] == [int, int] for last in partitions.values()
    )


def _decoded(cursor: str) -> Any:
    try:
        return json.loads(cursor)
    except (ValueError, RecursionError):
        return None


def _refused(cursor: str) -> ValueError:
    return ValueError(f"{cursor!r:.80} is not a cursor of this reader")
