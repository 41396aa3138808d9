"""Makes a rollup that ClickHouse keeps, and counts in what was there before it. Killed anywhere, it is gone on with.

    make       its tables and views; from then on inserts count
    settle     wait until every insert that began before has ended: up to a block it is known what was counted
    fill       count the rest of the rows up to there, slice by slice; one that takes too long is halved
    complete   from now on it answers; what was needed to fill it goes, and an older declaration is set aside

Processes may do this beside one another: each step may be done twice, and what was noted first holds.
"""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, Final

import anyio

from eventrec import CatalogueError, PauseError, get_logger
from eventrec.analytics import Refreshed
from eventrec_handlers.clickhouse.errors import Failure
from eventrec_handlers.clickhouse.rollups.notes import note, read_notes
from eventrec_handlers.clickhouse.rollups.views import LIVE, NOTES_TABLE, dropped, named, number_blocks
from eventrec_handlers.clickhouse.sql import literal, quoted
from eventrec_handlers.clickhouse.state import BLOCK_NUMBERS

if TYPE_CHECKING:
    from eventrec.analytics import Progress
    from eventrec_handlers.clickhouse.node import Node
    from eventrec_handlers.clickhouse.rollups.notes import Notes
    from eventrec_handlers.clickhouse.rollups.views import KeptRollup
    from eventrec_handlers.clickhouse.state import TableState

FILL_ROWS: Final = 500_000
"""Rows that one statement counts, about."""

MAX_SLICES: Final = 1_000
SETTLING: Final = 30.0
"""Seconds that inserts which began before may take until they are waited for the next time."""

LOOK: Final = 0.05
"""Seconds between two looks at what is inserted; growing up to a second."""

_logger = get_logger("eventrec.clickhouse")

_MARK: Final = "eventrec_fill"
"""Stands in the statements that fill, which are inserts too, and need not be waited for."""


async def bring_up(
    node: Node,
    kept: KeptRollup,
    state: TableState,
    *,
    may_make: bool,
    progress: Progress | None = None,
    settling: float = SETTLING,
) -> Refreshed:
    """Bring a rollup from wherever it is to its completion; nothing to do where it is complete.

    Raises:
        Failure: The node fails.
        PauseError: An operator has to act first: another program declares it otherwise, or what it has counted would
            be lost.
    """
    notes = await read_notes(node, kept)
    if notes.is_complete:
        await _tidy(node, kept, notes)
        return Refreshed()
    await _check_others(node, kept, notes)
    if not may_make and not notes.counts:
        raise PauseError(f"rollup {kept.plan.name!r} is not there: migrate first")
    if notes.is_broken:
        await _refuse_broken(node, kept)
    if may_make:
        numbering = [] if BLOCK_NUMBERS in state.made_as else [number_blocks(kept.plan.table)]
        for statement in (NOTES_TABLE, *numbering, *kept.make()):
            await node.run(statement)
        notes = await read_notes(node, kept)
    if notes.settled is None:
        settled = await _settle(node, kept, settling)
        if settled is None:
            return Refreshed(remaining=1, remarks=(f"rollup {kept.plan.name!r} waits for inserts that take long",))
        await note(
            node,
            kept.about,
            "settled",
            {"block": settled, "counts": notes.counts, "seen": notes.seen},
            tables=notes.tables,
        )
        notes = await read_notes(node, kept)
    return await _fill(node, kept, notes, progress)


async def _settle(node: Node, kept: KeptRollup, seconds: float) -> int | None:
    """The last block of which it is known what was counted; None: inserts from before take longer."""
    with anyio.move_on_after(seconds):
        await _inserts_ended(node)
        found = await node.query(
            "SELECT max(max_block_number) FROM system.parts"  # noqa: S608 - a literal
            f" WHERE active AND database = currentDatabase() AND table = {literal(kept.plan.table)}"
        )
        await _inserts_ended(node)  # what is in the table by then is in what was seen, too
        return int(found[0][0])
    return None


async def _inserts_ended(node: Node) -> None:
    """Wait until every insert that runs now has ended."""
    ((now,),) = await node.query("SELECT toUnixTimestamp64Micro(now64(6))")
    running = (
        "SELECT count() FROM system.processes WHERE query_kind = 'Insert'"  # noqa: S608 - numbers
        f" AND toUnixTimestamp64Micro(now64(6)) - elapsed * 1000000 <= {int(now)} AND NOT query LIKE '%{_MARK}%'"
    )
    pause = LOOK
    while int((await node.query(running))[0][0]):
        await anyio.sleep(pause)
        pause = min(pause * 2, 1.0)


