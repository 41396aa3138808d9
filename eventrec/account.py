"""One consistent `Status` out of the counters of a recorder, each of which is counted where it happens."""

from __future__ import annotations

import sys
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Final, TypeAlias

from eventrec.runtime.logging import described, get_logger, text_of
from eventrec.status import Status

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

    from eventrec.delivery.supervisor import Supervisor
    from eventrec.intake.consumer import Counts
    from eventrec.intake.switched_off import SwitchedOff
    from eventrec.intake.writer import Writer
    from eventrec.life import Life
    from eventrec.status import RelayPart, SubscriptionStatus

Parts: TypeAlias = "dict[str, SubscriptionStatus]"

_logger = get_logger("eventrec.recorder")

_LONGEST_DEFECT: Final = 200

_DELIVERY: Final = "eventrec.delivery."

_READINGS: Final = (*[0.0001] * 200, *[0.001] * 500)
"""Pauses, in seconds, for the loop's thread to finish what it is changing, where another thread has asked in between.

Mostly it has after the first; where all processors are busy it may have to wait for one.
"""


class Account:
    """The counts of all lives of a recorder in this process: one after the other, the last is the running one."""

    def __init__(self, life: Life) -> None:
        self._lives = [life]
        self._offered = self._appended = 0
        self._refused: dict[str, int] = {}

    def begin(self, life: Life) -> None:
        """`life` is the running one. Of those before it, the counts alone are kept, once they no longer change."""
        for ended in [each for each in self._lives if not each.counts.waiting]:
            self._offered += ended.intake.offered()
            self._appended += ended.counts.appended
            _add(self._refused, _refused(ended, ended.counts))
            self._lives.remove(ended)
        self._lives.append(life)

    def status(self, state: str, off: SwitchedOff | None) -> Status:
        """The account now. From any thread, never waiting for one; exact whenever no `record()` is in progress.

        `off` counts events that no life has seen.
        """
        life = self._lives[-1]
        writer, supervisor = life.writer, life.supervisor
        counts = [each.counts for each in self._lives]
        following = supervisor.following() if supervisor is not None else None
        refused = dict(self._refused)
        unseen = 0 if off is None else off.count
        if off is not None and unseen:
            _add(refused, {off.reason: unseen})
        for each, count in zip(self._lives, counts, strict=True):
            _add(refused, _refused(each, count))
        return Status(
            state=state if supervisor is None or not supervisor.is_ended else "closed",
            offered=self._offered + sum(each.intake.offered() for each in self._lives) + unseen,
            appended=self._appended + sum(each.appended for each in counts),
            refused=refused,
            since_overflow=None if (at := life.intake.overflowed_at()) is None else max(0.0, time.monotonic() - at),
            in_intake=sum(each.waiting for each in counts),
            subscriptions=_read(supervisor, supervisor.status) if supervisor is not None else {},
            adopted=_read_adopted(supervisor) if supervisor is not None else {},
            died=supervisor.died() if supervisor is not None else {},
            dead_letters=supervisor.dead_letters() if supervisor is not None else None,
            elsewhere=supervisor.elsewhere() if supervisor is not None else {},
            forfeited=supervisor.forfeited() if supervisor is not None else {},
            since_forfeit=supervisor.since_forfeit() if supervisor is not None else None,
            following=None if following is None else following[0],
            not_followed=None if following is None else following[1],
            follow_refusals=0 if following is None else following[2],
            relay=_read_relay(supervisor) if supervisor is not None else [],
            phases=supervisor.phases() if supervisor is not None else {},
            left=supervisor.left() if supervisor is not None else {},
            mirrors=supervisor.mirror_lags() if supervisor is not None else {},
            unsaved=supervisor.unsaved() if supervisor is not None else 0,
            failure=_failure(writer, supervisor),
            defect=_defect(writer, supervisor),
        )


def say_left(status: Status) -> None:
    """One line in the logging about the records that a recorder that was closed leaves, one about its checkpoints."""
    pending = {name: part.pending for name, part in status.subscriptions.items() if part.pending}
    lost = {name: part.dropped["closed"] for name, part in status.subscriptions.items() if part.dropped.get("closed")}
    if pending or lost or status.in_intake:
        _logger.warning(
            "closed with records left",
            **({"pending": pending} if pending else {}),
            **({"lost": lost} if lost else {}),
            **({"not_written_yet": status.in_intake} if status.in_intake else {}),
        )
    if status.unsaved:
        _logger.warning("closed with checkpoints not saved", logs=status.unsaved)


def _read(supervisor: Supervisor, status: Callable[[], Parts]) -> Parts:
    """What `status` gives, of one instant, also where delivery is just changing it."""
    for pause in _READINGS:
        found = status()
        if all(part.is_balanced for part in found.values()):
            break
        if supervisor.is_here():
            # Delivery goes on only when this call has returned: it is a signal handler's, say.
            return {name: _settled(part) for name, part in found.items()} if _is_within_delivery() else found
        time.sleep(pause)
    return found


def _read_adopted(supervisor: Supervisor) -> dict[str, Parts]:
    return {id_: _read(supervisor, status) for id_, status in supervisor.adopted().items()}


def _read_relay(supervisor: Supervisor) -> list[RelayPart]:
    """Likewise what a relay delivers."""
    for pause in _READINGS:
        found = supervisor.relay()
        if all(part.account is None or part.account.is_balanced for part in found) or supervisor.is_here():
            break
        time.sleep(pause)
    return found


def _is_within_delivery() -> bool:
    """Whether the calling code interrupts delivery, or is called by it."""
    frame: FrameType | None = sys._getframe()  # noqa: SLF001 - the one way to ask
    while frame is not None and not frame.f_globals.get("__name__", "").startswith(_DELIVERY):
        frame = frame.f_back
    return frame is not None


def _settled(part: SubscriptionStatus) -> SubscriptionStatus:
    """`part`, in which some records are on the way from one term to another one: pending, until they are there."""
    accounted = part.delivered + part.filtered + part.dead + sum(part.dropped.values())
    return replace(part, pending=part.end - part.start + part.rewound - accounted)


def _refused(life: Life, counts: Counts) -> dict[str, int]:
    """What it did not take, or took and could not write to the end, by reason."""
    return life.intake.refused() | ({"not_written": counts.lost} if counts.lost else {})


def _add(total: dict[str, int], more: dict[str, int]) -> None:
    for reason, count in more.items():
        total[reason] = total.get(reason, 0) + count


def _failure(writer: Writer | None, supervisor: Supervisor | None) -> str | None:
    if writer is not None and writer.failure is not None:
        return text_of(writer.failure)
    return supervisor.untrusted if supervisor is not None else None


def _defect(writer: Writer | None, supervisor: Supervisor | None) -> str | None:
    defects = [each.defect for each in (supervisor, writer) if each is not None]
    return next((described(each)[:_LONGEST_DEFECT] for each in defects if each is not None), None)
