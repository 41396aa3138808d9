"""The two tables of our own as another program made or changed them, and the schema that they are in."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final
from uuid import UUID

import asyncpg
import pytest

from eventrec import Batch, Event, PauseError, PermanentError
from eventrec_handlers.postgres import PostgresHandler

pytestmark = pytest.mark.handlers

Events = Callable[..., Event]
Batches = Callable[..., Batch]

COLUMNS: Final = "log_id uuid NOT NULL, subscription text NOT NULL, next bigint NOT NULL, retired_at timestamptz"
KEY: Final = "PRIMARY KEY (log_id, subscription)"


async def refused(database: Any, *statements: str, namespace: str | None = None) -> str:
    """Why a handler does not open once these statements were executed."""
    database.execute(*statements)
    handler = PostgresHandler(database.url(), namespace=namespace)
    try:
        with pytest.raises(PauseError) as caught:
            await handler.open()
    finally:
        await handler.close()
    return str(caught.value)


@pytest.mark.parametrize(
    "theirs",
    [
        "CREATE VIEW eventrec_checkpoints AS SELECT 1 AS a",
        "CREATE SEQUENCE eventrec_checkpoints",
        "CREATE TABLE eventrec_checkpoints (a int)",
        f"CREATE TABLE eventrec_checkpoints ({COLUMNS.replace('bigint', 'numeric')}, {KEY})",
        "CREATE TABLE eventrec_destination (name text)",
        "CREATE VIEW eventrec_destination AS SELECT gen_random_uuid() AS id",
    ],
)
async def test_name_of_our_own_table_that_is_taken_holds_delivery(database: Any, theirs: str) -> None:
    assert "another program's" in await refused(database, theirs)


@pytest.mark.parametrize(
    "key",
    ["", ", PRIMARY KEY (log_id)", ", UNIQUE (log_id, subscription, next)", f", {KEY} DEFERRABLE"],
    ids=["none", "of one column", "of three", "deferrable"],
)
async def test_checkpoints_without_their_key_hold_delivery(database: Any, key: str) -> None:
    assert "has no unique key" in await refused(database, f"CREATE TABLE eventrec_checkpoints ({COLUMNS}{key})")


async def test_tables_that_an_operator_made_in_the_same_way_are_used(
    database: Any, event: Events, batch: Batches, log_id: UUID
) -> None:
    database.execute(
        f"CREATE TABLE eventrec_checkpoints ({COLUMNS.replace('text', 'varchar(90)')}, note text)",
        "CREATE UNIQUE INDEX ON eventrec_checkpoints (subscription, log_id)",
        "CREATE TABLE eventrec_destination (id text)",
    )
    handler = PostgresHandler(database.url())
    await handler.open()

    found = [await handler.resume(log_id, "tested", 0), await handler.resume(log_id, "tested", 7)]
    await handler.handle(batch(event(0)))
    await handler.close()

    assert found == [0, 0]
    assert database.rows("SELECT next FROM eventrec_checkpoints") == [(1,)]


@pytest.mark.parametrize("next_", ["NULL", "-1"])
async def test_checkpoint_that_another_program_changed_holds_delivery(  # noqa: PLR0917
    handler: PostgresHandler, database: Any, event: Events, batch: Batches, log_id: UUID, next_: str
) -> None:
    database.execute(
        "ALTER TABLE eventrec_checkpoints ALTER next DROP NOT NULL", f"UPDATE eventrec_checkpoints SET next = {next_}"
    )

    with pytest.raises(PauseError, match="eventrec_checkpoints holds"):
        await handler.resume(log_id, "tested", 0)
    with pytest.raises(PauseError, match="eventrec_checkpoints holds"):
        await handler.handle(batch(event(0)))


def trigger(database: Any, when: str, body: str) -> None:
    database.execute(
        f"CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {body} END $$",
        f"CREATE TRIGGER t BEFORE {when} ON eventrec_checkpoints FOR EACH ROW EXECUTE FUNCTION f()",
    )


def deferred(database: Any, table: str, body: str) -> None:
    """Have `body` run for each row of `table`, when its transaction ends."""
    database.execute(
        f"CREATE FUNCTION f_{table}() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {body} RETURN NULL; END $$",
        f"CREATE CONSTRAINT TRIGGER d AFTER INSERT OR UPDATE ON {table} DEFERRABLE INITIALLY DEFERRED"
        f" FOR EACH ROW EXECUTE FUNCTION f_{table}()",
    )


async def test_row_that_another_program_does_not_let_in_holds_delivery(
    handler: PostgresHandler, database: Any, log_id: UUID
) -> None:
    trigger(database, "INSERT", "RETURN NULL;")

    with pytest.raises(PauseError, match="does not keep the row of 'other'"):
        await handler.resume(log_id, "other", 0)


@pytest.mark.parametrize("code", ["22023", "23514", "54000"])
async def test_checkpoint_that_cannot_be_moved_is_no_records_fault(
    handler: PostgresHandler, database: Any, event: Events, batch: Batches, code: str
) -> None:
    trigger(database, "UPDATE", f"RAISE EXCEPTION 'hands off' USING ERRCODE = '{code}';")

    with pytest.raises(PauseError, match="cannot be moved: hands off"):
        await handler.handle(batch(event(0), event(1)))
    database.execute("DROP TRIGGER t ON eventrec_checkpoints")
    await handler.handle(batch(event(0), event(1)))

    assert database.rows("SELECT count(*) FROM events") == [(2,)]


@pytest.mark.parametrize("code", ["22023", "23514", "54000", "P0001"])
async def test_checkpoint_that_is_refused_when_the_transaction_ends_is_no_records_fault(
    handler: PostgresHandler, database: Any, event: Events, batch: Batches, code: str
) -> None:
    await handler.handle(batch(event(0)))
    deferred(database, "eventrec_checkpoints", f"RAISE EXCEPTION 'hands off' USING ERRCODE = '{code}';")

    with pytest.raises(PauseError, match="cannot be moved: hands off"):
        await handler.handle(batch(event(1), event(2), start=1))
    database.execute("DROP TRIGGER d ON eventrec_checkpoints")
    await handler.handle(batch(event(1), event(2), start=1))

    assert database.rows("SELECT count(*) FROM events") == [(3,)]


@pytest.mark.parametrize(("code", "said"), [("23514", PermanentError), ("P0001", asyncpg.RaiseError)])
async def test_what_rows_deferred_is_a_records_fault_though_the_checkpoint_is_refused_too(  # noqa: PLR0917
    handler: PostgresHandler, database: Any, event: Events, batch: Batches, code: str, said: type[Exception]
) -> None:
    await handler.handle(batch(event(0)))
    refuse = "IF {} THEN RAISE EXCEPTION 'hands off' USING ERRCODE = '{}'; END IF;"
    deferred(database, "events", refuse.format("NEW.payload = '1'", code))
    deferred(database, "eventrec_checkpoints", refuse.format("NEW.next = 3", "23514"))

    with pytest.raises(said, match="hands off"):
        await handler.handle(batch(event(1), start=1))
    with pytest.raises(PauseError, match="cannot be moved: hands off"):
        await handler.handle(batch(event(2), event(3), start=1))
    await handler.handle(batch(event(2), start=1))

    assert database.rows("SELECT payload FROM events ORDER BY id") == [("0",), ("2",)]


async def test_checkpoint_that_a_trigger_keeps_where_it_is_holds(
    handler: PostgresHandler, database: Any, event: Events, batch: Batches
) -> None:
    trigger(database, "UPDATE", "RETURN NULL;")

    with pytest.raises(PauseError, match="keeps the checkpoint from moving"):
        await handler.handle(batch(event(0)))
    database.execute("DROP TRIGGER t ON eventrec_checkpoints")
    await handler.handle(batch(event(0)))

    assert database.rows("SELECT count(*) FROM events") == [(1,)]


async def test_id_is_one_and_the_same_whatever_stands_beside_it(database: Any) -> None:
    database.execute(
        "CREATE TABLE eventrec_destination (id uuid)",
        "INSERT INTO eventrec_destination VALUES (NULL), ('00000000-0000-0000-0000-00000000000b')",
    )
    found = []
    for _ in range(2):
        handler = PostgresHandler(database.url())
        await handler.open()
        found.append(await handler.destination_id())
        await handler.close()
        database.execute(
            "DELETE FROM eventrec_destination WHERE id IS NOT NULL",
            "INSERT INTO eventrec_destination VALUES ('00000000-0000-0000-0000-00000000000c'),"
            " ('00000000-0000-0000-0000-00000000000b')",
        )

    assert found == ["00000000-0000-0000-0000-00000000000b"] * 2


@pytest.mark.parametrize("namespace", [None, "pg_temp", "pg_temp_3"])
async def test_temporary_tables_are_not_a_destination(database: Any, namespace: str | None) -> None:
    path = [f"ALTER DATABASE {database.name} SET search_path = pg_temp"] if namespace is None else []

    assert "temporary tables" in await refused(database, *path, namespace=namespace)
