"""The catalogue: what an application declares about its events, once, in one object of a module.

    catalogue = Catalogue(
        name="shop", events=[OrderPlacedV1, OrderPlaced], upgrades=[Upgrade(…)], layouts=[…], rollups=[…]
    )

From it follow schemas (`schema_export`), what a change would break (`compatibility`), migrations and rollups; and it
gives a record back as an instance of its class. Whatever contradicts itself is an error where the module is imported.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from eventrec.analytics.catalogue_checks import (
    by_type,
    check_aliases,
    check_layouts,
    check_links,
    check_retired,
    check_rollups,
    check_word,
    checked_upgrades,
    with_class_layouts,
)
from eventrec.analytics.catalogued_event import CataloguedEvent, catalogued
from eventrec.analytics.stored_events import decode_stored, holds_payload
from eventrec.analytics.versions import FIRST_VERSION, Upgrade, VersionReader
from eventrec.errors import CatalogueError, DecodeError
from eventrec.records.entry import Record

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from eventrec.analytics.rollup import Rollup
    from eventrec.analytics.rollup_plan import RollupPlan
    from eventrec.events.event import EventModel, EventStruct
    from eventrec.reading import StoredEvent
    from eventrec.records.layout import Layout

VERSION_FIELD: Final = "schema_version"


class Catalogue:
    """The events of an application with their versions, and the layouts and rollups that are made of them.

    Attributes:
        name: What the application calls it.
        events: One for each class that was given, in that order.
        layouts: How records become rows of tables that are not the default ones: those that were given, and those of
            the event classes for other tables.
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
        check_word("catalogue", name)
        check_word("version_field", version_field)
        self.name = name
        self.version_field = version_field
        self.release = release
        self.description = description
        self.events: tuple[CataloguedEvent, ...] = tuple(catalogued(cls, version_field) for cls in events)
        self.layouts: tuple[Layout, ...] = with_class_layouts(tuple(layouts), self.events)
        self.rollups: tuple[type[Rollup] | RollupPlan, ...] = tuple(rollups)
        self.aliases: Mapping[str, str] = dict(aliases or {})
        self.retired: Mapping[str, int] = dict(retired or {})
        self._by_type = by_type(self.events)
        self._upgrades = checked_upgrades(self._by_type, tuple(upgrades))
        self._read_version = VersionReader(version_field)
        check_retired(self._by_type, self.retired)
        check_links(self._by_type, self._upgrades, self.retired)
        check_aliases(self._by_type, self.aliases)
        check_layouts(self.layouts, self.events)
        self._layouts_by_table = {layout.table.lower(): layout for layout in self.layouts}
        check_rollups(self.rollups, self.layouts, self.events)

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

    def version_of(self, record: Record | StoredEvent) -> int:
        """The version that `record` was recorded as: one of a batch, or an event that a reader gives back.

        Raises:
            DecodeError: Its type is not in the catalogue, or its payload carries no version that can be read; or the
                table that it was read from has a layout of this catalogue that stores no versions.
        """
        versions = self._by_type.get(self.aliases.get(record.type, record.type))
        if versions is None:
            raise DecodeError(f"{_called(record)}: catalogue {self.name!r} has no event of type {record.type!r}")
        is_versioned = [*versions] != [FIRST_VERSION]
        layout = self._layout_of(record)
        if is_versioned and layout is not None and not holds_payload(layout, self.version_field):
            raise DecodeError(f"{_called(record)}: the layout of its table stores no {self.version_field!r}")
        payload = record.payload if isinstance(record, Record) else record.payload.encode(errors="surrogatepass")
        return self._read_version(payload, is_versioned=is_versioned)

    def decode(self, record: Record | StoredEvent, *, upgrade: bool = True) -> EventModel | EventStruct:
        """`record` as an instance of the newest class of its type; without `upgrade`, of the class that recorded it.

        `record` is one of a batch, or an event that a reader gives back, be it of a table with a layout: then as exact
        as the destination keeps it. What a serializer or a marker masked stays masked.

        Raises:
            DecodeError: Its type or its version is not in the catalogue, it does not fit its class, or an upgrade
                raises.
        """
        version = self.version_of(record)
        versions = self._by_type[self.aliases.get(record.type, record.type)]
        found = versions.get(version)
        if found is None:
            raise DecodeError(
                f"{_called(record)} is version {version} of {record.type!r}: "
                f"catalogue {self.name!r} knows {', '.join(map(str, versions))}"
            )
        event: EventModel | EventStruct
        if isinstance(record, Record):
            event = (record if record.type == found.type else replace(record, type=found.type)).decode(found.cls)
        else:
            event = decode_stored(record, found, self._layout_of(record))
        step = self._upgrades.get(found.cls) if upgrade else None
        while step is not None:
            event = step.apply(event)
            step = self._upgrades.get(step.after)
        return event

    def _layout_of(self, record: Record | StoredEvent) -> Layout | None:
        """That of the table that an event was read from."""
        return None if isinstance(record, Record) else self._layouts_by_table.get(record.table.lower())


def _called(record: Record | StoredEvent) -> str:
    if isinstance(record, Record):
        return f"record {record.offset}"
    return f"event {record.id} of table {record.table!r}"
