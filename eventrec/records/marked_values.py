"""Instances of classes with marked fields inside values: found before the values are written."""

from __future__ import annotations

import enum
from collections import deque
from collections.abc import Iterator
from functools import lru_cache
from itertools import chain
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Final

import msgspec
from pydantic import BaseModel

from eventrec.errors import EncodeError
from eventrec.records.mark_rules import Leaf, has_fields
from eventrec.records.marked import fields_of, is_marked, item_rules, member_rule
from eventrec.records.model_marks import writes_marks

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from eventrec.records.mark_rules import Rule


class MarkedValueError(EncodeError):
    """What is to be encoded holds an instance of a class with fields that are marked for privacy."""


def refuse_marked(value: Any) -> None:
    """Raise MarkedValueError if an instance of a class that marks fields is anywhere in `value`, keys included."""
    for part in _parts_of_class(value.__class__)(value):
        if part.__class__ not in _WITHOUT_PARTS:
            refuse_marked(part)


@lru_cache(maxsize=4_096)  # asked of every instance
def _parts_of_class(kind: Any) -> Callable[[Any], Iterable[Any]]:
    """What gives the values inside an instance of `kind`; MarkedValueError where `kind` marks some."""
    if issubclass(kind, dict):
        return lambda value: chain(dict.keys(value), dict.values(value))
    if has_fields(kind):
        refuse_marked_class(kind)
        extra = ["__pydantic_extra__"] if issubclass(kind, BaseModel) else []
        return _attributes([field.name for field in fields_of(kind)] + extra)
    if issubclass(kind, _CONTAINERS):
        return iter
    return (lambda value: (value.value,)) if issubclass(kind, enum.Enum) else lambda _: ()


def refuse_unseen(value: Any, declared: Rule | None = None) -> None:  # noqa: C901 - a case for each kind
    """Raise MarkedValueError if pydantic's serializer would write a marked field anywhere in `value` as it is.

    It sees to those of its own classes, and to those of a class that `declared`, what the annotation says of `value`,
    names where it stands.

    Raises:
        EncodeError: There is an iterator, in which nothing can be seen before it is written.
    """
    kind: Any = value.__class__
    if kind in _WITHOUT_PARTS or isinstance(declared, Leaf):
        return
    if issubclass(kind, dict):
        for key in value:
            if key.__class__ not in _WITHOUT_PARTS:
                refuse_marked(key)  # pydantic writes a key of any kind as its text.
        rule_of_member = member_rule(declared)
        for key, part in value.items():
            refuse_unseen(part, rule_of_member(key))
    elif has_fields(kind):
        if is_marked(kind) and not writes_marks(kind, declared):
            refuse_marked_class(kind)
        for field in fields_of(kind):
            refuse_unseen(getattr(value, field.name, None), field.rule)
        refuse_unseen(getattr(value, "__pydantic_extra__", None))
    elif issubclass(kind, _CONTAINERS):
        for part, rule in zip(value, item_rules(declared, len(value)), strict=True):
            refuse_unseen(part, rule)
    elif issubclass(kind, enum.Enum):
        refuse_unseen(value.value, declared)
    elif issubclass(kind, Iterator):
        raise EncodeError(f"not a JSON value: a {kind.__name__}, in which nothing can be seen before it is written")


def _attributes(names: list[str]) -> Callable[[Any], Iterable[Any]]:
    if len(names) < 2:  # noqa: PLR2004 - of one an attrgetter gives no tuple
        return lambda value: [getattr(value, name, None) for name in names]
    all_of = attrgetter(*names)

    def parts_of(value: Any) -> Iterable[Any]:
        try:
            return all_of(value)
        except AttributeError:  # One was deleted, or never set.
            return [getattr(value, name, None) for name in names]

    return parts_of


def refuse_marked_class(kind: type) -> None:
    """Raise MarkedValueError if `kind` itself marks a field."""
    if is_marked(kind):
        raise MarkedValueError(f"a {kind.__name__}, which has marked fields, stands where nothing sees to them")


_WITHOUT_PARTS: Final = frozenset({str, int, float, bool, type(None), msgspec.UnsetType})
_CONTAINERS: Final = (list, tuple, set, frozenset, deque)
