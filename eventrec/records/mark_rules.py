"""What the markers in one annotation ask for: a rule, or a TypeError where a marker has no effect.

A `Leaf` replaces a value, `Each` looks at its items or values, `Positions` at a tuple's, `Fields` at the fields of a
class or the keys of a TypedDict, `AnyOf` at those of several classes of a union, `Members` at what has a name.
"""

from __future__ import annotations

import collections.abc
import dataclasses
import types
import typing
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, TypeAlias, Union, get_args, get_origin

import msgspec
from pydantic import BaseModel, RootModel
from pydantic.functional_serializers import PlainSerializer, WrapSerializer

from eventrec.records.annotations import all_added, alternatives, is_alias, opened, shown
from eventrec.records.marks import Hashed, Mark, Truncated, may_be_text

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from eventrec.records.annotations import Aliases


@dataclass(frozen=True, slots=True)
class Leaf:
    """A marked value; `is_text`: its field can hold text."""

    mark: Mark
    is_text: bool


@dataclass(frozen=True, slots=True)
class Each:
    """Each item of a list, set or tuple; each value of a mapping."""

    rule: Rule


@dataclass(frozen=True, slots=True)
class Positions:
    """The items of a tuple of fixed length."""

    rules: tuple[Rule | None, ...]


@dataclass(frozen=True, slots=True)
class Fields:
    """What `cls` declares; read when it is needed, for classes may hold themselves."""

    cls: type


@dataclass(frozen=True, slots=True)
class AnyOf:
    """The classes of a union."""

    rules: tuple[Rule, ...]


@dataclass(frozen=True, slots=True)
class Members:
    """The members of an object that have these names."""

    by_name: Mapping[str, Rule]


Rule: TypeAlias = "Leaf | Each | Positions | Fields | AnyOf | Members"


@dataclass(frozen=True, slots=True)
class Place:
    """The field whose annotation is read; `within` are the aliases and RootModels in which what is read stands."""

    name: str
    within: Aliases = frozenset()
    _met_again: set[object] = field(default_factory=set)
    recursive: list[tuple[object, Rule]] = field(default_factory=list)
    """What stands in itself, and its rule, which says nothing of what is in it a second time."""

    def __str__(self) -> str:
        return self.name

    def meet_again(self, alias: object) -> None:
        """Note that `alias`, in which what is read stands, is named in it."""
        self._met_again.add(alias)

    def inside(self, aliases: Aliases) -> Place:
        """What stands in `aliases` too."""
        return dataclasses.replace(self, within=self.within | aliases)

    def note(self, rule: Rule | None, aliases: Aliases) -> None:
        """Note the rule of `aliases`, which have been read, where one of them stands in itself."""
        if rule is not None:
            self.recursive.extend((alias, rule) for alias in aliases & self._met_again)


def rule_of(where: Place, annotation: object) -> Rule | None:
    """What the markers in `annotation`, the one of the field `where`, ask for; None: nothing.

    Raises:
        TypeError: One of them has no effect where it stands.
    """
    plain, metadata, within = opened(annotation, where.within)
    aliases = within - where.within
    rule = _rule_with(where.inside(aliases), plain, metadata)
    where.note(rule, aliases)
    return rule


def _rule_with(where: Place, plain: object, metadata: list[object]) -> Rule | None:
    marks = [added for added in metadata if isinstance(added, Mark)]
    if len(marks) > 1:
        raise TypeError(f"{where}: one of Hashed(), Redacted(), Truncated() and Allowed() at a time")
    if not marks:
        alias = get_origin(plain) or plain
        if is_alias(alias):  # It stands in itself, or it would have been opened.
            where.meet_again(alias)
            return None
        return _rule_inside(where, plain)
    (mark,) = marks
    if next(all_marks(plain, where.within), None) is not None:
        raise TypeError(f"{where}: {_spelled(mark)} marks all of it, and inside it something is marked again")
    if any(isinstance(added, (PlainSerializer, WrapSerializer)) for added in metadata):
        raise TypeError(f"{where}: {_spelled(mark)} and a serializer stand at one value; keep one of them")
    _refuse_kinds(where, plain, mark)
    return Leaf(mark, may_be_text(plain))


def _refuse_kinds(where: Place, plain: object, mark: Mark) -> None:
    kinds = list(alternatives(plain))
    if isinstance(mark, Truncated) and not all(isinstance(kind, type) and issubclass(kind, str) for kind in kinds):
        raise TypeError(f"{where}: Truncated() marks text, not {shown(plain)}")
    if isinstance(mark, Hashed):
        for kind in kinds:
            origin = get_origin(kind) or kind
            if isinstance(origin, type) and (issubclass(origin, _CONTAINERS) or declares_fields(origin)):
                raise TypeError(f"{where}: Hashed() marks single values, not {shown(plain)}: mark what is in it")


_CONTAINERS: Final = (dict, list, tuple, set, frozenset, collections.abc.Mapping, collections.deque)


