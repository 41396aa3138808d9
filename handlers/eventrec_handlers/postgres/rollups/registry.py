"""What the database knows of rollups: whether it has them, and when they were refreshed.

So many processes refresh each of them once in its time.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from eventrec import PauseError
from eventrec_handlers.postgres.catalog import read_tables
from eventrec_handlers.postgres.checkpoints import creating, literal
from eventrec_handlers.postgres.rollups.tables import (
    ADDED,
    DIRTY,
    FIRST,
    LAST,
    MARK,
    MARKING,
    OWN,
    PENDING,
    ROLLUPS,
    SAYS,
    TRIGGERS,
    index_name,
    marking_function,
    other_index,
    own_tables,
    rollup_tables,
    with_added_columns,
)
from eventrec_handlers.postgres.rollups.zones import ruled_by_others

if TYPE_CHECKING:
    from collections.abc import Sequence

    import asyncpg

    from eventrec.analytics import RollupPlan
    from eventrec_handlers.postgres.checkpoints import Namespace
    from eventrec_handlers.postgres.rollups.fields import Columns


async def is_there(connection: asyncpg.Connection, namespace: Namespace) -> bool:
    """Whether anything was ever rolled up here."""
    found: bool = await connection.fetchval("SELECT to_regclass($1) IS NOT NULL", namespace.named(ROLLUPS))
    return found


async def bring_up_to_date(connection: asyncpg.Connection, namespace: Namespace, *, may_change: bool) -> None:
    """Add to what is known of rollups, where there is something, the columns that an earlier version did not have.

    Also replace the function of its triggers, where this role may. On a connection in no transaction.

    Raises:
        PauseError: Some are missing, and an operator has to migrate.
    """
    if may_change and await _has_earlier_function(connection, namespace):
        async with creating(connection, namespace):
            for statement in marking_function(namespace):
                await connection.execute(statement)
    is_earlier = await connection.fetchval(
        "SELECT count(a.attname) < $3 FROM pg_class c LEFT JOIN pg_attribute a ON a.attrelid = c.oid"
        " AND a.attname::text = ANY ($2) AND NOT a.attisdropped WHERE c.oid = to_regclass($1) GROUP BY c.oid",
        namespace.named(ROLLUPS),
        list(ADDED),
        len(ADDED),
    )
    if not is_earlier:
        return
    if not may_change:
        raise PauseError(f"table {ROLLUPS!r} is of an earlier version: migrate first")
    async with creating(connection, namespace):
        await connection.execute(with_added_columns(namespace))


async def _has_earlier_function(connection: asyncpg.Connection, namespace: Namespace) -> bool:
    """Whether the triggers have the function of an earlier version, which this role may replace."""
    found: bool = await connection.fetchval(
        "SELECT EXISTS (SELECT FROM pg_proc p WHERE p.oid = to_regprocedure($1) AND p.prosrc <> $2"
        " AND pg_has_role(p.proowner, 'USAGE') AND has_schema_privilege(p.pronamespace, 'CREATE'))",
        f"{namespace.named(MARK)}()",
        MARKING,
    )
    return found


async def refuse_other(connection: asyncpg.Connection, namespace: Namespace, plan: RollupPlan) -> None:
    """Refuse what has the name of a rollup and is not its table. On a connection in no transaction.

    Raises:
        PauseError: An operator has to rename it, or to give the URL in another way.
    """
    async with connection.transaction(isolation="read_committed"):
        there = (await read_tables(connection, namespace, [plan.name]))[plan.name]
    if there.kind is None:
        return
    if there.kind != "table":
        hint = "where TimescaleDB keeps rollups, give the URL as timescale://" if there.kind == "view" else "rename it"
        raise PauseError(f"rollup {plan.name!r}: a {there.kind} has its name: {hint}")
    lacking = [name for name in plan.column_names if name not in there.columns]
    known = await _fingerprint(connection, namespace, plan)
    # Of another declaration of ours that is said where it is refreshed.
    if known not in {None, plan.fingerprint}:
        return
    if lacking:
        raise PauseError(
            f"rollup {plan.name!r}: another program's table has its name, without a column {lacking[0]!r}: rename it"
        )
    has_more = len(there.columns) > len(plan.column_names)
    if (known is None or has_more) and not await _says_ours(connection, namespace, plan.name):
        raise PauseError(
            f"rollup {plan.name!r}: the database has a table {plan.name!r} that is not ours, and it is not touched:"
            " rename one of them"
        )


async def _says_ours(connection: asyncpg.Connection, namespace: Namespace, name: str) -> bool:
    """Whether it stands at the table `name` that it is that of a rollup."""
    found: bool = await connection.fetchval(
        "SELECT coalesce(starts_with(obj_description(to_regclass($1), 'pg_class'), $2), false)",
        namespace.named(name),
        SAYS,
    )
    return found


async def is_another(connection: asyncpg.Connection, namespace: Namespace, name: str) -> bool:
    """Whether a table has the name of the rollup `name`, and neither is that rollup known nor says the table so."""
    async with connection.transaction(isolation="read_committed"):
        there = (await read_tables(connection, namespace, [name]))[name]
        if there.kind != "table" or await _says_ours(connection, namespace, name):
            return False
        return not await is_there(connection, namespace) or not await connection.fetchval(
            f"SELECT EXISTS (SELECT FROM {namespace.named(ROLLUPS)} WHERE name = $1)",  # noqa: S608 - quoted
            name,
        )


@dataclass(frozen=True, slots=True)
class Standing:
    """What is there of a rollup.

    Attributes:
        has_own: Whether its own table is, with its columns; one with others besides is ours where it says so.
        has_ours: Whether the tables are that we keep beside those of rollups.
        has_marks: Whether those of them are that what arrives is noted in.
        is_marked: Whether what arrives is noted: a trigger goes with a table that is dropped or renamed, and does not
            come back with the next one of its name.
    """

    has_own: bool
    has_ours: bool
    has_marks: bool
    is_marked: bool

    @property
    def is_whole(self) -> bool:
        """Whether nothing is missing."""
        return self.has_own and self.has_ours and self.is_marked


async def standing(
    connection: asyncpg.Connection, namespace: Namespace, plan: RollupPlan, columns: Columns
) -> Standing:
    """What is there of `plan`, whose events are in the columns `columns` of their table."""
    own, ours = await connection.fetchrow(
        "SELECT (SELECT count(*) FILTER (WHERE attname::text = ANY ($2)) = cardinality($2::text[])"
        " AND (count(*) = cardinality($2) OR coalesce(starts_with(obj_description(to_regclass($1), 'pg_class'), $4),"
        " false)) FROM pg_attribute WHERE attrelid = to_regclass($1) AND attnum > 0 AND NOT attisdropped),"
        " ARRAY(SELECT to_regclass(known.name) IS NOT NULL"
        " FROM unnest($3::text[]) WITH ORDINALITY AS known (name, place) ORDER BY place)",
        namespace.named(plan.name),
        list(plan.column_names),
        [namespace.named(name) for name in OWN],
        SAYS,
    )
    marks = [is_there for name, is_there in zip(OWN, ours, strict=True) if name in {DIRTY, PENDING}]
    return Standing(own, all(ours), all(marks), await is_marked(connection, namespace, plan.table, columns.time))


async def _can_cut_texts(connection: asyncpg.Connection, namespace: Namespace, plan: RollupPlan) -> bool:
    """Whether its index is that of an earlier version, which takes no long texts, and this role may replace it."""
    found: bool = await connection.fetchval(
        "SELECT EXISTS (SELECT FROM pg_index i JOIN pg_class c ON c.oid = i.indrelid"
        " JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = ANY (i.indkey)"
        " WHERE c.oid = to_regclass($1) AND i.indexrelid = to_regclass($2) AND a.attname::text = ANY ($3)"
        " AND pg_has_role(c.relowner, 'USAGE') AND has_schema_privilege(c.relnamespace, 'CREATE'))",
        namespace.named(plan.name),
        namespace.named(index_name(plan, namespace)),
        [group.name for group in plan.groups if group.field.kind == "text"],
    )
    return found


async def is_marked(
    connection: asyncpg.Connection, namespace: Namespace, table: str, column: str | None = None
) -> bool:
    """Whether what arrives in `table` is noted: by its time in `column`, or whichever column that is."""
    found: bool = await connection.fetchval(
        "SELECT count(*) = $3 FROM pg_trigger t JOIN pg_proc p ON p.oid = t.tgfoid"
        " WHERE t.tgrelid = to_regclass($1) AND t.tgname::text = ANY ($2) AND t.tgenabled IN ('O', 'A')"
        " AND has_table_privilege(p.proowner, to_regclass($4), 'INSERT')"
        " AND ($5::text IS NULL OR t.tgargs = convert_to($5, getdatabaseencoding()) || decode('00', 'hex'))",
        namespace.named(table),
        list(TRIGGERS),
        len(TRIGGERS),
        namespace.named(DIRTY),
        column,
    )
    return found


async def make_whole(
    connection: asyncpg.Connection, namespace: Namespace, plan: RollupPlan, columns: Columns, *, may_make: bool
) -> None:
    """Make what is missing of the rollup; all that is stored is counted again where something was lost.

    On a connection in no transaction. Of a rollup that is declared otherwise here nothing is made.

    Raises:
        PauseError: Something is missing, and an operator has to migrate.
    """
    known = await _fingerprint(connection, namespace, plan)
    if known not in {None, plan.fingerprint}:
        return
    if may_make and await _can_cut_texts(connection, namespace, plan):
        await _cut_texts(connection, namespace, plan)
    if known is not None and (await standing(connection, namespace, plan, columns)).is_whole:
        return
    if not may_make:
        if known is None:
            raise PauseError(f"rollup {plan.name!r} has no table there: migrate first")
        raise PauseError(
            f"rollup {plan.name!r}: its table, one of ours, or a trigger of {plan.table!r} was dropped:"
            " run eventrec refresh without schema=strict once, which makes it again"
        )
    async with creating(connection, namespace):
        before = await standing(connection, namespace, plan, columns)
        for statement in (*own_tables(namespace), *rollup_tables(plan, columns, namespace)):
            await connection.execute(statement)
        if before.has_own and before.has_marks and before.is_marked:
            return
        lost = f"name = {literal(plan.name)}" if before.is_marked else f"table_name = {literal(plan.table)}"
        await connection.execute(
            f"UPDATE {namespace.named(ROLLUPS)} SET todo_from = '{FIRST}', todo_to = '{LAST}'"  # noqa: S608 - quoted
            f" WHERE {lost if before.has_marks else 'true'}"
        )


async def _cut_texts(connection: asyncpg.Connection, namespace: Namespace, plan: RollupPlan) -> None:
    """Replace the index that takes no long texts. What reads the rollup or refreshes it meanwhile waits."""
    async with creating(connection, namespace):
        if await _can_cut_texts(connection, namespace, plan):  # another process may have done it just now
            for statement in other_index(plan, namespace):
                await connection.execute(statement)


async def _fingerprint(connection: asyncpg.Connection, namespace: Namespace, plan: RollupPlan) -> str | None:
    """That of the declaration that the rollup's table was made by; None: it has none."""
    if not await is_there(connection, namespace):
        return None
    found: str | None = await connection.fetchval(
        f"SELECT fingerprint FROM {namespace.named(ROLLUPS)} WHERE name = $1",  # noqa: S608 - quoted
        plan.name,
    )
    return found


