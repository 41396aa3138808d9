from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import anyio
import pytest

from eventrec import EventRecorderOptions, OptionsError, PauseError, RecorderStateError
from eventrec.bus import MemoryBus, MemoryStore
from eventrec.relay import RelayOptions
from eventrec.relay.plan import RelayPlan
from eventrec.testing.relays import numbered
from eventrec.testing.scripted import ScriptedHandler

NAME = "tested"


class Odd(MemoryBus):
    """Fails to open as often as it is told."""

    errors: Sequence[BaseException] = ()
    opened = 0

    async def open(self) -> None:
        self.opened += 1
        if self.opened <= len(self.errors):
            raise self.errors[self.opened - 1]
        await super().open()

    async def shards(self) -> Sequence[Any]:
        return await super().shards()


async def test_bus_out_of_reach_is_opened_as_soon_as_it_is_back(store: MemoryStore, relay: Any, until: Any) -> None:
    store.append(numbered(0, 10))
    store.is_reachable = False
    handler = ScriptedHandler()

    async with relay(handler, name=NAME) as recorder:
        await until(lambda: bool(recorder.status().relay))
        (part,) = recorder.status().relay
        assert (part.state, part.healthy, part.held) == ("retrying: the bus is out of reach", False, False)
        assert recorder.status().health.ready
        assert recorder.status().health.reasons == ("relay on bus: retrying: the bus is out of reach",)
        store.is_reachable = True
        await until(lambda: handler.delivered == list(range(10)))
        assert await recorder.flush(60)
        assert recorder.status().health.reasons == ()


async def test_bus_that_refuses_the_relay_is_for_an_operator(store: MemoryStore, relay: Any, until: Any) -> None:
    store.append(numbered(0, 10))
    bus, handler = Odd(store), ScriptedHandler()
    bus.errors = [PauseError("NOPERM"), SystemExit(3)]

    async with relay(handler, name=NAME, bus=bus) as recorder:
        await until(lambda: bool(recorder.status().relay))
        assert recorder.status().relay[0].held
        assert not recorder.status().health.ready
        await until(lambda: handler.delivered == list(range(10)))
        assert recorder.status().health.ready


async def test_bus_that_could_not_be_opened_again_is_tried_once_more(
    store: MemoryStore, relay: Any, until: Any
) -> None:
    bus, handler, left = Odd(store), ScriptedHandler(), 1

    async def fail(verb: str) -> None:
        nonlocal left
        if verb == "acquire" and left:
            left -= 1
            bus.errors = [RuntimeError("again")] * 3
            raise ZeroDivisionError(verb)

    store.arriving = fail
    store.append(numbered(0, 10))
    async with relay(handler, name=NAME, bus=bus) as recorder:
        await until(lambda: handler.delivered == list(range(10)))
        assert await recorder.flush(60)

    assert bus.opened == 4


async def test_outage_takes_time_and_nothing_else(store: MemoryStore, relay: Any, until: Any) -> None:
    handler = ScriptedHandler()
    async with relay(handler, name=NAME) as recorder:
        store.append(numbered(0, 10))
        await until(lambda: len(handler.delivered) == 10)
        store.is_reachable = False
        store.append(numbered(10, 20))
        await until(lambda: not recorder.status().relay[0].healthy)
        assert recorder.status().relay[0].last_error == "the bus is out of reach"
        store.is_reachable = True
        assert await recorder.flush(60)
        assert recorder.status().relay[0].state == "serving"

    assert sorted(set(handler.delivered)) == list(range(20))


@pytest.mark.parametrize("verb", ["acquire", "load", "logs", "read", "wait", "save", "renew"])
async def test_anything_that_the_bus_throws_is_an_outage(store: MemoryStore, relay: Any, until: Any, verb: str) -> None:
    handler, left = ScriptedHandler(), 1

    async def fail(called: str) -> None:
        nonlocal left
        if called == verb and left:
            left -= 1
            raise ZeroDivisionError(f"{verb} by zero")

    store.arriving = fail
    store.append(numbered(0, 20))
    async with relay(handler, name=NAME) as recorder:
        await until(lambda: not left and len(set(handler.delivered)) == 20)
        assert await recorder.flush(60)
        await until(lambda: recorder.status().relay[0].healthy)

    assert set(handler.delivered) == set(range(20))


