from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import pytest

from eventrec.bus import MemoryBus, MemoryStore, Output, Records
from eventrec.relay import RelayOptions
from eventrec.testing.relays import ABOVE, Doubling, Shelf, number_of, numbered
from eventrec.testing.scripted import ScriptedHandler

NAME = "tested"


async def test_what_a_stage_gives_out_is_delivered_once_across_relays(store: MemoryStore, relay: Any) -> None:
    handler = ScriptedHandler()
    for start in (0, 50):
        store.append(numbered(start, start + 50))
        async with relay(handler, name=NAME, stages=[Doubling()]) as recorder:
            assert await recorder.flush(60)
            stage, part = recorder.status().relay

    assert sorted(handler.delivered) == [*range(100), *range(ABOVE, ABOVE + 100)]
    assert (stage.name, stage.processed, stage.counts, stage.pending) == ("stage:doubling", 50, {"doubled": 50}, 0)
    assert part.shard == "memory/doubling"
    assert recorder.status().phases["process"].times >= 1
    async with MemoryBus(store) as bus:
        assert list(await (await bus.shards())[0].state("doubling", ["count"])) == [b"100"]


async def test_stages_follow_each_other(store: MemoryStore, relay: Any) -> None:
    handler = ScriptedHandler()
    store.append(numbered(0, 10))

    async with relay(handler, name=NAME, stages=[Doubling(), Shelf(seconds=0.0)]) as recorder:
        assert await recorder.flush(60)
        parts = [(part.kind, part.shard) for part in recorder.status().relay]

    assert parts == [("stage", "memory"), ("stage", "memory/doubling"), ("subscription", "memory/doubling/shelf")]
    assert set(handler.delivered) <= {*range(10), *range(ABOVE, ABOVE + 10)}


async def test_keys_come_out_when_their_time_is_over_however_many_they_are(
    store: MemoryStore, relay: Any, until: Any
) -> None:
    handler = ScriptedHandler()
    few = RelayOptions(lease_seconds=5.0, save_seconds=0.01, due_seconds=0.02, due_rows=7)
    store.append(numbered(0, 100))

    async with relay(handler, name=NAME, stages=[Shelf(seconds=600.0)], relay=few) as recorder:
        assert await recorder.flush(60)
        assert handler.delivered == []
        store.advance(601.0)
        await until(lambda: len(handler.delivered) == 100)

    assert sorted(handler.delivered) == list(range(100))


@dataclass
class Touched(Shelf):
    """Counts how often a record was on the shelf when it came again, and when its time was over."""

    again: int = 0
    over: int = 0

    def keys(self, log_id: UUID, records: Records) -> Sequence[str]:
        return [str(number_of(entry)) for entry in records.entries]

    def process(self, log_id: UUID, records: Records, state: Mapping[str, bytes | None], now: float) -> Output:
        self.again += sum(kept is not None for kept in state.values())
        return super().process(log_id, records, state, now)

    def expire(self, due: Mapping[str, bytes], now: float) -> Output:
        self.over += len(due)
        return super().expire(due, now)


async def test_what_came_while_no_relay_ran_comes_before_what_became_due_meanwhile(
    store: MemoryStore, relay: Any
) -> None:
    stage = Touched(seconds=600.0)
    few = RelayOptions(lease_seconds=5.0, save_seconds=0.01, due_seconds=0.01, batch_rows=3)
    store.append(numbered(0, 10))
    async with relay(ScriptedHandler(), name=NAME, stages=[stage], relay=few) as recorder:
        assert await recorder.flush(60)
    store.advance(601.0)
    store.append(numbered(0, 10))

    async with relay(ScriptedHandler(), name=NAME, stages=[stage], relay=few) as recorder:
        assert await recorder.flush(60)

    assert (stage.again, stage.over) == (10, 0)


