"""Where PostgreSQL finds the field of a rollup, as SQL: a value of its kind, or NULL.

    what stands there    the kinds it may be
    JSON                 what its JSON type says: "5" is not 5
    text, varchar        text, uuid
    an integer, numeric  integer, float
    a float              float, integer where it has no fraction
    a boolean, a uuid    the same; a uuid is a text too
    anything else        json: only whether it is there

No value raises an error, whatever another program has stored: what does not fit is NULL.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

from eventrec import ID, TIMESTAMP, TYPE, CatalogueError, from_context, from_field, from_payload
from eventrec.analytics import MAX_FLOAT
from eventrec_handlers._sql import quoted
from eventrec_handlers.postgres.checkpoints import literal

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from eventrec import Layout, LayoutSource
    from eventrec.analytics import Field, Kind

Family: TypeAlias = Literal["json", "text", "integer", "numeric", "float", "boolean", "uuid", "timestamp", "other"]
"""What a column holds, as far as it matters here."""

_FAMILIES: Final[Mapping[str, Family]] = {
    "jsonb": "json",
    "json": "json",
    "text": "text",
    "character varying": "text",
    "smallint": "integer",
    "integer": "integer",
    "bigint": "integer",
    "numeric": "numeric",
    "real": "float",
    "double precision": "float",
    "boolean": "boolean",
    "uuid": "uuid",
    "timestamp with time zone": "timestamp",
}
_WORDS: Final[Mapping[str, str]] = {
    "varchar": "character varying",
    "double": "double precision",
    "timestamptz": "timestamp with time zone",
}

_UUID: Final = "'^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$'"
_MAX: Final = f"{MAX_FLOAT:.0e}".replace("+", "")
_SMALLEST: Final = "1e-320"
"""Below it a number is 0: PostgreSQL refuses to make a float of what is smaller than any."""

_EXACT: Final = 2**53
_LOW: Final = -(2**63)
_HIGH: Final = 2**63 - 1


def family_of(declared: str) -> Family:
    """What a column of that type holds; `declared` as `format_type` spells it, or in the words of a layout."""
    plain = declared.partition("(")[0].removesuffix(" generated").strip()
    return _FAMILIES.get(_WORDS.get(plain, plain), "other")


@dataclass(frozen=True, slots=True)
class Columns:
    """The columns of a table of events: what each is for, and what it holds.

    Attributes:
        layout: How records become rows there.
        families: What each column holds that there is.
    """

    layout: Layout
    families: Mapping[str, Family]

    @classmethod
    def of(cls, layout: Layout, declared: Mapping[str, str] | None = None) -> Columns:
        """The columns that `layout` declares, or, by their types, those that the table really has."""
        if declared is None:
            declared = {column.name: column.word or "" for column in layout.columns}
        return cls(layout, {name: family_of(type_) for name, type_ in declared.items()})

    @property
    def time(self) -> str:
        """The name of the column of the timestamp.

        Raises:
            CatalogueError: There is none.
        """
        return self._own(TIMESTAMP, "a timestamp")

    @property
    def type(self) -> str:
        """The name of the column of the type.

        Raises:
            CatalogueError: There is none.
        """
        return self._own(TYPE, "the type of an event")

    def value(self, field: Field) -> str:
        """The value of `field` in a row, or NULL; in parentheses where it needs them.

        Raises:
            CatalogueError: The table does not store it.
        """
        match field.source:
            case "type":
                return quoted(self.type)
            case "timestamp":
                return quoted(self.time)
            case "id":
                return f"({quoted(self._own(ID, 'the id of an event'))}::text)"
            case "column":
                column, path = self._column(field.path[0])
            case "payload":
                column, path = self._located(from_payload(*field.path), field)
            case _:
                column, path = self._located(from_context(*field.path), field)
        family = self.families.get(column)
        if family is None:
            return "NULL" + _NULLS[field.kind]  # the table has no such column, or not yet
        if not path:
            return _of_column(quoted(column), family, field.kind)
        if family != "json":
            raise CatalogueError(f"{field}: column {column!r} is not JSON, so what is in it cannot be reached")
        whole = quoted(column) if self._is_jsonb(column) else f"{quoted(column)}::jsonb"
        return _of_json("->".join((f"({whole}", *map(literal, path))) + ")", field.kind)

    def _is_jsonb(self, column: str) -> bool:
        return all(each.word != "json" for each in self.layout.columns if each.name == column)

    def _own(self, source: LayoutSource, what: str) -> str:
        column = self.layout.column_of(source)
        if column is None:
            raise CatalogueError(f"table {self.layout.table!r} does not store {what}")
        return column.name

    def _column(self, name: str) -> tuple[str, tuple[str, ...]]:
        """The extra column `name` of an event, or the column of the table that is called so."""
        own = self.layout.column_of(from_field(name))
        if own is not None:
            return own.name, ()
        if name in self.families or any(column.name == name for column in self.layout.columns):
            return name, ()
        found = self.layout.locate(from_field(name))
        return (name, ()) if found is None else (found.column.name, found.path)

    def _located(self, source: LayoutSource, field: Field) -> tuple[str, tuple[str, ...]]:
        found = self.layout.locate(source)
        if found is None:
            raise CatalogueError(f"table {self.layout.table!r} does not store {field}")
        return found.column.name, found.path


TYPES: Final[Mapping[Kind, str]] = {
    "text": "text",
    "integer": "bigint",
    "float": "double precision",
    "boolean": "boolean",
    "timestamp": "timestamptz",
    "uuid": "uuid",
    "json": "boolean",
}
"""What PostgreSQL has the values of each kind as; of `json` whether there is one."""

_NULLS: Final[Mapping[Kind, str]] = {kind: f"::{type_}" for kind, type_ in TYPES.items()}


def _of_column(column: str, family: Family, kind: Kind) -> str:
    """The value of a column that is not to be looked into."""
    if kind == "json" and family != "json":
        return f"(CASE WHEN {column} IS NOT NULL THEN true END)"
    if family == "json":
        return _of_json(f"({column}::jsonb)", kind)
    made = _CONVERTED.get((kind, family))
    return f"NULL{_NULLS[kind]}" if made is None else made(column)


def _as_it_is(column: str) -> str:
    return column


def _float_of_numeric(number: str) -> str:
    return f"(CASE WHEN abs({number}) <= {_MAX} THEN {_to_float(number)} END)"


def _integer_of_float(column: str) -> str:
    number = f"{column}::float8"
    return f"(CASE WHEN abs({number}) < {_EXACT} AND trunc({number}) = {number} THEN {column}::bigint END)"


def _whole(number: str) -> str:
    """A numeric as a bigint, if it is a whole one; one with a fraction as a float would be."""
    as_float = f"({_to_float(number)})"
    return (
        f"(CASE WHEN scale({number}) = 0 THEN CASE WHEN {number} BETWEEN {_LOW} AND {_HIGH} THEN ({number})::bigint END"
        f" WHEN abs({number}) < {_EXACT} THEN CASE WHEN abs({as_float}) < {_EXACT}"
        f" AND trunc({as_float}) = {as_float} THEN {as_float}::bigint END END)"
    )


def _to_float(number: str) -> str:
    """A numeric of no more than `MAX_FLOAT` as a float."""
    return f"CASE WHEN abs({number}) < {_SMALLEST} THEN 0::float8 ELSE ({number})::float8 END"


_CONVERTED: Final[Mapping[tuple[Kind, Family], Callable[[str], str]]] = {
    ("text", "text"): _as_it_is,
    ("text", "uuid"): lambda column: f"({column}::text)",
    ("boolean", "boolean"): _as_it_is,
    ("uuid", "uuid"): _as_it_is,
    ("uuid", "text"): lambda column: f"(CASE WHEN {column} ~ {_UUID} THEN {column}::uuid END)",
    ("integer", "integer"): lambda column: f"({column}::bigint)",
    ("integer", "numeric"): _whole,
    ("integer", "float"): _integer_of_float,
    ("float", "integer"): lambda column: f"({column}::float8)",
    ("float", "float"): lambda column: f"(CASE WHEN abs({column}::float8) <= {_MAX} THEN {column}::float8 END)",
    ("float", "numeric"): _float_of_numeric,
}
"""Of each kind, from what a column holds; what is not here is NULL."""


def _of_json(found: str, kind: Kind) -> str:
    """The value in a jsonb, if its JSON type is that of the kind."""
    if kind == "json":
        return f"(CASE WHEN jsonb_typeof({found}) <> 'null' THEN true END)"
    if kind == "timestamp":
        return f"NULL{_NULLS[kind]}"
    type_, made = _IN_JSON[kind]
    return f"(CASE jsonb_typeof({found}) WHEN '{type_}' THEN {made(found)} END)"


def _uuid_of_json(found: str) -> str:
    text = f"({found} #>> '{{}}')"
    return f"CASE WHEN {text} ~ {_UUID} THEN {text}::uuid END"


_IN_JSON: Final[Mapping[Kind, tuple[str, Callable[[str], str]]]] = {
    "text": ("string", lambda found: f"{found} #>> '{{}}'"),
    "integer": ("number", lambda found: _whole(f"{found}::numeric")),
    "float": ("number", lambda found: _float_of_numeric(f"{found}::numeric")),
    "boolean": ("boolean", lambda found: f"{found}::boolean"),
    "uuid": ("string", _uuid_of_json),
}
"""Of each kind, the JSON type that it is, and the value in it."""
