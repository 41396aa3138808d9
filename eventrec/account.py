"""One consistent `Status` out of the counters of a recorder, each of which is counted where it happens."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from eventrec.intake.consumer import Counts
from eventrec.runtime.logging import described
from eventrec.status import Status

if TYPE_CHECKING:
    from eventrec.delivery.supervisor import Supervisor
    from eventrec.intake.queue import Intake
    from eventrec.intake.writer import Writer

_LONGEST_DEFECT: Final = 200


def status_of(state: str, intake: Intake, writer: Writer | None, supervisor: Supervisor | None) -> Status:
    """The account now. From any thread, never waiting; exact whenever no `record()` is in progress.

    `writer` where there is a log, `supervisor` once the recorder was opened.
    """
    if supervisor is not None:
        counts = supervisor.counts
    else:
        counts = writer.consumer.counts if writer is not None else Counts(0, len(intake), 0)
    return Status(
        state=state if supervisor is None or not supervisor.ended.is_set() else "closed",
        offered=intake.offered(),
        appended=counts.appended,
        refused=intake.refused(),
        in_intake=counts.in_intake + counts.in_hand,
        subscriptions=supervisor.status() if supervisor is not None else {},
        adopted=supervisor.adopted() if supervisor is not None else {},
        failure=_failure(writer, supervisor),
        defect=_defect(writer, supervisor),
    )


def _failure(writer: Writer | None, supervisor: Supervisor | None) -> str | None:
    if writer is not None and writer.failure is not None:
        return str(writer.failure)
    return supervisor.untrusted if supervisor is not None else None


def _defect(writer: Writer | None, supervisor: Supervisor | None) -> str | None:
    defects = [each.defect for each in (supervisor, writer) if each is not None]
    return next((described(each)[:_LONGEST_DEFECT] for each in defects if each is not None), None)
