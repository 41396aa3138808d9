"""Values out of a record: those of some sources, each part of the record decoded once for all of them."""

from __future__ import annotations

import functools
import operator
from collections.abc import Sequence
from operator import attrgetter
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias, get_args

import msgspec

from eventrec.errors import OptionsError
from eventrec.records.context import merged_context
from eventrec.records.entry import CONTEXT, EXTRA_ROWS, PAYLOAD, SHAPE, TIMESTAMP
from eventrec.records.extra_rows import decode_rows
from eventrec.records.layout_columns import LayoutSource

if TYPE_CHECKING:
    from collections.abc import Callable

    from eventrec.records.entry import Entry

Sources: TypeAlias = LayoutSource | Sequence[LayoutSource]
"""Where a value stands; of several, the first that has one counts."""


class Picker:
    """Picks the values `wanted`: each a name for errors, where it stands, and its type for the decoder.

    With `is_strict`, what cannot be read raises whatever a decoder raises; without, it is None. Texts are cut to
    `max_text` characters, unless that is 0.

    Raises:
        OptionsError: A source is not one that can be picked, or two contradict each other.
    """

    def __init__(self, wanted: Sequence[tuple[str, Sources, Any]], *, is_strict: bool, max_text: int = 0) -> None:
        self._max_text = max_text
        self._alternatives: list[list[int]] = []
        self._columns: list[tuple[int, str]] = []
        self._whole: list[tuple[int, str]] = []
        payload: list[tuple[tuple[str, ...], Any, int]] = []
        context: list[tuple[tuple[str, ...], Any, int]] = []
        count = 0
        for name, sources, type_ in wanted:
            places: list[int] = []
            for source in (sources,) if isinstance(sources, LayoutSource) else sources:
                match source:
                    case LayoutSource("payload", path) if path:
                        payload.append((path, type_, count))
                    case LayoutSource("context", path) if path:
                        context.append((path, type_, count))
                    case LayoutSource("field", (column,)):
                        self._columns.append((count, column))
                    case LayoutSource("type" | "timestamp" as kind) if name in {"type", "time"}:
                        self._whole.append((count, kind))
                    case _:
                        raise OptionsError(f"the field {name!r} of an event cannot be taken from {source!s:.80}")
                places.append(count)
                count += 1
            self._alternatives.append(places)
        self._count = count
        self._is_strict = is_strict
        self._payload = _Members(payload, is_strict=is_strict) if payload else None
        self._context = _Members(context, is_strict=is_strict) if context else None
        is_plain = self._payload is not None and not (self._context or self._columns or self._whole)
        is_single = all(places == [i] for i, places in enumerate(self._alternatives))
        self.pick: Callable[[Entry, bytes | None], Sequence[Any]] = self._pick
        if self._payload is not None and is_strict and is_plain and is_single and self._payload.is_flat:
            self.pick = self._payload.picked_at_once
        elif is_plain and not is_strict:
            self._at_once = _AtOnce(payload, self._alternatives, max_text)
            self.pick = self._pick_at_once

    def _pick_at_once(self, entry: Entry, static: bytes | None) -> Sequence[Any]:
        """As `_pick`, which is asked where any part of the payload is not of its type."""
        try:
            return self._at_once.pick(entry[PAYLOAD])
        except Exception:  # noqa: BLE001 - whatever odd bytes make of a decoder
            return self._pick(entry, static)

    def _cut(self, value: Any) -> Any:
        return value[: self._max_text] if self._max_text and isinstance(value, str) else value

    def _pick(self, entry: Entry, static: bytes | None) -> Sequence[Any]:
        found: list[Any] = [None] * self._count
        if self._payload is not None:
            self._payload.pick(entry[PAYLOAD], found)
        if self._context is not None:
            text = merged_context(static, entry[CONTEXT])
            if text is not None:
                self._context.pick(text, found)
        if self._columns:
            self._pick_columns(entry, found)
        for place, kind in self._whole:
            found[place] = entry[SHAPE].type if kind == "type" else entry[TIMESTAMP] // 1_000_000
        return [
            self._cut(found[places[0]] if len(places) == 1 else next((found[i] for i in places if found[i]), None))
            for places in self._alternatives
        ]

    def _pick_columns(self, entry: Entry, found: list[Any]) -> None:
        extras = entry[EXTRA_ROWS]
        rows = () if extras is None else decode_rows(extras)
        if rows:
            names = [column.name for column in entry[SHAPE].columns]
            for place, column in self._columns:
                if column in names:
                    value = rows[0][names.index(column)]
                    found[place] = value if isinstance(value, str | int | float | list | None) else None


