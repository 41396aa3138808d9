"""The columns of a layout: where each takes its value from, and what it holds.

    type            holds                                                    values of an event's payload that fit
    uuid            a UUID                                                   its text
    text            text                                                     text
    varchar         text of at most `length` characters                      text
    boolean         true or false                                            true, false
    smallint        16 bits                                                  whole numbers, 5.0 too
    integer         32 bits                                                  likewise
    bigint          64 bits                                                  likewise
    real            a float of 32 bits                                       numbers
    double          a float of 64 bits                                       numbers; a whole one that a float equals
    timestamptz     a moment                                                 RFC 3339 with a zone, to the nanosecond
    json, jsonb     JSON: as it was written, or as a database takes it apart   anything
    a ColumnType    what a column of an event holds                          as the type that it corresponds to

A payload that cannot be read as JSON does not fit where a column takes a part of it. Each handler documents what it
declares them as.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias, get_args

from eventrec.errors import InvalidEventError, LayoutError
from eventrec.records.column_types import ColumnType
from eventrec.records.schema import check_name, exact_text

if TYPE_CHECKING:
    from collections.abc import Mapping

LayoutType: TypeAlias = Literal[
    "uuid",
    "text",
    "varchar",
    "boolean",
    "smallint",
    "integer",
    "bigint",
    "real",
    "double",
    "timestamptz",
    "json",
    "jsonb",
]
"""What a column of a layout holds, in words of no database: the table above."""

LayoutSourceKind: TypeAlias = Literal[
    "id", "type", "timestamp", "payload", "context", "event", "field", "generated", "default"
]

_PATHS: Final = ("payload", "context")
_WHOLE: Final = ("id", "type", "timestamp", "event", "generated", "default")


@dataclass(frozen=True, slots=True)
class LayoutSource:
    """Where a column takes its value from. The words below make them: `ID`, `from_payload("a", "b")` ….

    Attributes:
        kind: What of the record.
        path: The names that lead to a value inside the payload or the context; of `field`, the name of the column.

    Raises:
        LayoutError: A path does not fit the kind, or one of its parts is not text.
    """

    kind: LayoutSourceKind
    path: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "path", tuple(self.path))
        if self.kind not in get_args(LayoutSourceKind):
            raise LayoutError(f"a source is one of {', '.join(get_args(LayoutSourceKind))}, got {self.kind!r}")
        given: tuple[object, ...] = self.path
        if any(not isinstance(part, str) or "\0" in part for part in given):
            raise LayoutError(f"{self}: a path consists of texts without NUL")
        if (self.kind in _WHOLE and self.path) or (self.kind == "field" and len(self.path) != 1):
            raise LayoutError(f"{self}: this source has {'one name' if self.kind == 'field' else 'no path'}")
        object.__setattr__(self, "kind", exact_text(self.kind))
        object.__setattr__(self, "path", tuple(map(exact_text, self.path)))

    def __str__(self) -> str:
        if not self.path:
            return self.kind.upper()
        return f"from_{self.kind}({', '.join(map(repr, self.path))})"


ID: Final = LayoutSource("id")
"""The id of the row: a UUID."""

TYPE: Final = LayoutSource("type")
"""The type of the event."""

TIMESTAMP: Final = LayoutSource("timestamp")
"""When it happened."""

PAYLOAD: Final = LayoutSource("payload")
"""Its payload."""

CONTEXT: Final = LayoutSource("context")
"""What is known around it: NULL where there is nothing."""

EVENT: Final = LayoutSource("event")
"""The whole event as one JSON object: `type`, then the members of its payload, then its extra columns.

A member of the payload hides an extra column of the same name. A member `type` of the payload stands where another
column of the layout holds the type of the event; else it has to be the same. A payload that is neither an object nor
null does not fit.
"""

GENERATED: Final = LayoutSource("generated")
"""The database counts: never written."""

DEFAULT: Final = LayoutSource("default")
"""The column's default, in every row."""


def from_field(name: str) -> LayoutSource:
    """The extra column `name` of the event."""
    return LayoutSource("field", (name,))


def from_payload(*path: str) -> LayoutSource:
    """What stands at `path` in the payload. An absent value and null are the same."""
    return _at("payload", path)


def from_context(*path: str) -> LayoutSource:
    """What stands at `path` in the context."""
    return _at("context", path)


def _at(kind: LayoutSourceKind, path: tuple[str, ...]) -> LayoutSource:
    if not path:
        raise LayoutError(f"from_{kind}() needs the names that lead to a value; all of it is {kind.upper()}")
    return LayoutSource(kind, path)


EQUIVALENT: Final[Mapping[ColumnType, LayoutType]] = {
    ColumnType.BOOLEAN: "boolean",
    ColumnType.INT16: "smallint",
    ColumnType.INT32: "integer",
    ColumnType.INT64: "bigint",
    ColumnType.FLOAT32: "real",
    ColumnType.FLOAT64: "double",
    ColumnType.STRING: "text",
    ColumnType.DICTIONARY: "text",
    ColumnType.TIMESTAMP_NANOSECOND: "timestamptz",
    ColumnType.JSON: "jsonb",
}
"""Column types whose values a payload can hold, in the words of a layout."""

