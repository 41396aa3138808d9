"""Which fields of a class are marked for privacy, at any depth of their annotations: read once per class."""

from __future__ import annotations

import dataclasses
import inspect
import sys
import typing
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Annotated, Any, Final

import msgspec
from pydantic import BaseModel

from eventrec.records.annotations import NAMES_A_MARKER, Marker, all_added, refuse_bare_markers
from eventrec.records.mark_rules import (
    AnyOf,
    Each,
    Fields,
    Leaf,
    Members,
    Place,
    Positions,
    has_fields,
    is_named_tuple,
    is_typed_dict,
    rule_of,
)
from eventrec.records.marks import MASKS, Mark
from eventrec.runtime.signals import error_of_signal_handler

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping, Sequence

    from eventrec.records.mark_rules import Rule

_MAX_CLASSES: Final = 4_096
"""Classes remembered at once."""


@dataclass(frozen=True, slots=True)
class FieldRule:
    """One field: its name in the class, its names in the payload, and what happens to it (None: nothing).

    `recursive` is what stands in itself there, an alias or a RootModel, and its rule; `others` are markers that are not
    of privacy, at any depth of its annotation.
    """

    name: str
    encoded: tuple[str, ...]
    rule: Rule | None
    recursive: tuple[tuple[Any, Rule], ...] = ()
    others: tuple[Marker, ...] = ()


@lru_cache(maxsize=_MAX_CLASSES)
def fields_of(cls: type) -> tuple[FieldRule, ...]:
    """The fields that `cls` declares, in their order; () of a class that declares none.

    Raises:
        TypeError: A marker stands where it has no effect.
    """
    if issubclass(cls, BaseModel):
        if not cls.__pydantic_complete__ and not cls.model_rebuild(raise_errors=False):
            raise TypeError(f"{cls.__name__} names what does not exist yet")
        found: dict[str, tuple[tuple[str, ...], object]] = {}
        for name, info in cls.model_fields.items():
            alias = [said for said in (info.serialization_alias, info.alias) if isinstance(said, str)]
            annotation: Any = info.annotation
            for added in info.metadata:
                annotation = Annotated[annotation, added]
            found[name] = ((name, *alias), annotation)
        _refuse_marked_others(cls, hints_of(cls, excluding=found), {*found, "__pydantic_extra__"})
        for name, computed in cls.model_computed_fields.items():
            found[name] = ((name, *([computed.alias] if computed.alias else [])), computed.return_type)
    else:
        hints = hints_of(cls)
        found = {name: ((encoded,), hints.get(name, object)) for name, encoded in _names(cls, hints).items()}
    for name, (_, annotation) in found.items():
        refuse_bare_markers(f"{cls.__name__}.{name}", annotation)
    return tuple(_field_rule(cls, name, encoded, annotation) for name, (encoded, annotation) in found.items())


def _field_rule(cls: type, name: str, encoded: tuple[str, ...], annotation: object) -> FieldRule:
    place = Place(f"{cls.__name__}.{name}")
    rule = rule_of(place, annotation)
    added = all_added(annotation)
    others = tuple(mark for mark in added if isinstance(mark, Marker) and not isinstance(mark, Mark))
    return FieldRule(name, encoded, rule, tuple(place.recursive), others)


def marked_fields(cls: type) -> dict[str, Rule]:
    """What `cls` declares of its fields that are marked, or hold something marked, by their names in the class.

    Raises:
        TypeError: A marker stands where it has no effect.
    """
    return {field.name: field.rule for field in _marked(cls) if field.rule is not None}


@lru_cache(maxsize=_MAX_CLASSES)
def rules_of(cls: type) -> dict[str, Rule]:
    """What `cls` declares of its fields that are marked, or hold something marked, by their names in the payload.

    Raises:
        TypeError: A marker stands where it has no effect.
    """
    return {encoded: field.rule for field in _marked(cls) if field.rule is not None for encoded in field.encoded}


def _marked(cls: type) -> Iterator[FieldRule]:
    for field in fields_of(cls):
        if has_marks(field.rule):
            for itself, rule in field.recursive:
                if is_marked_here(rule):
                    raise TypeError(
                        f"{cls.__name__}.{field.name}: something in {itself.__name__}, which stands in itself, is "
                        "marked; mark the whole of it, or make it a class whose fields are marked"
                    )
            yield field


@lru_cache(maxsize=_MAX_CLASSES)
def is_marked(cls: type) -> bool:
    """Whether a field that `cls` itself declares is marked; not whether one of its fields holds a marked class.

    Raises:
        TypeError: A marker stands where it has no effect.
    """
    if cls.__module__ == "builtins" or not has_fields(cls):
        return False
    return any(is_marked_here(field.rule) for field in fields_of(cls))


def member_rules(rule: Rule | None) -> Mapping[str, Rule]:
    """What `rule` says of the members of an object, by their names, markers that replace nothing included."""
    match rule:
        case Fields(cls):
            return {name: field.rule for field in fields_of(cls) if field.rule is not None for name in field.encoded}
        case Members(by_name):
            return by_name
        case AnyOf(rules):
            return {name: each for part in reversed(rules) for name, each in member_rules(part).items()}
    return {}


