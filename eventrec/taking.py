"""What an application calls while it runs: `record`, from anywhere, and its siblings that tell more, or wait.

`record` filters, stamps and encodes (`events/`), and gives the result to the intake (`intake/`) of the recorder's life.
"""

from __future__ import annotations

import time
import weakref
from abc import ABC, abstractmethod
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Final, Literal, NoReturn, cast

from eventrec.durations import duration_seconds
from eventrec.errors import EventrecError, InvalidEventError, NotDurableError, UnruledError
from eventrec.events.clocks import checked_clock
from eventrec.events.encoder import Encoder
from eventrec.events.privacy_plans import Privacy
from eventrec.intake.durable import Position, check_until, take, wait_durably, wait_for_all
from eventrec.intake.refusals import UNSAID, Refusals
from eventrec.intake.several import take_all, take_in_slices
from eventrec.intake.switched_off import SwitchedOff
from eventrec.intake.tickets import Ticket
from eventrec.life import Life
from eventrec.records.context import ContextFields
from eventrec.records.trace_context import with_current_span
from eventrec.runtime.logging import described, get_logger
from eventrec.runtime.native import get_ident
from eventrec.runtime.process import ProcessIdentity, around_forks, refuse_copy
from eventrec.runtime.signals import error_of_signal_handler

if TYPE_CHECKING:
    from _thread import LockType
    from collections.abc import Callable, Iterable
    from contextlib import AbstractContextManager

    from eventrec.delivery.log_supervisor import LogSupervisor
    from eventrec.delivery.supervisor import Supervisor
    from eventrec.durations import Duration
    from eventrec.events.event import Event, Eventable
    from eventrec.events.reasons import Reason
    from eventrec.life import Setup

_logger = get_logger("eventrec.recorder")

_LONGEST_DETAIL: Final = 200


