"""What a change of a JSON Schema does to events that are stored: old ones must fit the new schema.

change                                                      it breaks
a property is removed, or its type is another               yes
a property is added: required, optional                     yes, no
a property becomes required, optional                       yes, no
an enum, a length, a range, a pattern, a format             yes where fewer values fit, no where more do
one of several alternatives is removed, added               yes, no
members that are not declared are refused, allowed          yes, no
a default, a title, a description, an example               no
any other keyword                                           yes: it is not known what it does
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from eventrec.analytics.changes import Change, breaking, compatible
from eventrec.analytics.event_schema import COLUMN, DEFINITIONS, PRIVACY, TIMESTAMP, Schema

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_TEXTS: Final = frozenset(
    {
        *("title", "description", "examples", "$comment", "deprecated", "readOnly", "writeOnly", "discriminator"),
        *("$id", "$schema"),
    }
)
_AT_MOST: Final = ("maxLength", "maximum", "exclusiveMaximum", "maxItems", "maxProperties")
_AT_LEAST: Final = ("minLength", "minimum", "exclusiveMinimum", "minItems", "minProperties")
_COMPARED: Final = frozenset(
    {
        *("type", "enum", "const", "properties", "required", "additionalProperties", "items", "prefixItems", "anyOf"),
        *("oneOf", "default", COLUMN, TIMESTAMP, PRIVACY, *_AT_MOST, *_AT_LEAST),
    }
)
_FITS_ALL: Final[Schema] = {}
_NUMBERS: Final = "number"


class SchemaChanges:
    """Compares schemas of two documents, whose definitions these are."""

    def __init__(self, old: Mapping[str, Schema], new: Mapping[str, Schema]) -> None:
        self._old = old
        self._new = new
        self._seen: set[tuple[str, str]] = set()

    def of(self, subject: str, old: Any, new: Any) -> Iterator[Change]:
        """What became of `subject`, whose schema was `old` and is `new`."""
        pair = (_reference(old), _reference(new))
        if pair[0] and pair[1]:
            if pair in self._seen:  # A class that refers to itself, or stands at several fields.
                return
            self._seen.add(pair)
        before, after = _resolved(old, self._old), _resolved(new, self._new)
        if before == after and not _holds_references(before):
            return
        if _alternatives(before) or _alternatives(after):
            yield from self._alternatives(subject, before, after)
            if not (_alternatives(before) and _alternatives(after)):
                # Of one side everything stands in the alternative.
                before, after = _annotations(before), _annotations(after)
        else:
            yield from _types(subject, before, after)
            yield from _enums(subject, before, after)
        yield from _bounds(subject, before, after)
        yield from self._members(subject, before, after)
        yield from self._items(subject, before, after)
        yield from _marks(subject, before, after)
        yield from _others(subject, before, after)

    # -- alternatives

    def _alternatives(self, subject: str, old: Schema, new: Schema) -> Iterator[Change]:
        """Each alternative of old needs one of new that takes all of it."""
        before = _alternatives(old) or [_without_annotations(old)]
        after = _alternatives(new) or [_without_annotations(new)]
        reasons: list[Change] = []
        for each in before:
            differences = [self._differences(subject, each, one) for one in after]
            if any(not any(change.is_breaking for change in found) for found in differences):
                continue
            alike = (found for one, found in zip(after, differences, strict=True) if self._is_alike(each, one))
            closest = min(alike, key=len, default=None)
            reasons += closest or [breaking("removed", subject, f"{self._shown(each, self._old)} is no longer allowed")]
        yield from reasons
        for one in after:
            if not any(self._is_alike(each, one) for each in before):
                yield compatible("widened", subject, f"{self._shown(one, self._new)} is allowed too")

    def _differences(self, subject: str, old: Any, new: Any) -> list[Change]:
        """What `of` gives, as if it had not been asked."""
        probe = SchemaChanges(self._old, self._new)
        probe._seen = set(self._seen)
        return list(probe.of(subject, old, new))

    def _is_alike(self, old: Any, new: Any) -> bool:
        """Whether they are the same kind of value: what is different in it says more than that it is gone."""
        before, after = _resolved(old, self._old), _resolved(new, self._new)
        return bool(_kinds(before) & _kinds(after)) and before.get("title") == after.get("title")

    def _shown(self, schema: Any, definitions: Mapping[str, Schema]) -> str:
        found = _resolved(schema, definitions)
        if found.get("title"):
            return str(found["title"])
        if "const" in found or "enum" in found:
            return f"one of {_said(_enum(found))}"
        return " or ".join(sorted(_kinds(found))) or "any value"

    # -- objects and lists

    def _members(self, subject: str, old: Schema, new: Schema) -> Iterator[Change]:
        before, after = old.get("properties", {}), new.get("properties", {})
        required_before, required_after = set(old.get("required", ())), set(new.get("required", ()))
        for name in before:
            field = f"{subject}, field {name}"
            if name not in after:
                yield breaking("removed", field, "is removed")
                continue
            if name in required_after - required_before and not after[name].get("readOnly"):
                yield breaking("required", field, "is now required, and events that are stored may lack it")
            if name in required_before - required_after:
                yield compatible("optional", field, "is no longer required")
            yield from self.of(field, before[name], after[name])
        for name in after:
            if name not in before:
                field = f"{subject}, field {name}"
                is_new = name in required_after and not after[name].get("readOnly")
                yield (
                    breaking("required", field, "is added and required: events that are stored lack it")
                    if is_new
                    else compatible("added", field, "is added")
                )
        yield from self._beyond(f"{subject}, other members", old, new, "additionalProperties")

    def _items(self, subject: str, old: Schema, new: Schema) -> Iterator[Change]:
        before, after = old.get("prefixItems", []), new.get("prefixItems", [])
        for number, (one, two) in enumerate(zip(before, after, strict=False)):
            yield from self.of(f"{subject}, item {number}", one, two)
        for number in range(len(before), len(after)):
            yield from self.of(f"{subject}, item {number}", old.get("items", _FITS_ALL), after[number])
        for number in range(len(after), len(before)):
            yield from self.of(f"{subject}, item {number}", before[number], new.get("items", _FITS_ALL))
        yield from self._beyond(f"{subject}, each item", old, new, "items")

    def _beyond(self, subject: str, old: Schema, new: Schema, name: str) -> Iterator[Change]:
        before, after = old.get(name, True), new.get(name, True)
        if before is False and after is not False:
            yield compatible("widened", subject, "is allowed now")
        elif before is not False and after is False:
            yield breaking("narrowed", subject, "is refused now")
        elif before is not False:
            yield from self.of(subject, _FITS_ALL if before is True else before, _FITS_ALL if after is True else after)


def _bounds(subject: str, old: Schema, new: Schema) -> Iterator[Change]:
    for names, sign in ((_AT_MOST, 1), (_AT_LEAST, -1)):
        for name in names:
            before, after = old.get(name), new.get(name)
            if before == after:
                continue
            is_narrower = after is not None and (before is None or (after - before) * sign < 0)
            what = f"{name} {_or_none(before)} is now {_or_none(after)}"
            yield breaking("narrowed", subject, what) if is_narrower else compatible("widened", subject, what)


def _types(subject: str, old: Schema, new: Schema) -> Iterator[Change]:
    before, after = _kinds(old), _kinds(new)
    if before == after:
        return
    what = f"{_kinds_said(before)} is now {_kinds_said(after)}"
    if not after or (before and all(kind in after or (kind == "integer" and _NUMBERS in after) for kind in before)):
        yield compatible("widened", subject, what)
    elif not before or after < before:
        yield breaking("narrowed", subject, what)
    else:
        yield breaking("type", subject, what)


def _enums(subject: str, old: Schema, new: Schema) -> Iterator[Change]:
    before, after = _enum(old), _enum(new)
    if before == after:
        return
    if after is None:
        yield compatible("widened", subject, f"is no longer one of {_said(before)}")
    elif before is None:
        yield breaking("narrowed", subject, f"is now one of {_said(after)}")
    else:
        gone = [value for value in before if value not in after]
        if gone:
            yield breaking("narrowed", subject, f"{_said(gone)} is no longer allowed")
        added = [value for value in after if value not in before]
        if added:
            yield compatible("widened", subject, f"{_said(added)} is allowed too")


def _marks(subject: str, old: Schema, new: Schema) -> Iterator[Change]:
    """What we say of a property."""
    before, after = old.get(COLUMN), new.get(COLUMN)
    if before != after:
        yield from _columns(subject, before, after)
    if bool(old.get(TIMESTAMP)) != bool(new.get(TIMESTAMP)):
        said = "is now" if new.get(TIMESTAMP) else "is no longer"
        yield breaking("changed", subject, f"{said} the time of the event")
    before, after = old.get(PRIVACY), new.get(PRIVACY)
    if isinstance(before, dict) or isinstance(after, dict):
        paths = sorted({*(before or {}), *(after or {})})
        for path in paths:
            yield from _private(f"{subject}, {path}", (before or {}).get(path), (after or {}).get(path))


def _private(subject: str, old: str | None, new: str | None) -> Iterator[Change]:
    if old == new:
        return
    if new is None:
        yield breaking("privacy", subject, f"is no longer {old}: from now on the value itself is stored")
    else:
        yield breaking(
            "privacy", subject, f"{'was stored as it is' if old is None else f'was {old}'}, and is now {new}"
        )


def _columns(subject: str, old: Any, new: Any) -> Iterator[Change]:
    if old is None:
        yield breaking("changed", subject, f"moves from the payload to the column {new.get('name')!r}")
    elif new is None:
        yield breaking("removed", subject, f"its column {old.get('name')!r} is removed: it moves to the payload")
    elif old.get("name") != new.get("name"):
        yield breaking("changed", subject, f"its column {old.get('name')!r} is now {new.get('name')!r}")
    else:
        yield breaking("type", subject, f"its column {_column(old)} is now {_column(new)}")


def _column(column: Mapping[str, Any]) -> str:
    said = [str(column.get("type"))]
    said += [f"{name} {column[name]}" for name in ("precision", "scale", "dimensions") if name in column]
    return " ".join([*said, *(["tag"] if column.get("tag") else [])])


def _others(subject: str, old: Schema, new: Schema) -> Iterator[Change]:
    if old.get("default") != new.get("default") or ("default" in old) != ("default" in new):
        what = f"the default {_or_none(old.get('default'))} is now {_or_none(new.get('default'))}"
        yield compatible("changed", subject, what)
    for name in sorted({*old, *new} - _COMPARED - _TEXTS):
        if name.startswith("x-") or name == "$ref" or old.get(name) == new.get(name):
            continue
        if name not in new:
            yield compatible("widened", subject, f"{name} {_or_none(old[name])} is no longer asked for")
        else:
            yield breaking("narrowed", subject, f"{name} {_or_none(old.get(name))} is now {_or_none(new[name])}")


# -- looking into a schema --------------------------------------------------------------------------------------------


def _reference(schema: Any) -> str:
    return str(schema.get("$ref", "")) if isinstance(schema, dict) else ""


def _resolved(schema: Any, definitions: Mapping[str, Schema]) -> Schema:
    """`schema` with what it refers to; what is not a schema fits all."""
    seen: set[str] = set()
    found: Schema = schema if isinstance(schema, dict) else {}
    while isinstance(found.get("$ref"), str) and found["$ref"] not in seen:
        reference = found["$ref"]
        seen.add(reference)
        target = definitions.get(reference.removeprefix(DEFINITIONS), {})
        found = {**target, **{name: value for name, value in found.items() if name != "$ref"}}
        if "$ref" in target:
            found["$ref"] = target["$ref"]
    return {name: value for name, value in found.items() if name != "$ref"}


def _holds_references(schema: Any) -> bool:
    match schema:
        case dict():
            return "$ref" in schema or any(map(_holds_references, schema.values()))
        case list():
            return any(map(_holds_references, schema))
    return False


def _alternatives(schema: Schema) -> list[Any]:
    return [*schema.get("anyOf", []), *schema.get("oneOf", [])]


def _annotations(schema: Schema) -> Schema:
    return {name: value for name, value in schema.items() if name in _ANNOTATIONS}


def _without_annotations(schema: Schema) -> Schema:
    # A title is that of the field, unless it stands at a class.
    beside = _ANNOTATIONS if "properties" in schema else _ANNOTATIONS | _TEXTS
    return {name: value for name, value in schema.items() if name not in beside}


_ANNOTATIONS: Final = frozenset({"default", COLUMN, TIMESTAMP, PRIVACY})


def _kinds(schema: Schema) -> frozenset[str]:
    """The JSON types that a schema allows; empty: any."""
    said = schema.get("type")
    if isinstance(said, str):
        return frozenset({said})
    if isinstance(said, list):
        return frozenset(map(str, said))
    values = _enum(schema)
    return frozenset() if values is None else frozenset(map(_kind_of, values))


def _kind_of(value: object) -> str:
    match value:
        case bool():
            return "boolean"
        case int():
            return "integer"
        case float():
            return "number"
        case str():
            return "string"
        case None:
            return "null"
    return "array" if isinstance(value, list) else "object"


def _enum(schema: Schema) -> list[Any] | None:
    if "const" in schema:
        return [schema["const"]]
    said = schema.get("enum")
    return sorted(said, key=repr) if isinstance(said, list) else None


def _kinds_said(kinds: frozenset[str]) -> str:
    return " or ".join(sorted(kinds)) or "any value"


def _said(values: list[Any] | None) -> str:
    return ", ".join(map(repr, values or []))


def _or_none(value: Any) -> str:
    return "none" if value is None else repr(value)