class _Members:
    """Members of a JSON object by their paths, decoded into a struct that is made for them."""

    def __init__(self, wanted: Sequence[tuple[tuple[str, ...], Any, int]], *, is_strict: bool) -> None:
        inner: dict[str, list[tuple[tuple[str, ...], Any, int]]] = {}
        leaves: dict[str, tuple[Any, int]] = {}
        for (name, *rest), type_, place in wanted:
            if rest:
                inner.setdefault(name, []).append((tuple(rest), type_, place))
            elif name in leaves:
                raise OptionsError(f"two fields of an event are taken from the member {name!r}")
            else:
                leaves[name] = (type_, place)
        if both := inner.keys() & leaves.keys():
            raise OptionsError(f"a field of an event is the member {min(both)!r}, and another one stands inside it")
        self.is_flat = not inner
        self._is_strict = is_strict
        attributes = {name: f"m{i}" for i, name in enumerate([*leaves, *inner])}
        struct = msgspec.defstruct(
            "Members",
            [
                *((attributes[name], type_, None) for name, (type_, _) in leaves.items()),
                *((attributes[name], msgspec.Raw, msgspec.Raw()) for name in inner),
            ],
            rename={attribute: name for name, attribute in attributes.items()},
            gc=False,
        )
        self._decode: Callable[[bytes | msgspec.Raw], Any] = msgspec.json.Decoder(struct | None).decode
        self._leaves = [(attributes[name], place) for name, (_, place) in leaves.items()]
        self._inner = [(attributes[name], _Members(those, is_strict=is_strict)) for name, those in inner.items()]
        ordered = [attribute for attribute, _ in sorted(self._leaves, key=lambda leaf: leaf[1])]
        self._all: Callable[[Any], Any] = attrgetter(*ordered) if ordered else tuple

    def picked_at_once(self, entry: Entry, _: bytes | None) -> Sequence[Any]:
        """All of them, where none stands inside another object."""
        members = self._decode(entry[PAYLOAD])
        values: Sequence[Any] = (None,) * len(self._leaves) if members is None else self._all(members)
        return values

    def pick(self, text: bytes | msgspec.Raw, found: list[Any]) -> None:
        """Put them where they belong in `found`."""
        try:
            members = self._decode(text)
        except Exception:
            if self._is_strict:
                raise
            return
        if members is None:
            return
        for attribute, place in self._leaves:
            found[place] = getattr(members, attribute)
        for attribute, those in self._inner:
            raw = getattr(members, attribute)
            if bytes(raw):
                those.pick(raw, found)


class _AtOnce:
    """All values of a payload by one decoder, where each part of it is of its type; `wanted` as `_Members` has it."""

    def __init__(
        self, wanted: Sequence[tuple[tuple[str, ...], Any, int]], alternatives: Sequence[list[int]], max_text: int
    ) -> None:
        names: dict[int, str] = {}
        if max_text:
            short = Annotated[str, msgspec.Meta(max_length=max_text)]
            wanted = [(path, _with_text(type_, short), place) for path, type_, place in wanted]
        self._decode: Callable[[bytes], Any] = msgspec.json.Decoder(_nested(list(wanted), "", names)).decode
        firsts = [places[0] for places in alternatives]
        further = [place for places in alternatives for place in places[1:]]
        self._values: Callable[[Any], tuple[Any, ...]] = _all_of([names[place] for place in (*firsts, *further)])
        self._count = len(firsts)
        at = {place: i for i, place in enumerate(further, len(firsts))}
        self._further = [
            (i, [at[place] for place in places[1:]]) for i, places in enumerate(alternatives) if len(places) > 1
        ]

    def pick(self, payload: bytes) -> Sequence[Any]:
        """The values; raises whatever the decoder does."""
        values = self._values(self._decode(payload))
        found = list(values[: self._count])
        has_further = any(values[self._count :])
        for i, others in self._further:
            if not found[i]:
                found[i] = next((values[k] for k in others if values[k]), None) if has_further else None
        return found


def _nested(wanted: list[tuple[tuple[str, ...], Any, int]], before: str, names: dict[int, str]) -> type[msgspec.Struct]:
    """A struct of the members of `wanted`, others inside; `names` is told which attribute each place is."""
    members: dict[str, list[tuple[tuple[str, ...], Any, int]]] = {}
    for (name, *rest), type_, place in wanted:
        members.setdefault(name, []).append((tuple(rest), type_, place))
    fields: list[tuple[str, Any, Any]] = []
    for i, those in enumerate(members.values()):
        path, type_, place = those[0]
        if path:
            inner = _nested(those, f"{before}m{i}.", names)
            fields.append((f"m{i}", inner, inner()))
        else:
            names[place] = f"{before}m{i}"
            fields.append((f"m{i}", type_, None))
    rename = {f"m{i}": name for i, name in enumerate(members)}
    return msgspec.defstruct("Members", fields, rename=rename, gc=False, frozen=True)


def _with_text(type_: Any, text: Any) -> Any:
    """The union `type_` with `text` in place of `str`."""
    return functools.reduce(operator.or_, [text if each is str else each for each in get_args(type_)])


def _all_of(names: Sequence[str]) -> Callable[[Any], tuple[Any, ...]]:
    """What gives the values of these attributes; "m1.m2" is inside another one."""
    if len(names) > 1:
        return attrgetter(*names)
    return lambda members: tuple(attrgetter(name)(members) for name in names)
