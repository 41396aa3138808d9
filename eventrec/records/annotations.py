"""What an annotation says: the plain type under aliases and `Annotated`, and what was added on the way."""

from __future__ import annotations

import types
import typing
from typing import TYPE_CHECKING, Annotated, Any, Literal, Union, get_args, get_origin

if TYPE_CHECKING:
    from collections.abc import Iterator


def unwrapped(annotation: Any) -> tuple[object, list[object]]:
    """The annotation under `Annotated`, NewTypes and named aliases, and what `Annotated` added on the way."""
    metadata: list[object] = []
    while True:
        origin = get_origin(annotation)
        if origin is Annotated:
            annotation, *added = get_args(annotation)
            metadata += added
        elif isinstance(annotation, typing.NewType):
            annotation = annotation.__supertype__
        elif type(annotation).__name__ == "TypeAliasType":  # of `typing` since 3.12, else of `typing_extensions`
            annotation = annotation.__value__
        elif type(origin).__name__ == "TypeAliasType":  # with its parameters
            annotation = origin.__value__[get_args(annotation)]
        else:
            return annotation, metadata


def alternatives(annotation: object) -> Iterator[object]:
    """The members of a union without None, the types of a Literal's values; of anything else, itself."""
    plain, _ = unwrapped(annotation)
    origin = get_origin(plain)
    if origin in (Union, types.UnionType):
        for part in get_args(plain):
            yield from alternatives(part)
    elif origin is Literal:
        yield from {type(value) for value in get_args(plain) if value is not None}
    elif plain is not type(None):
        yield plain


def shown(annotation: object) -> str:
    """The annotation as a program writes it, without what `Annotated` added."""
    plain, _ = unwrapped(annotation)
    if get_origin(plain) in (Union, types.UnionType):
        return " | ".join(shown(part) for part in get_args(plain))
    if get_origin(plain) is not None and get_origin(plain) is not Literal:
        origin = getattr(get_origin(plain), "__name__", str(get_origin(plain)))
        return f"{origin}[{', '.join(shown(part) for part in get_args(plain))}]"
    if plain is type(None):
        return "None"
    return plain.__name__ if isinstance(plain, type) else str(plain)
