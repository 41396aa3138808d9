"""ClickHouse's types, taken apart: what a declaration says, and what stands around it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

INTEGERS: Final[Mapping[str, tuple[int, int]]] = {
    **{f"Int{bits}": (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) for bits in (8, 16, 32, 64, 128, 256)},
    **{f"UInt{bits}": (0, 2**bits - 1) for bits in (8, 16, 32, 64, 128, 256)},
}


@dataclass(frozen=True, slots=True)
class Type:
    """A type, taken apart.

    Attributes:
        name: Its name, without what stands around it: `String` of `LowCardinality(Nullable(String))`.
        arguments: What stands in its parentheses.
        is_nullable: Whether it takes NULL.
    """

    name: str
    arguments: tuple[str, ...] = ()
    is_nullable: bool = False

    def __str__(self) -> str:
        return f"{self.name}({', '.join(self.arguments)})" if self.arguments else self.name


@lru_cache(maxsize=4096)
def parsed(text: str) -> Type:
    """The type that `text` declares."""
    name, _, rest = text.strip().partition("(")
    arguments = _split(rest.rstrip()[:-1]) if rest else ()
    if name in {"Nullable", "LowCardinality"} and len(arguments) == 1:
        inner = parsed(arguments[0])
        return Type(inner.name, inner.arguments, inner.is_nullable or name == "Nullable")
    if name == "SimpleAggregateFunction" and len(arguments) > 1:
        return parsed(arguments[1])
    if name == "DateTime64":
        arguments = arguments[:1]
    if name == "DateTime":
        arguments = ()
    return Type(name, arguments)


def _split(text: str) -> tuple[str, ...]:
    """The arguments in `text`: parted at commas that stand in no parentheses or quotes."""
    parts, depth, start, in_quotes, skips = [], 0, 0, False, False
    for at, char in enumerate(text):
        if skips:
            skips = False
        elif in_quotes:
            skips = char == "\\"
            in_quotes = char != "'"
        elif char == "'":
            in_quotes = True
        elif char == "," and not depth:
            parts.append(text[start:at].strip())
            start = at + 1
        else:
            depth += (char == "(") - (char == ")")
    return (*parts, text[start:].strip())


def element(text: str) -> str:
    """The type of an element of a tuple, which may have a name."""
    name, space, rest = text.partition(" ")
    return rest if space and re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*|`.*`", name) else text


class UnfitError(Exception):
    """A column of this type cannot hold what is written to it; the message says what the table declares."""
