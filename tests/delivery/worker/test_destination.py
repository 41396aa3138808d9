"""The handler as a worker uses it: opened once, asked when that is uncertain, closed once."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from uuid import UUID

import anyio
import pytest

from eventrec import Batch, DestinationCheckpoints, EventHandler
from eventrec.delivery.sources.memory import MemorySource
from eventrec.delivery.subscription import Subscription
from eventrec.delivery.worker.destination import Destination, is_true
from eventrec.delivery.worker.health import HoldError, Outage, SubscriptionHealth
from eventrec.delivery.worker.ledger import Ledger
from eventrec.delivery.worker.piece import Piece

ID = UUID(int=7)


@dataclass
class Scripted(EventHandler, DestinationCheckpoints):
    """Notes what is asked of it."""

    id: str = "the database"
    next: int | None = None
    fails_at: str = ""
    calls: list[str] = field(default_factory=list)

    def _note(self, call: str) -> None:
        self.calls.append(call)
        if call == self.fails_at:
            raise ValueError(call)

    @property
    def checkpoints(self) -> DestinationCheckpoints:
        return self

    async def open(self) -> None:
        self._note("open")

    async def handle(self, batch: Batch) -> None:
        self._note("handle")

    async def close(self) -> None:
        self._note("close")

    async def destination_id(self) -> str:
        self._note("id")
        return self.id

    async def resume(self, log_id: UUID, subscription: str, start: int) -> int:
        self._note(f"resume at {start}")
        return start if self.next is None else self.next

    async def retire(self, log_id: UUID, subscription: str, end: int) -> None:
        self._note(f"retire at {end}")


@pytest.fixture
def handler() -> Scripted:
    return Scripted()


@pytest.fixture
def ledger(subscription: Subscription, source: MemorySource) -> Ledger:
    return Ledger(subscription, source, checkpoint=None, on_drop=lambda *_: None, on_reread=lambda _: None)


@pytest.fixture
def destination(subscription: Subscription, handler: Scripted, ledger: Ledger) -> Destination:
    return Destination(subscription, ID, handler, ledger, SubscriptionHealth("s", lambda: None, Outage()))


async def ready(destination: Destination) -> int | None:
    answer = await destination.get_ready()
    destination.note_ready()
    return answer


async def test_it_is_opened_and_asked_once_while_all_goes_well(
    destination: Destination, handler: Scripted, ledger: Ledger, piece: Callable[..., Piece]
) -> None:
    answers = [await ready(destination), await ready(destination)]
    await destination.handle(piece(0).as_batch(ID, "s", 0))
    answers.append(await ready(destination))

    assert answers == [0, None, None]
    assert handler.calls == ["open", "id", "resume at 0", "handle"]
    assert (ledger.destination, destination.is_uncertain) == ("the database", False)


async def test_after_a_failure_it_is_asked_again(
    destination: Destination, handler: Scripted, piece: Callable[..., Piece]
) -> None:
    await ready(destination)
    handler.fails_at = "handle"

    with pytest.raises(ValueError, match="handle"):
        await destination.handle(piece(0).as_batch(ID, "s", 0))

    assert destination.is_uncertain
    handler.calls.clear()
    await ready(destination)
    assert handler.calls == ["id", "resume at 0"]


@pytest.mark.parametrize("fails_at", ["open", "id", "resume at 0"])
async def test_what_fails_on_the_way_is_done_again(destination: Destination, handler: Scripted, fails_at: str) -> None:
    handler.fails_at = fails_at
    with pytest.raises(ValueError, match=fails_at):
        await destination.get_ready()
    handler.fails_at = ""
    handler.calls.clear()

    await ready(destination)

    assert handler.calls == ["open", "id", "resume at 0"][1 if fails_at != "open" else 0 :]


async def test_an_answer_that_was_not_taken_in_is_asked_for_again(destination: Destination, handler: Scripted) -> None:
    await destination.get_ready()  # and `note_ready` is not called
    handler.calls.clear()

    await ready(destination)

    assert handler.calls == ["id", "resume at 0"]


async def test_it_is_closed_once_also_where_opening_failed_half_way(
    destination: Destination, handler: Scripted
) -> None:
    await destination.close()
    assert handler.calls == []
    handler.fails_at = "open"
    with pytest.raises(ValueError, match="open"):
        await destination.get_ready()

    await destination.close()
    await destination.close()

    assert handler.calls == ["open", "close"]
    await destination.close(is_last=True)
    assert handler.calls == ["open", "close", "close"]


async def test_a_close_that_fails_is_a_line_in_the_logging(
    destination: Destination, handler: Scripted, caplog: pytest.LogCaptureFixture
) -> None:
    handler.fails_at = "close"
    await ready(destination)

    await destination.close()

    assert "handler failed to close" in caplog.text
    handler.calls.clear()
    await ready(destination)
    assert handler.calls[0] == "open"


async def test_another_destination_waits_for_a_decision_which_counts_once(
    destination: Destination, handler: Scripted, ledger: Ledger
) -> None:
    await ready(destination)
    ledger.cursor.seek(6)
    ledger.settle(Piece(6), delivered=0)
    handler.id = "another"
    destination.is_uncertain = True

    with pytest.raises(HoldError, match="destination changed"):
        await destination.get_ready()
    destination.decide("latest")
    await ready(destination)

    assert handler.calls[-1] == "resume at 6"
    assert ledger.destination == "another"
    handler.id = "a third"
    destination.is_uncertain = True
    with pytest.raises(HoldError, match="destination changed"):
        await destination.get_ready()


async def test_a_decision_outlives_an_answer_that_is_lost(
    destination: Destination, handler: Scripted, ledger: Ledger
) -> None:
    await ready(destination)
    handler.id, handler.fails_at = "another", "resume at 0"
    destination.is_uncertain = True
    destination.decide("earliest")

    with pytest.raises(ValueError, match="resume"):
        await destination.get_ready()

    assert ledger.destination == "the database"
    handler.fails_at = ""
    await ready(destination)
    assert ledger.destination == "another"


async def test_an_answer_past_the_end_holds_and_is_asked_for_again_later(
    destination: Destination, handler: Scripted
) -> None:
    handler.next = 11

    with pytest.raises(HoldError, match="the destination is at 11, and the log ends at 10") as held:
        await destination.get_ready()

    assert held.value.hold.slowly
    handler.next = 10
    assert await ready(destination) == 10


async def test_a_handler_of_another_process_is_never_used(
    destination: Destination, handler: Scripted, piece: Callable[..., Piece]
) -> None:
    destination.abandon()

    await destination.close(is_last=True)

    assert handler.calls == []
    assert not destination.prepares


async def test_in_the_child_of_a_fork_the_parents_handler_is_neither_opened_nor_given_a_batch(
    destination: Destination, handler: Scripted, piece: Callable[..., Piece]
) -> None:
    destination.abandon()

    for wait in (destination.get_ready, lambda: destination.handle(piece(0).as_batch(ID, "s", 0))):
        with anyio.move_on_after(3600) as waited:
            await wait()
        assert waited.cancelled_caught
    assert handler.calls == []


async def test_what_it_is_says_whether_it_is_open_and_sure(destination: Destination) -> None:
    said = [repr(destination)]
    await destination.get_ready()
    said.append(repr(destination))
    destination.note_ready()
    said.append(repr(destination))

    assert said == [f"<Destination of 's' {state}>" for state in ("closed", "uncertain", "ready")]


async def test_a_handler_that_cannot_say_something_of_itself_does_not_say_it(caplog: pytest.LogCaptureFixture) -> None:
    class Unsure(Scripted):
        @property
        def dedupes_by_token(self) -> bool:  # type: ignore[override]
            raise SystemExit(3)

    assert not is_true(Unsure(), "dedupes_by_token")
    assert "handler failed" in caplog.text


@pytest.mark.parametrize(
    ("said", "seconds"),
    [(None, math.inf), (5, 5.0), (0, 1.0), (-1.0, 1.0), (math.inf, math.inf), (math.nan, math.inf), ("soon", math.inf)],
)
async def test_while_there_is_nothing_to_send_it_is_asked_once_a_second_at_most(
    subscription: Subscription, ledger: Ledger, said: float | None, seconds: float
) -> None:
    class Impatient(Scripted):
        @property
        def idle_check_seconds(self) -> float | None:
            return said

    destination = Destination(subscription, ID, Impatient(), ledger, SubscriptionHealth("s", lambda: None, Outage()))
    await ready(destination)

    assert destination.idle_check_seconds == seconds


async def test_one_that_keeps_no_checkpoints_is_not_told_of_the_end(subscription: Subscription, ledger: Ledger) -> None:
    class Forgetful(Scripted):
        @property
        def checkpoints(self) -> DestinationCheckpoints:
            return None  # type: ignore[return-value]

    handler = Forgetful()

    await Destination(subscription, ID, handler, ledger, SubscriptionHealth("s", lambda: None, Outage())).retire(3)

    assert handler.calls == []
