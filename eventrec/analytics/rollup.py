"""A rollup, declared as a class, and the plan that databases are given.

    class ApiLatencyHourly(Rollup, name="api_latency_hourly", events=[ApiRequest]):
        hour = bucket("1 hour")
        service = group("service")
        endpoint = group(payload("endpoint"))
        requests = count()
        p95_ms = percentile("duration_ms", 0.95)
        errors = count(where=f("status_code") >= 500)

        refresh = Refresh(window="3 days", lag="1 hour", every="1 hour")
        retention = "730d"

Its columns are those of the class body, in that order. What does not fit is an error when the class is defined: it
names the rollup and the column.
"""

from __future__ import annotations

import math
import re
from datetime import timedelta
from typing import TYPE_CHECKING, Any, ClassVar, Final

from eventrec.analytics.buckets import BucketDeclaration
from eventrec.analytics.expressions import referred, resolved_condition
from eventrec.analytics.fields import KEYS, KINDS, is_plain_text
from eventrec.analytics.lookup import ClassFields, table_of, type_of
from eventrec.analytics.measures import MeasureDeclaration
from eventrec.analytics.rollup_plan import Group, RefreshPlan, RollupPlan
from eventrec.durations import duration_seconds
from eventrec.errors import CatalogueError, OptionsError
from eventrec.events.event import DEFAULT_TABLE, type_name

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from eventrec.analytics.buckets import Bucket
    from eventrec.analytics.expressions import Expression, Reference, Resolver
    from eventrec.analytics.measures import Measure

MAX_NAME_BYTES: Final = 63
"""What PostgreSQL keeps of a name."""

RESERVED: Final = ("eventrec_", "sqlite_", "pg_")
"""What no rollup's name starts with."""

_WORDS: Final = re.compile(r"(?<=[\d\s])(day|hour|minute|second)s?\b")
_YEARS: Final = re.compile(r"\s*(\d+)\s*years?\s*")


class Rollup:
    """What is told of the events of each bucket of time, declared once for all databases. See the module.

    `name` defaults to the class name in snake_case. `events` are classes or names of types; None: any, and then each
    field says its kind. `table` defaults to the one of the classes. `where` is a condition for all measures. `index`
    is what the index of its own table is called, where databases have one. A class that inherits has the columns of
    those above it, first.

    Attributes:
        rollup_plan: What the class declares. A class without a bucket declares nothing yet, and has none.

    Raises:
        CatalogueError: When a class is defined: see the module.
    """

    rollup_plan: ClassVar[RollupPlan]

    def __init_subclass__(
        cls,
        *,
        name: str | None = None,
        table: str | None = None,
        events: Sequence[type | str] | None = None,
        where: Expression | None = None,
        version: int = 1,
        index: str | None = None,
    ) -> None:
        super().__init_subclass__()
        said = type_name(cls.__name__) if name is None else name
        declared = _declared(cls)
        if not any(isinstance(value, BucketDeclaration) for value in declared.values()) and not events:
            return
        try:
            cls.rollup_plan = _compiled(
                declared, said, table=table, events=events, where=where, version=version, index=index
            )
        except CatalogueError as exc:
            raise CatalogueError(f"rollup {said!r}: {exc}") from exc


def plan_of(rollup: RollupPlan | type[Rollup]) -> RollupPlan:
    """The plan itself, or that of a class.

    Raises:
        CatalogueError: It is neither, or the class declares no bucket.
    """
    if isinstance(rollup, RollupPlan):
        return rollup
    found = getattr(rollup, "rollup_plan", None)
    if not isinstance(found, RollupPlan):
        raise CatalogueError(f"{rollup!r} is not a rollup: a rollup is a class with a bucket and a measure")
    return found


class Refresh:
    """When a rollup that is kept in a table is brought up to date; each is seconds, or a text such as "3 days", "1h".

    Raises:
        CatalogueError: One of them is not a duration, or the window is not longer than the lag.
    """

    def __init__(
        self,
        *,
        window: float | str | timedelta = "3 days",
        lag: float | str | timedelta = "1 hour",
        every: float | str | timedelta = "1 hour",
    ) -> None:
        self.plan: Final = RefreshPlan(_span("window", window), _span("lag", lag), _span("every", every))
        if self.plan.window <= self.plan.lag:
            raise CatalogueError(f"a refresh's window is longer than its lag, got {window!r} and {lag!r}")
        if self.plan.every <= 0:
            raise CatalogueError(f"a refresh happens every so many seconds, got {every!r}")


class GroupDeclaration:
    """A group whose field has still to be looked up."""

    __slots__ = ("reference",)

    def __init__(self, reference: Reference) -> None:
        self.reference: Final = reference

    def __repr__(self) -> str:
        return f"group({self.reference!r})"

    def resolve(self, name: str, resolver: Resolver) -> Group:
        """The group for the column `name`.

        Raises:
            CatalogueError: The field is unknown, or cannot be grouped by.
        """
        field = resolver.field(self.reference)
        if field.kind not in KEYS:
            allowed = ", ".join(kind for kind in KINDS if kind in KEYS)
            raise CatalogueError(f"{field} is of kind {field.kind}, but a group is of: {allowed}")
        return Group(name, field)


def group(field: Reference | str) -> GroupDeclaration:
    """A column by whose values the events of a bucket are parted."""
    return GroupDeclaration(referred(field))


