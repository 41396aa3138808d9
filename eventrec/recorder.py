"""Start reading here: an event goes in at `record`, and comes out at a handler.

record    filter, stamp, encode (`events/`), then the intake (`intake/`)
open      the supervisor moves the intake into the source and runs a worker per subscription (`delivery/`)
close     takes nothing more, flushes for a while, and gives an honest account (`account.py`)
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Literal, Self

import anyio

from eventrec.account import status_of
from eventrec.delivery.log_supervisor import LogSupervisor
from eventrec.delivery.memory_supervisor import MemorySupervisor
from eventrec.errors import InvalidEventError, NotDurableError, RecorderStateError, SubscriptionError
from eventrec.events.encoder import Encoder
from eventrec.intake.drops import Drops
from eventrec.intake.durable import Position, take_durably, wait_durably
from eventrec.intake.queue import Intake
from eventrec.intake.refusals import UNSAID, Refusals
from eventrec.intake.writer import Writer
from eventrec.options import EventRecorderOptions, duration_seconds
from eventrec.records.context import ContextFields, encoded_fields
from eventrec.runs.directory import LogDirectory
from eventrec.runs.run import new_run_id
from eventrec.runtime.backend import current_backend, in_thread
from eventrec.runtime.logging import described, get_logger
from eventrec.runtime.native import get_ident
from eventrec.runtime.process import ProcessIdentity, around_forks, never_finalize
from eventrec.subscriptions import Subscriptions
from eventrec.sync import SyncRecorder

if TYPE_CHECKING:
    import os
    from _thread import LockType
    from collections.abc import Callable, Collection, Iterable
    from contextlib import AbstractContextManager
    from types import TracebackType
    from uuid import UUID

    from eventrec.delivery.subscription import NewDestination
    from eventrec.delivery.supervisor import Supervisor
    from eventrec.events.encoder import Reason
    from eventrec.events.event import Event, Eventable
    from eventrec.handler import EventHandler
    from eventrec.options import Backoff, Duration
    from eventrec.runtime.backend import Backend
    from eventrec.status import Status

_logger = get_logger("eventrec.recorder")


class EventRecorder:
    """Records events and delivers them to handlers, beside the application's own tasks.

        async with EventRecorder("sqlite:///events.db") as recorder:
            recorder.record(OrderPlaced(...))

    With `log`, a directory, records are written there before they are delivered, and what earlier runs left in it is
    delivered too. Several recorders and processes may share it. Without, they wait in memory.

    It may be made before a fork. What a child records goes into a log of the child's own, which the child delivers once
    it calls `open`, or a sibling, or `eventrec drain`. If the parent had opened it, the child makes handlers of its
    own from their URLs; without a log the child refuses until it has called `open`.

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
        self._resolved = self._options.resolve(has_log=log is not None)
        self._log_directory = None if log is None else LogDirectory(log)
        self._clock = clock
        self._new_id = new_id
        self._state: Literal["new", "open", "forked", "closed"] = "new"
        self._subscriptions = Subscriptions(self._options, has_log=log is not None)
        self._supervisor: Supervisor | None = None
        self._process = ProcessIdentity()
        self._drops = Drops(on_drop)
        self._refusals = Refusals(_logger, time.monotonic)
        self._context = ContextFields()
        self._static_context = encoded_fields(
            service=self._options.service, host=self._options.host, environment=self._options.environment
        )
        self._encoder = Encoder(types=self._options.event_types, context=self._context.block, now=clock)
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
        return f"<EventRecorder {self._state} to {', '.join(self._subscriptions.names) or 'nothing'}>"

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
            RecorderStateError: The recorder is not new.
            SubscriptionError: The name is taken or invalid, or `types` is a plain text.
            HandlerURLError: The URL names an unknown scheme or option, or its driver is not installed.
            pydantic.ValidationError: A setting is not allowed.
        """
        if self._state != "new":
            raise RecorderStateError(
                f"register handlers before the recorder opens; it is {self._state}", state=self._state
            )
        self._subscriptions.register(
            handler_or_url,
            name=name,
            types=types,
            start=start,
            on_new_destination=on_new_destination,
            batch_rows=batch_rows,
            batch_bytes=batch_bytes,
            flush_interval=flush_interval,
            retry=retry,
        )

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def open(self) -> None:
        """Start delivering on the running loop (asyncio or trio). Does not wait for any destination.

        Raises:
            RecorderStateError: It is open already, or has been closed.
            SubscriptionError: It was open when this process was forked, and one of its handlers was not registered by
                URL.
            LogError: The log cannot be made, or is on a network file system; the recorder is closed.
            RuntimeError: No loop runs here: see `sync`.
        """
        self._note_fork()
        if self._state == "closed":
            raise RecorderStateError("the recorder has been closed: make a new one", state=self._state)
        if self._state == "open":
            raise RecorderStateError("the recorder is open already", state=self._state)
        backend = current_backend()
        if self._state == "forked":
            self._subscriptions.remake()
            self._intake.reopen()
        supervisor = self._new_supervisor(backend)
        self._state = "open"
        self._supervisor = supervisor
        backend.spawn(supervisor.run, "eventrec supervisor")
        await supervisor.started.wait()
        if self._writer is not None and self._writer.log is None and self._writer.failure is not None:
            failure = self._writer.failure
            await self.close(0)
            raise failure

    def _new_supervisor(self, backend: Backend) -> Supervisor:
        if self._writer is not None:
            return LogSupervisor(
                self._intake,
                self._writer,
                backend,
                self._options,
                subscriptions=self._subscriptions,
                on_drop=self._drops.tell,
            )
        return MemorySupervisor(
            self._intake,
            backend,
            self._options,
            log_id=self._new_id(),
            static_context=self._static_context,
            subscriptions=self._subscriptions,
            on_drop=self._drops.tell,
            on_slice=self._refusals.say,
        )

    def _new_writer(self) -> Writer | None:
        """Armed: the first record starts it."""
        if self._log_directory is None:
            return None
        self._intake.arm()
        return Writer(
            self._log_directory,
            self._intake,
            self._resolved,
            new_id=self._new_id,
            now=self._clock,
            static_context=self._static_context,
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
        # Look-ups instead of calls, classes instead of isinstance: every event pays for what stands here.
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
            RecorderStateError: It is not open.
            EncodeError, InvalidEventError: The event cannot be recorded.
            LogFullError: The intake or the disk is full.
            LogError: The disk refused.
        """
        self._note_fork()
        if self._writer is None:
            raise NotDurableError("the recorder has no log: give it a directory with log=")
        if self._state != "open" or not isinstance(self._supervisor, LogSupervisor):
            raise RecorderStateError(f"the recorder is not open, it is {self._state}", state=self._state)
        ticket = take_durably(event, encoder=self._encoder, intake=self._intake, offer=self._offer, writer=self._writer)
        return None if ticket is None else await wait_durably(ticket, self._supervisor, until=until)

    def context(self, **fields: object) -> AbstractContextManager[None]:
        """Add `fields` to every event recorded inside the block, in this task or thread.

        Raises:
            EncodeError: A value is not a JSON value; on entering the block.
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
            RecorderStateError: The recorder is not open.
            SubscriptionError: No subscription has this name.
        """
        if self._supervisor is None:
            raise RecorderStateError(f"the recorder is not open, it is {self._state}", state=self._state)
        if name not in self._subscriptions.names:
            raise SubscriptionError(f"no subscription {name!r}; there are {sorted(self._subscriptions.names)}")
        self._supervisor.resume(name, start)

    def status(self) -> Status:
        """The account now. From any thread; exact whenever no `record()` is in progress."""
        self._note_fork()
        return status_of(self._state, self._intake, self._writer, self._supervisor)

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
        if reason in UNSAID:
            no_log = "open the recorder here, or give it a log"
            self._refusals.say_once(reason, no_log if self._writer is None else self._writer.failure)
        else:
            self._refusals.note(type(event).__name__, reason, detail)
            self._intake.nudge()
        return False

    def _lock_being_taken(self) -> LockType | None:
        return None if self._writer is None else self._writer.fork_guard

    def _note_fork(self) -> None:
        self._process.detect_fork(self._forked)

    def _forked(self) -> None:
        """In a forked child: the loop, the threads and the destination's connections are the parent's."""
        inherited, self._supervisor = self._supervisor, None
        self._refusals = Refusals(_logger, time.monotonic)
        if inherited is not None:
            inherited.abandon()
            never_finalize((inherited, list(self._subscriptions)))
        if self._state == "open":
            self._state = "forked"
        refuses = self._state == "closed" or (self._state == "forked" and self._writer is None)
        self._intake.forget(("closed" if self._state == "closed" else "forked") if refuses else None)
        if self._writer is not None:
            self._writer.abandon()
            self._writer = self._new_writer()
