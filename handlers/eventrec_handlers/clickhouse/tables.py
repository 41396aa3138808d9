"""The tables of one node: what they are, what rows need of them, and how they are made and extended."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from eventrec import PauseError, TransientError
from eventrec_handlers._sql.plan import refused_growth
from eventrec_handlers.clickhouse.ddl import Ddl, is_reserved
from eventrec_handlers.clickhouse.errors import Failure
from eventrec_handlers.clickhouse.fed import fed_tables
from eventrec_handlers.clickhouse.ready import Ready, none_of, ready_of
from eventrec_handlers.clickhouse.rows import BASE, REQUIRED, VIRTUAL
from eventrec_handlers.clickhouse.sql import literal
from eventrec_handlers.clickhouse.state import REPLICATED_WINDOW, WINDOW, TableState

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from eventrec_handlers.clickhouse.node import Node
    from eventrec_handlers.clickhouse.options import Options
    from eventrec_handlers.clickhouse.rows import Column, Part

LEAST_WINDOW: Final = 1_000
"""Blocks that a table must know, where `dedup_window` is not less: those of other writers come in between."""

VIEWS_KNOWN_FOR: Final = 1.0
"""Seconds after which it is looked whether a table feeds another view: its target has to know tokens from then on."""

ROUNDS: Final = 5
"""How often a table is looked at again because others change it."""

_TOO_LONG: Final = re.compile("length of table name|file name too long", re.IGNORECASE)

_COMPUTED: Final = frozenset({"MATERIALIZED", "ALIAS"})


@dataclass(slots=True)
class _Plan:
    create: bool = False
    add: list[Column] = field(default_factory=list)
    refused: dict[str, str] = field(default_factory=dict)
    refused_table: str | None = None


class Tables:
    """Looks after the tables that batches are written to. `remarks` are for an operator."""

    def __init__(self, options: Options, ddl: Ddl, *, nodes: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._options = options
        self._nodes = nodes
        self._ddl = ddl
        self._without_tokens: dict[str, str] = {}

    @property
    def remarks(self) -> Sequence[str]:
        """What an operator should know."""
        return tuple(self._without_tokens.values())

    async def state(self, node: Node, table: str) -> TableState | None:
        """What is known of a table; it is asked for the first time. None: there is none.

        Raises:
            Failure: The node does not tell.
        """
        known: TableState | None = node.tables.get(table)
        if known is not None and self._clock() - known.looked_at >= VIEWS_KNOWN_FOR:
            known.looked_at = self._clock()
            if await read_views(node, table) != known.views:
                node.forget(table)
                known = None
        if known is None:
            known = await read_table(node, table)
            if known is not None:
                known.looked_at = self._clock()
                node.tables[table] = known
        return known

    async def ready(self, node: Node, part: Part) -> Ready:
        """`part` as the table of `node` takes it, made and extended for it where that is asked for.

        Raises:
            Failure: The node fails.
            PauseError: The table cannot be made as it is needed.
            TransientError: Others change it all the time.
        """
        for _ in range(ROUNDS):
            state = await self.state(node, part.table)
            plan = self._plan(state, part)
            if plan.refused_table is not None or (not plan.create and not plan.add):
                if state is None or plan.refused_table is not None:
                    return none_of(part, plan.refused_table or "it is not there")
                await self._ensure(node, part, state)
                return ready_of(part, state.columns, plan.refused)
            try:
                if plan.create:
                    await node.run(self._ddl.create(part.layout, part.schemas))
                else:
                    missing = [column.layout for column in plan.add]
                    await node.run(self._ddl.add(part.layout, missing, part.schemas))
            except Failure as exc:
                if exc.kind in {"down", "transient"}:
                    raise
                if plan.create and _TOO_LONG.search(str(exc)) is not None:
                    return none_of(part, f"its name is too long: {exc}")
                # Never a record's fault, else.
                raise PauseError(f"table {part.table!r} cannot be made as events need it: {exc}") from exc
            node.forget(part.table)
        raise TransientError(f"{node.where}: others change table {part.table!r} all the time")

    def _plan(self, state: TableState | None, part: Part) -> _Plan:
        if (why := self._unusable(state, part)) is not None:
            return _Plan(refused_table=why)
        if state is None:
            return self._grown(_Plan(create=True), part, {})
        plan = self._grown(_Plan(), part, state.columns)
        for column in part.columns:
            if column.name in state.computed:
                plan.refused[column.name] = "the table computes it itself"
        return plan

    def _unusable(self, state: TableState | None, part: Part) -> str | None:
        """Why nothing can be written to the table; None: it can."""
        if is_reserved(part.table):
            return "names that start with eventrec_ or .inner are reserved"
        if state is None:
            is_strict = self._options.schema == "strict"
            return "there is no such table, and schema is 'strict'" if is_strict else None
        if state.engine.endswith("View") or state.engine == "Dictionary":
            return f"its name is taken: a {state.engine}"
        lacking = [] if part.is_laid_out else [name for name in REQUIRED if name not in state.columns]
        if lacking:
            return f"it is not one of ours: it lacks {', '.join(map(repr, lacking))}"
        if not any(column.name in state.columns for column in part.columns):
            return "it has none of the columns of its layout"
        return None

    def _grown(self, plan: _Plan, part: Part, there: Mapping[str, str]) -> _Plan:
        """`plan` with the columns that the table lacks, or why it is not given them."""
        missing: dict[str, Column] = {}
        for column in part.columns:
            if column.name in VIRTUAL and column.name not in there:
                plan.refused[column.name] = "ClickHouse has a column of this name in each table"
            elif column.name not in there and (part.is_laid_out or not column.is_empty):
                missing.setdefault(column.name, column)
        base = len(BASE) if plan.create and not part.is_laid_out else 0
        extra = [column for column in missing.values() if not base or column.name not in BASE]
        why = refused_growth(
            len(there) + base, len(extra), schema=self._options.schema, max_columns=self._options.max_columns
        )
        if why is None:
            plan.add = list(missing.values())
        else:
            plan.refused.update((column.name, why) for column in extra)
            if plan.create and (part.is_laid_out or extra):
                # All or none: some of them would help no record.
                return _Plan(refused_table=why)
        return plan

    # -- tokens

    async def _ensure(self, node: Node, part: Part, state: TableState) -> None:
        """See to it that the table, and the views on it, know a batch that comes again; else it is a remark."""
        key = f"{node.name} {part.table}"
        if part.table in node.ensured:
            return
        remark = await self._window_remark(node, part.table, state)
        for view, (home, name), target in await fed_tables(node, state.views):
            if target.engine == "Null":  # holds nothing, and passes on what comes with its tokens
                continue
            of_view = await self._window_remark(node, name, target, database=home)
            remark = remark or (of_view and f"{of_view} (view {view!r})")
        if self._nodes > 1 and not state.is_shared and remark is None:
            remark = (
                f"table {part.table!r} is not replicated, and there are several nodes: its rows are spread over them"
            )
        if remark is None:
            self._without_tokens.pop(key, None)
        else:
            self._without_tokens[key] = remark
        if self._ddl.ttl is not None and part.layout.retention is None and " TTL " not in state.made_as:
            expire = self._ddl.expire(part.layout)
            if expire is not None and self._options.schema == "evolve" and state.engine.endswith("MergeTree"):
                await node.run(expire)
        node.ensured.add(part.table)

    async def _window_remark(self, node: Node, table: str, state: TableState, *, database: str = "") -> str | None:
        """None where the table knows repeated batches, by now; else what an operator should know."""
        if state.keeps_tokens(blocks=min(self._options.dedup_window, LEAST_WINDOW)):
            return None
        said = f"a batch that is sent again may be in table {table!r} twice"
        if not state.engine.endswith("MergeTree"):
            return f"{said}: the engine {state.engine} keeps no tokens"
        name = REPLICATED_WINDOW if state.engine.startswith(("Replicated", "Shared")) else WINDOW
        if name == REPLICATED_WINDOW or self._options.schema == "strict":
            why = "" if name == REPLICATED_WINDOW else ", and schema is 'strict'"
            return f"{said}: its {name} is less than {LEAST_WINDOW}{why}"
        try:
            await node.run(self._ddl.set(table, database, {WINDOW: self._options.dedup_window}))
        except Failure as exc:
            if exc.kind in {"down", "transient"}:
                raise
            return f"{said}: its {WINDOW} is less than {LEAST_WINDOW}, and cannot be set: {exc}"
        return None


async def read_views(node: Node, table: str) -> tuple[tuple[str, str], ...]:
    """The views that are fed with what is inserted into a table: database and name.

    Raises:
        Failure: The node does not tell.
    """
    found = await node.query(
        "SELECT dependencies_database, dependencies_table FROM system.tables"  # noqa: S608 - a literal
        f" WHERE database = currentDatabase() AND name = {literal(table)}"
    )
    return tuple(pair for databases, tables in found for pair in zip(databases, tables, strict=True))


async def read_table(node: Node, table: str) -> TableState | None:
    """A table as `node` has it; None: there is none.

    Raises:
        Failure: The node does not tell.
    """
    found = await node.query(
        "SELECT engine, engine_full, dependencies_database, dependencies_table FROM system.tables"  # noqa: S608 - a literal
        f" WHERE database = currentDatabase() AND name = {literal(table)}"
    )
    if not found:
        return None
    ((engine, made_as, databases, tables),) = found
    columns = await node.query(
        "SELECT name, type, default_kind FROM system.columns"  # noqa: S608 - a literal
        f" WHERE database = currentDatabase() AND table = {literal(table)} ORDER BY position"
    )
    return TableState(
        engine,
        made_as,
        {name: type_ for name, type_, _ in columns},
        frozenset(name for name, _, kind in columns if kind in _COMPUTED),
        tuple(zip(databases, tables, strict=True)),
    )
