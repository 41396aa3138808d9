"""A row for which there is no partition: is it the row's fault, or does a partition have to be made?"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import asyncpg

from eventrec_handlers.postgres.checkpoints import literal
from eventrec_handlers.postgres.errors import state

if TYPE_CHECKING:
    from eventrec_handlers.postgres.checkpoints import Namespace

_CHECK: Final = "23514"


def has_no_partition(exc: BaseException) -> bool:
    """Whether it says that there is no partition for a row: a check that has no name is that of a partition."""
    return state(exc) == _CHECK and getattr(exc, "constraint_name", None) is None


async def lacks_one_for_now(connection: asyncpg.Connection, namespace: Namespace, table: str, *, kind: str) -> bool:
    """Whether `table` is partitioned by ranges and takes no event of type `kind` that happens now.

    Then an operator has to make a partition. Rows of another time, or of a list of types, go alone. What `connection`
    is in the middle of is rolled back.
    """
    if connection.is_in_transaction():
        await connection.execute("ROLLBACK")
    transaction = connection.transaction(isolation="read_committed")
    await transaction.start()
    try:
        await connection.execute(f"SET LOCAL lock_timeout = {namespace.lock_timeout}")
        by = await connection.fetchval(
            "SELECT partstrat::text FROM pg_partitioned_table"  # noqa: S608 - quoted
            f" WHERE partrelid = to_regclass({literal(namespace.named(table))})"
        )
        if by == "r":
            await connection.execute(
                f"INSERT INTO {namespace.named(table)} (id, type, timestamp, payload)"  # noqa: S608 - quoted
                f" VALUES ('00000000-0000-0000-0000-000000000000', {literal(kind)}, now(), 'null')"
            )
    except asyncpg.PostgresError as exc:
        return has_no_partition(exc)
    finally:
        await transaction.rollback()
    return False
