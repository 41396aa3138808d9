"""Start reading here: an event goes in at `record`, and comes out at a handler.

record    filter, stamp, encode, then the intake (`taking.py`)
open      the supervisor moves the intake into the source and runs a worker per subscription (`delivery/`)
close     takes nothing more, flushes for a while, and gives an honest account (`account.py`)
"""

from __future__ import annotations

import os
import time
import weakref
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Literal, Self, get_args

import anyio

from eventrec.account import Account, say_left
from eventrec.consent.variables import is_disabled
from eventrec.delivery.stopping import FailureStop
from eventrec.durations import duration_seconds
from eventrec.environment import read_settings, refuse_nowhere
from eventrec.errors import OptionsError, RecorderStateError, SubscriptionError
from eventrec.intake.drops import Drops
from eventrec.intake.refusals import Refusals
from eventrec.life import Life, Setup
from eventrec.options import EventRecorderOptions
from eventrec.records.context import encoded_fields
from eventrec.runs.directory import LogDirectory
from eventrec.runs.run import new_run_id
from eventrec.runtime.backend import current_backend, in_thread
from eventrec.runtime.logging import get_logger
from eventrec.runtime.process import never_finalize
from eventrec.subscriptions import Start, Subscriptions, check_word
from eventrec.sync import BlockingRecorder
from eventrec.taking import Taking

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
    from types import TracebackType
    from uuid import UUID

    from eventrec.bus.bus import Bus
    from eventrec.bus.stage import Stage
    from eventrec.delivery.subscription import NewDestination
    from eventrec.delivery.supervisor import Supervisor
    from eventrec.durations import Duration
    from eventrec.events.reasons import Reason
    from eventrec.handler import EventHandler
    from eventrec.options import Backoff
    from eventrec.records.layout import Layout
    from eventrec.relay.options import RelayOptions
    from eventrec.relay.plan import RelayPlan
    from eventrec.status import Settled, Status

_logger = get_logger("eventrec.recorder")


