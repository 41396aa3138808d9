"""What a catalogue refuses where it is declared: everything that contradicts something else in it, by both names."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from eventrec.analytics.rollup import plan_of
from eventrec.analytics.versions import FIRST_VERSION, Upgrade, named
from eventrec.errors import CatalogueError, InvalidEventError, LayoutError
from eventrec.events.layouts import class_layout
from eventrec.records.layout import Layout
from eventrec.records.schema import check_name

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from eventrec.analytics.catalogued_event import CataloguedEvent
    from eventrec.analytics.rollup import Rollup
    from eventrec.analytics.rollup_plan import RollupPlan


def check_word(what: str, name: object) -> None:
    """Raise CatalogueError unless `name` is one that a type or a table may have."""
    if not isinstance(name, str):
        raise CatalogueError(f"a {what} is a text, not {name!r}")
    try:
        check_name(what, name)
    except InvalidEventError as exc:
        raise CatalogueError(str(exc)) from exc


def by_type(events: tuple[CataloguedEvent, ...]) -> dict[str, dict[int, CataloguedEvent]]:
    """The events by their types, then by their versions, the oldest first; no two are of one.

    Raises:
        CatalogueError: Two are of one type and version.
    """
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


def checked_upgrades(
    by_type: Mapping[str, Mapping[int, CataloguedEvent]], upgrades: tuple[Upgrade[Any, Any], ...]
) -> dict[type, Upgrade[Any, Any]]:
    """The upgrades by the class that they lead from: to a newer one of the same type, at most one from each.

    Raises:
        CatalogueError: One leads from or to a class that is not among the events, or not to a newer one of its type.
    """
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


def check_links(
    by_type: Mapping[str, Mapping[int, CataloguedEvent]],
    upgrades: Mapping[type, Upgrade[Any, Any]],
    retired: Mapping[str, int],
) -> None:
    """Raise CatalogueError where an older class cannot become the newest, or a version has no class."""
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


def check_retired(by_type: Mapping[str, Mapping[int, CataloguedEvent]], retired: Mapping[str, int]) -> None:
    """Raise CatalogueError where a retired version has a class, or no event is of its type."""
    for kind, last in retired.items():
        if kind not in by_type:
            raise CatalogueError(f"retired: no event is of type {kind!r}")
        number: object = last
        if not isinstance(number, int) or isinstance(number, bool) or number < FIRST_VERSION:
            raise CatalogueError(f"retired: {number!r} is not a version of {kind!r}")
        for version, event in by_type[kind].items():
            if version <= last:
                raise CatalogueError(f"retired: {kind!r} up to version {last}, and {named(event.cls)} is {event}")


def check_aliases(by_type: Mapping[str, Mapping[int, CataloguedEvent]], aliases: Mapping[str, str]) -> None:
    """Raise CatalogueError where an alias stands for a type that does not exist, or is a type itself."""
    for alias, kind in aliases.items():
        check_word("alias", alias)
        if kind not in by_type:
            raise CatalogueError(f"alias {alias!r}: no event is of type {kind!r}")
        if alias in by_type:
            classes = " and ".join(named(event.cls) for event in (*by_type[alias].values(), *by_type[kind].values()))
            raise CatalogueError(f"alias {alias!r} of {kind!r} is a type itself: {classes}")


def with_class_layouts(given: tuple[Layout, ...], events: Iterable[CataloguedEvent]) -> tuple[Layout, ...]:
    """`given`, and the layouts that the classes of `events` have for other tables.

    Raises:
        CatalogueError: Two classes have two layouts for one table.
    """
    known: dict[str, tuple[Layout, CataloguedEvent]] = {}
    tables = {str(layout).lower() for layout in given}  # What is not a layout is refused further down.
    for event in events:
        layout = class_layout(event.cls)
        if layout is None or layout.table.lower() in tables:
            continue
        other, cls = known.setdefault(layout.table.lower(), (layout, event))
        if other != layout:
            raise CatalogueError(
                f"{named(cls.cls)} and {named(event.cls)} have two layouts for one table: {other!r} and {layout!r}"
            )
    return (*given, *(layout for layout, _ in known.values()))


def check_layouts(layouts: Iterable[Layout], events: Iterable[CataloguedEvent]) -> None:
    """Raise CatalogueError where a table has two layouts, or the name of a type does not fit."""
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


def check_rollups(
    rollups: Iterable[type[Rollup] | RollupPlan], layouts: Iterable[Layout], events: Iterable[CataloguedEvent]
) -> None:
    """Check that the table and the index of each rollup are its own, also where a database takes two names for one.

    Raises:
        CatalogueError: A name is taken.
    """
    taken = {event.table.lower(): f"the table of {named(event.cls)}" for event in events}
    for layout in layouts:
        taken[layout.table.lower()] = repr(layout)
        taken |= {index.name.lower(): f"an index of {layout!r}" for index in layout.indexes}
    for rollup in rollups:
        plan = plan_of(rollup)
        own = [plan.name.lower(), *([] if plan.index is None else [plan.index.lower()])]
        for name in own:
            if name in taken:
                raise CatalogueError(f"rollup {named(rollup)} has the name {name!r}, and so has {taken[name]}")
            taken[name] = f"rollup {named(rollup)}"