def _rule_inside(where: Place, plain: Any) -> Rule | None:
    origin, parts = get_origin(plain), get_args(plain)
    if origin is None:
        return _rule_of_class(where, plain)
    if origin in (Union, types.UnionType):
        return _rule_of_union(where, parts)
    if origin in _WRAPPERS:
        return rule_of(where, parts[0])
    if any(True for part in parts for _ in all_marks(part)):
        return _rule_of_container(where, plain, parts)
    if isinstance(origin, type) and declares_fields(origin):
        return Fields(origin)
    # No marker here, but perhaps in the classes that are named here.
    inside = parts if origin is not Literal else ()
    return _any_of([rule_of(where, part) for part in inside], each=True)


def _rule_of_class(where: Place, cls: object) -> Rule | None:
    if not isinstance(cls, type) or not declares_fields(cls):
        return None
    if issubclass(cls, RootModel) and "root" in cls.model_fields:  # written as what it holds
        if cls in where.within:
            where.meet_again(cls)
            return None
        root = cls.model_fields["root"]
        annotation: Any = root.annotation
        for added in root.metadata:
            annotation = Annotated[annotation, added]
        itself: Aliases = frozenset({cls})
        rule = rule_of(where.inside(itself), annotation)
        where.note(rule, itself)
        return rule
    return Fields(cls)


def _rule_of_container(where: Place, plain: object, parts: tuple[Any, ...]) -> Rule | None:
    origin: Any = get_origin(plain)
    if not isinstance(origin, type):
        raise TypeError(f"{where}: a marker inside {shown(plain)} has no effect")
    if declares_fields(origin):
        raise TypeError(f"{where}: a marker as a type parameter of {origin.__name__} has no effect: mark its fields")
    if issubclass(origin, tuple) and ... not in parts:
        return Positions(tuple(rule_of(where, part) for part in parts))
    if issubclass(origin, collections.abc.Mapping):
        if next(all_marks(parts[0]), None) is not None:
            raise TypeError(f"{where}: the keys of a mapping cannot be marked; mark the whole with Redacted()")
        return _each(rule_of(where, parts[1]))
    if issubclass(origin, collections.abc.Iterable) and len(parts) - (... in parts) == 1:
        return _each(rule_of(where, parts[0]))
    raise TypeError(f"{where}: a marker inside {shown(plain)} has no effect")


def _rule_of_union(where: Place, parts: tuple[Any, ...]) -> Rule | None:
    members = [part for part in parts if part not in (type(None), msgspec.UnsetType)]
    if len(members) == 1:
        return rule_of(where, members[0])
    for part in members:
        for mark in all_marks(part):
            plain = " | ".join(shown(each) for each in parts)
            raise TypeError(
                f"{where}: {_spelled(mark)} stands at one member of a union, and a value may be another one; "
                f"write Annotated[{plain}, {_spelled(mark)}]"
            )
    return _any_of([rule_of(where, part) for part in members])


def _any_of(rules: Sequence[Rule | None], *, each: bool = False) -> Rule | None:
    given = tuple(rule for rule in rules if rule is not None)
    if not given:
        return None
    rule = given[0] if len(given) == 1 else AnyOf(given)
    return Each(rule) if each else rule


def _each(rule: Rule | None) -> Rule | None:
    return None if rule is None else Each(rule)


_WRAPPERS: Final = tuple(
    getattr(typing, name) for name in ("Required", "NotRequired", "ReadOnly", "Final") if hasattr(typing, name)
)


def all_marks(annotation: object, within: Aliases = frozenset()) -> Iterator[Mark]:
    """The markers anywhere in `annotation`, not in the classes that it names, nor in the aliases `within`."""
    return (added for added in all_added(annotation, within) if isinstance(added, Mark))


def _spelled(mark: Mark) -> str:
    return f"Truncated({mark.length})" if isinstance(mark, Truncated) else f"{type(mark).__name__}()"


# -- classes ----------------------------------------------------------------------------------------------------------


@lru_cache(maxsize=4_096)  # asked of every value that is not plain
def has_fields(cls: type) -> bool:
    """Whether instances of `cls` are written as their fields, by msgspec or pydantic."""
    return (
        issubclass(cls, (msgspec.Struct, BaseModel))
        or dataclasses.is_dataclass(cls)
        or hasattr(cls, "__attrs_attrs__")
        or is_named_tuple(cls)
    )


def declares_fields(cls: type) -> bool:
    """Whether `cls` names its fields: such a class, or a TypedDict, of which no instance knows."""
    return has_fields(cls) or is_typed_dict(cls)


def is_typed_dict(cls: type) -> bool:
    """Whether `cls` is a TypedDict, of `typing` or `typing_extensions`."""
    return issubclass(cls, dict) and hasattr(cls, "__total__") and hasattr(cls, "__required_keys__")


def is_named_tuple(cls: type) -> bool:
    """Whether `cls` is a tuple with names."""
    return issubclass(cls, tuple) and hasattr(cls, "_fields")
