"""What an annotation says: the plain type under aliases and `Annotated`, and what was added on the way."""

from __future__ import annotations

import dataclasses
import re
import sys
import types
import typing
from datetime import date, datetime
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, TypeAlias, Union, get_args, get_origin

from eventrec.runtime.signals import error_of_signal_handler

if TYPE_CHECKING:
    from collections.abc import Iterator

Aliases: TypeAlias = frozenset[object]
_NOWHERE: Final[Aliases] = frozenset()

NAMES_A_MARKER: Final = re.compile(r"\b(Hashed|Redacted|Truncated)\b")
"""In the text of an annotation: something is marked for privacy."""


class Marker:
    """What all markers of ours in annotations are."""

    __slots__ = ()


def unwrapped(annotation: Any) -> tuple[object, list[object]]:
    """The annotation under `Annotated`, NewTypes and named aliases, and what `Annotated` added on the way."""
    plain, metadata, _ = opened(annotation, _NOWHERE)
    return plain, metadata


def opened(annotation: Any, within: Aliases) -> tuple[object, list[object], Aliases]:
    """The same, and `within` with the aliases that were opened. One that stands in itself is not opened again."""
    metadata: list[object] = []
    while True:
        origin = get_origin(annotation)
        alias = origin if is_alias(origin) else annotation
        if origin is Annotated:
            annotation, *added = get_args(annotation)
            metadata += added
        elif isinstance(annotation, typing.NewType):
            annotation = _with_names(annotation.__supertype__, annotation)
        elif is_alias(alias) and alias not in within:
            within |= {alias}
            annotation = _value_of(alias, get_args(annotation))
        else:
            return annotation, metadata, within


def is_alias(annotation: object) -> bool:
    """Whether it is a named alias, of `typing` since 3.12 or of `typing_extensions`, without its arguments."""
    return type(annotation).__name__ == "TypeAliasType"


def _value_of(alias: Any, arguments: tuple[Any, ...]) -> object:
    """What `alias` is a name of, with `arguments` in the place of its parameters."""
    value, parameters = _read_value(alias), alias.__type_params__
    if not arguments:
        return value
    if not all(isinstance(each, typing.TypeVar) for each in parameters):  # one takes several arguments
        return value[arguments]
    given = dict(zip(parameters, arguments, strict=False))
    if isinstance(value, typing.TypeVar):
        return given.get(value, value)
    named = getattr(value, "__parameters__", ())
    return value[tuple(given.get(each, each) for each in named)] if named else value


def _read_value(alias: Any) -> Any:
    try:
        value = alias.__value__
    except Exception as exc:  # annotations are foreign code
        if error_of_signal_handler(exc) is not None:
            raise
        raise TypeError(f"the alias {alias.__name__} cannot be read: {exc}") from exc
    return _with_names(value, alias)


def _with_names(value: Any, named: Any) -> Any:
    """The value of `named`, an alias or NewType; texts in it are what they name, as in annotations, or stay texts.

    Raises:
        TypeError: A text that names nothing has a marker in it.
    """
    module = sys.modules.get(named.__module__ or "")
    holder = type("holder", (), {"__annotations__": {"value": value}})
    try:
        return typing.get_type_hints(holder, vars(module) if module else {}, include_extras=True)["value"]
    except Exception as exc:  # foreign code, likewise
        if error_of_signal_handler(exc) is not None:
            raise
        if NAMES_A_MARKER.search(str(value)):
            raise TypeError(f"the alias {named.__name__} cannot be read: {exc}") from exc
        return value


def all_added(annotation: object, within: Aliases = _NOWHERE) -> Iterator[object]:
    """What `Annotated` added anywhere in `annotation`, not in classes that it names, nor in the aliases `within`."""
    if isinstance(annotation, list):  # the parameters of a Callable
        for part in annotation:
            yield from all_added(part, within)
        return
    plain, metadata, within = opened(annotation, within)
    yield from metadata
    if isinstance(plain, dataclasses.InitVar):
        yield from all_added(plain.type, within)
    for part in get_args(plain):
        yield from all_added(part, within)


def refuse_bare_markers(where: str, annotation: object) -> None:
    """Raise TypeError where a marker stands in the annotation of the field `where` without its parentheses."""
    for added in all_added(annotation):
        if isinstance(added, type) and issubclass(added, Marker):
            fields = getattr(added, "__dataclass_fields__", {}).values()
            arguments = "…" if any(field.default is dataclasses.MISSING for field in fields) else ""
            raise TypeError(f"{where}: {added.__name__} is a class; write {added.__name__}({arguments})")


def alternatives(annotation: object, within: Aliases = _NOWHERE) -> Iterator[object]:
    """The members of a union without None, the types of a Literal's values; of anything else, itself.

    Classes of pydantic's of which there are no instances (`AwareDatetime`, `EmailStr`) are what a value of theirs is.
    """
    plain, _, within = opened(annotation, within)
    origin = get_origin(plain)
    if origin in (Union, types.UnionType):
        for part in get_args(plain):
            yield from alternatives(part, within)
    elif origin is Literal:
        yield from {type(value) for value in get_args(plain) if value is not None}
    elif plain is not type(None):
        yield _OF_PYDANTIC.get((plain.__module__, plain.__name__), plain) if isinstance(plain, type) else plain


def shown(annotation: object, within: Aliases = _NOWHERE) -> str:
    """The annotation as a program writes it, without what `Annotated` added."""
    plain, _, within = opened(annotation, within)
    if get_origin(plain) in (Union, types.UnionType):
        return " | ".join(shown(part, within) for part in get_args(plain))
    if get_origin(plain) is not None and get_origin(plain) is not Literal:
        origin = getattr(get_origin(plain), "__name__", str(get_origin(plain)))
        return f"{origin}[{', '.join(shown(part, within) for part in get_args(plain))}]"
    if plain is type(None):
        return "None"
    return plain.__name__ if isinstance(plain, type) else str(plain)


_OF_PYDANTIC: Final[dict[tuple[str, str], type]] = {
    **dict.fromkeys(
        (("pydantic.types", name) for name in ("AwareDatetime", "NaiveDatetime", "PastDatetime", "FutureDatetime")),
        datetime,
    ),
    **dict.fromkeys((("pydantic.types", name) for name in ("PastDate", "FutureDate")), date),
    ("pydantic.networks", "EmailStr"): str,
}
"""By module and name: to import them all takes as long as pydantic itself."""
