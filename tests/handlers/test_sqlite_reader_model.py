"""Following a SQLite file through anything that is done to it: no event that arrives and stays is missed."""

from __future__ import annotations

import sqlite3
import tempfile
from contextlib import closing
from itertools import count, islice
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eventrec_handlers._sql import KeptLayouts
from eventrec_handlers.sqlite.arrival import CURSORS, Arrival
from eventrec_handlers.sqlite.reader import _follow, _latest

pytestmark = pytest.mark.handlers

TABLES = ("events", "others")
CREATE = "(id TEXT NOT NULL, type TEXT NOT NULL, timestamp INTEGER NOT NULL, payload TEXT NOT NULL)"

STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("arrive"), st.sampled_from(TABLES), st.integers(1, 80)),
        st.tuples(st.just("delete newest"), st.sampled_from(TABLES), st.integers(1, 60)),
        st.tuples(st.just("delete oldest"), st.sampled_from(TABLES), st.integers(1, 60)),
        st.tuples(st.just("delete some"), st.sampled_from(TABLES), st.integers(2, 5)),
        st.tuples(st.just("delete all"), st.sampled_from(TABLES), st.just(0)),
        st.tuples(st.just("foreign"), st.sampled_from(TABLES), st.integers(1, 5)),
        st.tuples(st.just("drop"), st.sampled_from(TABLES), st.just(0)),
        st.tuples(st.just("rename"), st.sampled_from(TABLES), st.just(0)),
        st.tuples(st.just("vacuum"), st.just(""), st.just(0)),
        st.tuples(st.just("poll"), st.just(""), st.integers(1, 50)),
    ),
    max_size=25,
)


CHANGES = {
    "delete newest": "DELETE FROM {table} WHERE rowid > (SELECT max(rowid) FROM {table}) - {n}",
    "delete oldest": "DELETE FROM {table} WHERE rowid < (SELECT min(rowid) FROM {table}) + {n}",
    "delete some": "DELETE FROM {table} WHERE rowid % {n} = 0",
    "delete all": "DELETE FROM {table}",
    "drop": "DROP TABLE {table}",
    "rename": "ALTER TABLE {table} RENAME TO old_{fresh}",
    "vacuum": "VACUUM",
}


class World:
    """A file, what was done to it, and a follower of it."""

    def __init__(self, path: Path) -> None:
        self.connection = sqlite3.connect(path, isolation_level=None)
        self.connection.text_factory = lambda raw: raw.decode(errors="replace")
        self.connection.execute("PRAGMA synchronous = OFF")
        self.connection.execute("PRAGMA journal_mode = MEMORY")
        self.numbers = count()
        self.shown: list[str] = []
        self.only_arrivals = True
        self.cursor = _latest(self.connection, KeptLayouts(), limit=0, types=None).cursor

    def do(self, step: str, table: str, n: int) -> None:
        """One step of another program, or of a writer."""
        execute = self.connection.execute
        if step in {"arrive", "foreign"}:
            execute(f"CREATE TABLE IF NOT EXISTS {table} {CREATE}")
            rows: list[tuple[object, ...]] = [("foreign", "t", "noon", "1")] * n
            if step == "arrive":
                rows = [(f"id-{number}", "t", number * 7 % 50, "1") for number in islice(self.numbers, n)]
            self.connection.executemany(f"INSERT INTO {table} VALUES (?, ?, ?, ?)", rows)
        elif step == "vacuum" or execute("SELECT 1 FROM sqlite_master WHERE name = ?", (table,)).fetchone():
            self.only_arrivals = False
            execute(CHANGES[step].format(table=table, n=n, fresh=next(self.numbers)))

    def poll(self, limit: int) -> None:
        """Follow until nothing is new."""
        while True:
            seen = CURSORS.decoded(self.cursor, Arrival).tables
            page = _follow(self.connection, KeptLayouts(), seen=seen, limit=limit, types=None)
            assert len(page.events) <= limit
            self.shown += [event.id for event in page.events]
            self.cursor = page.cursor
            if len(page.events) < limit:
                break
        if self.only_arrivals:
            assert len(self.shown) == len(set(self.shown))
        assert set(self.there()) <= set(self.shown)

    def there(self) -> list[str]:
        """The events that stand in any table."""
        tables = self.connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
        return [
            id_
            for (table,) in tables
            for (id_,) in self.connection.execute(f"SELECT id FROM {table} WHERE id <> 'foreign'")
        ]


@settings(max_examples=100, deadline=None)
@given(steps=STEPS)
def test_no_event_that_arrives_and_stays_is_missed(steps: list[tuple[str, str, int]]) -> None:
    with tempfile.TemporaryDirectory() as directory:
        world = World(Path(directory, "x.db"))
        with closing(world.connection):
            for step, table, n in steps:
                if step == "poll":
                    world.poll(n)
                else:
                    world.do(step, table, n)
            world.poll(7)
