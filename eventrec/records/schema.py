"""Columns of rows, and the shape that records of one kind share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

import msgspec

from eventrec.errors import InvalidEventError
from eventrec.records.column_types import MAX_PRECISION, ColumnType, SemanticType
from eventrec.records.normalizers import NORMALIZERS, Normalizer

Row: TypeAlias = Sequence[object]
"""The values of one row's extra columns, in the order of the extra schema; None is NULL."""

MAX_NAME_BYTES: Final = 255
MAX_COLUMNS: Final = 1_000


@dataclass(frozen=True, slots=True)
class ColumnSchema:
    """One column. `precision` and `scale` are for DECIMAL128 alone, `dimensions` for VECTOR alone.

    Raises:
        InvalidEventError: The name is empty, holds NUL, or is longer than 255 bytes; `type` or `semantic` is not one;
            a parameter is not an int, or does not fit the type.
    """

    name: str
    type: ColumnType
    semantic: SemanticType = SemanticType.FIELD
    precision: int | None = None
    scale: int | None = None
    dimensions: int | None = None

    def __post_init__(self) -> None:
        check_name("column", self.name)
        if not isinstance(self.type, ColumnType):
            raise InvalidEventError(f"column {self.name!r}: a type is a ColumnType, got {self.type!r:.60}")
        if not isinstance(self.semantic, SemanticType):
            raise InvalidEventError(f"column {self.name!r}: semantic is a SemanticType, got {self.semantic!r:.60}")
        if type(self.name) is not str:
            object.__setattr__(self, "name", exact_text(self.name))
        if (self.precision, self.scale, self.dimensions) != (None, None, None):
            self._check_parameters()

    def _check_parameters(self) -> None:
        for given in (self.precision, self.scale, self.dimensions):
            if given is not None and type(given) is not int:
                raise InvalidEventError(f"column {self.name!r}: a parameter is a whole number, got {given!r:.60}")
        if self.type is not ColumnType.DECIMAL128 and (self.precision, self.scale) != (None, None):
            raise InvalidEventError(
                f"column {self.name!r}: precision and scale are for DECIMAL128, not {self.type.name}"
            )
        if self.type is not ColumnType.VECTOR and self.dimensions is not None:
            raise InvalidEventError(f"column {self.name!r}: dimensions are for VECTOR, not {self.type.name}")
        if self.dimensions is not None and self.dimensions < 1:
            raise InvalidEventError(f"column {self.name!r}: a VECTOR has dimensions, got {self.dimensions}")
        precision = MAX_PRECISION if self.precision is None else self.precision
        if not (1 <= precision <= MAX_PRECISION and 0 <= (self.scale or 0) <= precision):
            raise InvalidEventError(
                f"column {self.name!r}: precision is 1 to {MAX_PRECISION} and scale 0 to precision, "
                f"got {self.precision} and {self.scale}"
            )

    def __str__(self) -> str:
        return f"{self.name} {self.type.name}"

    def __hash__(self) -> int:
        # Shapes are looked up by their columns with every event; the names alone tell nearly all of them apart.
        return hash(self.name)


class Shape(msgspec.Struct, gc=False, eq=False):
    """What the records of one kind share: table, type and extra columns. Compared by value, cheap by identity.

    A Struct that the garbage collector does not see, for then it does not see the tuples of a long queue either, each
    of which holds its shape: with a million of them waiting, `record()` would cost three times as much.

    Raises:
        InvalidEventError: A name is empty, overlong or holds NUL; a column is named like a base column, or twice.
    """

    table: str
    type: str
    columns: tuple[ColumnSchema, ...] = ()
    normalizers: tuple[Normalizer, ...] = ()
    """What turns a given value of each column into the kept one; made here."""

    def __post_init__(self) -> None:
        check_name("table", self.table)
        check_name("type", self.type)
        self.table = exact_text(self.table)
        self.type = exact_text(self.type)
        self.columns = tuple(self.columns)
        check_columns(self.columns)
        self.normalizers = tuple(NORMALIZERS[column.type](column) for column in self.columns)

    def __repr__(self) -> str:
        return f"Shape({self.table!r}, {self.type!r}, {[str(column) for column in self.columns]})"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Shape):
            return NotImplemented
        return (self.table, self.type, self.columns) == (other.table, other.type, other.columns)

    def __ne__(self, other: object) -> bool:
        return not self == other  # A Struct brings a `!=` of its own, which does not ask the method above.

    def __hash__(self) -> int:
        return hash((self.table, self.type, self.columns))


def check_name(what: str, name: object) -> None:
    """Raise InvalidEventError unless `name` is a text of 1 to 255 UTF-8 bytes without NUL."""
    if not isinstance(name, str):
        raise InvalidEventError(f"{what} must be text, got {type(name).__name__}")
    try:
        size = len(name.encode())
    except UnicodeEncodeError as exc:
        raise InvalidEventError(f"{what} {name!r} is not valid Unicode: {exc.reason}") from exc
    if not name or size > MAX_NAME_BYTES or "\0" in name:
        raise InvalidEventError(f"{what} must be 1 to {MAX_NAME_BYTES} bytes without NUL, got {size}: {name[:40]!r}")


def exact_text(given: str) -> str:
    """What `given` is, whatever a subclass of str says that it looks like: JSON and msgpack take nothing else."""
    return str.__str__(given)


def check_columns(columns: Sequence[ColumnSchema]) -> None:
    """Raise InvalidEventError if `columns` are too many, share a name, or take a base column's."""
    if len(columns) > MAX_COLUMNS:
        raise InvalidEventError(f"at most {MAX_COLUMNS} extra columns are allowed, got {len(columns)}")
    seen: set[str] = set()
    for column in columns:
        if not isinstance(column, ColumnSchema):
            raise InvalidEventError(f"an extra column must be a ColumnSchema, got {type(column).__name__}")
        if column.name in BASE_NAMES:
            raise InvalidEventError(f"extra column {column.name!r} has the name of a base column: {sorted(BASE_NAMES)}")
        if column.name in seen:
            raise InvalidEventError(f"extra column {column.name!r} is declared twice")
        seen.add(column.name)


BASE_COLUMNS: Final = (
    ColumnSchema("id", ColumnType.STRING),
    ColumnSchema("type", ColumnType.STRING, SemanticType.TAG),
    ColumnSchema("timestamp", ColumnType.TIMESTAMP_NANOSECOND, SemanticType.TIMESTAMP),
    ColumnSchema("payload", ColumnType.JSON),
)
CONTEXT_COLUMN: Final = ColumnSchema("context", ColumnType.JSON)
BASE_NAMES: Final = frozenset({*(column.name for column in BASE_COLUMNS), CONTEXT_COLUMN.name})
