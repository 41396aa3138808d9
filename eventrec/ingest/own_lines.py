"""Lines that we wrote ourselves, back to the events they are about.

    written by        id            members beside type, table, timestamp, payload and context
    a JSON Lines file `id`          columns: name to value
    tail --json       `id`          columns: name to value
    log cat           log, offset   log, offset; columns, rows; id where the event brought one
    dead list --json  log, offset   those, log_id for log, and what became of the record
    GET /events       `id`          columns: name to value; the timestamp is RFC 3339

An object is a line of ours by its members alone: it has type, table, timestamp and payload, an id, or a log and an
offset, and nothing that does not stand in that row of this table. It is taken as one, or refused: what a value of it is
not never makes another event of it, which would get a new id each time. An object with any other member, or without one
of these, is not a line of ours.

Its id, or its log, is a UUID. Its timestamp is whole nanoseconds, or a text as that of a CloudEvent (`iso` in
`timestamps.py`). Type, table, time, payload, context and the id of the first row come back exactly. Columns come back
with the types that the line names (`"n INT64"`), else with those that follow from their values in JSON; a null is left
out, since its type is unknown.
"""

from __future__ import annotations

import re
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

import msgspec

from eventrec.errors import EventrecError, InvalidEventError
from eventrec.events.event import ONE_ROW, ReceivedEvent
from eventrec.ingest.members import integer_of, is_null, text_of
from eventrec.ingest.names import is_name
from eventrec.ingest.timestamps import nanoseconds
from eventrec.records.column_types import ColumnType, SemanticType
from eventrec.records.ids import Ids
from eventrec.records.schema import ColumnSchema, check_columns

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from eventrec.records.schema import Row

_NEEDED: Final = frozenset({"type", "table", "timestamp", "payload"})
_OF_EVENTS: Final = frozenset({"id", "context", "columns", "rows"})
_OF_LETTERS: Final = frozenset({"run", "number", "subscription", "handler", "reason", "time"})
_OF_RECORDS: Final = _OF_EVENTS | _OF_LETTERS | {"log", "log_id", "offset"}

_ID: Final = re.compile(r"[0-9a-f]{8}-?[0-9a-f]{4}-?[0-9a-f]{4}-?[0-9a-f]{4}-?[0-9a-f]{12}", re.IGNORECASE | re.ASCII)
_MAX_OFFSET: Final = 2**48


class OwnLineError(InvalidEventError):
    """A line of ours cannot be taken as one.

    Attributes:
        without_values: The same, and nothing of the line's values in it.
    """

    def __init__(self, message: str, *, without_values: str | None = None) -> None:
        super().__init__(message)
        self.without_values = message if without_values is None else without_values


def own_event(members: Mapping[str, msgspec.Raw]) -> ReceivedEvent | None:
    """The event of a line of ours; None where an object of these members is not one.

    Raises:
        OwnLineError: It is one of ours, and its values cannot be one event's.
    """
    others = _others(members)
    if others is None or not (members.keys() >= _NEEDED and members.keys() - _NEEDED <= others):
        return None
    kind, table = _name(members, "type"), _name(members, "table")
    timestamp = _timestamp(members["timestamp"])
    id_ = _id(members)
    try:
        columns, rows = _columns(members)
    except InvalidEventError as exc:
        raise OwnLineError(str(exc), without_values="its columns cannot be read") from exc
    context = members.get("context")
    return ReceivedEvent(
        kind,
        bytes(members["payload"]),
        timestamp,
        table,
        id_,
        context=None if context is None or is_null(context) else bytes(context),
        columns=columns,
        rows=rows,
    )


def _others(members: Mapping[str, msgspec.Raw]) -> frozenset[str] | None:
    """What else a line may have: one that says where its record stood, or only its id; None: it says neither."""
    if "offset" in members and ("log" in members or "log_id" in members):
        return _OF_RECORDS
    return _OF_EVENTS if "id" in members else None


def _refused(why: str, shown: str | None = None) -> OwnLineError:
    rest = "; an object of just these members is an event with its own id"
    return OwnLineError(f"{why if shown is None else shown}{rest}", without_values=f"{why}{rest}")


def _name(members: Mapping[str, msgspec.Raw], member: str) -> str:
    written = text_of(members[member])
    if written is None or not is_name(written):
        raise _refused(f"its {member!r} cannot be one: a text of 1 to 255 bytes without NUL")
    return written


def _timestamp(raw: msgspec.Raw) -> int:
    written = text_of(raw)
    if written is not None:
        try:
            return nanoseconds(written, "iso")
        except ValueError as exc:
            raise _refused(
                "its 'timestamp' is not a time in ISO 8601, from 1677 to 2262", f"its 'timestamp': {exc}"
            ) from exc
    whole = integer_of(raw)
    if whole is None:
        raise _refused("its 'timestamp' is neither a text nor whole nanoseconds in 64 bits")
    return whole


def _id(members: Mapping[str, msgspec.Raw]) -> bytes:
    """The id of its first row: as it is written, or as it follows from where the record stands."""
    if "id" in members:
        return _uuid(members, "id")
    log = _uuid(members, "log" if "log" in members else "log_id")
    offset = integer_of(members["offset"])
    if offset is None or not 0 <= offset < _MAX_OFFSET:
        raise _refused("its 'offset' is not one of a log")
    return Ids(UUID(bytes=log)).as_bytes(offset, 0, None)


