"""Tables with a layout: how they are made, and the rows of one as fields of a binary COPY.

column of a layout     declared
uuid, text, varchar    uuid, text, character varying(length)
boolean                boolean
smallint … bigint      smallint, integer, bigint
real, double           real, double precision
timestamptz            timestamp with time zone
json, jsonb            json, jsonb
a ColumnType           as `columns.py` says
GENERATED              smallserial, serial, bigserial
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import chain
from struct import Struct
from typing import TYPE_CHECKING, Any, Final

from eventrec import GENERATED, TIMESTAMP, ColumnType, LayoutError
from eventrec_handlers._sql import Refusals, ids_to_keep, quoted, refuse_laid_out
from eventrec_handlers.postgres.checkpoints import literal
from eventrec_handlers.postgres.columns import NULL, STORED, json_refusal, jsonb_field, pack_length, text_field
from eventrec_handlers.postgres.turns import SLICE

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from eventrec import Layout, LayoutColumn, LayoutIndex, LayoutRows, LayoutType
    from eventrec_handlers._sql import TablePlan
    from eventrec_handlers.postgres.columns import Encode
    from eventrec_handlers.postgres.turns import Turns

_WORDS: Final[Mapping[LayoutType, str]] = {
    "double": "double precision",
    "timestamptz": "timestamp with time zone",
    "varchar": "character varying",
}
_SERIAL: Final = {"smallint": "smallserial", "integer": "serial", "bigint": "bigserial"}


def declared_as(column: LayoutColumn) -> str:
    """The type of `column`, spelled as `format_type` spells it."""
    if isinstance(column.type, ColumnType):
        return STORED[column.type][0]
    declared = _WORDS.get(column.type, column.type)
    return declared if column.length is None else f"{declared}({column.length})"


def spelled(column: LayoutColumn) -> str:
    """How the type of `column` is read back: without a length, which widens, and without how it is filled."""
    return "text" if column.type == "varchar" else declared_as(column)


LONGEST_NAME: Final = 63
"""Bytes that PostgreSQL keeps of a name, as it is mostly built."""


def check_names(layout: Layout) -> None:
    """Raise LayoutError where PostgreSQL would cut off a name of `layout`."""
    for name in (layout.table, *(column.name for column in layout.columns), *(each.name for each in layout.indexes)):
        if (size := len(name.encode())) > LONGEST_NAME:
            raise LayoutError(
                f"the layout of table {layout.table!r}: {name!r} has {size} bytes, and PostgreSQL holds {LONGEST_NAME}"
            )


def conflict(column: LayoutColumn, declared: str) -> str | None:
    """Why a column that is `declared` so, as `catalog.py` spells it, does not take the fields of `column`."""
    return None if declared == spelled(column) else f"the table declares it {declared}"


# -- making the table -------------------------------------------------------------------------------------------------


def create_table(layout: Layout, name: str, *, divides: bool = True) -> str:
    """The statement that makes the table as `name`, in SQL, where there is none.

    `divides`: with native partitions, where the layout has some.
    """
    parts = [definition(column) for column in layout.columns]
    if layout.primary_key:
        parts.append(f"PRIMARY KEY ({', '.join(map(quoted, layout.primary_key))})")
    time = layout.column_of(TIMESTAMP)
    by = "" if layout.partition is None or time is None or not divides else f" PARTITION BY RANGE ({quoted(time.name)})"
    return f"CREATE TABLE IF NOT EXISTS {name} ({', '.join(parts)}){by}"


def indexed(index: LayoutIndex, table: str) -> str:
    """What `index` is on, in the statement that makes it: `table`, in SQL, and its columns."""
    columns = ", ".join(f"{quoted(name)}{' DESC' * (name in index.descending)}" for name in index.columns)
    where = " AND ".join(f"{quoted(name)} IS NOT NULL" for name in index.where_not_null)
    using = " USING gin" if index.kind == "json" else ""
    return f"ON {table}{using} ({columns}){where and f' WHERE {where}'}"


def definition(column: LayoutColumn) -> str:
    """`column` in the statement that makes it."""
    name = quoted(column.name)
    if column.source == GENERATED:
        return f"{name} {_SERIAL[column.word or 'bigint']}"
    default = "" if column.default is None else f" DEFAULT {default_of(column)}"
    return f"{name} {declared_as(column)}{' NOT NULL' * (not column.nullable)}{default}"


def default_of(column: LayoutColumn) -> str:
    """The default of `column`, in SQL."""
    value = column.default
    if column.source == TIMESTAMP:
        return "now()"
    if isinstance(value, bool):
        return str(value).lower()
    return literal(value) if isinstance(value, str) else repr(value)


# -- rows -------------------------------------------------------------------------------------------------------------

_pack_row: Final = Struct(">h").pack
_UUID: Final = b"\0\0\0\x10"


def _uuid_field(value: bytes) -> bytes:
    return _UUID + value


def _json_field(value: bytes) -> bytes:
    return pack_length(len(value)) + value


_FIELDS: Final[Mapping[LayoutType, Encode]] = {
    "uuid": _uuid_field,
    "text": text_field,
    "varchar": text_field,
    "boolean": STORED[ColumnType.BOOLEAN][1],
    "smallint": STORED[ColumnType.INT16][1],
    "integer": STORED[ColumnType.INT32][1],
    "bigint": STORED[ColumnType.INT64][1],
    "real": STORED[ColumnType.FLOAT32][1],
    "double": STORED[ColumnType.FLOAT64][1],
    "timestamptz": STORED[ColumnType.TIMESTAMP_NANOSECOND][1],
    "json": _json_field,
    "jsonb": jsonb_field,
}


@dataclass(frozen=True, slots=True)
class LaidOut:
    """The rows of a table with a layout: what `copy.Rows` is for the others. `wanted` are (name, declared type)."""

    rows: LayoutRows
    wanted: tuple[tuple[str, str], ...]
    _ahead: dict[int, bytes] = field(default_factory=dict, repr=False)
    """Slices with all columns that were encoded before they were asked for, by their start."""

    @classmethod
    def of(cls, rows: LayoutRows) -> LaidOut:
        return cls(rows, tuple((column.name, spelled(column)) for column in rows.columns))

    @property
    def layout(self) -> Layout:
        """How the table is made."""
        return self.rows.layout

    @property
    def table(self) -> str:
        return self.rows.layout.table

    @property
    def key(self) -> tuple[str, object]:
        """What tells the shapes of rows apart."""
        return self.table, self.rows.layout

    @property
    def offsets(self) -> Sequence[int]:
        """For each row the offset of its record."""
        return self.rows.offsets

    @property
    def kept_ids(self) -> Sequence[bytes | None]:
        """For each row the id that its record brought with it, where the table has no column for it."""
        return ids_to_keep(self.rows)

    def kind_of(self, row: int) -> str:
        """The type of the event that a row belongs to."""
        return self.rows.types[row]

    def only(self, kept: Sequence[bool]) -> LaidOut:
        """Those rows for which `kept` is true."""
        return self if all(kept) else LaidOut(self.rows.only(kept), self.wanted)

    def refuse(self, plan: TablePlan, refusals: Refusals) -> None:
        """Note the records that do not fit the layout, and those for which `plan` has no room."""
        for offset, why in self.rows.refused.items():
            refusals.add(offset, why)
        if plan.refused_table is not None:
            for offset in self.offsets:
                refusals.add(offset, f"table {self.table!r}: {plan.refused_table}")
        for i, (name, _) in enumerate(self.wanted if plan.refused else ()):
            if (reason := plan.refused.get(name)) is not None:
                for row, value in enumerate(self.rows.values[i]):
                    if value is not None:
                        self.refuse_value(refusals, row, i, value, reason)

    def refuse_cut(self, limits: Mapping[str, int], refusals: Refusals) -> None:
        """Note the records with a text whose last blanks a column of `limits` would cut off, and say nothing."""
        for i, (name, declared) in enumerate(self.wanted if limits else ()):
            if (most := limits.get(name)) is not None and declared == "text":
                for row, value in enumerate(self.rows.values[i]):
                    if isinstance(value, str) and len(value) > most and not value[most:].strip(" "):
                        why = f"the table declares it character varying({most}), and would cut off blanks at its end"
                        self.refuse_value(refusals, row, i, value, why)

    def refuse_value(self, refusals: Refusals, row: int, i: int, value: object, why: str) -> None:
        """Note that the column `i` cannot take the `value` of a row."""
        column = self.rows.columns[i]
        refuse_laid_out(self.rows, refusals, row, column, value=value, declared=self.wanted[i][1], why=why)

    def taken(self, plan: TablePlan) -> tuple[int, ...]:
        """The columns to write. One that `plan` refuses holds nothing but NULL, and is left out."""
        return tuple(i for i, (name, _) in enumerate(self.wanted) if name not in plan.refused)

    async def encode_ahead(self, turns: Turns) -> None:
        """Encode all slices now; one that holds what PostgreSQL cannot is left to be refused in its turn."""
        if self.rows.refused:
            return
        every = tuple(range(len(self.wanted)))
        for start in range(0, len(self.rows), SLICE):
            refusals = Refusals()
            data = self.encoded(start, every, refusals)
            if not refusals.reasons:
                self._ahead[start] = data
            await turns.after(min(SLICE, len(self.rows) - start))

    def is_ahead(self, start: int, taken: Sequence[int]) -> bool:
        """Whether the slice from `start` on is encoded with these columns."""
        return len(taken) == len(self.wanted) and start in self._ahead

    def encoded(self, start: int, taken: Sequence[int], refusals: Refusals) -> bytes:
        """The rows from `start` on, at most `SLICE`, with the columns `taken`."""
        if len(taken) == len(self.wanted) and (ahead := self._ahead.pop(start, None)) is not None:
            return ahead
        end = min(start + SLICE, len(self.rows))
        pieces: list[Iterable[bytes]] = [[_pack_row(len(taken))] * (end - start)]
        for i in taken:
            column = self.rows.columns[i]
            encode = STORED[column.type][1] if isinstance(column.type, ColumnType) else _FIELDS[column.type]
            pieces.append(self._fields(start, i, self.rows.values[i][start:end], encode, refusals))
        return b"".join(chain.from_iterable(zip(*pieces, strict=True)))

    def _fields(self, start: int, i: int, values: Sequence[Any], encode: Encode, refusals: Refusals) -> Sequence[bytes]:
        is_jsonb = self.wanted[i][1] == "jsonb"
        made: list[bytes] = []
        for row, value in enumerate(values, start):
            made.append(NULL)
            if value is None:
                continue
            try:
                made[-1] = encode(value)
            except ValueError as exc:
                self.refuse_value(refusals, row, i, value, str(exc))
            if is_jsonb and b"\\u" in value and (why := json_refusal(value)) is not None:
                self.refuse_value(refusals, row, i, value, why)
        return made
