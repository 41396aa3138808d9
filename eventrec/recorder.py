"""Start reading here: an event goes in at `record`, and comes out at a handler.

record    filter, stamp, encode (`events/`), then the intake (`intake/`)
open      the supervisor moves the intake into the source and runs a worker per subscription (`delivery/`)
close     takes nothing more, flushes for a while, and gives an honest account (`account.py`)
"""

from __future__ import annotations

import time
import weakref
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Final, Literal, Self

import anyio

from eventrec.account import Account, say_left
from eventrec.delivery.log_supervisor import LogSupervisor
from eventrec.errors import InvalidEventError, NotDurableError, RecorderStateError, SubscriptionError
from eventrec.events.encoder import Encoder
from eventrec.intake.drops import Drops
from eventrec.intake.durable import Position, take_durably, wait_durably
from eventrec.intake.refusals import UNSAID, Refusals
from eventrec.life import Life, Setup
from eventrec.options import EventRecorderOptions, duration_seconds
from eventrec.records.context import ContextFields, encoded_fields
from eventrec.runs.directory import LogDirectory
from eventrec.runs.run import new_run_id
from eventrec.runtime.backend import current_backend, in_thread
from eventrec.runtime.logging import described, get_logger
from eventrec.runtime.native import get_ident
from eventrec.runtime.process import ProcessIdentity, around_forks, never_finalize
from eventrec.runtime.signals import error_of_signal_handler
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
    from eventrec.events.encoder import Reason
    from eventrec.events.event import Event, Eventable
    from eventrec.handler import EventHandler
    from eventrec.options import Backoff, Duration
    from eventrec.status import Settled, Status

_logger = get_logger("eventrec.recorder")

