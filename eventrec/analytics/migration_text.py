"""A migration as a file of SQL that can be reviewed, and back: lines of comments part it, so that no SQL is parsed.

    -- eventrec migration 2: rollups
    -- phase: post
    -- dialect: postgresql
    -- declares: ["rollup revenue", {"version":1}]        any number of such lines: JSON

    -- statement
    CREATE TABLE …;

    -- statement outside a transaction
    CREATE INDEX CONCURRENTLY IF NOT EXISTS …;

    -- down                                               or `-- no down`: it cannot be undone
    -- statement
    DROP TABLE …;

UTF-8 without a byte order mark, lines end with a line feed. What stands before the first `-- statement` is comments.
"""

from __future__ import annotations

import json
import re
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from eventrec.analytics.migration import Migration, Phase, Statement
from eventrec.errors import MigrationError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_HEADER: Final = re.compile(r"-- eventrec migration ([1-9][0-9]{0,6}): ([a-z0-9_]+)")
_FIELD: Final = re.compile(r"-- (phase|dialect|declares): (.*)")
_STATEMENT: Final = re.compile(r"-- statement( outside a transaction)?")
_DOWN: Final = "-- down"
_NO_DOWN: Final = "-- no down"


def with_text(migration: Migration) -> Migration:
    """`migration` with the text that it has as a file."""
    return replace(migration, text=rendered(migration))


def rendered(migration: Migration) -> str:
    """The text of `migration`; the same migration gives the same bytes."""
    lines = [
        f"-- eventrec migration {migration.version}: {migration.name}",
        f"-- phase: {migration.phase}",
        f"-- dialect: {migration.dialect}",
    ]
    for key, content in migration.declares:
        lines.append(f"-- declares: {json.dumps([key, json.loads(content)], sort_keys=True)}")
    lines += ["", *_statements(migration.up)]
    if migration.down is None:
        lines.append(_NO_DOWN)
    else:
        lines += [_DOWN, *_statements(migration.down)]
    return "\n".join(lines).rstrip("\n") + "\n"


def _statements(statements: Iterable[Statement]) -> Iterator[str]:
    for statement in statements:
        yield "-- statement" + ("" if statement.in_transaction else " outside a transaction")
        yield f"{statement.sql};"
        yield ""


def canonical_json(content: object) -> str:
    """`content` as JSON that is the same text whenever it is the same value."""
    return json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)


def parsed(text: str) -> Migration:
    """The migration whose text this is.

    Raises:
        MigrationError: It is not one: why, in one line.
    """
    if "\r" in text:
        raise MigrationError("its lines end with a carriage return: they must end with a line feed alone")
    if "\0" in text:
        raise MigrationError("it holds a NUL character")
    first, *rest = text.split("\n")
    header = _HEADER.fullmatch(first)
    if header is None:
        raise MigrationError("its first line is not `-- eventrec migration NUMBER: NAME`")
    fields, body = _fields(rest)
    phase, dialect = fields.get("phase", [""])[0], fields.get("dialect", [""])[0]
    if phase not in set(Phase):
        raise MigrationError(f"its phase is pre or post, got {phase[:40]!r}")
    up, down = _parts(body)
    return Migration(
        version=int(header[1]),
        name=header[2],
        phase=Phase(phase),
        up=up,
        down=down,
        dialect=dialect,
        declares=tuple(_declared(line) for line in fields.get("declares", ())),
        text=text,
    )


def _fields(lines: list[str]) -> tuple[dict[str, list[str]], list[str]]:
    """The fields of the header, and the lines from the first statement on."""
    fields: dict[str, list[str]] = {}
    for at, line in enumerate(lines):
        if _STATEMENT.fullmatch(line):
            break
        if (found := _FIELD.fullmatch(line)) is not None:
            fields.setdefault(found[1], []).append(found[2])
        elif line.strip() and not line.startswith("--"):
            raise MigrationError(f"line {at + 2} is not a comment, and stands before the first `-- statement`")
    else:
        raise MigrationError("it has no `-- statement`")
    if twice := [name for name in ("phase", "dialect") if len(fields.get(name, ())) > 1]:
        raise MigrationError(f"it says its {twice[0]} twice")
    return fields, lines[at:]


def _parts(lines: list[str]) -> tuple[tuple[Statement, ...], tuple[Statement, ...] | None]:
    """The statements up and down."""
    parts: list[list[tuple[bool, list[str]]]] = [[]]
    is_final = False
    for line in lines:
        is_remark = line.startswith("--") and line != _DOWN and _STATEMENT.fullmatch(line) is None
        if is_final and line.strip() and not is_remark:
            raise MigrationError(f"something follows `{_NO_DOWN}`: {line[:40]!r}")
        if (found := _STATEMENT.fullmatch(line)) is not None:
            parts[-1].append((found[1] is None, []))
        elif line == _DOWN and len(parts) == 1:
            parts.append([])
        elif line == _NO_DOWN and len(parts) == 1:
            is_final = True
        elif parts[-1]:
            parts[-1][-1][1].append(line)
        elif line.strip():
            raise MigrationError(f"something stands between `{_DOWN}` and its first statement: {line[:40]!r}")
    made = [tuple(Statement("\n".join(sql), in_transaction=inside) for inside, sql in part) for part in parts]
    return made[0], made[1] if len(made) > 1 else None


def _declared(line: str) -> tuple[str, str]:
    try:
        match json.loads(line):
            case [str(key), content]:
                return key, canonical_json(content)
    except (ValueError, RecursionError):
        pass
    raise MigrationError("a line `-- declares:` is not a JSON array of a key and a value")
