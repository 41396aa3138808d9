"""A rollup that ClickHouse keeps up to date by itself, in each insert of events: what it consists of, as SQL.

    events ─ eventrec_feeding_… ─> eventrec_inflow_…   a view: the fields that the rollup reads, into a table of none
    inflow ─ eventrec_counting_… ─> eventrec_states_…  a view: the states of the aggregates, into a table that merges
    inflow ─ eventrec_seeing_… ─> eventrec_seen_…      until the events from before are counted: which ones were
    NAME                                               a view to look at: buckets as moments, values of the measures

Names end with the rollup's, and a key of its declaration and SQL: another declaration is another set of them, beside.

An event is counted where its insert began after the feeding view was made. Those from before are counted once by
statements (`fill`): they are the rows up to a block of the table, but for those that were seen. The states of each
statement are a partition of their own, which counts once it is noted; those of inserts are in partition 0.

Late events need nothing: their states join those that are there. What is removed from the events stays in the states.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final

from eventrec import ID
from eventrec_handlers._sql.rollups import field_aliases
from eventrec_handlers.clickhouse.moments import HIGHEST, LOWEST
from eventrec_handlers.clickhouse.rollups.buckets import calendar_range, calendar_sql
from eventrec_handlers.clickhouse.rollups.fields import SETTINGS, TIME_TYPE, expiry
from eventrec_handlers.clickhouse.rollups.measures import measure_sql
from eventrec_handlers.clickhouse.rollups.select import BUCKET, TIME, Statement, conditions, rows
from eventrec_handlers.clickhouse.sql import literal, quoted
from eventrec_handlers.clickhouse.state import BLOCK_NUMBERS, BLOCK_OFFSETS, WINDOW

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from eventrec.analytics import Question, RollupPlan
    from eventrec_handlers.clickhouse.rollups.fields import Columns
    from eventrec_handlers.clickhouse.rollups.measures import Compiled

PART: Final = "er_part"
ROW: Final = "er_row"
LIVE: Final = 0
"""The partition of what inserts have counted."""

KINDS: Final = ("states", "inflow", "seen", "counting", "seeing", "feeding")
_VIEWS: Final = ("feeding", "seeing", "counting")
_TELLING: Final = re.compile(r"\w{1,60}", re.ASCII)
BLOCKS: Final = 10_000
"""Of other inserts after which a block that comes again is still known."""


@dataclass(frozen=True)
class KeptRollup:
    """One rollup as one declaration and one table of events have it.

    Raises:
        CatalogueError: The table does not store a field, or ClickHouse's calendar has no such buckets; by any of its
            statements.
    """

    plan: RollupPlan
    columns: Columns

    @cached_property
    def key(self) -> str:
        """Eight hexadecimal digits that differ where what is counted differs."""
        # Whatever the time is declared as: what is counted is the same, and was so called before that mattered.
        same = KeptRollup(self.plan, replace(self.columns, time_type=TIME_TYPE))
        said = "\n".join((self.plan.fingerprint, same._fed, same._counted(str(LIVE), source="events")))
        return hashlib.sha256(said.encode()).hexdigest()[:8]

    def name(self, kind: str) -> str:
        """What the table or view of a kind is called."""
        return named(kind, self.plan.name, self.key)

    @property
    def about(self) -> tuple[str, str]:
        """What its notes are found by."""
        return self.plan.name, self.key

    @property
    def names(self) -> Mapping[str, str]:
        """Kind to name of all that counts, once it is complete."""
        return {kind: self.name(kind) for kind in ("states", "inflow", "counting", "feeding")}

    @cached_property
    def range(self) -> tuple[int, int]:
        """The buckets that are kept begin from the first on, and before the second; all others are in the events."""
        return calendar_range(self.plan.bucket)

    def check(self) -> None:
        """Raise CatalogueError where it cannot be kept."""
        _ = self.key, self.range

    # -- making it

    def make(self) -> Iterator[str]:
        """The statements that make it, each of which may be run again; `begin` comes before the last."""
        states, inflow, seen = (quoted(self.name(kind)) for kind in ("states", "inflow", "seen"))
        counted, keys = self._counted(str(LIVE)), ", ".join((BUCKET, *self._groups))
        window = f"{WINDOW} = {BLOCKS}"
        yield f"CREATE TABLE IF NOT EXISTS {inflow} ENGINE = Null EMPTY AS {self._fed}"
        yield (
            f"CREATE TABLE IF NOT EXISTS {states} ENGINE = AggregatingMergeTree PARTITION BY {PART} ORDER BY ({keys})"
            f"{self._ttl} SETTINGS {window}, allow_nullable_key = 1 EMPTY AS {counted}"
        )
        seeing = f"SELECT {ROW} FROM {inflow}"  # noqa: S608 - quoted
        yield f"CREATE TABLE IF NOT EXISTS {seen} ENGINE = MergeTree ORDER BY {ROW} SETTINGS {window} EMPTY AS {seeing}"
        yield f"CREATE MATERIALIZED VIEW IF NOT EXISTS {quoted(self.name('counting'))} TO {states} AS {counted}"
        yield f"CREATE MATERIALIZED VIEW IF NOT EXISTS {quoted(self.name('seeing'))} TO {seen} AS {seeing}"
        yield self.begin()
        yield f"CREATE MATERIALIZED VIEW IF NOT EXISTS {quoted(self.name('feeding'))} TO {inflow} AS {self._fed}"

    def begin(self) -> str:
        """The statement that notes the last block of events that no view has counted."""
        tables = (
            "SELECT toString(any(uuid)) FROM system.tables"  # noqa: S608 - a literal
            f" WHERE database = currentDatabase() AND name = {literal(self.name('states'))}"
        )
        about = f',"version":{self.plan.version:d},"fingerprint":"{self.plan.fingerprint}"}}'
        said = f"concat('{{\"block\":', toString(max(max_block_number)), {literal(about)})"
        return (
            f"INSERT INTO {NOTES} (rollup, key, tables, kind, said)"  # noqa: S608 - literals
            f" SELECT {literal(self.plan.name)}, {literal(self.key)}, ({tables}), 'begun', {said}"
            f" FROM system.parts WHERE active AND database = currentDatabase() AND table = {literal(self.plan.table)}"
        )

    def drop(self, *, keeps_states: bool = False) -> Iterator[str]:
        """The statements that take it away, the views first: nothing feeds what is gone."""
        yield from dropped(self.plan.name, self.key, keeps_states=keeps_states)

    def expire(self) -> str:
        """The statement that gives the states the retention of the plan."""
        return f"ALTER TABLE {quoted(self.name('states'))} {f'MODIFY{self._ttl}' if self._ttl else 'REMOVE TTL'}"

    # -- what was there before it

    def fill(self, part: int, blocks: tuple[int, int], since: int | None, until: int | None) -> str:
        """The statement that counts, as partition `part`, rows of [`since`, `until`) that no view has counted.

        `blocks` are the last block of which no row was counted, and the last one whose rows were all seen, if counted.
        """
        last, settled = blocks
        within = self._within(since, until)
        names = ", ".join((BUCKET, TIME, *self._aliases.values()))
        before = self._rows([*within, f"_block_number <= {last}"])
        found = f"SELECT {names} FROM ({before})"  # noqa: S608 - quoted, as all below
        if settled > last:
            between = self._rows([*within, f"_block_number > {last}", f"_block_number <= {settled}"])
            found += (
                f" UNION ALL SELECT {names} FROM (SELECT *, row_number() OVER (PARTITION BY {ROW}) AS er_copy FROM ({between})) AS er_between"  # noqa: E501, S608 - one piece
                f" LEFT JOIN (SELECT {ROW}, count() AS er_counted FROM {quoted(self.name('seen'))} GROUP BY {ROW}) AS er_seen"  # noqa: E501 - likewise
                f" USING ({ROW}) WHERE er_copy > er_counted"
            )
        counted = self._counted(str(part), source=f"({found})")
        return f"INSERT INTO {quoted(self.name('states'))} {counted}, join_use_nulls = 0"

    def sample(self, settled: int, slices: int) -> str:
        """The statement for the times that part the rows up to block `settled` into so many slices, about."""
        levels = ", ".join(f"{number / slices:.6f}" for number in range(1, slices))
        where = " AND ".join((f"_block_number <= {settled}", *self._conditions))
        return (
            f"SELECT quantiles({levels})({self.columns.moment}) FROM {quoted(self.plan.table)} WHERE {where} {SETTINGS}"  # noqa: S608 - quoted
        )

    def middle(self, settled: int, since: int | None, until: int | None) -> str:
        """The statement for the first, the middle and the last time of rows of [`since`, `until`), null without any."""
        where = " AND ".join((f"_block_number <= {settled}", *self._within(since, until), *self._conditions))
        moment = self.columns.moment
        return (
            f"SELECT minOrNull({moment}), quantile(0.5)({moment}), maxOrNull({moment})"  # noqa: S608 - quoted
            f" FROM {quoted(self.plan.table)} WHERE {where} {SETTINGS}"
        )

    def _within(self, since: int | None, until: int | None) -> list[str]:
        if since is None and until is None:
            return []
        return [self.columns.within(LOWEST if since is None else since, HIGHEST + 1 if until is None else until)]

    def size(self, settled: int) -> str:
        """The statement for how many rows up to block `settled` it counts."""
        where = " AND ".join((f"_block_number <= {settled}", *self._conditions))
        return f"SELECT count() FROM {quoted(self.plan.table)} WHERE {where} {SETTINGS}"  # noqa: S608 - quoted

    # -- looking at it

    def view(self, parts: Sequence[int]) -> str:
        """The statement that makes the view with the rollup's name: what `parts` of the states say."""
        shown = {self.plan.bucket_name: f"fromUnixTimestamp64Nano({BUCKET}, 'UTC')"}
        shown |= {group.name: column for group, column in zip(self.plan.groups, self._groups, strict=True)}
        shown |= self._values
        listed = ", ".join(f"{shown[name]} AS {quoted(name)}" for name in self.plan.column_names)
        # Under other names inside: of two things with one name ClickHouse takes the nearer one, which is the value.
        return (
            f"CREATE OR REPLACE VIEW {quoted(self.plan.name)} AS SELECT {listed}"  # noqa: S608 - quoted
            f" FROM {quoted(self.name('states'))} WHERE {self.counting(parts)}"
            f" GROUP BY {', '.join((BUCKET, *self._groups))} SETTINGS prefer_column_name_to_alias = 1"
        )

    def select(self, question: Question, parts: Sequence[int]) -> Statement:
        """The statement that answers `question` for the buckets that are kept."""
        groups = {
            group.name: column
            for group, column in zip(self.plan.groups, self._groups, strict=True)
            if group.name in question.group_names
        }
        shown = {self.plan.bucket_name: BUCKET, **groups, **self._values}
        low, high = self.range
        start = low if question.start is None else max(low, question.start)
        end = high if question.end is None else min(high, question.end)
        sql = (
            f"SELECT {', '.join(shown[column.name] for column in question.columns)}"  # noqa: S608 - quoted
            f" FROM {quoted(self.name('states'))} WHERE {self.counting(parts)}"
            f" AND {BUCKET} >= toInt64('{start}') AND {BUCKET} < toInt64('{max(start, end)}')"
            f" GROUP BY {', '.join((BUCKET, *groups.values()))}"
        )
        return Statement(sql, tuple(column.kind for column in question.columns))

    def extent(self, parts: Sequence[int]) -> str:
        """The statement for the first bucket that is kept; NULL: there is none."""
        return f"SELECT minOrNull({BUCKET}) FROM {quoted(self.name('states'))} WHERE {self.counting(parts)}"  # noqa: S608 - quoted

    # -- what these consist of

    @cached_property
    def _aliases(self) -> Mapping[Any, str]:
        return field_aliases(self.plan)

    @property
    def _groups(self) -> list[str]:
        return [f"er_group_{number}" for number in range(len(self.plan.groups))]

    @property
    def _ttl(self) -> str:
        if self.plan.retention is None:
            return ""
        return f" TTL {expiry(f'fromUnixTimestamp64Nano({BUCKET})', self.plan.retention)}"

    @property
    def _conditions(self) -> list[str]:
        low, high = self.range
        moment = self.columns.moment_or_null
        return [
            f"{moment} >= toInt64('{low}')",
            f"{moment} < toInt64('{high}')",
            *conditions(self.plan, self.columns),
        ]

    def _rows(self, more: Sequence[str] = ()) -> str:
        """The rows of events that count, with their buckets, moments, fields, and what tells them apart."""
        bucket = calendar_sql(self.plan.bucket, self.columns.moment)
        where = " AND ".join((*self._conditions, *more))
        return rows(self.plan, self.columns, dict(self._aliases), bucket, where, more=[f"{self._row} AS {ROW}"])

    @property
    def _row(self) -> str:
        """What tells one row from another: its id and time, or all of it."""
        id_ = self.columns.layout.column_of(ID)
        told = [id_.name, self.columns.time] if id_ is not None else [each.name for each in self.columns.stored]
        return f"sipHash128(tuple({', '.join(map(quoted, told))}))"

    @cached_property
    def _fed(self) -> str:
        return f"{self._rows()} {SETTINGS}"

    def _counted(self, part: str, source: str | None = None) -> str:
        """The states of what flows in, or of `source`."""
        listed = [f"toUInt64({part}) AS {PART}", BUCKET]
        fields = [self._aliases[group.field] for group in self.plan.groups]
        listed += [f"{field} AS {name}" for field, name in zip(fields, self._groups, strict=True)]
        for number, compiled in enumerate(self._compiled.values()):
            listed += [f"{each.state()} AS er_{at}_of_{number}" for at, each in enumerate(compiled.aggregates)]
        keys = ", ".join((BUCKET, *dict.fromkeys(fields)))
        return f"SELECT {', '.join(listed)} FROM {source or quoted(self.name('inflow'))} GROUP BY {keys} {SETTINGS}"  # noqa: S608 - quoted

    @cached_property
    def _compiled(self) -> Mapping[str, Compiled]:
        return {each.name: measure_sql(each, self._aliases.__getitem__, time=TIME) for each in self.plan.measures}

    @property
    def _values(self) -> dict[str, str]:
        """The measures, of their states."""
        return {
            name: compiled.value([each.merged(f"er_{at}_of_{number}") for at, each in enumerate(compiled.aggregates)])
            for number, (name, compiled) in enumerate(self._compiled.items())
        }

    @staticmethod
    def counting(parts: Sequence[int]) -> str:
        """The condition for states that count."""
        return f"{PART} IN ({', '.join(map(str, (LIVE, *parts)))})"