def _uuid(members: Mapping[str, msgspec.Raw], member: str) -> bytes:
    written = text_of(members[member])
    if written is None or _ID.fullmatch(written) is None:
        raise _refused(f"its {member!r} is not a UUID")
    return UUID(written).bytes


# -- columns


def _columns(members: Mapping[str, msgspec.Raw]) -> tuple[Sequence[ColumnSchema], Sequence[Row]]:
    given = members.get("columns")
    if given is None or is_null(given):
        return (), ONE_ROW
    try:
        if "rows" in members:
            return _typed(msgspec.json.decode(given, type=list[str]), members["rows"])
        return _untyped(msgspec.json.decode(given, type=dict[str, Any]))
    except (msgspec.DecodeError, EventrecError, RecursionError) as exc:
        raise InvalidEventError(f"its columns cannot be read: {exc}") from exc


def _typed(said: list[str], rows: msgspec.Raw) -> tuple[Sequence[ColumnSchema], Sequence[Row]]:
    """Columns as `str(ColumnSchema)` gives them, and the values of each row in the plain form that a record keeps."""
    columns = []
    for each in said:
        name, _, kind = each.rpartition(" ")
        if kind not in ColumnType.__members__:
            raise InvalidEventError(f"{kind!r:.40} is not a column type")
        columns.append(ColumnSchema(name, ColumnType[kind]))
    check_columns(columns)
    values = msgspec.json.decode(rows, type=list[list[msgspec.Raw]])
    if not values:
        raise InvalidEventError("there is no row, so nothing would be stored")
    return columns, [_row(columns, row) for row in values]


class _Said(msgspec.Struct, gc=False):
    """What is said of a column, beside its name."""

    type: str
    semantic: str = "FIELD"
    precision: int | None = None
    scale: int | None = None
    dimensions: int | None = None


def columns_with_types(said: bytes, values: Mapping[str, msgspec.Raw]) -> tuple[Sequence[ColumnSchema], Row]:
    """Columns by what `said`, a JSON object, says of each name, and the values of one row by their names.

    Raises:
        InvalidEventError: They are not columns, or not those of the values.
    """
    try:
        columns = [_column(name, each) for name, each in _columns_said(said).items()]
        check_columns(columns)
        if {column.name for column in columns} != values.keys():
            raise InvalidEventError("its columns and their types have different names")
        return columns, _row(columns, [values[column.name] for column in columns])
    except (msgspec.DecodeError, RecursionError) as exc:
        raise InvalidEventError(f"its columns cannot be read: {exc}") from exc


_columns_said: Final = msgspec.json.Decoder(dict[str, _Said]).decode


def _column(name: str, said: _Said) -> ColumnSchema:
    if said.type not in ColumnType.__members__ or said.semantic not in SemanticType.__members__:
        raise InvalidEventError(f"column {name!r:.60} is of no type that there is")
    return ColumnSchema(
        name,
        ColumnType[said.type],
        SemanticType[said.semantic],
        precision=said.precision,
        scale=said.scale,
        dimensions=said.dimensions,
    )


def columns_without_types(values: Mapping[str, msgspec.Raw]) -> tuple[Sequence[ColumnSchema], Sequence[Row]]:
    """The same where only the values are known; null is left out.

    Raises:
        InvalidEventError: As above.
    """
    try:
        return _untyped({name: msgspec.json.decode(raw) for name, raw in values.items()})
    except (msgspec.DecodeError, RecursionError) as exc:
        raise InvalidEventError(f"its columns cannot be read: {exc}") from exc


def _row(columns: Sequence[ColumnSchema], row: Sequence[msgspec.Raw]) -> Row:
    if len(row) != len(columns):
        raise InvalidEventError(f"a row has {len(row)} values for {len(columns)} columns")
    return [None if is_null(raw) else _value(column, raw) for column, raw in zip(columns, row, strict=True)]


def _value(column: ColumnSchema, raw: msgspec.Raw) -> object:
    match column.type:
        case ColumnType.JSON | ColumnType.LIST | ColumnType.STRUCT:
            return raw
        case ColumnType.BINARY:
            return msgspec.json.decode(raw, type=bytes)
        case ColumnType.DECIMAL128:
            return msgspec.json.decode(raw, type=Decimal)
        case _:
            return msgspec.json.decode(raw)


def _untyped(values: dict[str, Any]) -> tuple[Sequence[ColumnSchema], Sequence[Row]]:
    kept = {name: value for name, value in values.items() if value is not None}
    columns = tuple(ColumnSchema(name, _type_of(name, value)) for name, value in kept.items())
    check_columns(columns)
    return columns, (tuple(kept.values()),)


def _type_of(name: str, value: object) -> ColumnType:
    match value:
        case bool():
            return ColumnType.BOOLEAN
        case int() if -(2**63) <= value < 2**63:
            return ColumnType.INT64
        case int() if 0 <= value < 2**64:
            return ColumnType.UINT64
        case float():
            return ColumnType.FLOAT64
        case str():
            return ColumnType.STRING
        case dict() | list():
            return ColumnType.JSON
        case _:
            raise InvalidEventError(f"column {name!r}: no column type holds an integer of that size")
