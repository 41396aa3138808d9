"""What is recorded in place of marked values, put there before an event is bytes.

pydantic's serializers ask for it themselves (`records/marks.py`). Of all else msgspec first makes plain values, which
are then gone through together with the instances they were made of: an instance's own class says what is marked in it.
"""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING, Any, Final, TypeVar

import msgspec
from pydantic import SecretBytes, SecretStr
from pydantic_core import to_jsonable_python

from eventrec.errors import EncodeError, InvalidEventError, UnruledError
from eventrec.events.hashing import hashed
from eventrec.records.column_types import TEXTUAL
from eventrec.records.json import KEPT_TYPES, as_builtin
from eventrec.records.mark_rules import Leaf, Positions, has_fields
from eventrec.records.marked import fields_of, is_marked_here, item_rules, member_rule, member_rules, rules_of
from eventrec.records.marked_values import MarkedValueError, refuse_marked
from eventrec.records.marks import REDACTED, Allowed, Hashed, Mark, Masker, Redacted, Truncated

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from eventrec.records.mark_rules import Rule
    from eventrec.records.schema import ColumnSchema, Row

T = TypeVar("T")


class Masks(Masker):
    """Replaces marked values; `salt` is that of `Hashed()`. Without one, what it marks is "[redacted]"."""

    def __init__(self, salt: bytes | None = None) -> None:
        super().__init__()
        self._salt = salt

    @property
    def is_salted(self) -> bool:
        """Whether there is a salt."""
        return self._salt is not None

    def mask(self, mark: Mark, value: object, *, is_text: bool) -> object:
        """What is recorded in place of `value`; None stays None."""
        if value is None or value is msgspec.UNSET or isinstance(mark, Allowed):
            return value
        if isinstance(mark, Hashed):
            return self._hashed(value)
        if isinstance(mark, Truncated) and isinstance(value, str):
            return str.__getitem__(value, slice(mark.length))
        return REDACTED if is_text else None

    def _hashed(self, value: object) -> str:
        if self._salt is None:
            return REDACTED
        try:
            if isinstance(value, (SecretStr, SecretBytes)):
                value = value.get_secret_value()
            try:
                return hashed(value, self._salt)
            except EncodeError:  # A time, a decimal, an address: what they are in JSON.
                said = to_jsonable_python(value)
                return hashed(said, self._salt) if isinstance(said, (str, int, float)) else REDACTED
        except Exception:  # noqa: BLE001 - foreign code; what cannot be hashed is not shown either
            return REDACTED

    def unmarked(self, value: object, declared: Rule | None = None) -> object:
        """`value` in plain JSON values, with what is recorded in place of marked ones.

        `declared` is what the annotation says that `value` has.

        Raises:
            EncodeError: msgspec makes nothing of it.
        """
        try:
            plain = msgspec.to_builtins(value, builtin_types=KEPT_TYPES, enc_hook=as_builtin)
            return self._walked(declared, value, plain)
        except Exception as exc:  # noqa: BLE001 - foreign code may raise anything
            # Without the text of what was raised, and without its cause: both may quote what must not be seen.
            raise EncodeError(f"not a JSON value: {type(exc).__name__}") from None

    def row(self, columns: Sequence[ColumnSchema], row: Row, rules: Mapping[str, Rule]) -> Row:
        """`row` with what is recorded in place of marked values: those whose column `rules` names, and those inside.

        Raises:
            EncodeError: A value inside is not a JSON value.
            InvalidEventError: A column is not text, and holds a hash.
        """
        if not rules or len(row) != len(columns):
            return row
        return tuple(
            self.cell(column, rules[column.name], value) if column.name in rules else value
            for column, value in zip(columns, row, strict=True)
        )

    def rows(self, columns: Sequence[ColumnSchema], rows: Sequence[Row], rules: Mapping[str, Rule]) -> Sequence[Row]:
        """The same for each of `rows`."""
        return [self.row(columns, row, rules) for row in rows]

    def unmarked_rows(self, rows: Sequence[Row]) -> Sequence[Row]:
        """`rows` with what is recorded in place of marked values inside, for columns that take plain JSON values."""
        return [tuple(self.unmarked(value) if _is_marked_inside(value) else value for value in row) for row in rows]

    def cell(self, column: ColumnSchema, rule: Rule, value: object) -> object:
        """The same for one value."""
        if not isinstance(rule, Leaf):
            return value if value is None else self.unmarked(value, rule)
        if isinstance(rule.mark, Hashed) and column.type not in TEXTUAL:
            raise InvalidEventError(f"column {column.name!r}: Hashed() needs a STRING, not {column.type.name}")
        return self.mask(rule.mark, value, is_text=column.type in TEXTUAL)

    def _walked(self, declared: Rule | None, value: Any, plain: Any) -> Any:
        if isinstance(declared, Leaf):
            return self.mask(declared.mark, value, is_text=declared.is_text)
        if isinstance(value, Enum):
            value = value.value
        if isinstance(plain, dict):
            return self._walked_object(declared, value, plain)
        if isinstance(plain, (list, tuple, set, frozenset)):
            return self._walked_list(declared, value, list(plain))
        # Something marked should be in it, and it is not what it should be.
        return REDACTED if plain is not None and is_marked_here(declared) else plain

    def _walked_object(self, declared: Rule | None, value: Any, plain: dict[Any, Any]) -> dict[Any, Any]:
        kind: type = type(value)
        if has_fields(kind):
            rules = {**member_rules(declared), **rules_of(kind)}
            names = {encoded: field.name for field in fields_of(kind) for encoded in field.encoded}
            return {
                key: self._walked(rules.get(key), getattr(value, names[key]) if key in names else part, part)
                for key, part in plain.items()
            }
        parts = list(value.values()) if isinstance(value, dict) else list(plain.values())
        # As many, or what belongs together is unknown: two keys became one, for example.
        rule_of_member = member_rule(declared)
        return {
            key: self._walked(rule_of_member(key), part, said)
            for part, (key, said) in zip(parts, plain.items(), strict=True)
        }

    def _walked_list(self, declared: Rule | None, value: Any, plain: list[Any]) -> list[Any]:
        kind: type = type(value)
        before = 0
        if has_fields(kind):
            rules = [field.rule for field in fields_of(kind)]
            parts = [getattr(value, field.name) for field in fields_of(kind)]
            before = len(plain) - len(parts)  # an array-like Struct begins with its tag
        else:
            parts = list(value) if isinstance(value, _ITERABLES) else plain
            rules = list(_rules_of_items(declared, len(plain)))
        return plain[:before] + [
            self._walked(rule, part, said) for rule, part, said in zip(rules, parts, plain[before:], strict=True)
        ]


