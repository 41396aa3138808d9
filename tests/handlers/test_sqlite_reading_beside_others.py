"""A table of another program that cannot be read hides no event of the others, and none of it is missed later."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Final

import pytest

from eventrec import EventPage
from eventrec_handlers.sqlite import SqliteHandler

VALUES: Final = {"id": "'i'", "type": "'x'", "timestamp": "5", "payload": "'{}'"}
FAULTS: Final = {
    "malformed JSON": ("json_extract(n, '$')", "'{'"),
    "integer overflow": ("abs(n)", "-9223372036854775808"),
    "too big": ("zeroblob(n)", "3000000000"),
}


def change(path: Path, *statements: str, collation: bool = False) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        if collation:
            connection.create_collation("mine", lambda one, other: (one > other) - (one < other))
        for statement in statements:
            connection.execute(statement).fetchall()


def computing(column: str, fault: str) -> list[str]:
    """A table whose `column` fails for its first row."""
    expression, value = FAULTS[fault]
    others = {name: given for name, given in VALUES.items() if name != column}
    row = f"INSERT INTO audit ({', '.join(others)}, n) VALUES ({', '.join(others.values())}, "
    return [
        f"CREATE TABLE audit ({', '.join(others)}, n)",
        f"{row}{value})",
        f"ALTER TABLE audit ADD COLUMN {column} AS ({expression})",
    ]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "events.db"
    change(
        path,
        "CREATE TABLE events (id TEXT, type TEXT, timestamp INTEGER, payload TEXT)",
        "INSERT INTO events VALUES ('a', 'ours', 1, '1'), ('b', 'ours', 2, '2')",
    )
    return path


def ours(page: EventPage) -> list[str]:
    return [event.payload for event in page.events if event.table == "events"]


async def pages(path: Path, types: Sequence[str] | None, *statements: str, collation: bool = False) -> list[EventPage]:
    """What each call gives once `statements` have been executed and one more event of ours was stored."""
    reader = SqliteHandler(path).reader()
    try:
        cursor = (await reader.latest(limit=0)).cursor
        more = "INSERT INTO events VALUES ('c', 'ours', 3, '3')"
        change(path, *statements, more, collation=collation)
        return [
            await reader.latest(limit=9, types=types),
            await reader.range(limit=9, types=types),
            await reader.follow(cursor, limit=9, types=types),
        ]
    finally:
        await reader.close()


@pytest.mark.parametrize("types", [None, ["ours"]])
@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("column", VALUES)
async def test_table_whose_column_fails_hides_no_other_and_is_named(
    path: Path, column: str, fault: str, types: Sequence[str] | None
) -> None:
    found = await pages(path, types, *computing(column, fault))

    assert [ours(page) for page in found] == [["1", "2", "3"], ["1", "2", "3"], ["3"]]
    for page in found:
        named = [why for why in page.foreign if "'audit' cannot be read: " in why and fault in why]
        assert named or types  # where none of these types is asked of it, nothing fails


@pytest.mark.parametrize("fault", FAULTS)
async def test_column_of_another_program_that_fails_costs_itself_alone(path: Path, fault: str) -> None:
    expression, value = FAULTS[fault]
    table = "CREATE TABLE audit (id, type, timestamp, payload, n)"
    row = f"INSERT INTO audit VALUES ('i', 'x', 5, '{{}}', {value})"

    found = await pages(path, None, table, row, f"ALTER TABLE audit ADD COLUMN r AS ({expression})")

    assert [len(page.events) for page in found] == [4, 4, 2]
    assert [dict(page.foreign) for page in found] == [{}, {}, {}]


@pytest.mark.parametrize(
    "statements",
    [
        [
            "CREATE VIRTUAL TABLE audit USING fts5(id, type, timestamp, payload)",
            "INSERT INTO audit VALUES ('i', 'x', 5, '{}')",
            "DROP TABLE audit_content",
        ],
        ["CREATE VIRTUAL TABLE audit USING fts5(id, type, timestamp, payload, content='gone')"],
    ],
)
async def test_virtual_table_that_lacks_what_it_shows_hides_no_other(path: Path, statements: list[str]) -> None:
    found = await pages(path, None, *statements)

    assert [ours(page) for page in found] == [["1", "2", "3"], ["1", "2", "3"], ["3"]]
    assert all("'audit' cannot be read" in next(iter(page.foreign)) for page in found)


@pytest.mark.parametrize("column", ["type", "timestamp"])
async def test_table_sorted_as_only_another_program_can_hides_no_other(path: Path, column: str) -> None:
    columns = ", ".join(f"{name} COLLATE mine" if name == column else name for name in VALUES)
    statements = [f"CREATE TABLE audit ({columns})", f"INSERT INTO audit VALUES ({', '.join(VALUES.values())})"]

    found = await pages(path, ["ours"], *statements, collation=True)

    assert [ours(page) for page in found] == [["1", "2", "3"], ["1", "2", "3"], ["3"]]


@pytest.mark.parametrize("limit", [1, 2, 9])
async def test_what_arrives_in_a_table_meanwhile_is_shown_once_it_can_be_read(path: Path, limit: int) -> None:
    view = "CREATE VIEW source AS SELECT n, i AS id, 'x' AS type, 5 AS timestamp, '{}' AS payload FROM raw"
    table = "CREATE VIRTUAL TABLE audit USING fts5(id, type, timestamp, payload, content='source', content_rowid='n')"
    change(path, "CREATE TABLE raw (n INTEGER PRIMARY KEY, i)", "INSERT INTO raw (i) VALUES ('seen')", view, table)
    reader = SqliteHandler(path).reader()
    found: list[str] = []
    cursor = (await reader.latest(limit=0)).cursor

    async def follow() -> None:
        nonlocal cursor
        is_more = True
        while is_more:
            page = await reader.follow(cursor, limit=limit)
            cursor, is_more = page.cursor, bool(page.events)
            found.extend(event.id for event in page.events)

    try:
        change(path, "DROP VIEW source", "INSERT INTO raw (i) VALUES ('x'), ('y')")
        change(path, "INSERT INTO events VALUES ('c', 'ours', 3, '3')")
        await follow()
        before = list(found)
        change(path, "INSERT INTO events VALUES ('d', 'ours', 4, '4')", view)
        await follow()
    finally:
        await reader.close()

    assert before == ["c"]
    assert sorted(found) == ["c", "d", "x", "y"]