async def _fill(node: Node, kept: KeptRollup, notes: Notes, progress: Progress | None) -> Refreshed:
    assert notes.block is not None  # noqa: S101 - it was begun
    assert notes.settled is not None  # noqa: S101 - and settled
    if notes.slicing is None:
        await _slice(node, kept, notes.settled, tables=notes.tables)
    blocks, tables, counts, done = (notes.block, notes.settled), notes.tables, notes.counts, 0
    while True:
        notes = await read_notes(node, kept)
        slices, counted = notes.slices(), notes.counted()
        if notes.tables != tables or not slices:
            return Refreshed(buckets=done, remaining=1)  # made again by another program meanwhile
        if progress is not None and counted:
            progress(len(counted), len(slices))
        at = next((at for at in range(len(slices)) if at not in counted), None)
        if at is None:
            break
        part = LIVE + 1 + secrets.randbelow(2**62)
        try:
            await node.run(f"/* {_MARK} */ {kept.fill(part, blocks, *slices[at])}")
        except Failure as exc:
            if not exc.is_slow:
                raise
            await _halve(node, kept, notes, at, exc)
        else:
            await note(node, kept.about, "filled", {"slicing": notes.slicing, "slice": at, "part": part}, tables=tables)
            done += 1
    said = {"slicing": notes.slicing, "parts": sorted(counted.values()), "counts": counts}
    await note(node, kept.about, "complete", said, tables=tables)
    notes = await read_notes(node, kept)
    if notes.is_complete:
        await _tidy(node, kept, notes)
    return Refreshed(buckets=done)