# -- from a class body to a plan --------------------------------------------------------------------------------------


def _declared(cls: type) -> dict[str, Any]:
    """What the class body says, after those of the classes above it."""
    found: dict[str, Any] = {}
    for above in reversed(cls.__mro__):
        if above in {object, Rollup}:
            continue
        for name, value in vars(above).items():
            if not name.startswith("__") and name != "rollup_plan":
                found.pop(name, None)
                found[name] = value
    return found


def _compiled(
    declared: Mapping[str, Any],
    name: str,
    *,
    table: str | None,
    events: Sequence[type | str] | None,
    where: Expression | None,
    version: int,
    index: str | None,
) -> RollupPlan:
    _check_rollup(name, version)
    if index is not None:
        _check_name(index)
    if isinstance(events, (str, type)):
        raise CatalogueError(f"events= is a list, got {events!r}")
    given = tuple(events or ())
    types = None if events is None else tuple(dict.fromkeys(type_of(event) for event in given))
    if types == ():
        raise CatalogueError("events= names at least one event; leave it out for any")
    resolver = ClassFields(given)
    parts = _Parts()
    for column, value in declared.items():
        try:
            parts.add(column, value, resolver)
        except CatalogueError as exc:
            raise CatalogueError(f"column {column!r}: {exc}") from exc
    if len(parts.buckets) != 1:
        raise CatalogueError(f"a rollup has one bucket, got {', '.join(parts.buckets) or 'none'}")
    if not parts.measures:
        raise CatalogueError("a rollup has a measure, for example count()")
    _check_columns(parts.columns)
    ((bucket_name, bucket),) = parts.buckets.items()
    return RollupPlan(
        name=name,
        table=_table(given) if table is None else table,
        types=types,
        where=resolved_condition(where, resolver),
        bucket_name=bucket_name,
        bucket=bucket,
        groups=tuple(parts.groups),
        measures=tuple(parts.measures),
        column_names=tuple(parts.columns),
        refresh=parts.refresh,
        retention=parts.retention,
        version=version,
        index=index,
    )


class _Parts:
    """What a class body declares, looked up."""

    def __init__(self) -> None:
        self.columns: list[str] = []
        self.buckets: dict[str, Bucket] = {}
        self.groups: list[Group] = []
        self.measures: list[Measure] = []
        self.refresh = RefreshPlan()
        self.retention: float | None = None

    def add(self, name: str, value: object, resolver: Resolver) -> None:
        """One attribute of the class.

        Raises:
            CatalogueError: It declares nothing that a rollup has, or does not fit.
        """
        match value:
            case BucketDeclaration():
                self.buckets[name] = value.resolve()
            case GroupDeclaration():
                self.groups.append(value.resolve(name, resolver))
            case MeasureDeclaration():
                self.measures.append(value.resolve(name, resolver))
            case Refresh():
                self.refresh = value.plan
                return
            case None | str() | int() | float() | timedelta() if name == "retention":
                self.retention = None if value is None else _span(name, value)
                return
            case _ if _is_own(name, value):
                return
            case _:
                raise CatalogueError(f"is neither a bucket, nor a group, nor a measure: {value!r:.80}")
        self.columns.append(name)


def _is_own(column: str, value: object) -> bool:
    """Whether it is a part of the class that declares nothing: a method, a property, a private name."""
    return column.startswith("_") or callable(value) or isinstance(value, (property, classmethod, staticmethod))


def _table(events: Sequence[type | str]) -> str:
    tables = {table_of(event) for event in events if isinstance(event, type)} or {DEFAULT_TABLE}
    if len(tables) > 1 or None in tables:
        said = ", ".join(sorted(repr(table) for table in tables))
        raise CatalogueError(f"its events are not in one table ({said}): say which, table=")
    return str(tables.pop())


def _check_rollup(name: object, version: object) -> None:
    _check_name(name)
    if str(name).lower().startswith(RESERVED):
        raise CatalogueError(f"names that start with {', '.join(RESERVED)} are reserved")
    if isinstance(version, bool) or not isinstance(version, int) or version < 1:
        raise CatalogueError(f"a version is a whole number from 1 on, got {version!r}")


def _check_columns(columns: Sequence[str]) -> None:
    seen: dict[str, str] = {}
    for column in columns:
        _check_name(column)
        other = seen.setdefault(column.lower(), column)
        if other != column:
            raise CatalogueError(f"columns {other!r} and {column!r} differ in nothing but their case")


def _check_name(name: object) -> None:
    if not isinstance(name, str) or not name or not is_plain_text(name) or len(name.encode()) > MAX_NAME_BYTES:
        raise CatalogueError(f"a name is a text of 1 to {MAX_NAME_BYTES} bytes without NUL, got {name!r}")


def _span(what: str, said: float | str | timedelta) -> float:
    """Seconds; a text may also say "3 days" and "2 years", of 365 days."""
    text = said
    if isinstance(said, str):
        years = _YEARS.fullmatch(said)
        text = f"{int(years[1]) * 365}d" if years else _WORDS.sub(lambda found: found[1][0], said)
    try:
        seconds = duration_seconds(text)
    except OptionsError as exc:
        raise CatalogueError(f"{what}: {said!r} is not a duration, for example '3 days' or '1h'") from exc
    if not 0 <= seconds < math.inf:
        raise CatalogueError(f"{what}: a duration has an end, got {said!r}")
    return seconds
