"""Values as SQL databases take them, a column at a time, and which records cannot be stored."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from eventrec import PermanentError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from eventrec import ColumnSchema

Convert: TypeAlias = "Callable[[Any], Any]"
"""A kept value, never None, to what the driver is given; ValueError says in words why it cannot be."""


def text(value: str) -> str:
    """`value`, where it is one that a text column can hold.

    Raises:
        ValueError: It holds a NUL character, or a lone surrogate.
    """
    if "\0" in value:
        raise ValueError("it holds a NUL character")
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError:
            raise ValueError("it holds a lone surrogate, which no UTF-8 text can") from None
    return value


def json_text(value: bytes) -> str:
    """JSON bytes as text.

    Raises:
        ValueError: They are not UTF-8, or hold a NUL character that is not escaped.
    """
    try:
        decoded = value.decode()
    except UnicodeDecodeError as exc:
        raise ValueError(f"it is not UTF-8 at byte {exc.start}: {exc.reason}") from exc
    if "\0" in decoded:
        raise ValueError("it holds a NUL character that is not escaped")
    return decoded


def _texts(values: Sequence[Any]) -> Sequence[Any]:
    text("".join(values))
    return values


def _json_texts(values: Sequence[Any]) -> Sequence[Any]:
    decoded = list(map(bytes.decode, values))
    if "\0" in "".join(decoded):
        raise ValueError("one holds a NUL character that is not escaped")
    return decoded


_AT_ONCE: Final[Mapping[Convert, Callable[[Sequence[Any]], Sequence[Any]]]] = {text: _texts, json_text: _json_texts}
"""What does the same for a whole column in half of the time; TypeError or ValueError where a value is not as most."""


@dataclass(slots=True)
class Refusals:
    """Why records of a batch cannot be stored: offset to reason, the first one of each."""

    reasons: dict[int, str] = field(default_factory=dict)

    def add(self, offset: int, reason: str) -> None:
        """The record at `offset` cannot be stored."""
        self.reasons.setdefault(offset, reason)

    def add_value(
        self, offset: int, table: str, column: ColumnSchema, value: object, *, declared: str, why: str
    ) -> None:
        """The record at `offset` cannot be stored because of a value that `column` would take as `declared`."""
        self.add(
            offset,
            f"column {column.name!r} of table {table!r} cannot take a value of kind {type(value).__name__} "
            f"({column.type.name} as {declared}): {why}",
        )

    def raise_if_any(self, records: int) -> None:
        """Raise one PermanentError that names every refused record, out of `records`."""
        if self.reasons:
            offset, reason = next(iter(self.reasons.items()))
            raise PermanentError(
                f"{len(self.reasons)} of {records} records cannot be stored; at offset {offset}: {reason}",
                records=self.reasons,
            )


def converted(values: Sequence[Any], convert: Convert) -> tuple[Sequence[Any], dict[int, tuple[Any, str]]]:
    """Every value converted, None kept; and those that cannot be: index to value and reason, None in their places."""
    try:
        if (at_once := _AT_ONCE.get(convert)) is not None:
            return at_once(values), {}
    except (TypeError, ValueError):
        pass  # one is None, or refused
    try:
        return [None if value is None else convert(value) for value in values], {}
    except ValueError:
        pass  # which is rare, so only now one by one
    kept: list[Any] = []
    failed: dict[int, tuple[Any, str]] = {}
    for index, value in enumerate(values):
        try:
            kept.append(None if value is None else convert(value))
        except ValueError as exc:
            failed[index] = value, str(exc)
            kept.append(None)
    return kept, failed
