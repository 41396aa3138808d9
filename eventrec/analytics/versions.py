"""Versions of event classes: which one a class has, which one a payload carries, and how an older one becomes newer.

A version is a field of the class, `schema_version: Literal[2] = 2`, and so a member of the payload: what every
destination stores, and every reader gives back. A class without the field is version 1, and so is a payload without
the member: those are what was recorded before there were versions. Recording costs the field, and nothing without it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Generic, Literal, TypeVar, get_args, get_origin, get_type_hints

import msgspec

from eventrec.errors import CatalogueError, DecodeError
from eventrec.events.event import EventModel, EventStruct
from eventrec.records.annotations import unwrapped
from eventrec.records.marked import rules_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from eventrec.events.plans import ClassPlan

FIRST_VERSION: Final = 1
"""That of a class without the field, and of a payload without the member."""

Before = TypeVar("Before", bound=EventModel | EventStruct)
After = TypeVar("After", bound=EventModel | EventStruct)


@dataclass(frozen=True, slots=True)
class Upgrade(Generic[Before, After]):
    """How an event of an older class becomes one of a newer class of the same type.

        Upgrade(OrderPlacedV1, OrderPlaced, lambda old: OrderPlaced(order_id=old.order_id, currency="EUR"))

    Attributes:
        before: The older class.
        after: The newer class, usually the next version.
        convert: Takes an instance of `before`, gives one of `after`. What it raises is raised as DecodeError.
    """

    before: type[Before]
    after: type[After]
    convert: Callable[[Before], After]

    def apply(self, event: Before) -> After:
        """`event` as an instance of `after`.

        Raises:
            DecodeError: `convert` raises, or gives something else.
        """
        names = f"the upgrade from {named(self.before)} to {named(self.after)}"
        try:
            upgraded = self.convert(event)
        except Exception as exc:
            raise DecodeError(f"{names} raised {type(exc).__name__}") from exc
        if not isinstance(upgraded, self.after):
            raise DecodeError(f"{names} gave {_article(type(upgraded).__name__)}")
        return upgraded


def named(cls: object) -> str:
    """A class with its module: two classes that clash often have one name."""
    module, name = getattr(cls, "__module__", None), getattr(cls, "__qualname__", None)
    return f"{module}.{name}" if module and name else repr(cls)


def version_of(cls: type[EventModel | EventStruct], plan: ClassPlan, field: str) -> int:
    """The version that `cls` declares with `field`; 1 where it has no such field.

    Raises:
        CatalogueError: The field is not declared as a version is, or would not stand in every payload as it is.
    """
    annotation, default, is_written = _field_of(cls, field)
    if annotation is None:
        return FIRST_VERSION
    plain, _ = unwrapped(annotation)
    values = get_args(plain) if get_origin(plain) is Literal else ()
    subject = f"{named(cls)}.{field}"
    match values:
        case (int() as version,) if not isinstance(version, bool) and version >= FIRST_VERSION:
            pass
        case _:
            raise CatalogueError(
                f"{subject} is not a version: write `{field}: Literal[2] = 2`, "
                "or give the catalogue another version_field"
            )
    if default != version or isinstance(default, bool):
        raise CatalogueError(f"{subject} is Literal[{version}] and needs the default {version}")
    if not is_written or field in plan.fields.excluded or field in rules_of(cls):
        raise CatalogueError(
            f"{subject} would not stand in every payload as {field!r}: "
            "a version is not a column, not marked, not excluded, not renamed, and not left out as a default"
        )
    return version


def _field_of(cls: type[EventModel | EventStruct], field: str) -> tuple[object, object, bool]:
    """The annotation of `field`, or None without it; its default; whether it is always written under this name."""
    if issubclass(cls, EventStruct):
        names = dict(zip(cls.__struct_fields__, cls.__struct_encode_fields__, strict=True))
        if field not in names:
            return None, None, False
        found = next(each for each in msgspec.structs.fields(cls) if each.name == field)
        config = cls.__struct_config__
        is_written = names[field] == field and not config.omit_defaults and not config.array_like
        return get_type_hints(cls, include_extras=True)[field], found.default, is_written
    info = cls.model_fields.get(field)
    if info is None:
        return None, None, False
    is_renamed = bool(cls.model_config.get("serialize_by_alias")) and info.serialization_alias not in (None, field)
    return info.annotation, info.default, not (info.exclude or info.exclude_if or is_renamed)


class VersionReader:
    """Reads the version out of payloads: the member `field`."""

    def __init__(self, field: str) -> None:
        self._field = field
        member = msgspec.defstruct(
            "Versioned",
            [("version", msgspec.Raw, msgspec.Raw())],
            rename={"version": field},
            gc=False,
        )
        self._decode: Callable[[bytes | str], Any] = msgspec.json.Decoder(member).decode

    def __call__(self, payload: bytes, *, is_versioned: bool) -> int:
        """The version that `payload` carries.

        Where its type has no class with the field (`is_versioned` is false), the application may have a member of that
        name for a purpose of its own, so that only a whole number counts as a version.

        Raises:
            DecodeError: It is not JSON, or the member is not a whole number from 1.
        """
        try:
            said = self._decode(payload).version
        except msgspec.ValidationError:  # Not an object: there is no member in it.
            return FIRST_VERSION
        except (ValueError, RecursionError, msgspec.MsgspecError) as exc:
            raise DecodeError(f"a payload of {len(payload)} bytes is not JSON: {exc}") from exc
        text = bytes(said)
        if not text:
            return FIRST_VERSION
        if text.isdigit() and len(text) < _MAX_DIGITS and int(text) >= FIRST_VERSION:
            return int(text)
        if is_versioned:
            raise DecodeError(f"the member {self._field!r} of a payload is not a version")
        return FIRST_VERSION


_MAX_DIGITS: Final = 10


def _article(kind: str) -> str:
    return f"{'an' if kind[:1].lower() in 'aeiou' else 'a'} {kind}"
