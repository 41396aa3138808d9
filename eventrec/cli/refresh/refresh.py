"""`refresh`: bring the rollups of a database up to date, once or every so often.

fill      rollups that are new, from all events that are stored, with progress
refresh   what has arrived since; partitions are made ahead, and events beyond their retention removed
report    what was done, and what was left
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated, Final

import anyio
from cyclopts import Parameter

from eventrec.analytics import Refreshed, plan_of
from eventrec.cli.declared import load_declared
from eventrec.cli.exit_codes import CommandError, ExitCode
from eventrec.cli.terminal import Terminal, counted
from eventrec.cli.termination import Interruption
from eventrec.durations import duration_seconds
from eventrec.errors import HandlerURLError, TransientError
from eventrec.records.layout import layouts_by_table
from eventrec.registry import handler_from_url

if TYPE_CHECKING:
    from collections.abc import Sequence

    from eventrec.analytics import Catalogue, Progress, RollupPlan, RollupStore

PROGRESS_SECONDS: Final = 2.0
"""Between two lines of progress."""


def refresh(
    *rollups: str,
    to: str,
    catalogue: Annotated[str | None, Parameter(negative="")] = None,
    every: Annotated[str | None, Parameter(negative="")] = None,
    json: Annotated[bool, Parameter(negative="")] = False,
) -> int:
    """Bring rollups up to date: new ones from all events that are stored, the others from what has arrived since.

    Answers are right without it; it makes them fast. It may be ended at any moment, and several processes may do it
    beside each other. It also makes the partitions of the days to come, and removes events older than the retention
    of their layout, once every rollup has counted them. The exit code is 0, whatever waits still.

    For example:

    ```sh
    eventrec refresh --to postgresql:///shop --every 1m
    ```

    Args:
        rollups: Only these, by their names; all of the catalogue by default.
        to: The database's URL; env:NAME takes it from the environment.
        catalogue: Where the rollups are declared, module:object. Default: EVENTREC_CATALOGUE, else `catalogue` in
            [tool.eventrec] of pyproject.toml.
        every: Do it again and again, until Ctrl-C or SIGTERM: a duration, such as 30s or 5m.
        json: Print what was done as JSON for a machine instead; with --every, a line each time.
    """
    terminal = Terminal()
    with terminal.showing_logging():
        seconds = None if every is None else duration_seconds(every)
        if seconds is not None and seconds <= 0:
            raise CommandError("--every is a time longer than 0", ExitCode.USAGE)
        known = load_declared(catalogue)
        plans = _chosen(known, rollups)
        store = _store(to, known)
        return anyio.run(_Refreshing(store, plans, terminal, json=json).run, seconds)


def _chosen(catalogue: Catalogue, names: Sequence[str]) -> list[RollupPlan]:
    plans = {plan.name: plan for plan in map(plan_of, catalogue.rollups)}
    for name in names:
        if name not in plans:
            listed = ", ".join(plans) or "none"
            raise CommandError(f"the catalogue has no rollup {name!r}; it has {listed}", ExitCode.USAGE)
    return [plan for plan in plans.values() if not names or plan.name in names]


def _store(url: str, catalogue: Catalogue) -> RollupStore:
    handler = handler_from_url(url)
    handler.use_layouts(layouts_by_table(catalogue.layouts))
    store = handler.rollups()
    if store is None:
        raise HandlerURLError("the handler of this URL answers no rollups, so it has none to refresh")
    return store


class _Refreshing:
    """Refreshes `plans` in `store`, and tells of it."""

    def __init__(self, store: RollupStore, plans: Sequence[RollupPlan], terminal: Terminal, *, json: bool) -> None:
        self._store = store
        self._plans = plans
        self._terminal = terminal
        self._json = json
        self._said: frozenset[str] = frozenset()

    async def run(self, every: float | None) -> int:
        """Once, or every so many seconds until a signal comes; the exit code."""
        if every is None:
            async with self._store:
                self._tell(await self._refresh())
            return ExitCode.OK
        interruption = Interruption(self._terminal, "what is not refreshed is answered from the events")
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(interruption.watch, tasks.cancel_scope)
            try:
                await self._repeat(every)
            finally:
                with anyio.CancelScope(shield=True):
                    await self._store.close()
        return ExitCode.OK

    async def _repeat(self, every: float) -> None:
        is_well = True
        while True:
            try:
                self._tell(await self._refresh())
                is_well = True
            except TransientError as exc:
                if is_well:
                    self._terminal.say(f"eventrec: {exc}; it is tried again every {every:g} s", style="yellow")
                is_well = False
            await anyio.sleep(every)

    async def _refresh(self) -> Refreshed:
        done = Refreshed()
        for plan in self._plans:
            done += await self._store.backfill(plan, progress=self._progress(plan))
        return done + await self._store.refresh(self._plans)

    def _progress(self, plan: RollupPlan) -> Progress:
        begun = time.monotonic()
        said = begun

        def progress(done: int, total: int) -> None:
            nonlocal said
            now = time.monotonic()
            if now - said >= PROGRESS_SECONDS:
                said = now
                self._terminal.say(f"eventrec: {plan.name}: {done:,} of {counted(total, 'bucket')}")

        return progress

    def _tell(self, done: Refreshed) -> None:
        for remark in done.remarks:
            if remark not in self._said:
                self._terminal.say(f"eventrec: {remark}", style="yellow")
        self._said = frozenset(done.remarks)
        if self._json:
            self._terminal.show_json(
                {
                    "rollups": [plan.name for plan in self._plans],
                    "buckets": done.buckets,
                    "remaining": done.remaining,
                    "late": done.late,
                    "remarks": list(done.remarks),
                }
            )
            return
        late = f", {counted(done.late, 'row')} came too late" if done.late else ""
        waits = f", {done.remaining:,} not ended or with others" if done.remaining else ""
        self._terminal.show(
            f"{counted(len(self._plans), 'rollup')}: {counted(done.buckets, 'bucket')} computed{waits}{late}"
        )