class EventRecorder(Taking):
    """Records events and delivers them to handlers, beside the application's own tasks.

        async with EventRecorder("sqlite:///events.db") as recorder:
            recorder.record(OrderPlaced(...))

    With `log`, a directory, records are written there before they are delivered, and what earlier runs left in it is
    delivered too. Several recorders and processes may share it. Without, they wait in memory.

    It may be made before a fork. What a child records goes into a log of the child's own, which the child delivers once
    it calls `open`, or a sibling, or `eventrec drain`. If the parent had opened it, the child makes handlers of its
    own from their URLs; without a log the child refuses until it has called `open`.

    With `options.enabled=False`, or EVENTREC_DISABLED=1 in the environment when it is made, it is switched off: every
    verb works and does nothing. No thread, file or connection is made; events are counted as refused, unread.

    `layouts` say how records become rows of tables that are made in another way than ours: layouts, or event classes
    that have one. Those of other event classes count too, if a class is there before `open`; of two for one table the
    one given here.

    With `bus`, or its URL, it is a relay: what applications have put there goes through `stages`, in their order, to
    the same handlers, once. Any number of relays may serve one bus: what one of them serves the others wait for. It
    needs a `log` of its own, for dead letters and for what operators ask; what is recorded here goes to the handlers
    directly. `relay` says how much it does at once, and how long it waits.

    `on_drop(reason, count)` is called on the loop when records are lost after they were taken. `clock` gives the time
    in nanoseconds since the epoch, `new_id` the id of the log, `environment` the variables it obeys.

    Raises:
        HandlerURLError: A URL names an unknown scheme or option, or its driver is not installed.
        LayoutError: One of `layouts` is not one, two are for one table, or a handler cannot have such a table.
        OptionsError: `options` is something else; there is a `bus` and no `log`, or `stages` and no `bus`; or a stage
            is unknown.
        SubscriptionError: Two handlers have the same name.
    """

    def __init__(
        self,
        *handlers_or_urls: EventHandler | str,
        log: str | os.PathLike[str] | None = None,
        options: EventRecorderOptions | None = None,
        layouts: Iterable[Layout | type] = (),
        bus: Bus | str | None = None,
        stages: Iterable[Stage | str] = (),
        relay: RelayOptions | None = None,
        on_drop: Callable[[str, int], object] | None = None,
        clock: Callable[[], int] = time.time_ns,
        new_id: Callable[[], UUID] = new_run_id,
        environment: Mapping[str, str] = os.environ,
    ) -> None:
        given: object = options  # Not every application has a type checker.
        if not isinstance(given, EventRecorderOptions | None):
            raise OptionsError(f"options is an EventRecorderOptions, got {type(given).__name__}")
        self._options = options or EventRecorderOptions()
        self._close_timeout = duration_seconds(self._options.close_timeout)
        self._has_log = log is not None
        self._state: Literal["new", "open", "forked", "closed"] = "new"
        self._is_inert = not self._options.enabled or is_disabled(environment)
        """Switched off from the start: it never has anything to open."""
        stops = self._options.on_failure == "stop"
        relayed = _relay_plan(bus, list(stages), relay, has_log=log is not None)
        self._subscriptions = Subscriptions(
            self._options,
            has_log=log is not None,
            stop=FailureStop(weakref.WeakMethod(self._stop)) if stops else None,
            layouts=layouts,
            chunk_rows=None if relayed is None else relayed.options.chunk_rows,
        )
        super().__init__(
            Setup(
                options=self._options,
                log_directory=None if log is None else LogDirectory(log),
                static_context=encoded_fields(
                    service=self._options.service, host=self._options.host, environment=self._options.environment
                ),
                layouts=self._subscriptions.layouts,
                clock=clock,
                new_id=new_id,
                refusals=Refusals(_logger, time.monotonic),
                drops=Drops(on_drop),
                relay=relayed,
            )
        )
        self._account = Account(self._life)
        if self._is_inert:
            self._life.stay_unopened()
            self.disable()
        for handler_or_url in handlers_or_urls:
            self.register(handler_or_url)

    @classmethod
    def from_env(
        cls,
        path: str | os.PathLike[str] | None = None,
        *,
        layouts: Iterable[Layout | type] = (),
        on_drop: Callable[[str, int], object] | None = None,
        environment: Mapping[str, str] = os.environ,
    ) -> Self:
        """A recorder as the environment says it, over a TOML file at `path` or EVENTREC_CONFIG.

        EVENTREC_TO is the URL of the destination (several parted by white space, or as a JSON array), EVENTREC_LOG the
        log directory, EVENTREC_… each option; in the file `to`, `log`, and the options. `environment` gives the
        destinations, the log and the file; options always come from that of the process.

        Raises:
            OptionsError: The file cannot be read, a name is unknown, or a value is not allowed; or neither a
                destination nor a log directory is named, or a log alone beside an empty EVENTREC_TO. A recorder that is
                switched off needs neither.
            HandlerURLError: A URL names an unknown scheme or option, or its driver is not installed.
            LayoutError, SubscriptionError: As with `EventRecorder(…)`.
        """
        settings = read_settings(path, environment)
        if settings.options.enabled and not is_disabled(environment):
            refuse_nowhere(settings, environment)
        return cls(
            *settings.to,
            log=settings.log,
            options=settings.options,
            layouts=layouts,
            on_drop=on_drop,
            environment=environment,
        )

    def __repr__(self) -> str:
        state = "disabled" if self._is_inert else self._state
        return f"<EventRecorder {state} to {', '.join(self._subscriptions.names) or 'nothing'}>"

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
            SubscriptionError: The name is taken or invalid, `types` is not a collection of texts, or `start` or
                `on_new_destination` is not one of its words.
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

        A recorder that was closed begins another run: with another log, and handlers made again from their URLs. So
        does one whose loop has ended without `close`.

        Raises:
            RecorderStateError: It is open already.
            SubscriptionError: It was open when this process was forked, and one of its handlers was not registered by
                URL.
            LayoutError: Two event classes have different layouts for one table.
            LogError: The log cannot be made, or is on a network file system; the recorder is closed. LogFullError: the
                disk has no room for it, and holds neither retained logs, which go, nor one of an earlier run that is
                free to be delivered. Where there is such a one, it opens and delivers; its own log is begun once there
                is room, and its intake holds till then.
            RuntimeError: No loop runs here: see `sync`.
        """
        self._note_fork()
        backend = current_backend()
        if self._is_inert:
            self._open_inert()
            return
        if self._state == "open":
            await self._end_of_loop_gone()
        if self._state in {"forked", "closed"}:
            self._subscriptions.remake(must=self._state == "forked")
        self._subscriptions.use_declared_layouts()
        if self._state == "closed":
            self._begin(Life(self._setup))
            self._account.begin(self._life)
        life = self._life
        supervisor = life.open(backend, self._subscriptions)
        self._state = "open"
        run = partial(self._deliver, supervisor)
        backend.spawn(run, "eventrec supervisor", on_unbegun=partial(self._end_unbegun, life))
        await supervisor.started.wait()
        if supervisor.is_ended and not supervisor.ended.is_set():
            raise RecorderStateError("its loop ends: it was cancelled before it began", state="closed")
        writer = life.writer
        if writer is not None and writer.log is None and writer.failure is not None and not supervisor.makes_room:
            failure = writer.failure
            await self.close(0)
            raise failure

    def sync(self) -> SyncRecorder:
        """This recorder for programs without a loop: the same verbs, blocking; delivery runs in a thread of its own."""
        return SyncRecorder(
            self,
            close_timeout=self._close_timeout,
            end=self._end_unopened,
            stop=self._stop_taking,
            open_inert=self._open_inert if self._is_inert else None,
        )

    # -- while it runs: `record` and its siblings are in `taking.py`

    async def flush(self, timeout: Duration | None = None) -> bool | Settled:
        """Send what is there without waiting for full batches; True once all that was recorded before is delivered.

        `Settled`, which counts as true: all of it is settled, but since the last `flush` some became dead letters or
        were dropped. False: `timeout` seconds passed, or a subscription is paused or holding, or the recorder is not
        open; or the disk refuses, and not all is in the log: that is said at once, however long the timeout. True where
        it is switched off from the start: nothing waits.
        """
        self._note_fork()
        supervisor = self._life.supervisor
        if supervisor is None or self._state != "open":
            return self._is_inert
        outcome: bool | Settled = False
        with anyio.move_on_after(None if timeout is None else duration_seconds(timeout)), suppress(RecorderStateError):
            outcome = await supervisor.call(supervisor.flush_and_tell)
        self._refusals.say()
        return outcome

    def resume(self, name: str, *, start: Literal["earliest", "latest"] | None = None) -> None:
        """Let a paused subscription go on at once. On the loop's thread.

        One that is paused because another destination answers needs `start`: "earliest" sends it all that is kept,
        "latest" what was not delivered to the one before.

        Raises:
            RecorderStateError: The recorder is not open.
            SubscriptionError: No subscription has this name, or `start` is another word.
        """
        if start is not None:
            check_word("start", start, get_args(Start))
        supervisor = None if self._is_inert else self._open_supervisor()
        if name not in self._subscriptions.names:
            raise SubscriptionError(f"no subscription {name!r}; there are {sorted(self._subscriptions.names)}")
        if supervisor is not None:
            supervisor.resume(name, start)

    def status(self) -> Status:
        """The account now. From any thread; exact whenever no `record()` is in progress.

        The state is `disabled` where the recorder is switched off from the start.
        """
        self._note_fork()
        return self._account.status("disabled" if self._is_inert else self._state, self._switched_off)

    # -- the end

    async def close(self, timeout: Duration | None = None) -> Status:
        """Take nothing more, deliver what can be delivered within `timeout` seconds, and return the account.

        It returns at most half a second later, whatever handlers wait for: what is left then stays in the log, or is
        lost without one. Only code that blocks the thread in which it is awaited holds it up. From any task, thread or
        loop; a second call waits for the first. Being cancelled does not cut the flush short.
        """
        self._note_fork()
        seconds = self._close_timeout if timeout is None else duration_seconds(timeout)
        life, state = self._life, self._state
        self._state = "closed"
        if self._is_inert:
            return self.status()
        if life.supervisor is not None:
            await life.supervisor.close_and_wait(seconds)
        if life.supervisor is None and state == "forked":
            # The loop may be the parent's: a thread that answers would wake that one. Nothing else is to run here.
            life.end_unopened(seconds)
        elif life.supervisor is None or life.supervisor.is_stranded():
            await in_thread(life.end_unopened, seconds)
        status = self.status()
        self._refusals.say_rest()
        if state != "closed":
            say_left(status)
        return status

    def _stop_taking(self) -> None:
        """Its loop does not go on, and can end nothing: take nothing more, and say what is left. From any thread."""
        self._state = "closed"
        self._life.intake.close("closed")
        self._say_end()

    def _end_unopened(self, timeout: Duration | None) -> None:
        """Close a recorder that `sync` did not open, and write and sync what was taken. Blocking.

        It may be open all the same: on a loop of the application's.
        """
        self._note_fork()
        seconds = self._close_timeout if timeout is None else duration_seconds(timeout)
        if self._is_inert:
            self._state = "closed"
            return
        supervisor = self._life.supervisor
        if supervisor is not None and self._state != "forked" and not supervisor.is_stranded():
            supervisor.close_and_block(seconds)
        was, self._state = self._state, "closed"
        if supervisor is None or was == "forked" or supervisor.is_stranded():
            self._life.end_unopened(seconds)
        self._refusals.say_rest()
        if was != "closed":
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

    async def _deliver(self, supervisor: Supervisor) -> None:
        """Deliver until closed. Where the loop ended first, without `close`, it is said here what is left."""
        try:
            await supervisor.run()
        finally:
            if self._state == "open" and supervisor is self._life.supervisor and supervisor.is_ended:
                self._state = "closed"
                self._say_end()

    async def _end_of_loop_gone(self) -> None:
        """Close what was open on a loop that is closed, or that cancelled it.

        Raises:
            RecorderStateError: It is open still.
        """
        supervisor = self._life.supervisor
        if supervisor is None or not (supervisor.is_ended or supervisor.is_stranded()):
            raise RecorderStateError("the recorder is open already", state=self._state)
        self._state = "closed"
        if not supervisor.is_ended:
            await in_thread(self._life.end_unopened, self._close_timeout)
            self._say_end()

    def _open_inert(self) -> None:
        """`open` of a recorder that is switched off. Raises RecorderStateError where it is open already."""
        if self._state == "open":
            raise RecorderStateError("the recorder is open already", state=self._state)
        self._state = "open"

    def _stop(self, error: str) -> None:
        _logger.warning("recording stopped", error=error)
        self._switch_off("stopped")

    def _end_unbegun(self, life: Life) -> None:
        """The loop ends in the very step of `open`, and delivers nothing: as at the end of `close`."""
        life.end_unopened(self._close_timeout)
        self._say_end()
        if life.supervisor is not None:
            life.supervisor.started.set()

    def _say_end(self) -> None:
        """What was refused and not said yet, and what is left."""
        self._refusals.say_rest()
        say_left(self.status())

    def _open_supervisor(self) -> Supervisor:
        supervisor = self._life.supervisor
        if supervisor is None or self._state != "open":
            raise RecorderStateError(f"the recorder is not open, it is {self._state}", state=self._state)
        return supervisor

    def _forked(self) -> None:
        """In a forked child: the loop, the threads and the destination's connections are the parent's."""
        if self._is_inert:
            self._account = Account(self._life)
            self._count_refusals_again()
            return
        if self._state == "open":
            self._state = "forked"
        refuses_for: Reason | None = "closed" if self._state == "closed" else None
        if self._state == "forked" and not self._has_log:
            refuses_for = "forked"
        inherited = self._begin_in_child(refuses_for=refuses_for)
        if inherited.supervisor is not None:
            never_finalize((inherited, list(self._subscriptions)))
        self._account = Account(self._life)


class SyncRecorder(BlockingRecorder):
    """`EventRecorder` for a program without a loop.

        with EventRecorder("sqlite:///events.db").sync() as recorder:
            recorder.record(OrderPlaced(...))

    From any thread. `BlockingRecorder` says what holds on its own loop, at the end of the process, and after a fork.
    """

    @classmethod
    def from_env(
        cls,
        path: str | os.PathLike[str] | None = None,
        *,
        layouts: Iterable[Layout | type] = (),
        on_drop: Callable[[str, int], object] | None = None,
        environment: Mapping[str, str] = os.environ,
    ) -> SyncRecorder:
        """See `EventRecorder.from_env`."""
        return EventRecorder.from_env(path, layouts=layouts, on_drop=on_drop, environment=environment).sync()


def _relay_plan(
    bus: Bus | str | None, stages: Sequence[Stage | str], options: RelayOptions | None, *, has_log: bool
) -> RelayPlan | None:
    """What makes a relay of a recorder; None: it is not one."""
    if bus is None:
        if stages or options is not None:
            raise OptionsError('stages, and the options of a relay, need a bus: bus="redis://…"')
        return None
    if not has_log:
        raise OptionsError('a relay needs a directory of its own for dead letters: log="var/relay"')
    from eventrec.relaying import plan_of  # noqa: PLC0415 - few recorders are relays

    return plan_of(bus, stages, options)


def subscriptions_of(recorder: EventRecorder) -> Subscriptions:
    """What was registered with `recorder`, for rooms of ours that stand above it."""
    return recorder._subscriptions  # noqa: SLF001 - no application is given it
