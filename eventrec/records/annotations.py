"""What an annotation says: the plain type under aliases and `Annotated`, and what was added on the way."""

from __future__ import annotations

import dataclasses
import types
import typing
from typing import TYPE_CHECKING, Annotated, Any, Literal, Union, get_args, get_origin

if TYPE_CHECKING:
    from collections.abc import Iterator


class Marker:
    """What all markers of ours in annotations are."""

    __slots__ = ()


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


def all_added(annotation: object) -> Iterator[object]:
    """What `Annotated` added anywhere in `annotation`, not in the classes that it names."""
    if isinstance(annotation, list):  # the parameters of a Callable
        for part in annotation:
            yield from all_added(part)
        return
    plain, metadata = unwrapped(annotation)
    yield from metadata
    if isinstance(plain, dataclasses.InitVar):
        yield from all_added(plain.type)
    for part in get_args(plain):
        yield from all_added(part)


def refuse_bare_markers(where: str, annotation: object) -> None:
    """Raise TypeError where a marker stands in the annotation of the field `where` without its parentheses."""
    for added in all_added(annotation):
        if isinstance(added, type) and issubclass(added, Marker):
            fields = getattr(added, "__dataclass_fields__", {}).values()
            arguments = "…" if any(field.default is dataclasses.MISSING for field in fields) else ""
            raise TypeError(f"{where}: {added.__name__} is a class; write {added.__name__}({arguments})")


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