NOTES: Final = "eventrec_rollup_notes"
NOTES_TABLE: Final = (
    f"CREATE TABLE IF NOT EXISTS {NOTES} (rollup String, key String, tables String, kind LowCardinality(String),"
    " said String, noted_at DateTime64(6, 'UTC') DEFAULT now64(6)) ENGINE = MergeTree ORDER BY (rollup, key, noted_at)"
)
"""What was done for each rollup, one row a step; `notes.py` reads it."""


def number_blocks(table: str) -> str:
    """The statement by which a table keeps the numbers of blocks also when it merges them."""
    return f"ALTER TABLE {quoted(table)} MODIFY SETTING {BLOCK_NUMBERS} = 1, {BLOCK_OFFSETS} = 1"


def named(kind: str, rollup: str, key: str) -> str:
    """What a table or view of a rollup is called."""
    telling = rollup if _TELLING.fullmatch(rollup) else hashlib.sha256(rollup.encode()).hexdigest()[:16]
    return f"eventrec_{kind}_{telling}_{key}"


def dropped(rollup: str, key: str, *, keeps_states: bool = False) -> Iterator[str]:
    """The statements that take away what counts, the views first."""
    for kind in (*_VIEWS, "inflow", "seen", *(() if keeps_states else ("states",))):
        yield f"DROP {'VIEW' if kind in _VIEWS else 'TABLE'} IF EXISTS {quoted(named(kind, rollup, key))}"