def _is_marked_inside(value: object) -> bool:
    try:
        refuse_marked(value)
    except MarkedValueError:
        return True
    return False


_ITERABLES: Final = (list, tuple, set, frozenset)


def _rules_of_items(declared: Rule | None, count: int) -> Sequence[Rule | None]:
    if isinstance(declared, Positions) and len(declared.rules) != count and is_marked_here(declared):
        # Not as many as declared: which is which cannot be known.
        return [Leaf(Redacted(), is_text=True)] * count
    return item_rules(declared, count)


def refuse_unmasked(event: object, rules: Mapping[str, Rule], payload: object, columns: Sequence[ColumnSchema]) -> None:
    """Raise InvalidEventError where `event` has a marked value, and neither payload nor columns have its name.

    Where it went then cannot be told.
    """
    names = {column.name for column in columns} | (payload.keys() if isinstance(payload, dict) else set())
    for name, rule in rules.items():
        if name not in names and is_marked_here(rule) and getattr(event, name, None) is not None:
            raise UnruledError(
                f"{type(event).__name__}.{name} is marked, and neither its payload nor a column is called {name}"
            )


def quietly(plan: Callable[[Any], T]) -> Callable[[Any], T]:
    """`plan`, whose errors say their kind and nothing else: what they quote could be a value that is not recorded."""

    def encode(event: Any) -> T:
        try:
            return plan(event)
        except UnruledError:
            raise
        except Exception as exc:  # noqa: BLE001 - foreign code may raise anything
            kind = InvalidEventError if isinstance(exc, InvalidEventError) else EncodeError
            raise kind(
                f"{type(exc).__name__}: its text is not shown, for {type(event).__name__} has rules of privacy"
            ) from None

    return encode
