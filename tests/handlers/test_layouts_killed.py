"""A process is killed while it stores records that another one stores too: each is there once."""

from __future__ import annotations

import asyncio
import sqlite3
import subprocess
import sys
from contextlib import closing
from itertools import count
from pathlib import Path

import asyncpg
import pytest

from eventrec.testing.servers import PostgresServer

pytestmark = pytest.mark.handlers

WRITER = Path(__file__).with_name("layout_writer.py")
RECORDS = 1_000

_numbers = count()


def start(url: str, log: int) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, str(WRITER), url, str(log)], stdout=subprocess.PIPE, text=True)


def kill_and_start_again(url: str) -> None:
    """Two at once, of which one is killed in the middle; its sender sends all again, with the ids that they have."""
    killed, other = start(url, 1), start(url, 2)
    assert killed.stdout is not None
    for _ in range(7):
        killed.stdout.readline()
    killed.kill()
    killed.communicate()
    again = start(url, 3)
    assert [process.wait(120) for process in (other, again)] == [0, 0]
    for process in (other, again):
        process.communicate()


def test_sqlite_holds_each_record_once(tmp_path: Path) -> None:
    path = tmp_path / "events.db"

    kill_and_start_again(f"sqlite:///{path}?busy_timeout=30s")

    with closing(sqlite3.connect(path)) as connection:
        found = connection.execute("SELECT count(*), count(DISTINCT data) FROM arrived").fetchall()
    assert found == [(RECORDS, RECORDS)]


@pytest.mark.slow
def test_postgresql_holds_each_record_once(postgres_server: PostgresServer) -> None:
    namespace = f"killed_{next(_numbers)}"

    kill_and_start_again(f"{postgres_server.url()}&namespace={namespace}")

    async def found() -> tuple[int, int]:
        connection = await asyncpg.connect(postgres_server.url())
        try:
            row = await connection.fetchrow(f"SELECT count(*), count(DISTINCT data) FROM {namespace}.arrived")
            await connection.execute(f"DROP SCHEMA {namespace} CASCADE")
            return tuple(row)
        finally:
            await connection.close()

    assert asyncio.run(found()) == (RECORDS, RECORDS)
