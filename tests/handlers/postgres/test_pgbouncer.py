"""Behind PgBouncer in transaction mode, with fewer connections to the server than clients."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import anyio
import pytest

from eventrec import Batch, ColumnSchema, ColumnType, Event, FencedError, PauseError, PermanentError, TransientError
from eventrec.testing.servers import free_port
from eventrec_handlers.postgres import PostgresHandler

pytestmark = pytest.mark.handlers

Events = Callable[..., Event]
Batches = Callable[..., Batch]


@pytest.fixture
def pool_mode() -> str:
    return "transaction"


@pytest.fixture
def pooled(database: Any, tmp_path: Path, pool_mode: str) -> Iterator[str]:
    """The URL of `database` through a pooler, which has two connections to the server."""
    program = shutil.which("pgbouncer", path=os.environ.get("PATH", "") + ":/usr/sbin")
    if program is None:
        pytest.skip("PgBouncer is missing: apt install pgbouncer")
    port = free_port()
    (tmp_path / "users").write_text('"postgres" ""\n')
    (tmp_path / "ini").write_text(
        f"[databases]\n* = host=127.0.0.1 port={database.server.port}\n[pgbouncer]\nlisten_addr = 127.0.0.1\n"
        f"listen_port = {port}\nunix_socket_dir =\nauth_type = trust\nauth_file = {tmp_path}/users\n"
        f"logfile = {tmp_path}/log\npool_mode = {pool_mode}\ndefault_pool_size = 2\nmax_client_conn = 50\n"
    )
    as_somebody = ["unshare", "-U", "--map-user=1000", "--map-group=1000", "--"] if os.geteuid() == 0 else []
    process = subprocess.Popen([*as_somebody, program, tmp_path / "ini"], stderr=subprocess.DEVNULL)
    url = f"postgresql://postgres@127.0.0.1:{port}/{database.name}"
    command = [database.server.psql, "-qc", "SELECT 1", url]
    deadline = time.monotonic() + 10
    while subprocess.run(command, check=False, capture_output=True).returncode and time.monotonic() < deadline:
        time.sleep(0.02)
    yield url
    process.send_signal(signal.SIGTERM)
    process.wait(120)


async def test_many_handlers_share_two_connections(pooled: str, database: Any, event: Events, batch: Batches) -> None:
    batches = 10

    async def deliver(number: int) -> None:
        log_id = UUID(int=number)
        handler = PostgresHandler(pooled)
        await handler.open()
        for turn in range(batches):
            start = await handler.resume(log_id, "tested", 0)
            column = ColumnSchema(f"c{number % 2}_{turn}", ColumnType.INT64)
            events = [event(n, columns=[column], values=(n,)) for n in range(start, start + 10)]
            await handler.handle(batch(*events, start=start, log_id=log_id))
        await handler.retire(log_id, "tested", batches * 10)
        await handler.close()

    async with anyio.create_task_group() as tasks:
        for number in range(6):
            tasks.start_soon(deliver, number)

    counts = "SELECT count(*), count(DISTINCT id), count(DISTINCT payload) FROM events"
    assert database.rows(counts) == [(600, 600, 100)]
    assert len(database.declared()) == 4 + 2 * batches
    assert database.rows("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'") == [(0,)]


async def test_what_goes_wrong_means_the_same(
    pooled: str, database: Any, event: Events, batch: Batches, log_id: UUID
) -> None:
    handler = PostgresHandler(pooled)
    await handler.open()
    await handler.resume(log_id, "tested", 0)
    await handler.handle(batch(event(0)))

    with pytest.raises(FencedError, match="stands at 1, the batch starts at 0"):
        await handler.handle(batch(event(0)))
    with pytest.raises(PermanentError) as caught:
        await handler.handle(batch(event(1), event("\0"), start=1))
    database.execute(
        "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity"
        " WHERE pid <> pg_backend_pid() AND datname = current_database()"
    )
    for _ in range(3):
        try:
            await handler.handle(batch(event(1), start=1))
            break
        except TransientError:  # the pooler has to notice too
            assert await handler.resume(log_id, "tested", 0) == 1
    await handler.close()

    assert list(caught.value.records) == [2]
    assert database.rows("SELECT payload FROM events ORDER BY id") == [("0",), ("1",)]


async def test_migrations_refuse_a_session_that_is_not_their_own_and_leave_it_as_it_was(
    pooled: str, database: Any
) -> None:
    migrations = PostgresHandler(pooled).migrations()

    with pytest.raises(PauseError, match="a pooler gives each transaction another session"):
        await migrations.open()

    for _ in range(3):
        path = await anyio.run_process([database.server.psql, "-qAtc", "SHOW search_path", pooled])
        assert path.stdout == b'"$user", public\n'
    assert database.rows("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'") == [(0,)]


@pytest.mark.parametrize("pool_mode", ["session"])
async def test_migrations_go_through_a_pool_that_leaves_them_their_session(pooled: str, database: Any) -> None:
    migrations = PostgresHandler(pooled).migrations()
    await migrations.open()

    async with migrations.lock(lambda: None):
        await migrations.prepare()
        locked = database.rows("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'")

    await migrations.close()
    assert locked == [(1,)]
    assert "eventrec_migrations" in database.tables()
