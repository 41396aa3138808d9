"""Runs a stage on one shard: read → keys → state → process → commit, and from time to time what its deadlines say.

The next records are read while the last ones are committed. After anything that leaves open whether a step was
committed the lease is acquired again, which makes it certain. A stage that fails on a record holds: the records before
it are processed, one by one in the end, and it is tried again, ever less often; nothing is skipped.
"""

from __future__ import annotations

import math
from collections import Counter
from typing import TYPE_CHECKING, Final, TypeVar

import anyio

from eventrec.bus.bus import STAGE_PREFIX, Step
from eventrec.bus.stage import Output
from eventrec.delivery.worker.containment import contained
from eventrec.errors import PauseError
from eventrec.relay.holdings import Holdings
from eventrec.relay.part import Part
from eventrec.runtime.logging import described, get_logger
from eventrec.runtime.starting import when_begun

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from uuid import UUID

    from eventrec.bus.bus import Lease, LogBounds, Shard
    from eventrec.bus.stage import Stage
    from eventrec.delivery.sources.source import Records
    from eventrec.relay.link import Link
    from eventrec.status import RelayPart

T = TypeVar("T")

_logger = get_logger("eventrec.relay")

_MAX_BYTES: Final = 8 << 20
"""What is processed at once, by the size that entries count."""

_FIELDS: Final = 7
"""Of an entry."""

_WAIT_SECONDS: Final = 1.0
_NOTICE_SECONDS: Final = 1.0
_MAX_NOTICES: Final = 1_000
"""Of a step, for each channel: the rest is not told."""


class StageError(PauseError):
    """A stage failed on what it was given: nothing is lost, and nothing goes on before it is mended."""


