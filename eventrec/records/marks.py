"""Markers of privacy in annotations, and which fields of a class they stand at.

marker          what is recorded in place of the value (None stays None)
`Hashed()`      its salted SHA-256 as text: the same person is the same text, in this application alone
`Redacted()`    the text "[redacted]"; null where the field cannot hold text
`Truncated(n)`  its first `n` characters
`Allowed()`     the value itself: for `policy="allowlist"`, which refuses what has no marker
"""

from __future__ import annotations

import typing
from abc import ABC, abstractmethod
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any, Final

from pydantic_core import core_schema

from eventrec.records.annotations import Marker, alternatives

if TYPE_CHECKING:
    from pydantic import GetCoreSchemaHandler

REDACTED: Final = "[redacted]"
"""What stands in place of a text that is not recorded."""


class Mark(Marker):
    """What all markers of privacy are."""

    __slots__ = ()

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler | None = None
    ) -> core_schema.CoreSchema:
        """Have pydantic's serializer ask the recorder, which hands itself over as the context; others see no change."""
        if handler is None:  # Called on the class: `refuse_bare_markers` names it, with the field at which it stands.
            return source(self)  # type: ignore[no-any-return] # `source` is the handler then
        schema = handler(source)
        if isinstance(self, Allowed):
            return schema
        masked: Any = dict(schema)
        masked["serialization"] = core_schema.wrap_serializer_function_ser_schema(
            MarkedSerializer(self, may_be_text(source)), info_arg=True, schema=schema
        )
        return masked  # type: ignore[no-any-return] # a schema, of whichever kind `schema` is


@dataclass(frozen=True, slots=True)
class Hashed(Mark):
    """Marks a text, number, UUID or time that is recorded as its SHA-256 with the option `hash_salt`.

    64 hexadecimal digits: the same value gives the same digits wherever the salt is the same. Without the option the
    event is refused. A column of it is text.
    """


@dataclass(frozen=True, slots=True)
class Redacted(Mark):
    """Marks a value that is not recorded: "[redacted]" stands in its place, or null where there can be no text."""


@dataclass(frozen=True, slots=True)
class Truncated(Mark):
    """Marks a text of which the first `length` characters are recorded.

    Raises:
        TypeError: `length` is not a whole number of characters.
    """

    length: int

    def __post_init__(self) -> None:
        given: object = self.length
        if not isinstance(given, int) or isinstance(given, bool) or given < 0:
            raise TypeError(f"Truncated() takes a number of characters from 0, got {type(given).__name__}")


@dataclass(frozen=True, slots=True)
class Allowed(Mark):
    """Marks a value that is recorded as it is, also under `policy="allowlist"`; with all that is in it."""


MASKS: Final = (Hashed, Redacted, Truncated)
"""Those that replace a value."""


class Masker(ABC, dict[str, object]):
    """Says what is recorded in place of marked values. pydantic carries it to its serializers as their context.

    A dict, since serializers of an application ask theirs for keys.
    """

    @abstractmethod
    def mask(self, mark: Mark, value: object, *, is_text: bool) -> object:
        """What is recorded in place of `value`; `is_text`: its field can hold text. Raises nothing."""


class MarkedSerializer:
    """Stands in a core schema where a marker is."""

    __slots__ = ("_is_text", "mark")

    def __init__(self, mark: Mark, is_text: bool) -> None:  # noqa: FBT001 - made in one place
        self.mark = mark
        self._is_text = is_text

    def __call__(
        self, value: Any, handler: core_schema.SerializerFunctionWrapHandler, info: core_schema.SerializationInfo[Any]
    ) -> object:
        """The value as it is recorded, or, for all others, as pydantic shows it."""
        masker = info.context
        return masker.mask(self.mark, value, is_text=self._is_text) if isinstance(masker, Masker) else handler(value)


def may_be_text(annotation: object) -> bool:
    """Whether a field of `annotation` can hold any text."""
    kinds = list(alternatives(annotation))
    return any(
        kind in (Any, object)
        or isinstance(kind, typing.TypeVar)
        or (isinstance(kind, type) and issubclass(kind, str) and not issubclass(kind, Enum))
        for kind in kinds
    )
