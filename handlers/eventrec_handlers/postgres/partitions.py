"""A row for which there is no partition: is it the row's fault, or does a partition have to be made?"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import asyncpg

from eventrec import TIMESTAMP, TYPE
from eventrec_handlers._sql import quoted
from eventrec_handlers.postgres.checkpoints import literal
from eventrec_handlers.postgres.errors import state

if TYPE_CHECKING:
    from eventrec import Layout
    from eventrec_handlers.postgres.checkpoints import Namespace

_CHECK: Final = "23514"


def has_no_partition(exc: BaseException) -> bool:
    """Whether it says that there is no partition for a row: a check that has no name is that of a partition."""
    return state(exc) == _CHECK and getattr(exc, "constraint_name", None) is None


async def lacks_one_for_now(
    connection: asyncpg.Connection,
    namespace: Namespace,
    table: str,
    missing: BaseException,
    *,
    kind: str,
    layout: Layout | None = None,
) -> bool:
    """Whether `table` takes no event of type `kind` that happens now: `missing` says that it has no partition for one.

    What else a row of a `layout` lacks is looked at later: a row is given its partition first.

    Then an operator has to make one. Rows of another time, or of a list of types, go alone; where one of a hash is
    missing, it is not the row's fault. What says so may be a partition of `table` that is itself divided. What
    `connection` is in the middle of is rolled back.
    """
    schema, name = getattr(missing, "schema_name", None), getattr(missing, "table_name", None)
    divided = f"{quoted(schema)}.{quoted(name)}" if schema and name else namespace.named(table)
    if connection.is_in_transaction():
        await connection.execute("ROLLBACK")
    transaction = connection.transaction(isolation="read_committed")
    await transaction.start()
    try:
        await connection.execute(f"SET LOCAL lock_timeout = {namespace.lock_timeout}")
        by = await connection.fetchval(
            "SELECT partstrat::text FROM pg_partitioned_table"  # noqa: S608 - quoted
            f" WHERE partrelid = to_regclass({literal(divided)})"
        )
        if by == "h":
            return True
        if by == "r":
            await connection.execute(f"INSERT INTO {namespace.named(table)} {_row_of_now(layout, kind)}")
    except asyncpg.PostgresError as exc:
        return has_no_partition(exc)
    finally:
        await transaction.rollback()
    return False


def _row_of_now(layout: Layout | None, kind: str) -> str:
    """Columns and values of a row that happens now, as an INSERT has them."""
    if layout is None:
        zero = "00000000-0000-0000-0000-000000000000"
        return f"(id, type, timestamp, payload) VALUES ('{zero}', {literal(kind)}, now(), 'null')"
    given = {TIMESTAMP: "now()", TYPE: literal(kind)}
    known = {
        quoted(column.name): value
        for source, value in given.items()
        if (column := layout.column_of(source)) is not None
    }
    return f"({', '.join(known)}) VALUES ({', '.join(known.values())})" if known else "DEFAULT VALUES"
