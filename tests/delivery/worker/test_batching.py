from __future__ import annotations

from typing import Any

import pytest

from eventrec import (
    Batch,
    DestinationCheckpoints,
    EventHandler,
    EventRecorderOptions,
)
from eventrec.delivery.worker.batching import RAMP, Batching
from eventrec.options import DeliverySettings
from eventrec.subscriptions import BACKLOG_BATCHES, Subscriptions
from eventrec_handlers.sqlite import SqliteHandler

ROWS, BYTES = 32, 1_000


def batching(**given: Any) -> Batching:
    settings = EventRecorderOptions(batch_rows=ROWS, batch_bytes=BYTES).resolve(has_log=True).delivery
    fields = {name: getattr(settings, name) for name in DeliverySettings.__slots__}
    return Batching(DeliverySettings(**{**fields, "backlog_batches": 4, **given}), now=0.0)


@pytest.mark.parametrize(
    ("rows", "size", "more", "is_full"),
    [
        (ROWS - 1, 0, False, False),
        (ROWS, 0, False, True),
        (1, BYTES, False, True),
        (ROWS, BYTES, True, False),
        (4 * ROWS - 1, 4 * BYTES - 1, True, False),
        (4 * ROWS, 0, True, True),
        (1, 4 * BYTES, True, True),
    ],
)
def test_a_batch_grows_while_more_wait(rows: int, size: int, more: bool, is_full: bool) -> None:  # noqa: FBT001
    assert batching().is_full(rows=rows, size=size, scanned=rows, more=more) is is_full


def test_a_full_batch_does_not_wait_for_the_rare_records_of_a_long_backlog() -> None:
    limits = batching()

    assert not limits.is_full(rows=ROWS, size=0, scanned=4 * ROWS - 1, more=True)
    assert limits.is_full(rows=ROWS, size=0, scanned=4 * ROWS, more=True)


def test_after_an_outage_a_batch_grows_only_once_it_is_as_large_as_ever() -> None:
    limits = batching()

    limits.note_failure()
    sizes = [limits.max_rows]
    while limits.max_rows < 4 * ROWS:
        limits.note_success()
        sizes.append(limits.max_rows)

    assert sizes == [ROWS // RAMP, 4, 8, 16, 4 * ROWS]


class Elsewhere(EventHandler):
    """Its destination cannot be asked."""

    async def handle(self, batch: Batch) -> None: ...

    @property
    def checkpoints(self) -> DestinationCheckpoints | None:
        raise RuntimeError("not now")


@pytest.mark.parametrize(
    ("handler", "options", "own", "expected"),
    [
        (SqliteHandler("events.db"), {}, {}, BACKLOG_BATCHES),
        (SqliteHandler("events.db"), {"batch_rows": 1_000}, {}, 1),
        (SqliteHandler("events.db"), {}, {"batch_bytes": 1_000}, 1),
        (SqliteHandler("events.db"), {"batching": "tick"}, {}, 1),
        (Elsewhere(), {}, {}, 1),
    ],
)
def test_batches_grow_where_nothing_was_said_of_them_and_a_transaction_takes_them(
    handler: EventHandler, options: dict[str, Any], own: dict[str, Any], expected: int
) -> None:
    subscriptions = Subscriptions(EventRecorderOptions(**options), has_log=True)

    subscriptions.register(handler, name="it", types=None, start="earliest", on_new_destination="pause", **own)

    assert subscriptions["it"].settings.backlog_batches == expected