async def test_stage_that_fails_on_a_record_holds_there_and_skips_nothing(
    store: MemoryStore, relay: Any, until: Any
) -> None:
    handler, stage = ScriptedHandler(), Doubling(bad={37})
    store.append(numbered(0, 100))

    async with relay(handler, name=NAME, stages=[stage]) as recorder:
        await until(lambda: len(handler.delivered) == 2 * 37)
        await until(lambda: recorder.status().relay[0].held)
        status = recorder.status()
        assert status.relay[0].state.startswith("holding: stage 'doubling' failed on records 37 to 37 of ")
        assert "cannot digest [37]" in status.relay[0].state
        assert not status.health.ready
        assert not await recorder.flush(10)
        called = stage.called
        stage.bad.clear()
        recorder.resume(NAME)
        assert await recorder.flush(60)

    assert called < 40
    assert sorted(handler.delivered) == [*range(100), *range(ABOVE, ABOVE + 100)]


@dataclass
class Strange(Doubling):
    """Gives back what is no output, or what the bus cannot keep."""

    answer: object = None

    def process(self, log_id: UUID, records: Records, state: Mapping[str, bytes | None], now: float) -> Output:
        return self.answer  # type: ignore[return-value]

    def expire(self, due: Mapping[str, bytes], now: float) -> Output:
        raise SystemExit(1)


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (Output(entries=["x"]), "it passes on str, not an entry"),  # type: ignore[list-item]
        (Output(state={"k": "text"}), "its state under 'k' is str, not bytes"),  # type: ignore[dict-item]
        (Output(state={"\udc80": b""}), "UnicodeEncodeError"),
        (Output(state={"k": b""}, deadlines={"k": float("nan")}), "the deadline of 'k' is nan"),
    ],
)
async def test_output_that_no_bus_can_keep_is_the_failure_of_the_stage(
    store: MemoryStore, relay: Any, until: Any, answer: Output, said: str
) -> None:
    store.append(numbered(0, 1))

    async with relay(ScriptedHandler(), name=NAME, stages=[Strange(answer=answer)]) as recorder:
        await until(lambda: bool(recorder.status().relay) and recorder.status().relay[0].held)

        assert said in recorder.status().relay[0].state


async def test_stage_that_gives_back_no_output_holds(store: MemoryStore, relay: Any, until: Any) -> None:
    store.append(numbered(0, 3))

    async with relay(ScriptedHandler(), name=NAME, stages=[Strange()]) as recorder:
        await until(lambda: bool(recorder.status().relay) and recorder.status().relay[0].held)

        assert "it answered NoneType, not an Output" in recorder.status().relay[0].state


async def test_stage_that_would_end_the_process_holds(store: MemoryStore, relay: Any, until: Any) -> None:
    store.append(numbered(0, 3))
    answer = Output(state={"key": b"1"}, deadlines={"key": 0.0})

    async with relay(ScriptedHandler(), name=NAME, stages=[Strange(answer=answer)]) as recorder:
        await until(lambda: bool(recorder.status().relay) and recorder.status().relay[0].held)

        assert "1 keys whose time is over, 'key' first" in recorder.status().relay[0].state


async def test_notices_of_a_stage_are_told_after_its_step(store: MemoryStore, relay: Any) -> None:
    store.append(numbered(0, 3))
    answer = Output(notices={"event:received": [b"1", b"2"]})

    async with relay(ScriptedHandler(), name=NAME, stages=[Strange(answer=answer)]) as recorder:
        assert await recorder.flush(60)

    assert store.notices == [("event:received", b"1"), ("event:received", b"2")]


@pytest.mark.parametrize("verb", ["progress", "logs", "read", "state", "time", "commit", "due", "acquire"])
async def test_anything_that_the_bus_throws_is_an_outage_of_the_stage(
    store: MemoryStore, relay: Any, until: Any, verb: str
) -> None:
    handler = ScriptedHandler()
    left = 2

    async def fail(called: str) -> None:
        nonlocal left
        if called == verb and left:
            left -= 1
            raise ZeroDivisionError(f"{verb} by zero")

    store.arriving = fail
    store.append(numbered(0, 20))

    async with relay(handler, name=NAME, stages=[Doubling()]) as recorder:
        await until(lambda: len(handler.delivered) == 40)
        assert await recorder.flush(60)

    assert not left
    assert sorted(handler.delivered) == [*range(20), *range(ABOVE, ABOVE + 20)]
