"""The rules for fields without a marker, applied to every entry: secrets are redacted, and what no rule allows refused.

Here an entry is bytes already, whatever kind of event it was: nothing that is recorded goes another way.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import msgspec

from eventrec.errors import EncodeError, UnruledError
from eventrec.events.redaction import Keys, Redactor
from eventrec.records.column_types import TEXTUAL, ColumnType
from eventrec.records.entry import CONTEXT, EXPLICIT_ID, EXTRA_ROWS, PAYLOAD, SHAPE, TIMESTAMP, make_entry
from eventrec.records.extra_rows import decode_rows, encode_kept_rows
from eventrec.records.mark_rules import Leaf
from eventrec.records.marked import item_rules, member_rule
from eventrec.records.marks import REDACTED

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence

    from eventrec.records.entry import Entry
    from eventrec.records.mark_rules import Rule
    from eventrec.records.schema import ColumnSchema
    from eventrec.rules import Redaction


@dataclass(frozen=True, slots=True)
class Declared:
    """What the class of an event says of its fields: of the payload, and of the columns by their names."""

    payload: Rule | None
    columns: Mapping[str, Rule]


class EntryRules:
    """`redaction` may be None; `allow` are the keys that may be recorded as they are, None: all.

    A key that `redaction` names has a rule, too. Case and separators do not count, and `*` stands for any characters.
    """

    def __init__(self, redaction: Redaction | None, allow: Collection[str] | None = None) -> None:
        self._redactor = None if redaction is None else Redactor(redaction)
        self._allowed = None if allow is None else Keys(allow)
        self._context: tuple[bytes, bytes] = (b"", b"")

    def applied(self, entry: Entry, declared: Declared) -> Entry:
        """`entry` as it is recorded.

        Raises:
            UnruledError: A field has no rule, and there is a list of what is allowed.
            EncodeError: The payload is not JSON.
        """
        shape, extras, context = entry[SHAPE], entry[EXTRA_ROWS], entry[CONTEXT]
        try:
            payload = _decode(entry[PAYLOAD])
            rows = [] if extras is None else decode_rows(extras)
            if self._allowed is not None:
                self._refuse_unruled(entry, payload, rows, declared)
            if self._redactor is None:
                return entry
            if rows and shape.columns:
                extras = encode_kept_rows([self._row(shape.columns, row, declared.columns) for row in rows])
            if context is not None:
                context = self._redacted_context(context)
            kept = _encode(self._redactor.value(payload, declared.payload))
        except (ValueError, RecursionError, msgspec.MsgspecError) as exc:
            raise EncodeError(f"not a JSON value: {type(exc).__name__}") from None
        return make_entry(shape, entry[TIMESTAMP], kept, context, extras, entry[EXPLICIT_ID])

    def _redacted_context(self, context: bytes) -> bytes:
        given, redacted = self._context
        if given != context:
            assert self._redactor is not None  # noqa: S101 - as asked above
            redacted = _encode(self._redactor.value(_decode(context)))
            self._context = context, redacted  # in one step, for other threads
        return redacted

    def _row(self, columns: Sequence[ColumnSchema], row: Sequence[Any], rules: Mapping[str, Rule]) -> tuple[Any, ...]:
        return tuple(
            None if value is None else self._cell(column, value, rules.get(column.name))
            for column, value in zip(columns, row, strict=True)
        )

    def _cell(self, column: ColumnSchema, value: Any, rule: Rule | None) -> object:
        assert self._redactor is not None  # noqa: S101 - as asked above
        if isinstance(rule, Leaf):
            return value
        if column.name in self._redactor.keys:
            return REDACTED if column.type in TEXTUAL else None
        if column.type in _JSON:
            return _encode(self._redactor.value(_decode(value), rule))
        return self._redactor.text(value) if column.type in TEXTUAL else value

    # -- what is allowed

    def _refuse_unruled(self, entry: Entry, payload: Any, rows: Sequence[Any], declared: Declared) -> None:
        columns = entry[SHAPE].columns
        context = entry[CONTEXT]
        unruled = list(self._unruled(payload, declared.payload, "payload"))
        for position, column in enumerate(columns):
            rule = declared.columns.get(column.name)
            if column.type not in _JSON and not self._has_rule(column.name, rule):
                unruled.append(f"column {column.name}")
            for row in rows if column.type in _JSON and not isinstance(rule, Leaf) else ():
                is_named = self._has_rule(column.name, rule)
                unruled += self._unruled(_decode(row[position] or b"null"), rule, f"column {column.name}", is_named)
        if context is not None:
            unruled += self._unruled(_decode(context), None, "context")
        if unruled:
            named = ", ".join(sorted(set(unruled))[:_NAMED])
            raise UnruledError(
                f"no rule for {named}{', …' if len(set(unruled)) > _NAMED else ''}: "
                "mark the fields (Allowed, Hashed, …), or name them in the option plain_keys"
            )

    def _has_rule(self, name: str, rule: Rule | None) -> bool:
        assert self._allowed is not None  # noqa: S101 - as asked above
        return isinstance(rule, Leaf) or name in self._allowed or self._is_secret(name)

    def _is_secret(self, name: str) -> bool:
        return self._redactor is not None and name in self._redactor.keys

    def _unruled(self, value: Any, rule: Rule | None, name: str, is_named: bool = False) -> Iterator[str]:  # noqa: FBT001, FBT002 - of the walk itself
        """The fields in `value` that have no rule; `is_named`: the one that holds it has."""
        if isinstance(rule, Leaf):
            return
        if isinstance(value, dict):
            rule_of_member = member_rule(rule)
            for key, part in value.items():
                if not self._is_secret(key):
                    inner = rule_of_member(key)
                    yield from self._unruled(part, inner, _name(key), self._has_rule(key, inner))
        elif isinstance(value, list):
            for item, inner in zip(value, item_rules(rule, len(value)), strict=True):
                yield from self._unruled(item, inner, name, is_named)
        elif not is_named and not (value is None and name == "payload"):
            yield name


_JSON: Final = frozenset({ColumnType.JSON, ColumnType.LIST, ColumnType.STRUCT})
_NAMED: Final = 5

_NAME: Final = re.compile(r"[A-Za-z_][\w.\-]{0,39}", re.ASCII)


def _name(key: str) -> str:
    """`key`, where it looks like a name: else it may be a value."""
    return key if _NAME.fullmatch(key) else "a key that is not a name"


# Numbers stay the text they are, for floats that Python's cannot hold.
_decode: Final = msgspec.json.Decoder(float_hook=lambda number: msgspec.Raw(number.encode())).decode
_encode: Final = msgspec.json.Encoder().encode
