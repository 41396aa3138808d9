"""The end of a batch's transaction: the checkpoint moves, then all is committed; and whose fault it is if not.

Constraints and triggers may be deferred to the end, where PostgreSQL does not say whose they are: those of the rows
speak about records, those of our checkpoints do not. So where the end is refused, the batch is written once more, and
what its rows deferred is checked before the checkpoint is touched:

    SET CONSTRAINTS ALL IMMEDIATE   what the rows deferred: a record's fault, as if the COPY itself had said it
    UPDATE, COMMIT                  anything else: no record's fault, so an operator must act
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import asyncpg

from eventrec import FencedError, PauseError, PermanentError
from eventrec_handlers.postgres.checkpoints import acknowledgement, next_offset
from eventrec_handlers.postgres.errors import brief, is_about_rows, is_permanent

if TYPE_CHECKING:
    from eventrec import Batch
    from eventrec_handlers.postgres.checkpoints import Namespace


class RefusedAtEndError(Exception):
    """The end was refused, and it is not known for whose fault: write the batch again, with `is_checked`."""


async def end(
    connection: asyncpg.Connection, namespace: Namespace, batch: Batch, guard: str, *, where: str, is_checked: bool
) -> bool:
    """Move the checkpoint and commit; False, and the transaction is still open: `guard`, a condition, does not hold.

    `is_checked`: what the rows deferred is checked before.

    Raises:
        FencedError: The checkpoint is not where the batch starts.
        PermanentError: A constraint that was deferred refuses a record.
        PauseError: The checkpoint cannot be moved, or the transaction cannot be committed.
        RefusedAtEndError: One of these two, where it was not checked before.
        asyncpg.PostgresError: What else the server says.
    """
    if is_checked:
        await _check_deferred(connection, where=where)
    try:
        if not await _move(connection, namespace, batch, guard, where=where):
            return False
        await connection.execute("COMMIT")
    except asyncpg.PostgresError as exc:
        if not is_about_rows(exc):
            raise
        if not is_checked:
            raise RefusedAtEndError from exc
        raise PauseError(f"{where}: the checkpoint cannot be moved: {brief(exc)}") from exc
    return True


async def _check_deferred(connection: asyncpg.Connection, *, where: str) -> None:
    try:
        await connection.execute("SET CONSTRAINTS ALL IMMEDIATE")
    except asyncpg.PostgresError as exc:
        if is_permanent(exc):
            raise PermanentError(f"{where}: {brief(exc)}") from exc
        raise


async def _move(connection: asyncpg.Connection, namespace: Namespace, batch: Batch, guard: str, *, where: str) -> bool:
    if await connection.execute(acknowledgement(namespace, batch, guard)) == "UPDATE 1":
        return True
    stands = await next_offset(connection, namespace, batch.log_id, batch.subscription)
    if stands == batch.start:
        if await connection.fetchval(f"SELECT {guard}"):
            raise PauseError(f"{where}: a trigger or a rule keeps the checkpoint from moving")
        return False
    raise FencedError(f"{where}: the checkpoint stands at {stands}, the batch starts at {batch.start}")