_LONGEST_DETAIL: Final = 200


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
        self._has_log = log is not None
        self._finalizer: weakref.finalize[..., EventRecorder] | None = None
        self._state: Literal["new", "open", "forked", "closed"] = "new"
        self._subscriptions = Subscriptions(self._options, has_log=log is not None)
        self._process = ProcessIdentity()
        self._refusals = Refusals(_logger, time.monotonic)
        self._context = ContextFields()
        self._encoder = Encoder(types=self._options.event_types, context=self._context.block, now=clock)
        self._plans, self._is_here = self._encoder.plans, self._process.is_here
        self._setup = Setup(
            options=self._options,
            log_directory=None if log is None else LogDirectory(log),
            static_context=encoded_fields(
                service=self._options.service, host=self._options.host, environment=self._options.environment
            ),
            clock=clock,
            new_id=new_id,
            refusals=self._refusals,
            drops=Drops(on_drop),
        )
        self._begin(Life(self._setup))
        self._account = Account(self._life)
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

        A recorder that was closed begins another run: with another log, and handlers made again from their URLs.

        Raises:
            RecorderStateError: It is open already.
            SubscriptionError: It was open when this process was forked, and one of its handlers was not registered by
                URL.
            LogError: The log cannot be made, or is on a network file system; the recorder is closed.
            RuntimeError: No loop runs here: see `sync`.
        """
        self._note_fork()
        if self._state == "open":
            raise RecorderStateError("the recorder is open already", state=self._state)
        backend = current_backend()
        if self._state in {"forked", "closed"}:
            self._subscriptions.remake(must=self._state == "forked")
        if self._state == "closed":
            self._begin(Life(self._setup))
            self._account.begin(self._life)
        life = self._life
        supervisor = life.open(backend, self._subscriptions)
        self._state = "open"
        backend.spawn(supervisor.run, "eventrec supervisor")
        await supervisor.started.wait()
        if life.writer is not None and life.writer.log is None and life.writer.failure is not None:
            failure = life.writer.failure
            await self.close(0)
            raise failure

    def sync(self) -> SyncRecorder:
        """This recorder for programs without a loop: the same verbs, blocking; delivery runs in a thread of its own."""
        return SyncRecorder(self, close_timeout=self._resolved.close_timeout, end=self._end_unopened)

    # -- while it runs

    def record(self, event: Event | Eventable) -> bool:  # noqa: C901, PLR0912 - written out, as the comment says
        """Take `event`, or refuse and count it. Never waits, never raises; from any thread, task or signal handler.

        Before `open` events wait in the intake. False: refused, see `status().refused`.
        """
        # Look-ups instead of calls, classes instead of isinstance: every event pays for what stands here. Behind an
        # error nothing is called before the event is counted: at the recursion limit no call is left.
        cell = None
        reason: Reason
        failure: BaseException | None
        try:
            if not self._is_here:
                self._note_fork()
            try:
                cell = self._cells[get_ident()]
            except KeyError:
                cell = self._life.intake.cell()
            cell.offered += 1
            plan = self._plans.get(event.__class__)
            entry = plan(event) if plan is not None else self._encoder.encode(event)
            if entry.__class__ is tuple:
                refused = self._offer(cell, entry)
                if refused is None:
                    return True
                reason, failure, is_counted = refused, None, True
            else:
                reason, failure, is_counted = entry, None, False  # type: ignore[assignment]  # a Reason
        except InvalidEventError as exc:
            reason, failure, is_counted = "invalid", exc, False
        except Exception as exc:  # noqa: BLE001 - an event's own code may raise anything; the caller must not see it
            reason, failure, is_counted = "not_encodable", exc, False
        except BaseException as exc:  # noqa: BLE001 - it goes on to the caller, once it is counted
            reason, failure, is_counted = "interrupted", exc, False
        if cell is None:
            cell = self._life.intake.stray
            cell.offered += 1
        if cell.is_taken:
            cell.is_taken, is_counted, reason = False, True, "interrupted"
        if not is_counted and reason in cell.refused:
            cell.refused[reason] += 1
        elif not is_counted:
            cell.refused[reason] = 1
        try:
            return (is_counted or failure is not None) and self._refused(event, reason, failure)
        except RecursionError:
            return False  # It is counted.
        finally:
            failure = None  # Its traceback holds this frame.

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
        life = self._life
        if life.writer is None:
            raise NotDurableError("the recorder has no log: give it a directory with log=")
        supervisor = life.supervisor
        if self._state != "open" or not isinstance(supervisor, LogSupervisor):
            raise RecorderStateError(f"the recorder is not open, it is {self._state}", state=self._state)
        ticket = take_durably(event, encoder=self._encoder, intake=life.intake, offer=self._offer, writer=life.writer)
        if ticket is None:
            return None
        return await supervisor.call(partial(wait_durably, ticket, supervisor, until=until))

    def context(self, **fields: object) -> AbstractContextManager[None]:
        """Add `fields` to every event recorded inside the block, in this task or thread.

        Raises:
            EncodeError: A value is not a JSON value; on entering the block.
        """
        return self._context.bound(fields)

    async def flush(self, timeout: Duration | None = None) -> bool | Settled:
        """Send what is there without waiting for full batches; True once all that was recorded before is delivered.

        `Settled`, which counts as true: all of it is settled, but since the last `flush` some became dead letters or
        were dropped. False: `timeout` seconds passed, or a subscription is paused or holding, or the recorder is not
        open.
        """
        self._note_fork()
        supervisor = self._life.supervisor
        if supervisor is None:
            return False
        with anyio.move_on_after(None if timeout is None else duration_seconds(timeout)), suppress(RecorderStateError):
            return await supervisor.call(supervisor.flush_and_tell)
        return False

    def resume(self, name: str, *, start: Literal["earliest", "latest"] | None = None) -> None:
        """Let a paused subscription go on at once. On the loop's thread.

        One that is paused because another destination answers needs `start`: "earliest" sends it all that is kept,
        "latest" what was not delivered to the one before.

        Raises:
            RecorderStateError: The recorder is not open.
            SubscriptionError: No subscription has this name.
        """
        supervisor = self._life.supervisor
        if supervisor is None:
            raise RecorderStateError(f"the recorder is not open, it is {self._state}", state=self._state)
        if name not in self._subscriptions.names:
            raise SubscriptionError(f"no subscription {name!r}; there are {sorted(self._subscriptions.names)}")
        supervisor.resume(name, start)

    def status(self) -> Status:
        """The account now. From any thread; exact whenever no `record()` is in progress."""
        self._note_fork()
        return self._account.status(self._state)

    # -- the end

    async def close(self, timeout: Duration | None = None) -> Status:
        """Take nothing more, deliver what can be delivered within `timeout` seconds, and return the account.

        It returns at most half a second later, whatever handlers do: what is left then stays in the log, or is lost
        without one. From any task, thread or loop; a second call waits for the first. Being cancelled does not cut the
        flush short.
        """
        self._note_fork()
        seconds = self._resolved.close_timeout if timeout is None else duration_seconds(timeout)
        life, state = self._life, self._state
        self._state = "closed"
        if life.supervisor is not None:
            await life.supervisor.close_and_wait(seconds)
        if life.supervisor is None and state == "forked":
            # The loop may be the parent's: a thread that answers would wake that one. Nothing else is to run here.
            life.end_unopened(seconds)
        elif life.supervisor is None or life.supervisor.is_stranded():
            await in_thread(life.end_unopened, seconds)
        status = self.status()
        say_left(status)
        return status

    def _end_unopened(self, timeout: Duration | None) -> None:
        """Close a recorder that is not open in this process: write and sync what was taken. Blocking."""
        self._note_fork()
        self._state = "closed"
        self._life.end_unopened(self._resolved.close_timeout if timeout is None else duration_seconds(timeout))
        say_left(self.status())

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

    def _begin(self, life: Life) -> None:
        """From here on events go to `life`; when the recorder is forgotten, it sees to them."""
        self._life = life
        self._cells, self._offer = life.intake.cells, life.intake.offer
        if self._finalizer is not None:
            self._finalizer.detach()
        self._finalizer = weakref.finalize(self, life.end_forgotten)
        self._finalizer.atexit = False

    def _refused(self, event: object, reason: Reason, failure: BaseException | None) -> bool:
        """Have it said. What is not the event's own failure goes on to the caller."""
        if failure is not None:
            of_another = error_of_signal_handler(failure)
            if of_another is not None or reason == "interrupted":
                self._life.intake.nudge()
                raise failure if of_another is None else of_another
        if reason in UNSAID:
            self._refusals.say_once(reason, self._life.why_no_writer)
        else:
            detail = "" if failure is None else described(failure)[:_LONGEST_DETAIL]
            self._refusals.note(type(event).__name__, reason, detail)
            self._life.intake.nudge()
        return False

    def _lock_being_taken(self) -> LockType | None:
        return None if self._life.writer is None else self._life.writer.fork_guard

    def _note_fork(self) -> None:
        self._process.detect_fork(self._forked)

    def _forked(self) -> None:
        """In a forked child: the loop, the threads and the destination's connections are the parent's."""
        inherited = self._life
        inherited.abandon()
        if inherited.supervisor is not None:
            never_finalize((inherited, list(self._subscriptions)))
        if self._state == "open":
            self._state = "forked"
        refuses_for: Reason | None = "closed" if self._state == "closed" else None
        if self._state == "forked" and not self._has_log:
            refuses_for = "forked"
        self._refusals = Refusals(_logger, time.monotonic)
        self._setup = replace(self._setup, refusals=self._refusals)
        self._begin(Life(self._setup, refuses_for=refuses_for))
        self._account = Account(self._life)
