"""Start reading here: an event goes in at `record`, and comes out at a handler.

record    filter · stamp · encode (`record.py`) → the intake (`intake.py`)
open      the supervisor moves the intake into the source and runs a worker per subscription (`delivery/`)
close     takes nothing more, flushes for a while, and gives an honest account (`status.py`)
"""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, Self

import anyio

from eventrec.delivery.letters.dead_letters import DeadLetterFile, LoggedDeadLetters
from eventrec.delivery.letters.log import DEAD, LetterLog
from eventrec.delivery.log_supervisor import LogSupervisor
from eventrec.delivery.memory_supervisor import MemorySupervisor
from eventrec.delivery.sources.memory import MemorySource
from eventrec.delivery.subscription import NewDestination, Subscription
from eventrec.errors import InvalidEventError, NotDurableError, RecorderClosedError, SubscriptionError
from eventrec.events.encoder import Encoder
from eventrec.intake.durable import Position, take_durably, wait_durably
from eventrec.intake.queue import Intake
from eventrec.intake.refusals import Refusals
from eventrec.intake.writer import Writer
from eventrec.options import EventRecorderOptions, duration_seconds
from eventrec.records.context import ContextFields
from eventrec.records.json import encode_json
from eventrec.records.schema import check_name
from eventrec.registry import handler_from_url, resolve_url
from eventrec.runs.retention import Bound, Retain
from eventrec.runs.run import new_run_id
from eventrec.runtime.backend import current_backend, in_thread
from eventrec.runtime.logging import described, get_logger
from eventrec.runtime.native import get_ident
from eventrec.runtime.process import ProcessIdentity, around_forks, never_finalize
from eventrec.status import Status
from eventrec.sync import SyncRecorder

if TYPE_CHECKING:
    import os
    from _thread import LockType
    from collections.abc import Callable, Collection, Iterable
    from contextlib import AbstractContextManager
    from types import TracebackType
    from uuid import UUID

    from eventrec.delivery.letters.dead_letters import DeadLetters
    from eventrec.delivery.supervisor import Supervisor
    from eventrec.events.encoder import Reason
    from eventrec.events.event import Event, Eventable
    from eventrec.handler import EventHandler
    from eventrec.options import Backoff, Duration
    from eventrec.runtime.backend import Backend

_logger = get_logger("eventrec.recorder")

_UNSAID: Final[tuple[Reason, ...]] = ("forked", "no_writer")
"""Where there is neither a loop nor a writer to say it."""


