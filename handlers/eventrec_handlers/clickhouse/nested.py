"""JSON to what is nested: arrays, maps, tuples, and what they hold."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

import msgspec

from eventrec_handlers.clickhouse.scalars import text, to_integer
from eventrec_handlers.clickhouse.types import INTEGERS, UnfitError, element, parsed

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from eventrec_handlers._sql import Convert
    from eventrec_handlers.clickhouse.types import Type


def to_nested(type_: Type) -> Convert:
    """The JSON of a whole value."""
    convert = of_json(type_)

    def decoded(value: bytes | str) -> Any:
        try:
            read = msgspec.json.decode(value, type=msgspec.Raw)
            return convert(read)
        except (msgspec.MsgspecError, UnicodeError, RecursionError) as exc:
            raise ValueError(f"it cannot be read: {exc}") from exc

    return decoded


def of_json(type_: Type) -> Convert:
    """From the bytes of a JSON value to a value of `type_`."""
    inner = _of_present_json(type_)

    def convert(raw: Any) -> Any:
        if bytes(raw) != b"null":
            return inner(raw)
        if type_.is_nullable:
            return None
        raise ValueError(f"null is not a {type_}")

    return convert


def _of_present_json(type_: Type) -> Convert:
    if type_.name in INTEGERS:
        within = to_integer(type_)
        return lambda raw: within(msgspec.json.decode(raw, type=int))
    make = _NESTED.get(type_.name)
    if make is None:
        raise UnfitError(f"the table declares {type_} inside of it")
    return make(type_)


def _of_array(type_: Type) -> Convert:
    element = of_json(parsed(type_.arguments[0]))
    return lambda raw: [element(each) for each in msgspec.json.decode(raw, type=list[msgspec.Raw])]


def _of_map(type_: Type) -> Convert:
    key, value = parsed(type_.arguments[0]), of_json(parsed(type_.arguments[1]))
    if key.name != "String":
        raise UnfitError(f"keys of JSON are texts, and the table declares {key}")
    return lambda raw: {
        text(name): value(each) for name, each in msgspec.json.decode(raw, type=dict[str, msgspec.Raw]).items()
    }


def _of_tuple(type_: Type) -> Convert:
    elements = [of_json(parsed(element(each))) for each in type_.arguments]
    return lambda raw: _tuple(msgspec.json.decode(raw, type=list[msgspec.Raw]), elements)


_NESTED: Final[Mapping[str, Callable[[Type], Convert]]] = {
    "Array": _of_array,
    "Map": _of_map,
    "Tuple": _of_tuple,
    "String": lambda _: _json_text,
    "Bool": lambda _: lambda raw: msgspec.json.decode(raw, type=bool),
    "Float64": lambda _: lambda raw: msgspec.json.decode(raw, type=float),
    "UUID": lambda _: lambda raw: msgspec.json.decode(raw, type=UUID).bytes,
}
"""Of JSON that is not null."""


def _tuple(given: list[msgspec.Raw], elements: list[Convert]) -> tuple[Any, ...]:
    if len(given) != len(elements):
        raise ValueError(f"it has {len(given)} elements, and the column {len(elements)}")
    return tuple(element(each) for element, each in zip(elements, given, strict=True))


def _json_text(raw: Any) -> str:
    """A text; a number or a truth value as it is written."""
    said = bytes(raw)
    if said[:1] in {b"{", b"["}:
        raise ValueError("an object or array stands where a text belongs")
    return text(msgspec.json.decode(said, type=str)) if said[:1] == b'"' else said.decode()
