from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import UUID

import anyio
import asyncpg
import pytest

from eventrec import (
    Batch,
    ColumnSchema,
    ColumnType,
    Event,
    PauseError,
    PermanentError,
    TransientError,
)
from eventrec.testing.servers import PostgresServer
from eventrec_handlers.postgres import PostgresHandler
from eventrec_handlers.postgres.errors import line_of, meaning

pytestmark = pytest.mark.handlers

Events = Callable[..., Event]
Batches = Callable[..., Batch]


def stored(database: Any) -> list[str]:
    return [payload for (payload,) in database.rows("SELECT payload FROM events ORDER BY id")]


@contextmanager
def role(database: Any, *grants: str) -> Iterator[str]:
    """The name of a role that may do nothing but what is granted."""
    name = f"role_{database.name}"
    database.execute(f"CREATE ROLE {name} LOGIN", *(f"GRANT {grant} TO {name}" for grant in grants))
    try:
        yield name
    finally:
        database.execute(f"DROP OWNED BY {name}", f"DROP ROLE {name}")


@contextmanager
def table_locked(database: Any) -> Iterator[None]:
    other = database.session()
    database.run(other.execute("BEGIN; LOCK TABLE events"))
    yield
    database.run(other.close())


# -- rights


async def test_revoked_right_pauses_until_it_is_granted_again(
    handler: PostgresHandler, opened: Any, database: Any, event: Events, batch: Batches
) -> None:
    await handler.handle(batch(event(0)))
    with role(database, "ALL ON ALL TABLES IN SCHEMA public") as name:
        limited = await opened(database.url(name))
        await limited.handle(batch(event(1), start=1))
        database.execute(f"REVOKE INSERT ON events FROM {name}")

        with pytest.raises(PauseError, match=r"permission denied for table events \(42501\)"):
            await limited.handle(batch(event(2), start=2))
        database.execute(f"GRANT INSERT ON events TO {name}")
        await limited.handle(batch(event(2), start=2))
        with pytest.raises(PauseError, match=r"permission denied for schema public"):
            await limited.handle(batch(event(3, into="new"), start=3))
        with pytest.raises(PauseError, match=r"must be owner of table events"):
            await limited.handle(batch(event(3, columns=[ColumnSchema("a", ColumnType.INT64)], values=(3,)), start=3))
        await limited.close()

    assert stored(database) == ["0", "1", "2"]


async def test_without_rights_to_make_our_own_tables_it_does_not_open(database: Any) -> None:
    with role(database) as name:
        handler = PostgresHandler(database.url(name))

        with pytest.raises(PauseError, match="permission denied for schema public"):
            await handler.open()


async def test_unknown_role_database_and_namespace_pause(database: Any) -> None:
    for url, why in (
        (database.url("nobody"), r'role "nobody" does not exist \(28000\)'),
        (database.server.url("nowhere"), r'database "nowhere" does not exist \(3D000\)'),
    ):
        with pytest.raises(PauseError, match=why):
            await PostgresHandler(url).open()
    with pytest.raises(PauseError, match="there is no schema 'nowhere'"):
        await PostgresHandler(database.url(), namespace="nowhere", schema="strict").open()
    database.execute(f"ALTER DATABASE {database.name} SET search_path = nowhere")
    with pytest.raises(PauseError, match="no schema of the search path exists"):
        await PostgresHandler(database.url()).open()


async def test_dropped_database_pauses(handler: PostgresHandler, database: Any, event: Events, batch: Batches) -> None:
    await handler.handle(batch(event(0)))

    await anyio.to_thread.run_sync(database.server.execute, f"DROP DATABASE {database.name} WITH (FORCE)")

    with pytest.raises((PauseError, TransientError)):  # cut off first, refused then
        await handler.handle(batch(event(1), start=1))
    with pytest.raises(PauseError, match="does not exist"):
        await handler.handle(batch(event(1), start=1))


# -- what passes


