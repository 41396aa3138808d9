"""JSON text as values that OTLP can say exactly; else as the text that it is."""

from __future__ import annotations

from decimal import Decimal
from typing import Any, Final

import msgspec

from eventrec import ColumnType
from eventrec_handlers.otlp.wire import InexactError, any_value

_SURE_DIGITS: Final = 15
"""A number of so many digits or fewer comes back from a double as it was, in the range of doubles."""

_JSON_TYPES: Final = frozenset({ColumnType.JSON, ColumnType.LIST, ColumnType.STRUCT})
_I64_MAX: Final = (1 << 63) - 1


def _exact_float(text: str) -> float:
    value = float(text)
    is_sure = len(text) <= _SURE_DIGITS and "e" not in text and "E" not in text
    if not is_sure and (value in _INFINITE or Decimal(repr(value)) != Decimal(text)):
        raise InexactError(f"no double is equal to {text:.40}")
    return value


_INFINITE: Final = frozenset({float("inf"), float("-inf")})
_decode: Final = msgspec.json.Decoder(float_hook=_exact_float).decode
_members: Final = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


def json_value(text: bytes) -> Any:
    """What `text` says, of the built-in types.

    Raises:
        InexactError: It is not JSON, or says a number that no double is equal to.
    """
    try:
        return _decode(text)
    except (msgspec.MsgspecError, ValueError, RecursionError) as exc:
        raise InexactError(f"{exc}") from exc


def context_members(text: bytes) -> dict[str, Any]:
    """The members of a context, each exact or as its JSON text; of what is not an object one, `context`, its text."""
    try:
        members = _members(text)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return {"context": text.decode(errors="replace")}
    return {name: exact_or_text(bytes(raw)) for name, raw in members.items()}


def exact_or_text(text: bytes) -> Any:
    """What the JSON `text` says, or the text itself."""
    try:
        value = json_value(text)
        any_value(value)
    except InexactError:
        return text.decode(errors="replace")
    return value


def column_value(type_: ColumnType, value: Any) -> Any:
    """A column's value in its plain form as an attribute's: integers beyond 63 bit, and what is not exact, as text."""
    if type_ in _JSON_TYPES:
        return exact_or_text(value)
    return str(value) if type(value) is int and value > _I64_MAX else value
