"""What a handler has to say while it delivers."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import pytest

from eventrec import Batch, EventHandler, EventRecorder
from eventrec.runtime.logging import MAX_TEXT
from eventrec.testing.scripted import Numbered


class Remarking(EventHandler):
    """Delivers, and has something to say."""

    def __init__(self, said: Sequence[str] | BaseException) -> None:
        self.said = said

    @property
    def remarks(self) -> Sequence[str]:
        if isinstance(self.said, BaseException):
            raise self.said
        return self.said

    async def handle(self, batch: Batch) -> None:
        pass


async def test_remarks_are_reasons_of_health_and_leave_it_ready() -> None:
    handler = Remarking(["old rows stay"])

    async with EventRecorder(handler) as recorder:
        recorder.record(Numbered(1))
        assert await recorder.flush(timeout=5)
        health = recorder.status().health
        handler.said = ()
        after = recorder.status().health

    assert (health.ready, health.reasons) == (True, ("Remarking: old rows stay",))
    assert (after.ready, after.reasons) == (True, ())


@pytest.mark.parametrize(
    "said", [RuntimeError("odd"), SystemExit(3), GeneratorExit(), BaseExceptionGroup("x", [SystemExit()]), [None], None]
)
async def test_remarks_that_fail_stop_nothing(said: object) -> None:
    async with EventRecorder(Remarking(said)) as recorder:  # type: ignore[arg-type]
        recorder.record(Numbered(1))
        assert await recorder.flush(timeout=5)

        assert recorder.status().health.ready


async def test_a_remark_can_be_encoded_and_has_a_bound() -> None:
    class Odd:
        def __str__(self) -> str:
            raise SystemExit(3)

    said = ["no access to caf\udce9", "x" * 10_000_000, Odd(), "the last one"]

    async with EventRecorder(Remarking(said)) as recorder:  # type: ignore[arg-type]
        status = recorder.status()

    odd, long, silent, last = status.subscriptions["Remarking"].remarks
    assert (odd, silent, last) == (r"no access to caf\udce9", "Odd", "the last one")
    assert long == "x" * MAX_TEXT + "… (10,000,000 characters)"
    assert "".join(status.health.reasons).encode()


async def test_remarks_without_end_are_shown_in_part() -> None:
    async with EventRecorder(Remarking(itertools.repeat("more"))) as recorder:  # type: ignore[arg-type]
        status = recorder.status()

    assert set(status.subscriptions["Remarking"].remarks) == {"more"}


async def test_ctrl_c_while_a_handler_is_asked_for_its_remarks_is_the_callers() -> None:
    handler = Remarking(KeyboardInterrupt())

    async with EventRecorder(handler) as recorder:
        with pytest.raises(KeyboardInterrupt):
            recorder.status()
        handler.said = ()
