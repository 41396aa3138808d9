"""Random events of hostile names and values, and tables to keep them in: what random rollups are tried on."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

from eventrec.events.event import ReceivedEvent
from eventrec.records.column_types import ColumnType
from eventrec.records.layout import Layout
from eventrec.records.layout_columns import (
    CONTEXT,
    EVENT,
    GENERATED,
    ID,
    PAYLOAD,
    TIMESTAMP,
    TYPE,
    LayoutColumn,
    from_field,
    from_payload,
)
from eventrec.records.layout_parts import LayoutIndex
from eventrec.records.schema import ColumnSchema

if TYPE_CHECKING:
    from random import Random

    from eventrec.records.layout_columns import LayoutType

TYPES: Final = ("api_request", "task_created", "Task", "ünïcode", "it's")
COLUMNS: Final = (
    ColumnSchema("shop", ColumnType.STRING),
    ColumnSchema("amount", ColumnType.INT64),
    ColumnSchema("price", ColumnType.FLOAT64),
    ColumnSchema("paid", ColumnType.BOOLEAN),
    ColumnSchema('order "no" it\'s', ColumnType.INT64),
)

UUIDS: Final = ("0B8E2F6E-3C1F-4A57-9D3B-0123456789AB", "0b8e2f6e-3c1f-4a57-9d3b-0123456789ab", str(UUID(int=7)))
TEXTS: Final = (
    "",
    "a",
    "A",
    "b",
    "ä",
    "5",
    "true",
    "null",
    "it's",
    'say "so"',
    "a\\b",
    "\u0001",
    "😀",
    "\uffff",
    *UUIDS,
)
_NUMBERS: Final = (0, 1, 2, 3, -7, 200, 404, 500, 5.0, 2.5, -0.25, -0.0, 1e3, 2**53 + 1, 2**63 - 1, 2**63, 10**30)


class _Numeral(str):
    """A number as it stands in JSON: not always as Python writes it."""

    __slots__ = ()


_NUMERALS: Final = tuple(
    _Numeral(text)
    for text in (
        *("-0", "5.00", "1E2", "100e-2", "25e-1", "0.1e1", "1e308", "1e301", "1e999", "-1e400", "1e-400"),
        *("9007199254740993.0", "9223372036854775807.0", "-9223372036854775808", "1234567890" * 5),
    )
)
_VALUES: Final[tuple[Any, ...]] = (None, True, False, *_NUMBERS, *_NUMERALS, *TEXTS, [], [1], {}, {"n": 1})
NAMES: Final = (
    *("n", "text", "with space", "ä", 'q"q', "a.b", "user", "$", "back\\slash", "it's", "{0}", "%s", "?", "$1", ":n"),
    *("[0]", "*", "new\nline", "\u0001", "--", ";", "`", "N", "x" * 100),
)
DEEP: Final = ("deep", 'q"q', "it's", "ä", "0", "n")


def random_event(
    random: Random, table: str, around: datetime, days: float, *, has_members: bool = False
) -> ReceivedEvent:
    """An event; `has_members`: its payload is an object, which is what can be stored as a whole event."""
    spread = int(days * 86_400)
    # Many at one moment, many at whole hours.
    seconds = random.choice((0, -1, 1, random.randint(-spread, spread), random.randint(-spread, spread) // 3600 * 3600))
    at = around + timedelta(seconds=seconds, microseconds=random.choice((0, 0, 1, 999_999)))
    members = {name: _random_value(random) for name in NAMES if is_so(random, 0.6)}
    if is_so(random, 0.5):
        members["deep"] = random.choice(({"n": _random_value(random)}, {"ä": {"n": 1}}, _deep(random), None, 5))
    if is_so(random, 0.1):
        members[""] = _random_value(random)
    is_object = has_members or is_so(random, 0.95)
    payload: Any = members if is_object else random.choice((None, 5, "text", [1], _Numeral("1e999")))
    context = {name: _random_value(random) for name in ("service", "ä", 'q"q') if is_so(random, 0.7)}
    row = (
        random.choice((None, "", "a", "A", "ä", "it's", str(UUID(int=7)))),
        random.choice((None, 0, 1, -5, 2**63 - 1)),
        random.choice((None, 0.5, 2.0, -3.25, -0.0, 1e301)),
        random.choice((None, True, False)),
        random.choice((None, 1, 2)),
    )
    escaped = is_so(random, 0.5)
    return ReceivedEvent(
        type=random.choice(TYPES),
        payload=_json(payload, escaped=escaped).encode(),
        timestamp=(at - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1) * 1_000,
        table=table,
        id=random.getrandbits(128).to_bytes(16, "big"),
        context=_json(context, escaped=escaped).encode() if context else None,
        columns=COLUMNS,
        rows=(row,),
    )


def _deep(random: Random) -> Any:
    found = _random_value(random)
    for name in reversed(DEEP[1:]):
        found = {name: found}
    return found


def _json(value: Any, *, escaped: bool) -> str:
    """`value` as JSON, numerals as they are."""
    match value:
        case _Numeral():
            return str(value)
        case dict():
            members = (
                f"{json.dumps(name, ensure_ascii=escaped)}: {_json(each, escaped=escaped)}"
                for name, each in value.items()
            )
            return f"{{{', '.join(members)}}}"
        case list():
            return f"[{', '.join(_json(each, escaped=escaped) for each in value)}]"
        case _:
            return json.dumps(value, ensure_ascii=escaped)


def is_so(random: Random, probability: float) -> bool:
    """Whether something that is so probable happens."""
    return random.random() < probability


def _random_value(random: Random) -> Any:
    return random.choice(_VALUES) if is_so(random, 0.5) else random.choice((1, 2, 250, "a", "b", None))


def random_layout(random: Random, table: str) -> Layout:
    """A table that holds all that an event has, in columns of other names."""
    id_ = random.choice((LayoutColumn("number", GENERATED, "bigint"), LayoutColumn("Id", ID, "uuid")))
    body = random.choice((LayoutColumn("data", EVENT, "jsonb"), LayoutColumn("body", PAYLOAD, "jsonb")))
    columns = [
        id_,
        LayoutColumn("when", TIMESTAMP, "timestamptz"),
        LayoutColumn("event type", TYPE, "varchar", length=50),
        body,
        LayoutColumn("context", CONTEXT, "jsonb"),
        *(
            LayoutColumn(f"own_{number}", from_field(column.name), word)
            for number, (column, word) in enumerate(zip(COLUMNS, _WORDS, strict=True))
        ),
    ]
    if is_so(random, 0.5):
        columns.append(LayoutColumn("of n", from_payload("n"), "jsonb"))
    random.shuffle(columns)
    indexes = [LayoutIndex(f"{table}_by_type", ("event type", "when"), ("when",))] if is_so(random, 0.5) else []
    return Layout(table, columns, indexes=indexes)


_WORDS: Final[tuple[LayoutType, ...]] = ("text", "bigint", "double", "boolean", "bigint")
