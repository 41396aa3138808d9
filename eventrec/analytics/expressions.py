"""Which events count, as a declaration says it.

    f("status_code") >= 500
    f("success").is_true() & ~f("user_id").is_null()
    payload("address", "country").is_in(["de", "at"])
    is_type(OrderPlaced)

What a condition means, and what becomes of it in a plan: `conditions.py`.
"""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any, Final, NoReturn, Protocol
from uuid import UUID

from eventrec.analytics.conditions import And, Comparison, IsNull, Membership, Not, Or
from eventrec.analytics.fields import (
    ID,
    MAX_FLOAT,
    MAX_INTEGER,
    MIN_INTEGER,
    ORDERED,
    TIMESTAMP,
    TYPE,
    check_path,
    is_plain_text,
    place,
)
from eventrec.errors import CatalogueError
from eventrec.records.times import nanoseconds

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from eventrec.analytics.conditions import Condition, Constant, Operator
    from eventrec.analytics.fields import Field, Kind, Source


class Resolver(Protocol):
    """Finds the fields and types that a declaration names."""

    def field(self, reference: Reference) -> Field:
        """The field that `reference` means."""

    def type(self, event: type | str) -> str:
        """The type name of an event class, or the name itself."""


class Expression:
    """A condition whose fields have still to be looked up; combined with `&`, `|` and `~`."""

    __slots__ = ("resolve",)

    def __init__(self, resolve: Callable[[Resolver], Condition]) -> None:
        self.resolve: Final = resolve

    def __and__(self, other: Expression) -> Expression:
        return Expression(lambda resolver: And((self.resolve(resolver), _resolved(other, resolver))))

    def __or__(self, other: Expression) -> Expression:
        return Expression(lambda resolver: Or((self.resolve(resolver), _resolved(other, resolver))))

    def __invert__(self) -> Expression:
        return Expression(lambda resolver: Not(self.resolve(resolver)))

    def __bool__(self) -> NoReturn:
        raise TypeError("a condition is combined with & | ~ and parentheses, not with `and`, `or`, `not`, or a < b < c")


class Reference:
    """A field as a declaration names it: where it is, or a name that is looked up in the event classes.

    Attributes:
        source: None: looked up.
        path: The names on the way.
        kind: None: looked up.
    """

    __slots__ = ("kind", "path", "source")

    def __init__(self, source: Source | None, path: tuple[str, ...], kind: Kind | None) -> None:
        self.source: Final = source
        self.path: Final = path
        self.kind: Final = kind

    def __repr__(self) -> str:
        return place(self.source or "field", self.path)

    __hash__ = None  # type: ignore[assignment] # `==` makes a condition

    def __eq__(self, other: object) -> Expression:  # type: ignore[override]
        return self._compared("==", other)

    def __ne__(self, other: object) -> Expression:  # type: ignore[override]
        return self._compared("!=", other)

    def __lt__(self, other: object) -> Expression:
        return self._compared("<", other)

    def __le__(self, other: object) -> Expression:
        return self._compared("<=", other)

    def __gt__(self, other: object) -> Expression:
        return self._compared(">", other)

    def __ge__(self, other: object) -> Expression:
        return self._compared(">=", other)

    def is_true(self) -> Expression:
        """Where it is the JSON value true."""
        return self._compared("==", True)  # noqa: FBT003 - a value, not a mode

    def is_false(self) -> Expression:
        """Where it is the JSON value false."""
        return self._compared("==", False)  # noqa: FBT003 - likewise

    def is_in(self, values: Iterable[object]) -> Expression:
        """Where it is one of `values`."""
        given = tuple(values)

        def resolve(resolver: Resolver) -> Condition:
            field = resolver.field(self)
            return Membership(field, tuple(_constant(field, value) for value in given))

        return Expression(resolve)

    def is_null(self) -> Expression:
        """Where it is absent: not there, null, or of another kind."""
        return Expression(lambda resolver: IsNull(resolver.field(self)))

    def is_not_null(self) -> Expression:
        """Where it is there."""
        return ~self.is_null()

    def _compared(self, operator: Operator, value: object) -> Expression:
        def resolve(resolver: Resolver) -> Condition:
            field = resolver.field(self)
            if operator not in {"==", "!="} and field.kind not in ORDERED:
                raise CatalogueError(f"{field}: a {field.kind} is equal or not, it is not {operator} another")
            return Comparison(field, operator, _constant(field, value))

        return Expression(resolve)


