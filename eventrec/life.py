"""One life of a recorder, from the moment it takes events to its end: its intake, its writer, its supervisor.

A recorder begins another one in the child of a fork, and where it is opened again after it was closed. What it was told
(options, subscriptions) outlasts a life; what counts and what runs does not.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final

from eventrec.delivery.memory_supervisor import MemorySupervisor
from eventrec.delivery.supervisor import GRACE
from eventrec.events.clocks import unfailing_clock
from eventrec.events.layouts import RecordedLayouts
from eventrec.intake.consumer import Counts
from eventrec.intake.queue import Intake
from eventrec.intake.writer import Writer
from eventrec.runtime.logging import get_logger
from eventrec.runtime.process import register_exit, unregister_exit

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping
    from uuid import UUID

    from eventrec.delivery.log_supervisor import LogSupervisor
    from eventrec.delivery.subscription import Subscription
    from eventrec.delivery.supervisor import Supervisor
    from eventrec.events.reasons import Reason
    from eventrec.intake.drops import Drops
    from eventrec.intake.refusals import Refusals
    from eventrec.options import EventRecorderOptions
    from eventrec.records.layout import Layout
    from eventrec.relay.plan import RelayPlan
    from eventrec.runs.directory import LogDirectory
    from eventrec.runtime.backend import Backend

_logger = get_logger("eventrec.recorder")

_LOST: Final = {
    False: "lost: the recorder was never opened, and has no log",
    True: "lost: the recorder was not closed, and has no log",
}
"""By whether it was opened."""


@dataclass(frozen=True, slots=True)
class Setup:
    """What every life of one recorder is made with."""

    options: EventRecorderOptions
    log_directory: LogDirectory | None
    static_context: bytes | None
    layouts: Mapping[str, Layout]
    clock: Callable[[], int]
    new_id: Callable[[], UUID]
    refusals: Refusals
    drops: Drops
    classes: Collection[type] = ()
    """What was recorded so far."""
    relay: RelayPlan | None = None
    """The bus that is delivered beside the log."""


class Life:
    """Takes events from the start; delivers them once `open` was called. It knows no recorder, which may go before it.

    `refuses_for` is why it takes none until then.
    """

    def __init__(self, setup: Setup, *, refuses_for: Reason | None = None) -> None:
        self._setup = setup
        options, resolved = setup.options, setup.options.resolve(has_log=setup.log_directory is not None)
        self.supervisor: Supervisor | None = None
        self._is_ended = False
        self.intake = Intake(
            max_events=resolved.queue_events,
            max_bytes=resolved.queue_bytes,
            max_event_bytes=options.max_event_bytes,
            overflow=options.overflow,
            wake=self._wake,
        )
        if refuses_for is not None:
            self.intake.close(refuses_for)
        self.writer: Writer | None = None
        self._exit: Callable[[], None] = lambda: None
        if setup.log_directory is not None:
            _log_supervisor()  # so that `open` need not load it
            self.intake.arm()
            self.writer = Writer(
                setup.log_directory,
                self.intake,
                resolved,
                new_id=setup.new_id,
                now=unfailing_clock(setup.clock),
                static_context=setup.static_context,
                layouts=RecordedLayouts(setup.layouts, setup.classes),
                on_take=setup.refusals.say,
            )
        else:
            self._exit = register_exit(self._say_lost)

    @property
    def counts(self) -> Counts:
        """Records that are numbered, and those that are taken and are not. From any thread."""
        if self.supervisor is None:
            if self.writer is not None:
                return self.writer.consumer.counts
            waiting = len(self.intake)
            if self.supervisor is None:  # Still: else it may have taken some of them before that was asked.
                return Counts(0, waiting, 0)
        return self.supervisor.counts

    @property
    def why_no_writer(self) -> object:
        """Why events are refused where there is neither a loop nor a writer."""
        return "open the recorder here, or give it a log" if self.writer is None else self.writer.failure

    def open(self, backend: Backend, subscriptions: Iterable[Subscription]) -> Supervisor:
        """Have a supervisor for the running loop; it runs once it is spawned."""
        setup = self._setup
        self.intake.reopen()
        if self.writer is not None:
            kind = _log_supervisor() if setup.relay is None else _relay_supervisor(setup.relay)
            self.supervisor = kind(
                self.intake, self.writer, backend, setup.options, subscriptions=subscriptions, drops=setup.drops
            )
        else:
            self.supervisor = MemorySupervisor(
                self.intake,
                backend,
                setup.options,
                log_id=setup.new_id(),
                static_context=setup.static_context,
                subscriptions=subscriptions,
                drops=setup.drops,
                on_slice=setup.refusals.say,
            )
        return self.supervisor

    def stay_unopened(self) -> None:
        """It is to be forgotten with what it took: nothing is said of that."""
        unregister_exit(self._exit)
        self._is_ended = True

    def end_unopened(self, timeout: float) -> None:
        """End what is not open in this process: write and sync what was taken, for `timeout` seconds. Blocking.

        It takes a little longer where the disk is not done: what was taken is to be written, however short `timeout`.
        """
        unregister_exit(self._exit)
        self._is_ended = True
        self.intake.close("closed")
        if self.writer is not None:
            self.writer.end(timeout + GRACE)
        if self.supervisor is not None:
            self.supervisor.end_stranded()

    def end_forgotten(self) -> None:
        """The recorder is gone, and has not closed it: see to what was taken. Waits for nothing."""
        if self.supervisor is not None or self._is_ended:
            return
        if self.writer is not None:
            self.intake.close("closed")
            self.writer.close_and_release()
        elif self._say_lost():
            unregister_exit(self._exit)
            warnings.warn(
                f"{len(self.intake)} events were taken by a recorder without a log that was never opened",
                ResourceWarning,
                stacklevel=2,
            )

    def abandon(self) -> None:
        """In the child of a fork: what runs is the parent's."""
        unregister_exit(self._exit)
        if self.supervisor is not None:
            self.supervisor.abandon()
        if self.writer is not None:
            self.writer.abandon()

    def _say_lost(self) -> bool:
        """Whether something is lost with it."""
        if self._is_ended or (self.supervisor is not None and self.supervisor.is_ended):
            return False
        self._setup.refusals.say_rest()
        counts = self.counts
        parts = self.supervisor.status().values() if self.supervisor is not None else ()
        count = counts.waiting + max((part.pending for part in parts), default=0)
        if count:
            _logger.warning(_LOST[self.supervisor is not None], events=count)
        return count > 0

    def _wake(self) -> Reason | None:
        if self.writer is not None:
            return self.writer.wake()
        if self.supervisor is not None:
            self.supervisor.wake()
        return None


def _log_supervisor() -> type[LogSupervisor]:
    from eventrec.delivery.log_supervisor import LogSupervisor  # noqa: PLC0415 - a tenth of what a recorder loads

    return LogSupervisor


def _relay_supervisor(plan: RelayPlan) -> Callable[..., LogSupervisor]:
    from eventrec.relay.supervisor import RelaySupervisor  # noqa: PLC0415 - few recorders are relays

    return partial(RelaySupervisor, plan)
