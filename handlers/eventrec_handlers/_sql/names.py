"""Names as SQL databases take them."""

from __future__ import annotations

from hashlib import blake2b


def quoted(name: str) -> str:
    """`name` as a delimited identifier of standard SQL, whatever it holds (NUL is refused long before)."""
    return '"' + name.replace('"', '""') + '"'


def fold_ascii(name: str) -> str:
    """`name` with A to Z in lower case and nothing else: how SQLite compares names."""
    return name.encode().lower().decode()


def fitting(name: str, suffix: str, longest: int) -> str:
    """`name` and `suffix` in at most `longest` bytes: what is too long is cut, and told apart by a checksum."""
    whole = name + suffix
    if len(whole.encode()) <= longest:
        return whole
    mark = "_" + blake2b(name.encode(), digest_size=4).hexdigest() + suffix
    return name.encode()[: longest - len(mark)].decode(errors="ignore") + mark
