"""What a change of a catalogue breaks: its two documents compared, as `schema_export` writes them.

An event that is stored must still decode, and a table, a column or a rollup that something reads must still be there
and mean the same. So of the same type and version:

change                                            it breaks
a type or a version is removed                    yes, also where it is retired on purpose
a type, a version or an alias is added            no
another table; a column removed or changed        yes
fields                                            see `schema_changes`
a layout or a column of one is removed, changed   yes
a layout's column is added                        no, unless records without a value are refused by it
rows are kept for a shorter time                  yes
a rollup, a group or a measure is removed, changed yes, as its numbers would mean something else
a measure is added                                no
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from eventrec.analytics.changes import Change, breaking, compatible
from eventrec.analytics.schema_changes import SchemaChanges
from eventrec.analytics.schema_export import ABOUT, DOCUMENT_VERSION, TABLE, TYPE, VERSION
from eventrec.errors import CatalogueError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from eventrec.analytics.event_schema import Schema


def compare(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[Change]:
    """Every change from one document to the other, those that break first.

    Raises:
        CatalogueError: One of them is not a document of `export(catalogue)`.
    """
    for document in (old, new):
        _check(document)
    try:
        changes = [*_events(old, new), *_aliases(old, new), *_layouts(old, new), *_rollups(old, new)]
    except (TypeError, ValueError, KeyError, AttributeError, RecursionError) as exc:
        raise CatalogueError(f"not a catalogue as it is exported: {type(exc).__name__}") from exc
    return sorted(dict.fromkeys(changes), key=lambda change: not change.is_breaking)


def _check(document: object) -> None:
    about = document.get(ABOUT) if isinstance(document, dict) else None
    if not isinstance(about, dict):
        raise CatalogueError(f"not a catalogue as `eventrec catalogue export` writes it: it has no {ABOUT!r}")
    if about.get("document") != DOCUMENT_VERSION:
        raise CatalogueError(
            f"a catalogue's document of version {about.get('document')!r:.20}: this eventrec reads {DOCUMENT_VERSION}"
        )


# -- events -----------------------------------------------------------------------------------------------------------


def _events(old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[Change]:
    before, after = _by_version(old), _by_version(new)
    types_after = {kind for kind, _ in after}
    aliases = new[ABOUT]["aliases"]
    for (kind, version), schema in before.items():
        subject = f"{kind} version {version}"
        if kind not in types_after:
            if aliases.get(kind) is None:
                yield breaking("removed", kind, "is removed")
                continue
            found = after.get((aliases[kind], version))
            yield compatible("changed", kind, f"is now called {aliases[kind]}")
        else:
            found = after.get((kind, version))
        if found is None:
            yield breaking("removed", subject, "is removed: records of it no longer decode")
            continue
        if schema.get(TABLE) != found.get(TABLE):
            yield breaking("changed", subject, f"its table {schema.get(TABLE)!r} is now {found.get(TABLE)!r}")
        yield from SchemaChanges(old["$defs"], new["$defs"]).of(subject, schema, found)
    types_before = {kind for kind, _ in before}
    for kind, version in after:
        if kind not in types_before:
            if kind not in aliases.values():
                yield compatible("added", kind, "is added")
        elif (kind, version) not in before:
            yield compatible("added", f"{kind} version {version}", "is added")


def _by_version(document: Mapping[str, Any]) -> dict[tuple[str, int], Schema]:
    return {
        (schema[TYPE], schema[VERSION]): schema
        for schema in document["$defs"].values()
        if isinstance(schema, dict) and TYPE in schema
    }


def _aliases(old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[Change]:
    before, after = old[ABOUT]["aliases"], new[ABOUT]["aliases"]
    for alias, kind in before.items():
        if after.get(alias) != kind:
            yield breaking(
                "removed", f"alias {alias}", f"no longer leads to {kind}: records of that name do not decode"
            )
    for alias, kind in after.items():
        if alias not in before:
            yield compatible("added", f"alias {alias}", f"leads to {kind}")
    if old[ABOUT]["version_field"] != new[ABOUT]["version_field"]:
        what = f"{old[ABOUT]['version_field']!r} is now {new[ABOUT]['version_field']!r}: stored versions are lost"
        yield breaking("changed", "version_field", what)


# -- layouts ----------------------------------------------------------------------------------------------------------


def _layouts(old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[Change]:
    for name, before, after in _pairs(old, new, "layouts", "table"):
        subject = f"layout of table {name}"
        if after is None:
            yield breaking("removed", subject, "is removed")
        elif before is None:
            yield compatible("added", subject, "is added")
        else:
            yield from _named_parts(subject, "column", before["columns"], after["columns"], _layout_column)
            yield from _retention(subject, before.get("retention"), after.get("retention"))
            for part in ("primary_key", "partition"):
                if before.get(part) != after.get(part):
                    what = f"{part} {before.get(part)} is now {after.get(part)}: no migration changes it in place"
                    yield breaking("changed", subject, what)
            for part in ("indexes", "compression"):
                if before.get(part) != after.get(part):
                    yield compatible("changed", subject, f"{part} changed")


def _layout_column(subject: str, old: Mapping[str, Any] | None, new: Mapping[str, Any]) -> Iterator[Change]:
    is_required = new.get("nullable") is False and new.get("default") is None
    if old is None:
        if is_required and new["source"] in _MAY_BE_MISSING:
            yield breaking("required", subject, "is added, and refuses records without a value")
        else:
            yield compatible("added", subject, "is added")
        return
    for part in ("source", "path", "type"):
        if old.get(part) != new.get(part):
            yield breaking("type", subject, f"{part} {old.get(part)} is now {new.get(part)}")
    match old.get("length"), new.get("length"):
        case int() as before, int() as after if after < before:
            yield breaking("narrowed", subject, f"length {before} is now {after}")
        case int() as before, int() as after if after > before:
            yield compatible("widened", subject, f"length {before} is now {after}")
    if is_required and (old.get("nullable") is not False or old.get("default") is not None):
        yield breaking("required", subject, "now refuses records without a value")
    elif old.get("default") != new.get("default"):
        yield compatible("changed", subject, f"the default {old.get('default')!r} is now {new.get('default')!r}")


_MAY_BE_MISSING: Final = frozenset({"payload", "context", "field", "timestamp"})


# -- rollups ----------------------------------------------------------------------------------------------------------


def _rollups(old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[Change]:
    for name, before, after in _pairs(old, new, "rollups", "name"):
        subject = f"rollup {name}"
        if after is None:
            yield breaking("removed", subject, "is removed")
        elif before is None:
            yield compatible("added", subject, "is added")
        else:
            for part in ("table", "types", "where", "bucket", "bucket_name"):
                if before[part] != after[part]:
                    yield breaking("changed", subject, f"its {part} changed: its numbers would mean something else")
            yield from _named_parts(subject, "group", before["groups"], after["groups"], _group)
            yield from _named_parts(subject, "measure", before["measures"], after["measures"], _measure)
            yield from _retention(subject, before.get("retention"), after.get("retention"))
            if before["refresh"] != after["refresh"]:
                yield compatible("changed", subject, "is refreshed at other times")


def _group(subject: str, old: Mapping[str, Any] | None, new: Mapping[str, Any]) -> Iterator[Change]:
    if old is None:
        yield breaking("changed", subject, "is added: a row no longer tells of the same events")
    elif old != new:
        yield breaking("changed", subject, "changed")


def _measure(subject: str, old: Mapping[str, Any] | None, new: Mapping[str, Any]) -> Iterator[Change]:
    if old is None:
        yield compatible("added", subject, "is added")
    elif old != new:
        yield breaking("changed", subject, "changed: its numbers would mean something else")


# -- what they share --------------------------------------------------------------------------------------------------


def _pairs(old: Mapping[str, Any], new: Mapping[str, Any], part: str, key: str) -> Iterator[tuple[str, Any, Any]]:
    """By name: what it was, and what it is; None where it is not there."""
    before, after = ({each[key]: each for each in document[ABOUT][part]} for document in (old, new))
    for name in dict.fromkeys((*before, *after)):
        yield name, before.get(name), after.get(name)


def _named_parts(
    subject: str,
    what: str,
    old: list[Any],
    new: list[Any],
    of: Callable[[str, Mapping[str, Any] | None, Mapping[str, Any]], Iterator[Change]],
) -> Iterator[Change]:
    before, after = {each["name"]: each for each in old}, {each["name"]: each for each in new}
    for name in before:
        if name not in after:
            yield breaking("removed", f"{subject}, {what} {name}", "is removed")
    for name, each in after.items():
        yield from of(f"{subject}, {what} {name}", before.get(name), each)


def _retention(subject: str, old: float | None, new: float | None) -> Iterator[Change]:
    if old == new:
        return
    what = f"rows are kept {_span(new)}, no longer {_span(old)}"
    if new is not None and (old is None or new < old):
        yield breaking("narrowed", subject, what)
    else:
        yield compatible("widened", subject, what)


def _span(seconds: float | None) -> str:
    return "for ever" if seconds is None else f"for {seconds / 86_400:g} days"