_TEXT: Final = frozenset({"text", "varchar"})
_JSON: Final = frozenset({"json", "jsonb", "text"})
_TAKES: Final[Mapping[str, frozenset[str]]] = {
    "id": _TEXT | {"uuid"},
    "type": _TEXT,
    "timestamp": frozenset({"timestamptz"}),
    "payload": _JSON,
    "context": _JSON,
    "event": _JSON,
    "generated": frozenset({"smallint", "integer", "bigint"}),
}
"""The types that a column of each whole source may have."""

_ID_CHARACTERS: Final = 36
ALWAYS_THERE: Final = frozenset({ID, TYPE, PAYLOAD, EVENT, GENERATED})
"""Sources that never lack a value."""

NOW: Final = "now"
"""The default of a moment: what the database says it is, for rows that another program writes."""


@dataclass(frozen=True, slots=True)
class LayoutColumn:
    """One column: its name, where its value comes from, and what it holds.

    `length` is for a varchar alone. `default` is stored where the record has no value; a column that is not `nullable`
    and has no default refuses such a record. Of a timestamptz it can only be "now", for rows of other programs.

    Raises:
        LayoutError: The name is not one, the type does not fit the source, or the default does not fit the type.
    """

    name: str
    source: LayoutSource
    type: LayoutType | ColumnType
    length: int | None = None
    nullable: bool = True
    default: str | int | float | bool | None = None

    def __post_init__(self) -> None:
        try:
            check_name("the name of a column", self.name)
        except InvalidEventError as exc:
            raise LayoutError(str(exc)) from exc
        given: Any = self.source
        if not isinstance(given, LayoutSource):
            raise self._refused(f"its source is a LayoutSource such as TYPE or from_payload(…), got {given!r:.60}")
        if not isinstance(self.type, ColumnType) and self.type not in get_args(LayoutType):
            raise self._refused(
                f"a type is a ColumnType or one of {', '.join(get_args(LayoutType))}: {self.type!r:.60}"
            )
        object.__setattr__(self, "name", exact_text(self.name))
        if not isinstance(self.type, ColumnType):
            object.__setattr__(self, "type", exact_text(self.type))
        if isinstance(self.default, str):
            object.__setattr__(self, "default", exact_text(self.default))
        if self.source in ALWAYS_THERE or self.source == TIMESTAMP:
            object.__setattr__(self, "nullable", False)  # there is always a value
        self._check_length()
        self._check_source()
        self._check_default()

    def __str__(self) -> str:
        kind = self.type.name if isinstance(self.type, ColumnType) else self.type
        return f"{self.name} {kind}{'' if self.length is None else f'({self.length})'}"

    @property
    def word(self) -> LayoutType | None:
        """What it holds in words of a layout; None: what only a column of an event can hold."""
        return EQUIVALENT.get(self.type) if isinstance(self.type, ColumnType) else self.type

    def _check_length(self) -> None:
        if (self.type == "varchar") != (self.length is not None):
            raise self._refused("a varchar has a length, and no other type has one")
        if self.length is not None and not (type(self.length) is int and 1 <= self.length <= MAX_LENGTH):
            raise self._refused(f"a length is 1 to {MAX_LENGTH} characters, got {self.length!r}")

    def _check_source(self) -> None:
        kind = self.source.kind
        if kind == "field":
            return
        if self.word is None:
            raise self._refused(f"{self.source} has no value of type {self}")
        if not self.source.path and kind in _TAKES and self.word not in _TAKES[kind]:
            raise self._refused(f"{self.source} is stored as {' or '.join(sorted(_TAKES[kind]))}, not as {self.word}")
        if kind == "id" and self.length is not None and self.length < _ID_CHARACTERS:
            raise self._refused(f"the text of an id has {_ID_CHARACTERS} characters")

    def _check_default(self) -> None:
        if self.source.kind == "default" and self.default is None:
            raise self._refused("a column of the source DEFAULT has a default")
        if self.default is None:
            return
        if self.source in ALWAYS_THERE:
            raise self._refused(f"{self.source} is always there: it needs no default")
        if self.word == "timestamptz":
            if self.default != NOW or self.source.kind != "timestamp":
                raise self._refused(f"the default of a moment is {NOW!r}, for TIMESTAMP alone")
        elif not _is_default(self.default, self.word):
            raise self._refused(f"its default {self.default!r:.60} is not a value of this type")
        elif isinstance(self.default, str) and self.length is not None and len(self.default) > self.length:
            raise self._refused(f"its default has {len(self.default)} characters, and it holds {self.length}")

    def _refused(self, why: str) -> LayoutError:
        return LayoutError(f"column {self.name!r} of a layout: {why}")


MAX_LENGTH: Final = 10_485_760
"""Characters of a varchar: what PostgreSQL can declare."""

RANGES: Final[Mapping[str, int]] = {"smallint": 2**15, "integer": 2**31, "bigint": 2**63}
"""The first number beyond each type of whole numbers."""


def _is_default(value: object, word: LayoutType | None) -> bool:
    match word:
        case "text" | "varchar":
            return isinstance(value, str) and "\0" not in value and _is_unicode(value)
        case "boolean":
            return isinstance(value, bool)
        case "smallint" | "integer" | "bigint":
            return type(value) is int and -RANGES[word] <= value < RANGES[word]
        case "real" | "double":
            if not isinstance(value, int | float) or type(value) not in {int, float}:
                return False
            return -LARGEST[word] <= value <= LARGEST[word]
        case _:
            return False


LARGEST: Final[Mapping[str, float]] = {"real": (2 - 2**-23) * 2.0**127, "double": sys.float_info.max}


def _is_unicode(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True
