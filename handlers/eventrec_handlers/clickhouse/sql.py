"""Names and texts as ClickHouse's SQL has them.

ClickHouse's are bytes. A byte that is not of UTF-8 is a lone surrogate here, as `surrogateescape` has it.
"""

from __future__ import annotations

import re
from typing import Final


def quoted(name: str) -> str:
    """`name` as an identifier."""
    return "`" + _bytes_escaped(name.replace("\\", "\\\\").replace("`", "\\`")) + "`"


def literal(text: str) -> str:
    """`text` as a literal."""
    return "'" + _bytes_escaped(text.replace("\\", "\\\\").replace("'", "\\'")) + "'"


def is_utf8(text: str) -> bool:
    """Whether all of `text` is UTF-8."""
    return text.isascii() or _BYTE.search(text) is None


def readable(text: str) -> str:
    """`text`, with U+FFFD for what is not UTF-8."""
    return text if is_utf8(text) else text.encode(errors="surrogateescape").decode(errors="replace")


_BYTE: Final = re.compile("[\udc80-\udcff]")


def _bytes_escaped(text: str) -> str:
    return text if is_utf8(text) else _BYTE.sub(lambda found: f"\\x{ord(found[0]) - 0xDC00:02x}", text)