async def _slice(node: Node, kept: KeptRollup, settled: int, *, tables: str) -> None:
    """Note how the rows are parted, which holds unless another process has noted it first."""
    ((rows,),) = await node.query(kept.size(settled))
    number = max(1, min(MAX_SLICES, -(-int(rows) // FILL_ROWS)))
    bounds: list[int] = []
    if number > 1:
        ((found,),) = await node.query(kept.sample(settled, number))
        bounds = sorted({int(at) for at in found})
    await note(node, kept.about, "sliced", {"slicing": secrets.token_hex(8), "bounds": bounds}, tables=tables)


async def _halve(node: Node, kept: KeptRollup, notes: Notes, at: int, why: Failure) -> None:
    """Part the rows as before, but for the slice `at`, which took too long, into two.

    Raises:
        Failure: `why`, where all of it is of one time; or that cannot be found out.
    """
    assert notes.settled is not None  # noqa: S101 - it is being filled
    assert notes.slicing is not None  # noqa: S101 - likewise
    ((first, middle, last),) = await node.query(kept.middle(notes.settled, *notes.slices()[at]))
    if first is None or int(first) == int(last):
        raise why
    parting = int(middle)
    if not int(first) < parting <= int(last):
        parting = int(first) + (int(last) - int(first) + 1) // 2
    bounds = sorted({*notes.slicings[notes.slicing], parting})
    said = {"slicing": secrets.token_hex(8), "bounds": bounds, "instead": notes.slicing}
    _logger.info("slice of a rollup halved", rollup=kept.plan.name, slices=len(bounds) + 1, why=str(why))
    await note(node, kept.about, "sliced", said, tables=notes.tables)


# -- what is not needed any more


async def _tidy(node: Node, kept: KeptRollup, notes: Notes) -> None:
    """Do what is left once it is complete: the view to look at, its retention, what filled it, what was before it."""
    assert notes.parts is not None  # noqa: S101 - it is complete
    listed = ", ".join(literal(name) for name in (kept.name("seeing"), kept.name("seen"), kept.plan.name))
    there = {
        str(name): str(query)
        for name, query in await node.query(
            "SELECT name, create_table_query FROM system.tables"  # noqa: S608 - literals
            f" WHERE database = currentDatabase() AND name IN ({listed})"
        )
    }
    view = there.get(kept.plan.name, "")
    if kept.name("states") not in view or kept.counting(notes.parts) not in view:
        await _set_aside(node, kept, notes, view=there.get(kept.plan.name))
        await node.run(kept.view(notes.parts))
    for kind, name in (("VIEW", kept.name("seeing")), ("TABLE", kept.name("seen"))):
        if name in there:
            await node.run(f"DROP {kind} IF EXISTS {quoted(name)}")
    if notes.retention != kept.plan.retention:
        if notes.has_retention or kept.plan.retention is not None:
            await node.run(kept.expire())
        await note(node, kept.about, "kept", {"retention": kept.plan.retention}, tables=notes.tables)
    for key, (version, _) in notes.others.items():
        # What an older declaration has counted stays, under the name of its version, where its events may be gone.
        for statement in dropped(kept.plan.name, key, keeps_states=version != kept.plan.version):
            await node.run(statement)
        await note(node, (kept.plan.name, key), "dropped", {})
    await _drop_strays(node, kept, notes)


async def _set_aside(node: Node, kept: KeptRollup, notes: Notes, *, view: str | None) -> None:
    """Give the view of an older version another name.

    Raises:
        PauseError: Something else has the rollup's name.
    """
    if view is None:
        return
    name = kept.plan.name
    if "eventrec_states_" not in view or not view.startswith("CREATE VIEW"):
        raise PauseError(f"rollup {name!r}: something else has its name: rename it")
    for key, (version, _) in notes.others.items():
        if named("states", name, key) in view and version != kept.plan.version:
            await node.run(f"DROP VIEW IF EXISTS {quoted(f'{name}_v{version}')}")
            await node.run(f"RENAME TABLE {quoted(name)} TO {quoted(f'{name}_v{version}')}")


async def _drop_strays(node: Node, kept: KeptRollup, notes: Notes) -> None:
    """Drop what statements have filled that were killed before they were noted."""
    states = kept.name("states")
    rows = await node.query(
        "SELECT DISTINCT partition FROM system.parts"  # noqa: S608 - a literal
        f" WHERE active AND database = currentDatabase() AND table = {literal(states)}"
    )
    for (partition,) in rows:
        if int(partition) not in {LIVE, *notes.filled_parts}:
            await node.run(f"ALTER TABLE {quoted(states)} DROP PARTITION {int(partition)}")


async def _check_others(node: Node, kept: KeptRollup, notes: Notes) -> None:
    """Refuse to replace what must stay.

    Raises:
        PauseError: A later version is there, or the same one of the same name tells something else; or what it has
            counted is of events that are gone.
    """
    plan = kept.plan
    for key, (version, fingerprint) in notes.others.items():
        if version == plan.version and fingerprint != plan.fingerprint:
            raise PauseError(
                f"rollup {plan.name!r} is there as version {version}, and tells something else than is declared here:"
                f" declare version={version + 1}"
            )
        if version > plan.version:
            raise PauseError(f"rollup {plan.name!r} is there as version {version}, and is declared {plan.version} here")
        if version == plan.version:
            await _refuse_lost(node, kept, named("states", plan.name, key))


async def _refuse_broken(node: Node, kept: KeptRollup) -> None:
    """What counted was taken away by another program: begin again, unless that would lose something.

    Raises:
        PauseError: It would.
    """
    await _refuse_lost(node, kept, kept.name("states"))
    for statement in kept.drop():
        await node.run(statement)


async def _refuse_lost(node: Node, kept: KeptRollup, states: str) -> None:
    """Refuse to take away `states` that tell of events which are no longer stored.

    Raises:
        PauseError: They do.
    """
    if not await node.query(
        f"SELECT 1 FROM system.tables WHERE database = currentDatabase() AND name = {literal(states)}"  # noqa: S608 - a literal
    ):
        return
    ((first,),) = await node.query(f"SELECT minOrNull(er_bucket) FROM {quoted(states)}")  # noqa: S608 - quoted
    ((left,),) = await node.query(
        f"SELECT minOrNull({kept.columns.moment_or_null}) FROM {quoted(kept.plan.table)}"  # noqa: S608 - quoted
    )
    if first is None or (left is not None and kept.plan.bucket.floor(int(left)) <= int(first)):
        return
    raise PauseError(
        f"rollup {kept.plan.name!r} would be counted again from the events, and {states} tells of some that are no"
        f" longer stored: declare it with version={kept.plan.version + 1}, which keeps that table"
    )


def why_not(kept: KeptRollup, state: TableState, *, nodes: int, may_make: bool) -> str | None:
    """Why ClickHouse cannot keep a rollup of a table, in words; None: it can. Then it is answered from the events."""
    if nodes > 1 or state.is_shared:
        return "its table is on several nodes, each of which would count its own inserts"
    if state.engine != "MergeTree":
        return f"its table is a {state.engine}, which drops rows that were counted"
    if not may_make and BLOCK_NUMBERS not in state.made_as:
        return f"its table does not keep the numbers of blocks ({BLOCK_NUMBERS})"
    try:
        kept.check()
    except CatalogueError as exc:
        return str(exc)
    return None