def member_rule(rule: Rule | None) -> Callable[[Any], Rule | None]:
    """What gives, for the name of each member of an object, what `rule` says of it."""
    if rule is None:  # of most values
        return _no_rule
    if isinstance(rule, Each):
        each = rule.rule
        return lambda _: each
    return member_rules(rule).get


def _no_rule(_: object) -> None:
    return None


def item_rules(rule: Rule | None, length: int) -> Sequence[Rule | None]:
    """What `rule` says of each item of a list of `length`."""
    match rule:
        case Each(inner):
            return [inner] * length
        case Positions(rules) if len(rules) == length:
            return rules
        case Fields(cls) if not is_typed_dict(cls):
            # A NamedTuple, or a Struct that is written as an array, perhaps after its tag.
            rules = tuple(field.rule for field in fields_of(cls))
            return [None] * (length - len(rules)) + [*rules][:length]
    return [rule] * length


def has_marks(rule: Rule | None, *kinds: type[Mark]) -> bool:
    """Whether a marker of one of `kinds` is anywhere behind `rule`, also inside the classes that it names.

    Without `kinds`: one that replaces values.
    """
    return any(isinstance(mark, kinds or MASKS) for mark in _marks(rule, set()))


def _marks(rule: Rule | None, seen: set[type]) -> Iterator[Mark]:
    match rule:
        case Leaf(mark):
            yield mark
        case Each(inner):
            yield from _marks(inner, seen)
        case Positions(rules) | AnyOf(rules):
            for part in rules:
                yield from _marks(part, seen)
        case Fields(cls) if cls not in seen:
            seen.add(cls)
            for field in fields_of(cls):
                yield from _marks(field.rule, seen)


def is_marked_here(rule: Rule | None) -> bool:
    """Whether a marker is behind `rule` without a class between them, of which its instances know."""
    match rule:
        case Leaf(mark):
            return isinstance(mark, MASKS)
        case Each(inner):
            return is_marked_here(inner)
        case Positions(rules) | AnyOf(rules):
            return any(is_marked_here(part) for part in rules)
        case Fields(cls):
            return is_typed_dict(cls) and has_marks(rule)
    return False


# -- classes ----------------------------------------------------------------------------------------------------------


def _names(cls: type, hints: dict[str, object]) -> dict[str, str]:
    """The fields of `cls`, and the names that msgspec writes them with."""
    if issubclass(cls, msgspec.Struct):
        names = dict(zip(cls.__struct_fields__, cls.__struct_encode_fields__, strict=True))
    elif dataclasses.is_dataclass(cls):
        names = {field.name: field.name for field in dataclasses.fields(cls)}
    elif hasattr(cls, "__attrs_attrs__"):
        names = {field.name: field.name for field in cls.__attrs_attrs__}
    elif is_named_tuple(cls):
        names = {name: name for name in cls._fields}  # type: ignore[attr-defined]
    else:
        names = {name: name for name in hints}
    _refuse_marked_others(cls, hints, names)
    return names


def _refuse_marked_others(cls: type, hints: dict[str, object], names: Collection[str]) -> None:
    """Raise TypeError where something is marked in `hints` that is not one of the fields `names`.

    Markers that are not of privacy are left to classes that may read them themselves.
    """
    kind = Marker if issubclass(cls, (BaseModel, msgspec.Struct)) else Mark
    for name in hints.keys() - set(names):
        if any(isinstance(added, kind) for added in all_added(hints[name])):
            raise TypeError(f"{cls.__name__}.{name} is marked, and is not a field")


def hints_of(cls: type, *, excluding: Collection[str] = ()) -> dict[str, object]:
    """The annotations of `cls` and its bases; those that cannot be read when the program runs are left out.

    Raises:
        TypeError: One of these, not of a name in `excluding`, names a marker.
    """
    try:
        return typing.get_type_hints(cls, include_extras=True)
    except Exception as exc:  # annotations are foreign code
        if error_of_signal_handler(exc) is not None:
            raise
        return _readable_hints(cls, excluding)


def _readable_hints(cls: type, excluding: Collection[str]) -> dict[str, object]:
    hints: dict[str, object] = {}
    for base in reversed(cls.__mro__):
        module = sys.modules.get(base.__module__)
        for name, said in _annotations(base).items():
            hints.pop(name, None)
            if not isinstance(said, str):
                hints[name] = said
                continue
            try:
                holder = type("holder", (), {"__annotations__": {name: said}, "__module__": base.__module__})
                hints |= typing.get_type_hints(holder, vars(module) if module else {}, vars(base), include_extras=True)
            except Exception as exc:  # foreign code, likewise
                if error_of_signal_handler(exc) is not None:
                    raise
                if name not in excluding and NAMES_A_MARKER.search(said):
                    raise TypeError(f"{cls.__name__}.{name}: the annotation {said} cannot be read: {exc}") from exc
    return hints


def _annotations(base: type) -> Mapping[str, object]:
    """The annotations that `base` itself has; since 3.14, where they are evaluated when asked for, as texts."""
    if sys.version_info >= (3, 14):
        from annotationlib import Format  # noqa: PLC0415 - new in 3.14

        return inspect.get_annotations(base, format=Format.STRING)
    return inspect.get_annotations(base)