async def note_refreshed(connection: asyncpg.Connection, namespace: Namespace, plans: Sequence[RollupPlan]) -> None:
    """A refresh of `plans` begins now. A row that another process works on is passed over: it is being filled.

    So are those that other rules of their zone fill.
    """
    others = await ruled_by_others(connection, namespace, plans)
    await _note(connection, namespace, [plan for plan in plans if plan.name not in others], "true")


async def rollups_of_others(
    connection: asyncpg.Connection, namespace: Namespace, plans: Sequence[RollupPlan]
) -> set[str]:
    """The names of those of `plans` that other processes refresh; the others are claimed, and noted as refreshed now.

    A claim holds for the time between two refreshes of that rollup. What is not filled yet belongs to no process. Of
    those that other rules of their zone fill, the refresh finds out whether others do: they are neither.
    """
    ruled = await ruled_by_others(connection, namespace, plans)
    plans = [plan for plan in plans if plan.name not in ruled]
    claimed = await _note(
        connection,
        namespace,
        plans,
        # A claim from a time that has not come holds no process either: the server's clock was ahead.
        "todo_from IS NOT NULL OR abs(extract(epoch FROM now() - refreshed_at)) >= seconds",
    )
    rows = await connection.fetch(
        f"SELECT name FROM {namespace.named(ROLLUPS)} WHERE name = ANY ($1)",  # noqa: S608 - quoted
        [plan.name for plan in plans],
    )
    return {row[0] for row in rows} - claimed


async def _note(
    connection: asyncpg.Connection, namespace: Namespace, plans: Sequence[RollupPlan], condition: str
) -> set[str]:
    rollups = namespace.named(ROLLUPS)
    rows = await connection.fetch(
        "WITH asked AS (SELECT known.name, seconds FROM unnest($1::text[], $2::float8[]) AS given (name, seconds)"  # noqa: S608 - quoted
        f" JOIN {rollups} AS known ON known.name = given.name WHERE {condition}"
        " FOR NO KEY UPDATE OF known SKIP LOCKED)"
        f" UPDATE {rollups} AS noted SET refreshed_at = now(), refresh_every = asked.seconds"
        " FROM asked WHERE noted.name = asked.name RETURNING noted.name",
        [plan.name for plan in plans],
        [plan.refresh.every for plan in plans],
    )
    return {row[0] for row in rows}
