"""The catalogue: what an application declares about its events, once, in one object of a module.

    catalogue = Catalogue(
        name="shop", events=[OrderPlacedV1, OrderPlaced], upgrades=[Upgrade(…)], layouts=[…], rollups=[…]
    )

From it follow schemas (`schema_export`), what a change would break (`compatibility`), migrations and rollups; and it
gives a record back as an instance of its class. Whatever contradicts itself is an error where the module is imported.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

from eventrec.analytics.rollup import plan_of
from eventrec.analytics.versions import FIRST_VERSION, Upgrade, VersionReader, named, version_of
from eventrec.errors import CatalogueError, DecodeError, InvalidEventError, LayoutError
from eventrec.events.event import EventModel, EventStruct, model_plan, struct_plan
from eventrec.records.layout import Layout
from eventrec.records.schema import check_name

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from eventrec.analytics.rollup import Rollup
    from eventrec.analytics.rollup_plan import RollupPlan
    from eventrec.events.plans import ClassPlan
    from eventrec.records.entry import Record
    from eventrec.records.schema import ColumnSchema

VERSION_FIELD: Final = "schema_version"


@dataclass(frozen=True, slots=True)
class CataloguedEvent:
    """One event class of a catalogue.

    Attributes:
        cls: The class.
        type: The type of its events.
        version: Its version: several classes of one type have different ones.
        table: Where its rows go.
        columns: Its extra columns.
        column_fields: The fields that these columns come from, in the same order.
        timestamp_field: The field that says when it happened, or None.
    """

    cls: type[EventModel | EventStruct]
    type: str
    version: int
    table: str
    columns: tuple[ColumnSchema, ...]
    column_fields: tuple[str, ...]
    timestamp_field: str | None

    def __str__(self) -> str:
        return f"{self.type} version {self.version}"


class Catalogue:
    """The events of an application with their versions, and the layouts and rollups that are made of them.

    Attributes:
        name: What the application calls it.
        events: One for each class that was given, in that order.
        layouts: How records become rows of tables that are not the default ones.
        rollups: Aggregates that are kept up to date.
        aliases: Other names under which events of a type were recorded, each with that type.
        retired: Types whose old versions cannot be decoded any more, each with the newest of these.
        version_field: The field, and the member of a payload, that holds a version.
        release: The version of the whole, as the application counts it; for the documents that are exported.
        description: What it is about, for the same.
    """

    def __init__(
        self,
        *,
        name: str,
        events: Iterable[type[EventModel | EventStruct]] = (),
        layouts: Iterable[Layout] = (),
        rollups: Iterable[type[Rollup] | RollupPlan] = (),
        upgrades: Iterable[Upgrade[Any, Any]] = (),
        aliases: Mapping[str, str] | None = None,
        retired: Mapping[str, int] | None = None,
        version_field: str = VERSION_FIELD,
        release: str = "1.0.0",
        description: str | None = None,
    ) -> None:
        """Raises CatalogueError where what is declared contradicts itself; it names both sides."""
        _check_name("catalogue", name)
        _check_name("version_field", version_field)
        self.name = name
        self.version_field = version_field
        self.release = release
        self.description = description
        self.events: tuple[CataloguedEvent, ...] = tuple(_catalogued(cls, version_field) for cls in events)
        self.layouts: tuple[Layout, ...] = tuple(layouts)
        self.rollups: tuple[type[Rollup] | RollupPlan, ...] = tuple(rollups)
        self.aliases: Mapping[str, str] = dict(aliases or {})
        self.retired: Mapping[str, int] = dict(retired or {})
        self._by_type = _by_type(self.events)
        self._upgrades = _checked_upgrades(self._by_type, tuple(upgrades))
        self._read_version = VersionReader(version_field)
        _check_retired(self._by_type, self.retired)
        _check_links(self._by_type, self._upgrades, self.retired)
        _check_aliases(self._by_type, self.aliases)
        _check_layouts(self.layouts, self.events)
        _check_rollups(self.rollups, self.layouts, self.events)

    def __repr__(self) -> str:
        return (
            f"<Catalogue {self.name!r} events={len(self.events)} layouts={len(self.layouts)} "
            f"rollups={len(self.rollups)}>"
        )

    @property
    def types(self) -> tuple[str, ...]:
        """The types of its events, in the order in which they were given."""
        return tuple(self._by_type)

    @property
    def upgrades(self) -> tuple[Upgrade[Any, Any], ...]:
        """How older versions become newer ones."""
        return tuple(self._upgrades.values())

    def versions(self, type: str) -> Mapping[int, CataloguedEvent]:  # noqa: A002 - the word users write
        """The classes of a type, or of an alias of one, by their versions, the oldest first.

        Raises:
            CatalogueError: No class is of this type.
        """
        found = self._by_type.get(self.aliases.get(type, type))
        if found is None:
            raise CatalogueError(f"catalogue {self.name!r} has no event of type {type!r}")
        return dict(found)

    def newest(self, type: str) -> CataloguedEvent:  # noqa: A002 - likewise
        """The class of a type with the highest version. Raises as `versions`."""
        versions = self.versions(type)
        return versions[max(versions)]

    def version_of(self, record: Record) -> int:
        """The version that `record` was recorded as.

        Raises:
            DecodeError: Its type is not in the catalogue, or its payload carries no version that can be read.
        """
        versions = self._by_type.get(self.aliases.get(record.type, record.type))
        if versions is None:
            raise DecodeError(f"record {record.offset}: catalogue {self.name!r} has no event of type {record.type!r}")
        return self._read_version(record.payload, is_versioned=[*versions] != [FIRST_VERSION])

    def decode(self, record: Record, *, upgrade: bool = True) -> EventModel | EventStruct:
        """`record` as an instance of the newest class of its type; without `upgrade`, of the class that recorded it.

        What a serializer or a marker masked stays masked.

        Raises:
            DecodeError: Its type or its version is not in the catalogue, it does not fit its class, or an upgrade
                raises.
        """
        version = self.version_of(record)
        versions = self._by_type[self.aliases.get(record.type, record.type)]
        found = versions.get(version)
        if found is None:
            raise DecodeError(
                f"record {record.offset} is version {version} of {record.type!r}: "
                f"catalogue {self.name!r} knows {', '.join(map(str, versions))}"
            )
        event: EventModel | EventStruct = (
            record if record.type == found.type else replace(record, type=found.type)
        ).decode(found.cls)
        step = self._upgrades.get(found.cls) if upgrade else None
        while step is not None:
            event = step.apply(event)
            step = self._upgrades.get(step.after)
        return event


# -- what is checked where it is declared -----------------------------------------------------------------------------


def _check_name(what: str, name: object) -> None:
    if not isinstance(name, str):
        raise CatalogueError(f"a {what} is a text, not {name!r}")
    try:
        check_name(what, name)
    except InvalidEventError as exc:
        raise CatalogueError(str(exc)) from exc


def _catalogued(cls: type[EventModel | EventStruct], version_field: str) -> CataloguedEvent:
    given: object = cls
    if (
        not isinstance(given, type)
        or not issubclass(given, (EventModel, EventStruct))
        or given in (EventModel, EventStruct)
    ):
        raise CatalogueError(f"{named(given)} is not an EventModel or EventStruct class of an application")
    try:
        plan = _plan_of(cls)
    except TypeError as exc:
        raise CatalogueError(f"{named(cls)}: {exc}") from exc
    return CataloguedEvent(
        cls=cls,
        type=plan.type,
        version=version_of(cls, plan, version_field),
        table=plan.table,
        columns=plan.fields.columns,
        column_fields=plan.fields.column_fields,
        timestamp_field=plan.fields.timestamp_field,
    )


def _plan_of(cls: type[EventModel | EventStruct]) -> ClassPlan:
    if issubclass(cls, EventStruct):
        return struct_plan(cls)
    if cls.__pydantic_generic_metadata__["parameters"]:
        raise TypeError("has type parameters: give it with its arguments")
    if not cls.__pydantic_complete__ and not cls.model_rebuild(raise_errors=False):
        raise TypeError("names what does not exist yet")
    return model_plan(cls)


def _by_type(events: tuple[CataloguedEvent, ...]) -> dict[str, dict[int, CataloguedEvent]]:
    found: dict[str, dict[int, CataloguedEvent]] = {}
    for event in events:
        other = found.setdefault(event.type, {}).setdefault(event.version, event)
        if other is not event:
            raise CatalogueError(
                f"{named(other.cls)} is given twice"
                if other.cls is event.cls
                else f"{named(other.cls)} and {named(event.cls)} are both {event}"
            )
    return {kind: dict(sorted(versions.items())) for kind, versions in found.items()}


def _checked_upgrades(
    by_type: Mapping[str, Mapping[int, CataloguedEvent]], upgrades: tuple[Upgrade[Any, Any], ...]
) -> dict[type, Upgrade[Any, Any]]:
    known = {event.cls: event for versions in by_type.values() for event in versions.values()}
    found: dict[type, Upgrade[Any, Any]] = {}
    for upgrade in upgrades:
        given: object = upgrade
        if not isinstance(given, Upgrade) or not callable(given.convert):
            raise CatalogueError(f"{given!r} is not an Upgrade with something to call")
        names = f"the upgrade from {named(upgrade.before)} to {named(upgrade.after)}"
        for cls in (upgrade.before, upgrade.after):
            if cls not in known:
                raise CatalogueError(f"{names}: {named(cls)} is not among the events")
        before, after = known[upgrade.before], known[upgrade.after]
        if before.type != after.type:
            raise CatalogueError(f"{names} leads from type {before.type!r} to {after.type!r}")
        if after.version <= before.version:
            raise CatalogueError(
                f"{names} leads from version {before.version} back to version {after.version}: upgrades in a circle"
            )
        other = found.setdefault(upgrade.before, upgrade)
        if other is not upgrade:
            raise CatalogueError(f"{names}: another leads from there to {named(other.after)}")
    return found


def _check_links(
    by_type: Mapping[str, Mapping[int, CataloguedEvent]],
    upgrades: Mapping[type, Upgrade[Any, Any]],
    retired: Mapping[str, int],
) -> None:
    for kind, versions in by_type.items():
        newest = max(versions)
        for version, event in versions.items():
            if version != newest and event.cls not in upgrades:
                raise CatalogueError(
                    f"{named(event.cls)} is {event}, and no upgrade leads from it to {named(versions[newest].cls)}, "
                    f"version {newest}"
                )
        missing = set(range(retired.get(kind, 0) + 1, newest)) - set(versions)
        if missing:
            said = ", ".join(map(str, sorted(missing)))
            raise CatalogueError(
                f"{named(versions[newest].cls)} is {versions[newest]}, and no class is of version {said}: "
                f"give the class and an upgrade, or say retired={{{kind!r}: {max(missing)}}}"
            )


def _check_retired(by_type: Mapping[str, Mapping[int, CataloguedEvent]], retired: Mapping[str, int]) -> None:
    for kind, last in retired.items():
        if kind not in by_type:
            raise CatalogueError(f"retired: no event is of type {kind!r}")
        number: object = last
        if not isinstance(number, int) or isinstance(number, bool) or number < FIRST_VERSION:
            raise CatalogueError(f"retired: {number!r} is not a version of {kind!r}")
        for version, event in by_type[kind].items():
            if version <= last:
                raise CatalogueError(f"retired: {kind!r} up to version {last}, and {named(event.cls)} is {event}")


def _check_aliases(by_type: Mapping[str, Mapping[int, CataloguedEvent]], aliases: Mapping[str, str]) -> None:
    for alias, kind in aliases.items():
        _check_name("alias", alias)
        if kind not in by_type:
            raise CatalogueError(f"alias {alias!r}: no event is of type {kind!r}")
        if alias in by_type:
            classes = " and ".join(named(event.cls) for event in (*by_type[alias].values(), *by_type[kind].values()))
            raise CatalogueError(f"alias {alias!r} of {kind!r} is a type itself: {classes}")


def _check_layouts(layouts: Iterable[Layout], events: Iterable[CataloguedEvent]) -> None:
    known: dict[str, Layout] = {}
    for layout in layouts:
        given: object = layout
        if not isinstance(given, Layout):
            raise CatalogueError(f"{given!r} is not a Layout")
        other = known.setdefault(layout.table.lower(), layout)
        if other is not layout:
            raise CatalogueError(f"one table has two layouts: {other!r} and {layout!r}")
    for event in events:
        found = known.get(event.table.lower())
        if found is not None:
            try:
                found.check_type(event.type)
            except LayoutError as exc:
                raise CatalogueError(f"{named(event.cls)}: {exc}") from exc


def _check_rollups(
    rollups: Iterable[type[Rollup] | RollupPlan], layouts: Iterable[Layout], events: Iterable[CataloguedEvent]
) -> None:
    """Refuse a rollup whose table is another's, also where a database takes both names for one."""
    taken = {event.table.lower(): f"the table of {named(event.cls)}" for event in events}
    taken |= {layout.table.lower(): repr(layout) for layout in layouts}
    for rollup in rollups:
        name = plan_of(rollup).name.lower()
        if name in taken:
            raise CatalogueError(f"rollup {named(rollup)} has the name {name!r}, and so has {taken[name]}")
        taken[name] = f"rollup {named(rollup)}"
