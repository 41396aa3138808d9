"""Names and texts as ClickHouse's SQL has them."""

from __future__ import annotations


def quoted(name: str) -> str:
    """`name` as an identifier."""
    return "`" + name.replace("\\", "\\\\").replace("`", "\\`") + "`"


def literal(text: str) -> str:
    """`text` as a literal."""
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"
