"""The whole event as one JSON object, `type` first: as a column of a table holds it, and back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import msgspec

from eventrec.records.column_types import ColumnType

if TYPE_CHECKING:
    from collections.abc import Sequence

    from eventrec.records.schema import Shape

_JSON_TYPES: Final = frozenset({ColumnType.JSON, ColumnType.LIST, ColumnType.STRUCT})
_BLANKS: Final = b" \t\n\r"
_encode: Final = msgspec.json.Encoder().encode
_members: Final = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_text: Final = msgspec.json.Decoder(str).decode


def read_members(text: bytes | msgspec.Raw) -> dict[str, msgspec.Raw] | None:
    """The members of a JSON object, as the bytes they are; None where it is not an object.

    Raises:
        ValueError: It cannot be read.
    """
    try:
        return _members(text)
    except msgspec.ValidationError:
        return None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        raise ValueError(f"it cannot be read as JSON: {exc}") from exc


def members_of(text: bytes | msgspec.Raw) -> dict[str, msgspec.Raw] | None:
    """The members of a JSON object; None where it is not an object, or cannot be read."""
    try:
        return read_members(text)
    except ValueError:
        return None


class WholeEvent:
    """Makes the events of one shape. `keeps_own_type`: a member `type` of a payload stands, whatever it says."""

    def __init__(self, shape: Shape, *, keeps_own_type: bool) -> None:
        self._shape = shape
        self._keeps_own_type = keeps_own_type
        self._head = b'{"type":' + _encode(shape.type)

    def encoded(self, payload: bytes, extras: Sequence[Any]) -> bytes:
        """The event of this payload, JSON text, and these values of the extra columns.

        Raises:
            ValueError: The payload is neither an object nor null, or has another type as a member.
        """
        payload = payload.strip(_BLANKS)
        if payload == b"null":
            payload = b"{}"
        if payload[:1] != b"{":
            raise ValueError("its payload is not a JSON object")
        if not (self._shape.columns or b'"type"' in payload or b"\\u" in payload):
            # What most events are: the bytes of their payload stay as they are.
            members = payload[1:].lstrip(_BLANKS)
            return self._head + (members if members == b"}" else b"," + members)
        return self._by_members(payload, extras)

    def _by_members(self, payload: bytes, extras: Sequence[Any]) -> bytes:
        members = members_of(payload)
        if members is None:
            raise ValueError("its payload cannot be read as a JSON object")
        whole: dict[str, Any] = {"type": self._shape.type}
        if "type" in members and not self._keeps_own_type and _type_of(members) != self._shape.type:
            raise ValueError("its payload has a member 'type' that says another type than the event has")
        whole.update(members)
        for column, value in zip(self._shape.columns, extras, strict=True):
            if column.name not in whole:
                is_json = value is not None and column.type in _JSON_TYPES
                whole[column.name] = msgspec.Raw(value) if is_json else value
        return _encode(whole)


def payload_of(event: str | bytes, kind: str) -> str:
    """The payload of a whole event of type `kind`: it without its member `type`, unless that says something else.

    What is not an object is given as it is.
    """
    text = event.encode(errors="surrogatepass") if isinstance(event, str) else bytes(event)
    members = members_of(text)
    if members is None:
        return event if isinstance(event, str) else text.decode(errors="replace")
    if _type_of(members) == kind:
        del members["type"]
    return _encode(members).decode(errors="replace")


def type_of(event: str | bytes) -> str | None:
    """The type that a whole event says; None where it says none."""
    text = event.encode(errors="surrogatepass") if isinstance(event, str) else bytes(event)
    members = members_of(text)
    return None if members is None else _type_of(members)


def _type_of(members: dict[str, msgspec.Raw]) -> str | None:
    said = members.get("type")
    try:
        return None if said is None else _text(said)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