class EventRecorder:
    """Records events and delivers them to handlers, beside the application's own tasks.

        async with EventRecorder("sqlite:///events.db") as recorder:
            recorder.record(OrderPlaced(...))

    With `log`, a directory, records are written there before they are delivered, and what earlier runs left in it is
    delivered too. Several recorders and processes may share it. Without, they wait in memory.

    It may be made before a fork. What a child records goes into a log of the child's own, which the child delivers once
    it calls `open`, or a sibling, or `eventrec drain`. If the parent had opened it, the child makes its handlers anew
    from their URLs; without a log the child refuses until it has called `open`.

    `on_drop(reason, count)` is called on the loop when records are lost after they were taken. `clock` gives the time
    in nanoseconds since the epoch, `new_id` the id of the log.

    Raises:
        HandlerURLError: A URL names an unknown scheme or option, or its driver is not installed.
        SubscriptionError: Two handlers have the same name.
    """

    def __init__(
        self,
        *handlers_or_urls: EventHandler | str,
        log: str | os.PathLike[str] | None = None,
        options: EventRecorderOptions | None = None,
        on_drop: Callable[[str, int], object] | None = None,
        clock: Callable[[], int] = time.time_ns,
        new_id: Callable[[], UUID] = new_run_id,
    ) -> None:
        self._options = options or EventRecorderOptions()
        self._log_directory = None if log is None else Path(log)
        self._resolved = self._options.resolve(has_log=log is not None)
        self._on_drop = on_drop
        self._new_id = new_id
        self._state: Literal["new", "open", "forked", "closed"] = "new"
        self._subscriptions: dict[str, Subscription] = {}
        self._urls: dict[str, str] = {}
        """Of the subscriptions that were registered by one, as it was given."""
        self._process = ProcessIdentity()
        self._said: set[Reason] = set()
        self._supervisor: Supervisor | None = None
        self._clock = clock
        self._context = ContextFields()
        self._refusals = Refusals(_logger, time.monotonic)
        self._encoder = Encoder(types=self._options.event_types, context=self._context.encoded, now=clock)
        self._intake = Intake(
            max_events=self._resolved.queue_events,
            max_bytes=self._resolved.queue_bytes,
            max_event_bytes=self._options.max_event_bytes,
            overflow=self._options.overflow,
            wake=self._wake,
        )
        self._writer = self._new_writer()
        self._cells, self._plans, self._offer = self._intake.cells, self._encoder.plans, self._intake.offer
        self._is_here = self._process.is_here
        around_forks(self, wait_for=EventRecorder._lock_being_taken, moved=EventRecorder._note_fork)
        for handler_or_url in handlers_or_urls:
            self.register(handler_or_url)

    def __repr__(self) -> str:
        return f"<EventRecorder {self._state} to {', '.join(self._subscriptions) or 'nothing'}>"

    # -- before it opens

    def register(
        self,
        handler_or_url: EventHandler | str,
        *,
        name: str | None = None,
        types: Collection[str] | None = None,
        start: Literal["earliest", "latest"] = "earliest",
        on_new_destination: NewDestination = "pause",
        batch_rows: int | None = None,
        batch_bytes: int | None = None,
        flush_interval: Duration | None = None,
        retry: Backoff | None = None,
    ) -> None:
        """Add a subscription, before `open`. What is None follows the recorder's options.

        `types=None` delivers every type, `[]` none. `name` defaults to the URL's scheme or the handler's class. Where
        another destination answers than before, the subscription pauses; or with `on_new_destination` sends it all that
        is kept ("earliest"), or what was not delivered to the one before ("latest").

        Raises:
            SubscriptionError: The name is taken or invalid, `types` is a plain text, or the recorder is not new.
            HandlerURLError: The URL names an unknown scheme or option, or its driver is not installed.
            pydantic.ValidationError: A setting is not allowed.
        """
        if self._state != "new":
            raise SubscriptionError(f"register handlers before the recorder opens; it is {self._state}")
        if isinstance(types, str):
            raise SubscriptionError(f"types is a collection of event types: write [{types!r}]")
        if isinstance(handler_or_url, str):
            url = resolve_url(handler_or_url)
            handler, default_name = handler_from_url(url), url.partition(":")[0]
        else:
            handler, default_name = handler_or_url, type(handler_or_url).__name__
        name = name if name is not None else default_name
        try:
            check_name("the name of a subscription", name)
        except InvalidEventError as exc:
            raise SubscriptionError(str(exc)) from exc
        if name in self._subscriptions:
            raise SubscriptionError(f"there is a handler named {name!r} already: give this one another with name=")
        own = {
            "batch_rows": batch_rows,
            "batch_bytes": batch_bytes,
            "flush_interval": flush_interval,
            "retry": retry,
        }
        changed = {**self._options.model_dump(), **{key: value for key, value in own.items() if value is not None}}
        self._subscriptions[name] = Subscription(
            name=name,
            handler=handler,
            settings=EventRecorderOptions(**changed).resolve(has_log=self._writer is not None).delivery,
            types=None if types is None else frozenset(types),
            start=start,
            on_new_destination=on_new_destination,
        )
        if isinstance(handler_or_url, str):
            self._urls[name] = handler_or_url

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def open(self) -> None:
        """Start delivering on the running loop (asyncio or trio). Does not wait for any destination.

        Raises:
            RecorderClosedError: The recorder has been closed; make a new one.
            SubscriptionError: It is open already; or it was when this process was forked, and one of its handlers was
                not registered by URL.
            LogError: The log cannot be made, or is on a network file system; the recorder is closed.
            RuntimeError: No loop runs here: see `sync`.
        """
        self._note_fork()
        if self._state == "closed":
            raise RecorderClosedError("the recorder has been closed: make a new one")
        if self._state == "open":
            raise SubscriptionError("the recorder is open already")
        backend = current_backend()
        if self._state == "forked":
            self._subscriptions = {name: self._made_anew(each) for name, each in self._subscriptions.items()}
            self._intake.reopen()
        supervisor = self._memory_supervisor(backend) if self._writer is None else self._log_supervisor(backend)
        self._state = "open"
        self._supervisor = supervisor
        backend.spawn(supervisor.run, "eventrec supervisor")
        await supervisor.started.wait()
        if self._writer is not None and self._writer.log is None and self._writer.failure is not None:
            failure = self._writer.failure
            await self.close(0)
            raise failure

    def _memory_supervisor(self, backend: Backend) -> Supervisor:
        resolved = self._resolved
        source = MemorySource(
            self._new_id(),
            max_events=None if resolved.queue_events is None else max(1, resolved.queue_events // 2),
            max_bytes=max(1, resolved.queue_bytes // 2),
            static_context=self._static_context(),
        )
        supervisor = MemorySupervisor(
            self._intake,
            source,
            backend,
            close_timeout=resolved.close_timeout,
            write_interval=resolved.write_interval,
            on_slice=self._refusals.say,
        )
        letters = self._letters()
        for subscription in self._subscriptions.values():
            supervisor.subscribe(subscription, letters, self._dropped)
        return supervisor

    def _log_supervisor(self, backend: Backend) -> Supervisor:
        assert self._writer is not None  # noqa: S101 - asked by the caller
        return LogSupervisor(
            self._intake,
            self._writer,
            backend,
            subscriptions=list(self._subscriptions.values()),
            letters=self._letter_log(self._writer),
            on_drop=self._dropped,
            close_timeout=self._resolved.close_timeout,
            sync=self._resolved.sync,
            sync_interval=self._resolved.sync_interval,
            bound=Bound(self._resolved.max_log_bytes, self._resolved.keep_free),
            retain=Retain(self._resolved.retain_seconds, self._resolved.retain_bytes),
            forfeits_by_all=self._options.overflow == "drop_old",
        )

    def _letters(self) -> DeadLetters:
        if self._options.dead_letters is not None:
            return DeadLetterFile(self._options.dead_letters)
        return LoggedDeadLetters(time.monotonic)

    def _letter_log(self, writer: Writer) -> LetterLog:
        return LetterLog(
            writer.directory / DEAD,
            writer.run_id,
            max_bytes=self._options.max_dead_bytes,
            copy=DeadLetterFile(self._options.dead_letters) if self._options.dead_letters is not None else None,
        )

    def _new_writer(self) -> Writer | None:
        """Armed: the first record starts it."""
        if self._log_directory is None:
            return None
        self._intake.arm()
        return Writer(
            self._log_directory,
            self._intake,
            new_id=self._new_id,
            now=self._clock,
            static_context=self._static_context(),
            segment_bytes=self._resolved.segment_bytes,
            write_interval=self._resolved.write_interval,
            sync=self._resolved.sync,
            sync_interval=self._resolved.sync_interval,
            on_take=self._refusals.say,
        )

    def sync(self) -> SyncRecorder:
        """This recorder for programs without a loop: the same verbs, blocking; delivery runs in a thread of its own."""
        return SyncRecorder(self, close_timeout=self._resolved.close_timeout, end=self._end_unopened)

    # -- while it runs

    def record(self, event: Event | Eventable) -> bool:
        """Take `event`, or refuse and count it. Never waits, never raises; from any thread, task or signal handler.

        Before `open` events wait in the intake. False: refused, see `status().refused`.
        """
        # Look-ups instead of calls, classes instead of isinstance: everybody pays for what stands here.
        if not self._is_here:
            self._note_fork()
        try:
            cell = self._cells[get_ident()]
        except KeyError:
            cell = self._intake.cell()
        cell.offered += 1
        try:
            plan = self._plans.get(event.__class__)
            entry = plan(event) if plan is not None else self._encoder.encode(event)
        except Exception as exc:  # noqa: BLE001 - an event's own code may raise anything; the caller must not see it
            reason: Reason = "invalid" if isinstance(exc, InvalidEventError) else "not_encodable"
            return self._refused(event, cell.refuse(reason), described(exc)[:200])
        if entry.__class__ is not tuple:
            cell.refuse(entry)  # type: ignore[arg-type]  # a Reason
            return False
        refused = self._offer(cell, entry)
        return refused is None or self._refused(event, refused, "")

    def record_many(self, events: Iterable[Event | Eventable]) -> int:
        """Record each of `events`; how many were taken. What the iterable itself raises comes out."""
        return sum(map(self.record, events))

    async def record_durable(
        self, event: Event | Eventable, *, until: Literal["written", "synced"] = "synced"
    ) -> Position | None:
        """Record `event`, and return where it stands once it is in the log; None where it was filtered or declined.

        "written" survives the end of the process, "synced" a power cut; all who wait at once share one sync. Being
        cancelled, or an error of the disk, does not retract the event.

        Raises:
            NotDurableError: The recorder has no log.
            RecorderClosedError: It is not open.
            EncodeError, InvalidEventError: The event cannot be recorded.
            LogFullError: The intake or the disk is full.
            LogError: The disk refused.
        """
        self._note_fork()
        if self._writer is None:
            raise NotDurableError("the recorder has no log: give it a directory with log=")
        if self._state != "open" or not isinstance(self._supervisor, LogSupervisor):
            raise RecorderClosedError(f"the recorder is not open, it is {self._state}")
        ticket = take_durably(event, encoder=self._encoder, intake=self._intake, offer=self._offer, writer=self._writer)
        return None if ticket is None else await wait_durably(ticket, self._supervisor, until=until)

    def context(self, **fields: object) -> AbstractContextManager[None]:
        """Add `fields` to every event recorded inside the block, in this task or thread.

        Raises:
            EncodeError: A value is no JSON value; on entering the block.
        """
        return self._context.bound(fields)

    async def flush(self, timeout: Duration | None = None) -> bool:
        """Send what is there without waiting for full batches; True once all that was recorded before is settled.

        Settled means delivered, dead or dropped, each counted. False: `timeout` seconds passed, or a subscription is
        paused or holding, or the recorder is not open.
        """
        self._note_fork()
        if self._supervisor is None:
            return False
        with anyio.move_on_after(None if timeout is None else duration_seconds(timeout)):
            return await self._supervisor.flush()
        return False

    def resume(self, name: str, *, start: Literal["earliest", "latest"] | None = None) -> None:
        """Let a paused subscription go on at once. On the loop's thread.

        One that is paused because another destination answers needs `start`: "earliest" sends it all that is kept,
        "latest" what was not delivered to the one before.

        Raises:
            SubscriptionError: No subscription has this name, or the recorder is not open.
        """
        names = self._subscriptions if self._supervisor is not None else {}
        if self._supervisor is None or name not in names:
            raise SubscriptionError(f"no open subscription {name!r}; there are {sorted(names)}")
        self._supervisor.resume(name, start)

    def status(self) -> Status:
        """The account now. From any thread; exact whenever no `record()` is in progress."""
        self._note_fork()
        counts = self._supervisor or self._writer
        while True:
            before = counts.moves if counts is not None else 0
            supervisor, writer = self._supervisor, self._writer
            held = writer.in_hand if writer is not None else 0
            status = Status(
                state=self._state if supervisor is None or not supervisor.ended.is_set() else "closed",
                offered=self._intake.offered(),
                appended=counts.appended if counts is not None else 0,
                refused=self._intake.refused(),
                in_intake=len(self._intake) + held,
                subscriptions=supervisor.status() if supervisor is not None else {},
                adopted=supervisor.adopted() if supervisor is not None else {},
                failure=self._failure(),
                defect=self._defect(),
            )
            if before % 2 == 0 and (counts is None or counts.moves == before):
                return status

    def _failure(self) -> str | None:
        if self._writer is not None and self._writer.failure is not None:
            return str(self._writer.failure)
        return self._supervisor.untrusted if self._supervisor is not None else None

    def _defect(self) -> str | None:
        defects = [each.defect for each in (self._supervisor, self._writer) if each is not None]
        return next((described(each)[:200] for each in defects if each is not None), None)

    # -- the end

    async def close(self, timeout: Duration | None = None) -> Status:
        """Take nothing more, deliver what can be delivered within `timeout` seconds, and return the account.

        From any task; a second call waits for the first. Being cancelled does not cut the flush short.
        """
        self._note_fork()
        if self._supervisor is not None:
            self._state = "closed"
            self._supervisor.close(self._resolved.close_timeout if timeout is None else duration_seconds(timeout))
            await self._supervisor.ended.wait()
        elif self._state == "forked":
            # The loop may be the parent's: a thread that answers would wake that one. Nothing else is to run here.
            self._end_unopened(timeout)
        else:
            await in_thread(self._end_unopened, timeout)
        return self.status()

    def _end_unopened(self, timeout: Duration | None) -> None:
        """Close a recorder that is not open in this process: write and sync what was taken. Blocking."""
        self._note_fork()
        self._state = "closed"
        self._intake.close("closed")
        if self._writer is not None:
            self._writer.end(self._resolved.close_timeout if timeout is None else duration_seconds(timeout))

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._note_fork()
        if self._state == "forked":
            # In a child that left the parent's block: the parent's loop does not run here.
            self._end_unopened(None)
            return
        with anyio.CancelScope(shield=True):
            await self.close()

    # -- beneath

    def _wake(self) -> Reason | None:
        if self._writer is not None:
            return self._writer.wake()
        if self._supervisor is not None:
            self._supervisor.wake()
        return None

    def _refused(self, event: object, reason: Reason, detail: str) -> bool:
        if reason in _UNSAID:
            self._warn_once(reason)
            return False
        self._refusals.note(type(event).__name__, reason, detail)
        self._intake.nudge()
        return False

    def _warn_once(self, reason: Reason) -> None:
        if reason not in self._said:
            self._said.add(reason)
            with suppress(Exception):
                why = self._writer.failure if self._writer is not None else "open the recorder here, or give it a log"
                _logger.warning("events refused in this process", reason=reason, why=str(why))

    def _dropped(self, reason: str, count: int) -> None:
        if self._on_drop is not None:
            try:
                self._on_drop(reason, count)
            except Exception as exc:
                _logger.exception("on_drop failed", error=described(exc)[:200])

    def _static_context(self) -> bytes | None:
        options = self._options
        fields: dict[str, Any] = {"service": options.service, "host": options.host, "environment": options.environment}
        given = {name: value for name, value in fields.items() if value is not None}
        return encode_json(given) if given else None

    def _lock_being_taken(self) -> LockType | None:
        return None if self._writer is None else self._writer.fork_guard

    def _note_fork(self) -> None:
        self._process.detect_fork(self._forked)

    def _forked(self) -> None:
        """In a forked child: the loop, the threads and the destination's connections are the parent's."""
        inherited, self._supervisor = self._supervisor, None
        self._said.clear()
        self._refusals = Refusals(_logger, time.monotonic)
        if inherited is not None:
            inherited.abandon()
            never_finalize((inherited, self._subscriptions))
        if self._state == "open":
            self._state = "forked"
        refuses = self._state == "closed" or (self._state == "forked" and self._writer is None)
        self._intake.forget(("closed" if self._state == "closed" else "forked") if refuses else None)
        if self._writer is not None:
            self._writer.abandon()
            self._writer = self._new_writer()

    def _made_anew(self, subscription: Subscription) -> Subscription:
        url = self._urls.get(subscription.name)
        if url is None:
            raise SubscriptionError(
                f"the handler {subscription.name!r} belongs to the process that forked this one, which had opened it: "
                "register it by its URL, or make a recorder after the fork"
            )
        return replace(subscription, handler=handler_from_url(url))
