"""Refreshing rollups from the handler: beside its batches, on a connection of its own, as their schedules say.

Processes share the work. The one that finds a rollup's time come claims it in the database, so that it is refreshed
once in that time however many processes there are; where that one is killed, another does it the next time. Between two
rounds nothing is connected.
"""

from __future__ import annotations

import asyncio
from contextvars import Context
from typing import TYPE_CHECKING, Final, Protocol

from eventrec import EventrecError, TransientError, get_logger
from eventrec.analytics import Catalogue, load_catalogue, plan_of
from eventrec_handlers._thread import WorkThread

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection, Sequence

    from eventrec.analytics import Refreshed, RollupPlan

LONGEST_PAUSE: Final = 3_600.0
"""Seconds between two rounds, at most: partitions are made and dropped in each."""

ACCIDENTS: Final = 3
"""How often in a row something is left undone, or the database cannot be reached, before it is said."""

STOPPING: Final = 2.0
"""Seconds that a round may take to end once it is told to."""


class RefreshedStore(Protocol):
    """What a refresher needs of a store of rollups; see `RollupStore`."""

    async def claim_due(self, plans: Sequence[RollupPlan]) -> Sequence[RollupPlan]:
        """Those of `plans` that no process has refreshed within their time."""

    async def refresh(self, plans: Sequence[RollupPlan]) -> Refreshed:
        """Bring them up to date, and remove what is too old."""

    async def close(self) -> None:
        """Disconnect."""


class Refresher:
    """Refreshes the rollups of `catalogue`, in rounds, from `start` to `stop`; both run on asyncio.

    `catalogue` is one, or where it is declared, `module:object`; None: as `load_catalogue` finds it. `open_store` gives
    what refreshes its rollups. `database` is what the handler is called, in names of loggers and threads.

    Nothing is ever raised. What goes wrong is said in one line of the logging, and in another one once it is well
    again; in between it is among the `remarks`, and the pauses between two rounds grow.
    """

    def __init__(
        self,
        catalogue: Catalogue | str | None,
        open_store: Callable[[Catalogue], RefreshedStore],
        *,
        database: str,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> None:
        self._given = catalogue
        self._open_store = open_store
        self._database = database
        self._logger = get_logger(f"eventrec.{database}")
        self._sleep = sleep
        self._task: asyncio.Task[None] | None = None
        self._failures = 0
        self._said: str | None = None
        self._left: dict[str, int] = {}

    def __repr__(self) -> str:
        return f"<Refresher {'stopped' if self._task is None else 'started'}>"

    @property
    def is_started(self) -> bool:
        """Whether `start` was called, and not `stop` since."""
        return self._task is not None

    @property
    def remarks(self) -> tuple[str, ...]:
        """Why rollups are not refreshed, and what was left undone in several rounds. From any thread."""
        failed = () if self._said is None else (f"rollups are not refreshed: {self._said}",)
        return (*failed, *(remark for remark, times in tuple(self._left.items()) if times >= ACCIDENTS))

    async def start(self) -> None:
        """Begin with the first round. May be called again."""
        if self._task is None or self._task.done():
            # A context of its own: in the caller's, trio's say, anyio takes the loop for trio's.
            self._task = asyncio.create_task(self._run(), name=f"eventrec-{self._database}-refresh", context=Context())

    async def stop(self) -> None:
        """End, in the middle of a round too: what it has not committed is undone. May be called again."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.wait([task], timeout=STOPPING)

    async def _run(self) -> None:
        while True:
            try:
                pause = await self._round()
            except Exception as exc:  # noqa: BLE001 - whatever it is, it is not an affair of the batches
                pause = self._failed(exc)
            await self._sleep(pause)

    async def _round(self) -> float:
        """Refresh what is due; how many seconds there are until the next round."""
        catalogue = await self._loaded()
        plans = [plan_of(rollup) for rollup in catalogue.rollups]
        store = self._open_store(catalogue)
        try:
            # What a failed round has claimed, no other process does.
            due: Sequence[RollupPlan] = plans if self._failures else await store.claim_due(plans)
            left = set((await store.refresh([])).remarks)
            error: Exception | None = None
            for plan in due:
                try:
                    left.update((await store.refresh([plan])).remarks)
                except TransientError:
                    raise
                except Exception as exc:  # noqa: BLE001 - the others are refreshed all the same
                    error = error or exc
            if error is not None:
                raise error
        finally:
            await store.close()
        self._went_well(left)
        return min(LONGEST_PAUSE, max(1.0, min((plan.refresh.every for plan in plans), default=LONGEST_PAUSE)))

    async def _loaded(self) -> Catalogue:
        given = self._given
        if isinstance(given, Catalogue):
            return given
        thread = WorkThread(f"eventrec-{self._database}-catalogue")
        try:
            self._given = loaded = await thread.run(lambda: load_catalogue(given))
        finally:
            thread.end()
        return loaded

    def _failed(self, exc: Exception) -> float:
        """Note that a round has failed; how many seconds to wait before the next."""
        self._failures += 1
        error = str(exc) if isinstance(exc, EventrecError) else f"{type(exc).__name__}: {exc}"
        if error != self._said and (self._failures >= ACCIDENTS or not isinstance(exc, TransientError)):
            self._said = error
            self._logger.warning("rollups are not refreshed", error=error)
        return min(LONGEST_PAUSE, 2.0 ** min(self._failures, 12))

    def _went_well(self, left: Collection[str]) -> None:
        self._failures = 0
        self._left = {remark: self._left.get(remark, 0) + 1 for remark in sorted(left)}
        if self._said is not None:
            self._said = None
            self._logger.info("rollups are refreshed again")