async def test_one_thing_that_is_refused_is_said_once_while_all_else_goes_through(
    store: MemoryStore, relay: Any, until: Any, caplog: pytest.LogCaptureFixture
) -> None:
    handler, refused, states = ScriptedHandler(), 0, set()

    async def refuse(verb: str) -> None:
        nonlocal refused
        if verb == "read" and refused < 5:
            refused += 1
            store.append(numbered(refused, refused + 1))  # what waits for more returns
            raise PauseError("NOPERM read")
        if verb == "logs" and 1 < refused < 5:
            states.add(recorder.status().relay[0].state)

    store.arriving = refuse
    store.append(numbered(0, 1))
    async with relay(handler, name=NAME) as recorder:
        await until(lambda: handler.delivered == list(range(6)))
        assert await recorder.flush(60)
        assert recorder.status().relay[0].state == "serving"

    assert states == {"holding: NOPERM read"}
    assert caplog.text.count("relay interrupted") == 1


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"\x00\xff", "cannot be read"),
        (b'{"version": 2}', "has version 2, this eventrec knows 1: update eventrec"),
        (b'{"version": 1, "subscription": "tested"}', "cannot be read"),
        (
            b'{"version":1,"subscription":"tested","progress":{"start":0,"acknowledged":9,"scanned":5}}',
            "contradicts itself",
        ),
    ],
)
async def test_checkpoint_that_says_nothing_holds_and_is_left_as_it_is(
    store: MemoryStore, relay: Any, until: Any, content: bytes, said: str
) -> None:
    log_id = store.append(numbered(0, 10))
    held = store.shards[0].held
    held.saved[NAME], held.scanned[NAME] = {log_id: content}, {log_id: 0}
    handler = ScriptedHandler()

    async with relay(handler, name=NAME) as recorder:
        await until(lambda: bool(recorder.status().relay) and recorder.status().relay[0].held)
        (part,) = recorder.status().relay
        assert part.state.startswith(f"holding: what the bus keeps of 'tested' and the log {log_id} ")
        assert said in part.state

    assert handler.delivered == []
    assert held.saved[NAME] == {log_id: content}


async def test_relay_closes_in_time_whatever_hangs(store: MemoryStore, relay: Any, until: Any) -> None:
    async def hang(verb: str) -> None:
        await anyio.sleep_forever()

    options = EventRecorderOptions(close_timeout=0.2)
    async with relay(ScriptedHandler(), name=NAME, options=options) as recorder:
        await until(lambda: bool(recorder.status().relay) and recorder.status().relay[0].state == "serving")
        store.arriving = hang

        with anyio.fail_after(120):
            await recorder.close()
    store.arriving = None


def test_bus_given_as_an_object_is_not_used_in_the_child_of_a_fork() -> None:
    plan = RelayPlan(given=MemoryBus(), process=1)

    with pytest.raises(RecorderStateError, match="give it by its URL"):
        plan.bus()


def test_reference_configuration_has_the_names_of_the_reference() -> None:
    environment = {"EVENT_BUFFER_BATCH_SIZE": "500", "EVENT_BUFFER_DAYS_TO_KEEP": "7"}

    assert RelayOptions.reference({}) == RelayOptions()
    assert RelayOptions.reference(environment) == RelayOptions(batch_rows=500, days_to_keep=7)
    assert (RelayOptions().batch_rows, RelayOptions().chunk_rows) == (4_000, 1_000)
    assert (RelayOptions().due_rows, RelayOptions().days_to_keep) == (1_000, 3)


@pytest.mark.parametrize("environment", [{"EVENT_BUFFER_BATCH_SIZE": "many"}, {"EVENT_BUFFER_CHUNK_SIZE": "0"}])
def test_reference_configuration_that_makes_no_sense_is_refused(environment: dict[str, str]) -> None:
    with pytest.raises(OptionsError, match=r"EVENT_BUFFER_BATCH_SIZE must be|chunk_rows of a relay"):
        RelayOptions.reference(environment)