class Taking(ABC):
    """The half of `EventRecorder` that takes events. Each life of the recorder is made with `setup`."""

    def __init__(self, setup: Setup) -> None:
        self._refusals = setup.refusals
        self._process = ProcessIdentity()
        self._context = ContextFields()
        self._encoder = Encoder(
            types=setup.options.event_types,
            context=with_current_span(self._context.block) if setup.options.trace_context else self._context.block,
            now=checked_clock(setup.clock),
            privacy=Privacy.of(setup.options),
            on_unrecorded=setup.refusals.note_unrecorded,
        )
        self._setup = setup = replace(setup, classes=self._encoder.plans.keys())
        self._plans, self._is_here = self._encoder.plans, self._process.is_here
        self._switched_off: SwitchedOff | None = None
        self._refuse: Callable[[], bool] | None = None
        self._finalizer: weakref.finalize[..., Taking] | None = None
        self._begin(Life(setup))
        around_forks(self, wait_for=Taking._lock_being_taken, moved=Taking._note_fork)

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        refuse_copy(self)

    def record(self, event: Event | Eventable) -> bool:  # noqa: C901, PLR0912 - written out: see the comment
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
                if self._refuse is not None:
                    return self._refuse()
                self._note_fork()
            try:
                cell = self._cells[get_ident()]
            except KeyError:
                cell = self._life.intake.cell()
            cell.offered += 1
            plan = self._plans.get(type(event))
            entry = plan(event) if plan is not None else self._encoder.encode(event)
            if type(entry) is tuple:
                refused = self._offer(cell, entry)
                if refused is None:
                    return True
                reason, failure, is_counted = refused, None, True
            else:
                reason, failure, is_counted = entry, None, False  # type: ignore[assignment]  # a Reason
        except InvalidEventError as exc:
            reason, failure, is_counted = "not_allowed" if isinstance(exc, UnruledError) else "invalid", exc, False
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
        if failure is None and not is_counted and reason != "rate_limited":
            return False
        try:
            passed_on = self._refused(event, reason, failure)
        except Exception:  # noqa: BLE001 - it is counted; that it cannot be said as well is no reason to raise
            passed_on = failure if reason == "interrupted" else None
        failure = None  # Its traceback holds this frame.
        if passed_on is not None:
            raise passed_on
        return False

    def record_many(self, events: Iterable[Event | Eventable]) -> int:
        """Record each of `events`; how many were taken. What the iterable itself raises comes out."""
        return sum(map(self.record, events))

    def record_each(self, events: Iterable[Event | Eventable], *, atomic: bool = False) -> list[bool | EventrecError]:
        """Record each of `events`, and say what became of it: True where it is taken, else why it was refused.

        False where it was filtered, declined, sampled out, or over the rate of its type; and where the recorder is
        switched off. Never waits; what the iterable itself raises comes out before anything is recorded.

        `atomic`: all are taken, one behind the other, or none is. Those that are not wanted count as neither. The end
        of the process may still come when a part of them is written.

        Raises:
            BatchRefusedError: With `atomic`: some were refused, and none is recorded.
        """
        given = list(events)
        self._note_fork()
        if self._refuse is not None:
            return [self._refuse() for _ in given]
        outcomes = take_all(given, atomic=atomic, encoder=self._encoder, intake=self._life.intake)
        return [each if isinstance(each, EventrecError) else each is not None for each in outcomes]

    async def record_durable(
        self,
        event: Event | Eventable,
        *,
        until: Literal["written", "synced", "mirrored"] = "synced",
        timeout: Duration | None = None,
    ) -> Position | None:
        """Record `event`, and return where it stands once it is in the log.

        None where it was filtered, declined, sampled out, or over the rate of its type; and where the recorder is
        switched off, or has stopped.

        "written" survives the end of the process, "synced" a power cut; all who wait at once share one sync. "mirrored"
        survives the loss of this machine: so many mirrors as the option `mirrors` says have synced it too. It waits
        `timeout` at most, without one for as long as that takes. Being cancelled, a timeout, or an error of the disk,
        does not retract the event.

        Raises:
            NotDurableError: The recorder has no log.
            RecorderStateError: It is not open.
            EncodeError, InvalidEventError: The event cannot be recorded.
            LogFullError: The intake or the disk is full.
            LogError: The disk refused; `LogClosedError` where the recorder is closed meanwhile.
            DurableTimeoutError: It took longer than `timeout`. It is a TimeoutError too.
            OptionsError: `until` is none of these words, or `timeout` no duration: nothing is recorded.
        """
        check_until(until)
        seconds = None if timeout is None else duration_seconds(timeout)
        self._note_fork()
        if self._refuse is not None:
            self._refuse()
            return None
        life = self._life
        if life.writer is None:
            raise NotDurableError("the recorder has no log: give it a directory with log=")
        supervisor = cast("LogSupervisor", self._open_supervisor())  # since there is a writer
        ticket = take(event, encoder=self._encoder, intake=life.intake, writer=life.writer)
        if ticket is None:
            return None
        life.writer.wake()
        return await supervisor.call(
            partial(
                wait_durably,
                ticket,
                supervisor,
                until=until,
                mirrors=self._setup.options.mirrors,
                timeout=seconds,
            )
        )

    async def record_all_durable(
        self,
        events: Iterable[Event | Eventable],
        *,
        atomic: bool = False,
        until: Literal["written", "synced", "mirrored"] = "synced",
        timeout: Duration | None = None,
    ) -> list[Position | EventrecError | None]:
        """Record each of `events`, and wait once for all that were taken; for each what `record_durable` tells of it.

        Its position; None where it is not wanted; or the error for which it was refused, or lost after it was taken,
        while the others are recorded. Until all are taken, other tasks run in between. What the iterable itself raises
        comes out before anything is recorded.

        `atomic`: all are taken, one behind the other, or none is; see `record_each`.

        Raises:
            BatchRefusedError: With `atomic`: some were refused, and none is recorded.
            NotDurableError: The recorder has no log.
            RecorderStateError: It is not open.
            LogError: The disk refuses: nothing was taken where it did so before, and else all that could be.
                `LogClosedError` where the recorder is closed meanwhile.
            DurableTimeoutError: It took longer than `timeout`; what was taken stays taken.
            OptionsError: As `record_durable`.
        """
        check_until(until)
        seconds = None if timeout is None else duration_seconds(timeout)
        given = list(events)
        self._note_fork()
        if self._refuse is not None:
            for _ in given:
                self._refuse()
            return [None] * len(given)
        life = self._life
        if life.writer is None:
            raise NotDurableError("the recorder has no log: give it a directory with log=")
        supervisor = cast("LogSupervisor", self._open_supervisor())  # since there is a writer
        if life.writer.failure is not None:
            life.writer.wake()
            raise life.writer.failure
        outcomes = await take_in_slices(
            given, atomic=atomic, encoder=self._encoder, intake=life.intake, writer=life.writer
        )
        life.writer.wake()
        tickets = [each for each in outcomes if isinstance(each, Ticket)]
        found = iter(
            await supervisor.call(
                partial(
                    wait_for_all,
                    tickets,
                    supervisor,
                    until=until,
                    mirrors=self._setup.options.mirrors,
                    timeout=seconds,
                )
            )
        )
        return [next(found) if isinstance(each, Ticket) else each for each in outcomes]

    def context(self, **fields: object) -> AbstractContextManager[None]:
        """Add `fields` to every event recorded inside the block, in this task or thread.

        Raises:
            EncodeError: A value is not a JSON value; on entering the block.
        """
        return self._context.bound(fields)

    def disable(self) -> None:
        """Record nothing from here on, in this process: events are refused as `disabled`. From any thread.

        What was taken before is delivered as it would be. There is no way back: make another recorder.
        """
        self._switch_off("disabled")

    @property
    def has_log(self) -> bool:
        """Whether what is recorded is written into a log."""
        return self._setup.log_directory is not None

    @property
    def intake_bounds(self) -> tuple[int | None, int]:
        """How many events, and how many bytes of them, wait before the log at most; None: no bound on their number."""
        return self._setup.options.queue_events, self._setup.options.queue_bytes

    @property
    def max_event_bytes(self) -> int:
        """What an event may have, as the option of this name says."""
        return self._setup.options.max_event_bytes

    @property
    def is_switched_off(self) -> bool:
        """Whether every event is refused unread: it is disabled, or has stopped after a failed send."""
        return self._refuse is not None

    # -- beneath

    @abstractmethod
    def _open_supervisor(self) -> Supervisor:
        """That of the running life; raises RecorderStateError where it is not open."""

    @abstractmethod
    def _forked(self) -> None:
        """In a forked child: begin another life."""

    def _begin(self, life: Life) -> None:
        """From here on events go to `life`; when the recorder is forgotten, it sees to them."""
        self._life = life
        self._cells, self._offer = life.intake.cells, life.intake.offer
        if self._finalizer is not None:
            self._finalizer.detach()
        self._finalizer = weakref.finalize(self, life.end_forgotten)
        self._finalizer.atexit = False

    def _begin_in_child(self, *, refuses_for: Reason | None) -> Life:
        """Begin another life in a forked child, and return what was inherited: it is left alone."""
        inherited = self._life
        inherited.abandon()
        self._refusals = Refusals(_logger, time.monotonic)
        self._setup = replace(self._setup, refusals=self._refusals)
        self._encoder.on_unrecorded = self._refusals.note_unrecorded
        self._begin(Life(self._setup, refuses_for=refuses_for))
        self._count_refusals_again()
        return inherited

    def _switch_off(self, reason: Reason) -> None:
        """From here on refuse every event for `reason`, before anything is done about it. The first call counts."""
        if self._switched_off is None:
            self._switched_off = SwitchedOff(reason)
            self._refuse = self._switched_off.refuse
            self._is_here = False  # So that `record` needs no look of its own: for what moved, others look.

    def _count_refusals_again(self) -> None:
        """In a forked child: what is switched off stays so, and counts from zero."""
        off, self._switched_off = self._switched_off, None
        if off is not None:
            self._switch_off(off.reason)

    def _note_fork(self) -> None:
        self._process.detect_fork(self._forked)

    def _lock_being_taken(self) -> LockType | None:
        return None if self._life.writer is None else self._life.writer.fork_guard

    def _refused(self, event: object, reason: Reason, failure: BaseException | None) -> BaseException | None:
        """Have it said; what is not the event's own failure is returned, to go on to the caller."""
        if failure is not None:
            of_another = error_of_signal_handler(failure)
            if of_another is not None or reason == "interrupted":
                self._life.intake.nudge()
                return failure if of_another is None else of_another
        if reason in UNSAID:
            self._refusals.say_once(reason, self._life.why_no_writer)
        else:
            detail = "" if failure is None else described(failure)[:_LONGEST_DETAIL]
            self._refusals.note(type(event).__name__, reason, detail)
            self._life.intake.nudge()
        return None
