"""Names as SQL databases take them."""

from __future__ import annotations


def quoted(name: str) -> str:
    """`name` as a delimited identifier of standard SQL, whatever it holds (NUL is refused long before)."""
    return '"' + name.replace('"', '""') + '"'


def fold_ascii(name: str) -> str:
    """`name` with A to Z in lower case and nothing else: how SQLite compares names."""
    return name.encode().lower().decode()