async def test_read_only_database_is_left_for_new_connections(
    handler: PostgresHandler, database: Any, event: Events, batch: Batches, log_id: UUID
) -> None:
    await handler.handle(batch(event(0)))
    database.execute(f"ALTER DATABASE {database.name} SET default_transaction_read_only = on")
    await handler.close()
    await handler.open()

    with pytest.raises(TransientError, match=r"read-only transaction .25006"):
        await handler.handle(batch(event(1), start=1))
    with pytest.raises(TransientError, match="read-only transaction"):
        await handler.resume(log_id, "tested", 0)
    database.execute(f"BEGIN READ WRITE; ALTER DATABASE {database.name} RESET ALL; COMMIT")
    await handler.handle(batch(event(1), start=1))

    assert stored(database) == ["0", "1"]


async def test_killed_server_is_transient_and_the_handler_goes_on_after_it(
    event: Events, batch: Batches, log_id: UUID
) -> None:
    server = await anyio.to_thread.run_sync(PostgresServer().start)
    handler = PostgresHandler(server.url())
    try:
        await handler.open()
        await handler.resume(log_id, "tested", 0)
        await handler.handle(batch(event(0)))

        pid = await anyio.to_thread.run_sync(
            server.execute, "SELECT pid FROM pg_stat_activity WHERE application_name = 'eventrec'"
        )
        await anyio.to_thread.run_sync(server.kill)
        with anyio.fail_after(120):
            while Path("/proc", pid).exists():  # noqa: ASYNC110 - what serves the connection outlives its parent a little
                await anyio.sleep(0.01)
        for _ in range(3):
            with pytest.raises(TransientError):
                await handler.handle(batch(event(1), start=1))
        await anyio.to_thread.run_sync(server.start)
        assert await _resumed(handler, log_id) == 1
        await handler.handle(batch(event(1), start=1))

        assert await anyio.to_thread.run_sync(server.execute, "SELECT payload FROM events ORDER BY id") == "0\n1"
        await anyio.to_thread.run_sync(server.kill)
        with pytest.raises(TransientError):
            await PostgresHandler(server.url()).open()  # port closed: connection refused
    finally:
        await handler.close()
        await anyio.to_thread.run_sync(server.stop)


async def _resumed(handler: PostgresHandler, log_id: UUID) -> int:
    """Where it goes on, asked as a worker asks: again, while a connection of before the kill is found to be dead."""
    with anyio.fail_after(120):
        while True:
            try:
                return await handler.resume(log_id, "tested", 0)
            except TransientError:
                await anyio.sleep(0.05)


async def test_connection_that_is_cut_during_a_batch_leaves_nothing_of_it(
    handler: PostgresHandler, database: Any, event: Events, batch: Batches, log_id: UUID
) -> None:
    await handler.handle(batch(event(0)))

    async with anyio.create_task_group() as tasks:
        with table_locked(database):
            tasks.start_soon(_cut, database)
            with pytest.raises(TransientError, match=r"57P01|connection"):
                await handler.handle(batch(event(1), start=1))
    assert await handler.resume(log_id, "tested", 0) == 1
    await handler.handle(batch(event(1), start=1))

    assert stored(database) == ["0", "1"]


async def _cut(database: Any) -> None:
    while not database.rows("SELECT 1 FROM pg_locks WHERE NOT granted"):  # noqa: ASYNC110 - the server's state
        await anyio.sleep(0.01)
    database.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE application_name = 'eventrec' AND datname = current_database()"
    )


