"""SIGKILL of the process that writes, and of the server: each event is there once, and none is missing."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from eventrec.testing.clickhouse_http import (
    ClickHouseDatabase,
    ClickHouseServer,
    need_clickhouse,
    new_database,
)

pytestmark = [pytest.mark.handlers, pytest.mark.timeout(300)]

WRITER = Path(__file__).with_name("killed_writer.py")
PATIENCE = 60.0


def run_and_kill(database: ClickHouseDatabase, directory: Path, run: int, *, kills_server: bool) -> None:
    """Let it write until rows arrive, and a little longer."""
    url = database.url(options="chunk_rows=50&timeout=5s&connect_timeout=1s")
    writer = subprocess.Popen([sys.executable, str(WRITER), url, str(directory), f"run_{run}"])
    try:
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline and not rows_of(database, run):
            assert writer.poll() is None, "the writer ended by itself"
            time.sleep(0.02)
        if kills_server:
            time.sleep(random.random() * 0.2)
            database.server.kill()
            time.sleep(random.random() * 0.2)
        time.sleep(random.random() * 0.2)
    finally:
        writer.kill()
        writer.wait()
    if kills_server:
        database.server.start()


def rows_of(database: ClickHouseDatabase, run: int) -> int:
    if not database.query("EXISTS TABLE events")[0][0]:
        return 0
    return int(database.query(f"SELECT count() FROM events WHERE type = 'run_{run}'")[0][0])


def drain(database: ClickHouseDatabase, directory: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "eventrec.cli", "drain", str(directory), "--to", database.url(options="chunk_rows=50")],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def assert_each_is_there_once(database: ClickHouseDatabase, runs: int) -> None:
    found = database.query(
        "SELECT type, toUInt32(count()), toUInt32(uniqExact(payload)), toUInt32(max(toUInt32(payload)))"
        " FROM events GROUP BY type ORDER BY type"
    )
    assert [run for run, *_ in found] == [f"run_{run}" for run in range(runs)]
    assert all(rows == numbers == last + 1 for _, rows, numbers, last in found), found


@pytest.mark.slow
def test_writer_that_is_killed_leaves_each_event_once(clickhouse: ClickHouseDatabase, tmp_path: Path) -> None:
    for run in range(2):
        run_and_kill(clickhouse, tmp_path, run, kills_server=False)

    drain(clickhouse, tmp_path)

    assert_each_is_there_once(clickhouse, 2)


@pytest.mark.faults
def test_writer_and_server_that_are_killed_leave_each_event_once(tmp_path: Path) -> None:
    need_clickhouse()
    with ClickHouseServer(keeps=True) as server:
        database = new_database(server)
        for run in range(8):
            run_and_kill(database, tmp_path, run, kills_server=True)

        drain(database, tmp_path)

        assert_each_is_there_once(database, 8)
