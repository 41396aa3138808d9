"""A row of a table with a layout, back to what an event consists of."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, TypeAlias

import msgspec

from eventrec.records.layout_columns import CONTEXT, EVENT, ID, PAYLOAD, TIMESTAMP, TYPE
from eventrec.records.whole_event import payload_of, type_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from eventrec.records.layout import Layout
    from eventrec.records.layout_columns import LayoutSource

Parts: TypeAlias = "dict[str, Any]"
"""Id, type, timestamp, payload, context, columns: by name, as `eventrec.reading.StoredEvent` has them."""


def parts_of(layout: Layout, values: Mapping[str, Any], row: str) -> Parts | str:
    """The event of a row: `values` are those of its columns by name, ids and JSON as text, the time in nanoseconds.

    What the layout does not hold is made of what it does. The id is then `row`; the type that of the whole event, else
    the name of the table; payload and context are objects of the columns that are taken from them. Returned as text:
    why the row is not an event.
    """
    time = _value(layout, TIMESTAMP, values)
    if not isinstance(time, int):
        return f"its {_name(layout, TIMESTAMP)} is not a moment"
    id_ = row if layout.column_of(ID) is None else _value(layout, ID, values)
    if not isinstance(id_, str):
        return f"its {_name(layout, ID)} is not an id"
    event, payload = _value(layout, EVENT, values), _value(layout, PAYLOAD, values)
    kind = _value(layout, TYPE, values)
    if layout.column_of(TYPE) is None:
        kind = layout.table if not isinstance(event, str) else type_of(event)
    if not isinstance(kind, str):
        return f"its {_name(layout, TYPE)} is not a type"
    if layout.column_of(PAYLOAD) is None:
        payload = _object(layout, "payload", values) if layout.column_of(EVENT) is None else event
        payload = payload_of(payload, kind) if isinstance(event, str) else payload
    if not isinstance(payload, str):
        return f"its {_name(layout, PAYLOAD if layout.column_of(EVENT) is None else EVENT)} is not JSON"
    context = _value(layout, CONTEXT, values)
    if layout.column_of(CONTEXT) is None:
        context = _object(layout, "context", values)
        context = None if context == _NOTHING else context
    if not isinstance(context, str | None):
        return f"its {_name(layout, CONTEXT)} is not JSON"
    base = {column.name for column in layout.columns if not column.source.path and column.source.kind in _BASE}
    return {
        "id": id_,
        "type": kind,
        "timestamp": time,
        "payload": payload,
        "context": context,
        "columns": {name: value for name, value in values.items() if name not in base},
    }


_BASE: Final = frozenset({"id", "type", "timestamp", "payload", "context", "event"})
_NOTHING: Final = "{}"


def _value(layout: Layout, source: LayoutSource, values: Mapping[str, Any]) -> Any:
    column = layout.column_of(source)
    return None if column is None else values.get(column.name)


def _name(layout: Layout, source: LayoutSource) -> str:
    column = layout.column_of(source)
    return source.kind if column is None else column.name


def _object(layout: Layout, kind: str, values: Mapping[str, Any]) -> str:
    """A JSON object of the columns that are taken from a payload, or a context; without those that hold nothing."""
    made: dict[str, Any] = {}
    for column in layout.columns:
        value = values.get(column.name)
        if column.source.kind == kind and column.source.path and value is not None:
            *outer, last = column.source.path
            inner = made
            for part in outer:
                found = inner.setdefault(part, {})
                inner = found if isinstance(found, dict) else {}
            is_json = column.word in {"json", "jsonb"} and isinstance(value, str)
            inner[last] = msgspec.Raw(value.encode()) if is_json else value
    try:
        return msgspec.json.encode(made, enc_hook=str).decode()
    except (UnicodeEncodeError, msgspec.MsgspecError):
        return _NOTHING