class StagePart(Part):
    """Of `shard`, or of the outlet of the stage before it."""

    kind = "stage"

    def __init__(self, shard: Shard, link: Link, stage: Stage) -> None:
        super().__init__(shard, f"{STAGE_PREFIX}{stage.name}", link)
        self.stage = stage
        self._limit = link.options.batch_rows
        self._at: dict[UUID, int] = {}
        self._log: LogBounds | None = None
        self._ahead: tuple[UUID, int, Records] | None = None
        self._expired_at = -math.inf
        self._seen: dict[UUID, int] = {}
        """The ends of the logs when it was last looked what is due: what was there then comes first."""
        self._processed = 0
        self._counts: Counter[str] = Counter()
        self._pending = 0
        self._holdings = Holdings(shard, stage)

    def status(self) -> RelayPart:
        return self._told(
            pending=self._pending,
            log=None if self._log is None else str(self._log.id),
            processed=self._processed,
            counts=dict(self._counts),
            **self._holdings.told(),
        )

    async def serve(self, lease: Lease) -> None:
        self._at = dict(await self.shard.progress(lease))
        self._ahead = None
        self._expired_at = -math.inf
        self._seen = {each.id: each.end for each in await self.shard.logs()}
        while not self.is_leaving:
            logs = await self.shard.logs()
            self._pending = sum(max(0, each.end - max(each.oldest, self._at.get(each.id, 0))) for each in logs)
            log = next((each for each in logs if self._at.get(each.id, 0) < each.end), None)
            self._log = log or next((each for each in logs if each.is_live), None)
            if all(self._at.get(each.id, 0) >= min(self._seen.get(each.id, 0), each.end) for each in logs):
                await self._expire(lease)
                self._seen = {each.id: each.end for each in logs}
            if log is not None:
                await self._process(lease, log)
            await self._holdings.look()
            if self.is_failing or self.state != "serving":
                self.note_serving()
            if log is None:
                await self._wait()

    async def _wait(self) -> None:
        seconds = min(_WAIT_SECONDS, self.link.options.due_seconds)
        if self._log is None:
            await self.sleep(min(seconds, 0.25))
            return
        log = self._log
        await self.unless_leaving(lambda: self.shard.wait(log.id, log.end, seconds=seconds))

    # -- records

    async def _process(self, lease: Lease, log: LogBounds) -> None:
        start = self._at.get(log.id, 0)
        records = await self._next(log.id, start)
        if records.end <= start:
            await self.sleep(0.1)  # The bounds promised more than there is.
            return
        if records.start > start:
            self._counts["lost"] += records.start - start
            _logger.warning(
                "records lost",
                stage=self.stage.name,
                shard=self.shard.name,
                log=str(log.id),
                count=records.start - start,
            )
        try:
            output = await self._made(log.id, records)
        except StageError:
            if len(records.entries) <= 1:
                raise
            # Which record it is: smaller steps until it stands alone.
            self._limit = max(1, len(records.entries) // 2)
            self._ahead = None
            return
        step = Step(output, log.id, start, records.end)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(when_begun(self._fetch_ahead, log.id, records.end))
            failure = await self._commit(lease, step)
        if failure is not None:
            raise failure
        self._at[log.id] = records.end
        self._processed += len(records.entries)
        self._limit = min(self.link.options.batch_rows, 2 * self._limit)

    async def _commit(self, lease: Lease, step: Step) -> Exception | None:
        """What it failed with, to be raised out of the task group."""
        try:
            with self.link.phases.timing("commit"):
                await self.shard.commit(lease, step)
        except Exception as exc:  # noqa: BLE001 - handed on
            return exc
        self._counts.update(step.output.counts)
        self._holdings.note(step.output)
        await self._tell(step.output.notices)
        return None

    async def _next(self, log_id: UUID, start: int) -> Records:
        if self._ahead is not None and self._ahead[:2] == (log_id, start):
            records, self._ahead = self._ahead[2], None
            if len(records.entries) <= self._limit:
                return records
        self._ahead = None
        with self.link.phases.timing("fetch"):
            return await self.shard.read(log_id, start, max_records=self._limit, max_bytes=_MAX_BYTES)

    async def _fetch_ahead(self, log_id: UUID, start: int) -> None:
        try:
            with self.link.phases.timing("fetch"):
                records = await self.shard.read(log_id, start, max_records=self._limit, max_bytes=_MAX_BYTES)
        except Exception:  # noqa: BLE001 - read again when it is wanted, and said then
            return
        if records.end > start:
            self._ahead = log_id, start, records

    async def _made(self, log_id: UUID, records: Records) -> Output:
        """What the stage makes of `records`.

        Raises:
            StageError: It failed.
        """
        where = f"records {records.start} to {records.end - 1} of {log_id}"
        keys = self._called(lambda: list(self.stage.keys(log_id, records)), where)
        with self.link.phases.timing("process"):
            held = await self.shard.state(self.stage.name, keys) if keys else []
            now = await self.shard.time()
            state: Mapping[str, bytes | None] = dict(zip(keys, held, strict=True))
            return self._called(lambda: _checked(self.stage.process(log_id, records, state, now)), where)

    def _called(self, call: Callable[[], T], where: str) -> T:
        try:
            with contained():
                return call()
        except Exception as exc:
            raise StageError(f"stage {self.stage.name!r} failed on {where}: {described(exc)}") from exc

    # -- time

    async def _expire(self, lease: Lease) -> None:
        """Process the keys whose time is over, if it was not looked just now."""
        options = self.link.options
        before: dict[str, bytes] = {}
        while anyio.current_time() - self._expired_at >= options.due_seconds and not self.is_leaving:
            with self.link.phases.timing("expire"):
                due = dict(await self.shard.due(self.stage.name, limit=options.due_rows))
                if due:
                    now = await self.shard.time()
                    where = f"{len(due)} keys whose time is over, {next(iter(due))!r} first"
                    output = self._called(lambda: _checked(self.stage.expire(due, now)), where)  # noqa: B023 - at once
                    failure = await self._commit(lease, Step(output))
                    if failure is not None:
                        raise failure
            if len(due) < options.due_rows or due == before:
                self._expired_at = anyio.current_time()
            before = due

    async def _tell(self, notices: Mapping[str, list[bytes]]) -> None:
        """Best effort: nothing depends on it."""
        with anyio.move_on_after(_NOTICE_SECONDS):
            for channel, messages in notices.items():
                try:
                    await self.shard.notify(channel, messages[:_MAX_NOTICES])
                except Exception as exc:  # noqa: BLE001 - no reader is told then
                    _logger.debug("notice not sent", channel=channel, error=described(exc))


def _checked(output: object) -> Output:
    """`output`, if a bus can keep it: what cannot be kept is the stage's failure, not an outage of the bus."""
    if not isinstance(output, Output):
        raise TypeError(f"it answered {type(output).__name__}, not an Output")
    for key, value in output.state.items():
        key.encode()
        if value is not None and not isinstance(value, bytes):
            raise TypeError(f"its state under {key!r} is {type(value).__name__}, not bytes")
    for key, seconds in output.deadlines.items():
        key.encode()
        if seconds is not None and not math.isfinite(seconds):
            raise ValueError(f"the deadline of {key!r} is {seconds}")
    entries: Sequence[object] = output.entries
    for entry in entries:
        if not isinstance(entry, tuple) or len(entry) != _FIELDS:
            raise TypeError(f"it passes on {type(entry).__name__}, not an entry")
    return output