async def test_last_words_of_a_server_between_two_statements_are_transient_and_leave_nothing_behind(  # noqa: PLR0917
    handler: PostgresHandler,
    database: Any,
    event: Events,
    batch: Batches,
    log_id: UUID,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    await handler.handle(batch(event(0)))
    copy = asyncpg.Connection.copy_to_table

    async def after_last_words(connection: Any, *arguments: Any, **options: Any) -> Any:
        monkeypatch.undo()
        said = b"SFATAL\0C57P02\0Mterminating connection\0\0"
        connection._protocol.data_received(b"E" + (len(said) + 4).to_bytes(4) + said)
        return await copy(connection, *arguments, **options)

    monkeypatch.setattr(asyncpg.Connection, "copy_to_table", after_last_words)

    with pytest.raises(TransientError, match="another operation"):
        await handler.handle(batch(event(1), start=1))
    gc.collect()  # a future that was never looked at would complain now, and fail the test
    assert await handler.resume(log_id, "tested", 0) == 1
    await handler.handle(batch(event(1), start=1))

    assert stored(database) == ["0", "1"]


async def test_idle_connection_that_was_cut_is_replaced(
    handler: PostgresHandler, database: Any, event: Events, batch: Batches
) -> None:
    await handler.handle(batch(event(0)))
    database.execute(
        "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity"
        " WHERE application_name = 'eventrec' AND datname = current_database()"
    )

    try:
        await handler.handle(batch(event(1), start=1))
    except TransientError:  # it had not been noticed yet
        await handler.handle(batch(event(1), start=1))

    assert stored(database) == ["0", "1"]


async def test_lock_of_another_session_is_waited_for_only_so_long(
    handler: PostgresHandler, opened: Any, database: Any, event: Events, batch: Batches
) -> None:
    await handler.handle(batch(event(0)))
    impatient = await opened(database.url(), lock_timeout=0.05)
    hurried = await opened(database.url(), timeout=0.3)

    with table_locked(database):
        with pytest.raises(TransientError, match=r"canceling statement due to lock timeout \(55P03\)"):
            await impatient.handle(batch(event(1), start=1))
        with pytest.raises(TransientError, match="lock timeout"):
            await impatient.handle(batch(event(1, columns=[ColumnSchema("a", ColumnType.INT64)], values=(1,)), start=1))
        with pytest.raises(TransientError, match="no answer in time"):
            await hurried.handle(batch(event(1), start=1))
    await impatient.handle(batch(event(1), start=1))
    hurried._calls._timeout = 20  # what is stored may take longer on a busy machine
    await hurried.handle(batch(event(2), start=2))

    assert stored(database) == ["0", "1", "2"]


async def test_full_house_is_transient(opened: Any, handler: PostgresHandler, database: Any) -> None:
    with role(database, "ALL ON ALL TABLES IN SCHEMA public") as name:
        database.execute(f"ALTER ROLE {name} CONNECTION LIMIT 0")

        with pytest.raises(TransientError, match=r"too many connections for role .*53300"):
            await PostgresHandler(database.url(name)).open()


# -- what others do to the tables meanwhile


async def test_table_and_column_dropped_by_another_are_made_again(
    handler: PostgresHandler, database: Any, event: Events, batch: Batches
) -> None:
    with_column = event(1, columns=[ColumnSchema("a", ColumnType.INT64)], values=(5,))
    await handler.handle(batch(with_column))

    database.execute("ALTER TABLE events DROP COLUMN a")
    await handler.handle(batch(with_column, start=1))
    without = database.rows("SELECT a FROM events ORDER BY id")
    database.execute("DROP TABLE events")
    await handler.handle(batch(with_column, start=2))

    assert without == [(None,), (5,)]
    assert database.rows("SELECT a FROM events") == [(5,)]


@pytest.mark.parametrize(
    ("kind", "value", "becomes"),
    [
        (ColumnType.INT64, 1, "timestamptz USING now()"),  # as long as a bigint: the server would not notice
        (ColumnType.INT64, 1, "double precision"),
        (ColumnType.INT32, 1, "bigint"),  # longer: it would call every record wrong
        (ColumnType.STRING, "1", "bigint USING a::bigint"),
    ],
    ids=str,
)
async def test_column_retyped_by_another_is_never_written_as_what_it_was(  # noqa: PLR0917
    handler: PostgresHandler,
    database: Any,
    event: Events,
    batch: Batches,
    kind: ColumnType,
    value: object,
    becomes: str,
) -> None:
    valued = event(1, columns=[ColumnSchema("a", kind)], values=(value,))
    await handler.handle(batch(valued))

    database.execute(f"ALTER TABLE events ALTER COLUMN a TYPE {becomes}")

    with pytest.raises(PermanentError, match=r"column 'a' of table 'events' cannot take .* the table declares it"):
        await handler.handle(batch(valued, event(2), start=1))
    await handler.handle(batch(event(2), start=1))
    assert stored(database) == ["1", "2"]


async def test_tables_that_change_at_every_turn_are_transient(
    handler: PostgresHandler, database: Any, event: Events, batch: Batches, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Staged inside: a condition that never holds stands for a program that changes a column before every attempt.
    await handler.handle(batch(event(0)))
    monkeypatch.setattr("eventrec_handlers.postgres.store._guard", lambda *_: "false")

    with pytest.raises(TransientError, match="other programs change the tables all the time"):
        await handler.handle(batch(event(1), start=1))

    assert stored(database) == ["0"]


async def test_whatever_goes_wrong_while_tables_are_made_is_no_records_fault(
    handler: PostgresHandler, database: Any, event: Events, batch: Batches
) -> None:
    database.execute(
        "CREATE FUNCTION no() RETURNS event_trigger LANGUAGE plpgsql AS"
        " $$ BEGIN RAISE 'not now' USING ERRCODE = '23505'; END $$",
        "CREATE EVENT TRIGGER t ON ddl_command_start WHEN TAG IN ('CREATE TABLE') EXECUTE FUNCTION no()",
    )

    with pytest.raises(TransientError, match=r"not now \(23505\)"):
        await handler.handle(batch(event(1)))
    database.execute("DROP EVENT TRIGGER t")
    await handler.handle(batch(event(1)))

    assert stored(database) == ["1"]


async def test_unknown_error_is_left_as_it_is(
    handler: PostgresHandler, database: Any, event: Events, batch: Batches
) -> None:
    await handler.handle(batch(event(0)))
    database.execute(
        "CREATE FUNCTION no() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'odd'; END $$",
        "CREATE TRIGGER t BEFORE INSERT ON events FOR EACH ROW EXECUTE FUNCTION no()",
    )

    with pytest.raises(asyncpg.RaiseError, match="odd"):
        await handler.handle(batch(event(1), start=1))
    database.execute("DROP TRIGGER t ON events")
    await handler.handle(batch(event(1), start=1))

    assert stored(database) == ["0", "1"]


# -- each class of errors


@pytest.mark.parametrize(
    ("code", "meant"),
    [
        ("08006", TransientError),
        ("40001", TransientError),
        ("40P01", TransientError),
        ("53100", TransientError),
        ("53200", TransientError),
        ("53300", TransientError),
        ("55P03", TransientError),
        ("57P01", TransientError),
        ("57P03", TransientError),
        ("25006", TransientError),
        ("25P03", TransientError),
        ("0A000", TransientError),
        ("42P01", TransientError),
        ("42703", TransientError),
        ("22P03", TransientError),
        ("28P01", PauseError),
        ("28000", PauseError),
        ("3D000", PauseError),
        ("3F000", PauseError),
        ("42501", PauseError),
        ("22003", PermanentError),
        ("22021", PermanentError),
        ("23505", PermanentError),
        ("54000", PermanentError),
    ],
)
def test_each_class_of_errors_has_a_meaning(code: str, meant: type[Exception]) -> None:
    error = asyncpg.PostgresError.new({"C": code, "M": "said", "D": "the row"})

    assert type(meaning(error, "here")) is meant
    assert str(meaning(error, "here")) == f"here: said ({code})"


@pytest.mark.parametrize("code", ["42601", "XX000", "P0001", "42P10"])
def test_other_errors_are_left_alone_unless_tables_are_made(code: str) -> None:
    error = asyncpg.PostgresError.new({"C": code, "M": "said"})

    assert meaning(error, "here") is error
    assert type(meaning(error, "here", makes_tables=True)) is (PauseError if code == "P0001" else TransientError)


@pytest.mark.parametrize(
    ("code", "table", "context", "line"),
    [
        ("22P02", "events", "COPY events, line 3, column payload", 3),
        ("22P02", "events", "JSON data, line 1: {\nCOPY events, line 3, column payload", 3),
        ("22P02", "events", "COPY events, Zeile 3, Spalte payload", 3),
        ("22P02", "a, line 7", "COPY a, line 7, line 12, column payload", 12),
        ("22P02", "a\nb", "COPY a\nb, line 12, column payload", 12),
        ("23505", "events", "COPY events, line 12", 12),
        ("54000", "events", "COPY events, line 12", None),
        ("54001", "events", "COPY events, line 12, column payload", 12),
        ("22P02", "events", "COPY other, line 12, column payload", None),
        ("23503", "events", None, None),
    ],
)
def test_line_is_read_from_the_context(code: str, table: str, context: str | None, line: int | None) -> None:
    fields = {"C": code, "M": "said", **({} if context is None else {"W": context})}

    assert line_of(asyncpg.PostgresError.new(fields), table) == line
