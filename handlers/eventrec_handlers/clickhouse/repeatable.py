"""Which statements of a migration may run twice: the second time they succeed, and nothing is other than after one."""

from __future__ import annotations

import re
from typing import Final

_COMMENT: Final = re.compile(r"--[^\n]*|/\*.*?\*/", re.DOTALL)
_QUOTED: Final = re.compile(r"'(?:[^'\\]|\\.)*'|`(?:[^`\\]|\\.)*`|\"(?:[^\"\\]|\\.)*\"", re.DOTALL)
_FLAGS: Final = re.IGNORECASE | re.DOTALL

_OURS: Final = re.compile(r"INSERT\s+INTO\s+eventrec_\w+", _FLAGS)
_GUARDED: Final = re.compile(r"\bIF\s+(?:NOT\s+)?EXISTS\b|\bOR\s+REPLACE\b", _FLAGS)
_FILLS: Final = re.compile(
    r"\bPOPULATE\b|CREATE\s+(?:OR\s+REPLACE\s+)?(?:TEMPORARY\s+)?TABLE\b(?!.*\bEMPTY\s+AS\b).*\bAS\s+(?:SELECT|WITH)\b",
    _FLAGS,
)
"""Killed in the middle, what it makes is there and half full."""

_CHANGES_ROWS_OR_NAMES: Final = re.compile(
    r"\b(?:UPDATE|RENAME|MOVE|ATTACH|REPLACE|FETCH|FREEZE|UNFREEZE|EXCHANGE)\b"
    r"|\b(?:ADD|DROP|CLEAR)\s+(?:COLUMN|INDEX|CONSTRAINT|PROJECTION|STATISTICS)\s+(?!IF\b)",
    _FLAGS,
)


def is_repeatable(sql: str) -> bool:
    """Whether `sql`, a statement of ClickHouse's, may run twice, as far as its text says.

    CREATE, DROP                 with IF NOT EXISTS, IF EXISTS or OR REPLACE, unless it fills what it makes
    ALTER                        unless it changes rows, or renames or moves something; ADD and DROP as CREATE
    TRUNCATE, OPTIMIZE, GRANT …  always
    INSERT                       into our own tables, of which the newest row holds
    anything else                no
    """
    if _OURS.match(sql.strip()):
        return True
    plain = _QUOTED.sub("q", _COMMENT.sub(" ", sql)).strip()
    match plain.split(None, 1)[0].upper() if plain else "":
        case "CREATE" | "DROP":
            return _GUARDED.search(plain) is not None and _FILLS.search(plain) is None
        case "ALTER":
            return _CHANGES_ROWS_OR_NAMES.search(plain) is None
        case word:
            return word in {"TRUNCATE", "OPTIMIZE", "GRANT", "REVOKE"}