def f(name: str, *, kind: Kind | None = None) -> Reference:
    """The field `name` of the rollup's event classes, whether it is in the payload or a column."""
    return Reference(None, (name,), kind)


def payload(*path: str, kind: Kind | None = None) -> Reference:
    """What the payload holds at `path`. Its kind is looked up in the event classes where none is given."""
    return Reference("payload", path, kind)


def context(name: str, *, kind: Kind | None = None) -> Reference:
    """What the context holds: `service`, `host`, `environment`, or what the application put there; text by default."""
    return Reference("context", (name,), kind or "text")


def column(name: str, *, kind: Kind | None = None) -> Reference:
    """A column of the table. Its kind is looked up in the event classes where none is given."""
    return Reference("column", (name,), kind)


event_type: Final = Reference("type", (), "text")
"""The type of an event."""

event_timestamp: Final = Reference("timestamp", (), "timestamp")
"""When it happened."""

event_id: Final = Reference("id", (), "text")
"""The id of its row."""

OWN: Final = {"type": TYPE, "timestamp": TIMESTAMP, "id": ID}
"""The fields that every event has, by source."""


def is_type(*events: type | str) -> Expression:
    """Where the event is of one of these: classes, or type names."""
    return Expression(lambda resolver: Membership(TYPE, tuple(resolver.type(event) for event in events)))


def resolved_condition(where: object, resolver: Resolver) -> Condition | None:
    """The condition that `where=` says; None where it says none.

    Raises:
        CatalogueError: It is not a condition, or does not fit the events.
    """
    if where is None:
        return None
    if not isinstance(where, Expression):
        raise CatalogueError(f"where= is a condition, for example f('status_code') >= 500, got {where!r}")
    return where.resolve(resolver)


def referred(what: Reference | str) -> Reference:
    """The reference itself; of a name, the one that is looked up.

    Raises:
        CatalogueError: It is neither.
    """
    match what:
        case Reference():
            return what
        case str():
            return f(what)
        case _:
            raise CatalogueError(f"a field is a name, or made by f(), payload(), context() or column(), got {what!r}")


def check_reference(reference: Reference) -> None:
    """Refuse one whose names no event can have.

    Raises:
        CatalogueError: As `check_path`.
    """
    if reference.source not in OWN:
        check_path(reference.path)


def _resolved(expression: object, resolver: Resolver) -> Condition:
    if not isinstance(expression, Expression):
        raise CatalogueError(f"a condition is combined with a condition, got {expression!r}")
    return expression.resolve(resolver)


def _constant(field: Field, value: object) -> Constant:
    """`value` as a plan holds it.

    Raises:
        CatalogueError: It is not of the field's kind.
    """
    found: Any = None
    match field.kind, value:
        case "boolean", bool():
            found = value
        case _, bool():
            pass
        case "text", str() if is_plain_text(value):
            found = str(value)
        case "integer", int() if MIN_INTEGER <= value <= MAX_INTEGER:
            found = int(value)
        case "float", int() | float() if abs(value) <= MAX_FLOAT:
            found = float(value)
        case "uuid", str() | UUID():
            found = _uuid(value)
        case "timestamp", datetime() if value.tzinfo is not None:
            found = nanoseconds(value)
        case "timestamp", int() if MIN_INTEGER <= value <= MAX_INTEGER:
            found = int(value)
    if found is None:
        raise CatalogueError(f"{field}: a field of kind {field.kind} cannot be compared with {value!r}{_hint(value)}")
    return found  # type: ignore[no-any-return]


def _uuid(value: str | UUID) -> str | None:
    try:
        return str(UUID(str(value)))
    except ValueError:
        return None


def _hint(value: object) -> str:
    return "; ask is_null() or is_not_null()" if value is None else ""
