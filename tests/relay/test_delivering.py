from __future__ import annotations

import json
import sqlite3
import time
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import anyio.to_thread
import pytest

from eventrec import Batch, EventRecorder, OptionsError, PauseError, PermanentError
from eventrec.bus import MemoryBus, MemoryStore
from eventrec.cli import main
from eventrec.runs.requests import OperatorRequest, save_request
from eventrec.testing.relays import QUICK, numbered
from eventrec.testing.scripted import FencedHandler, Numbered, ScriptedHandler, raising, refusing

NAME = "tested"


async def test_records_of_a_bus_reach_the_handler_once_and_in_order(store: MemoryStore, relay: Any) -> None:
    store.append(numbered(0, 50))
    handler = ScriptedHandler()

    async with relay(handler, name=NAME) as recorder:
        store.append(numbered(50, 100))
        assert await recorder.flush(60)
        status = recorder.status()

    assert handler.delivered == list(range(100))
    assert (status.subscriptions[NAME].delivered, status.subscriptions[NAME].pending) == (100, 0)
    assert [(part.kind, part.state, part.healthy) for part in status.relay] == [("subscription", "serving", True)]
    assert status.phases["insert"].times == len(handler.batches)


@dataclass(frozen=True)
class FrozenError(PermanentError):
    """Nothing can be set on it, as on any dataclass that is frozen."""

    why: str
    records: dict[int, str]


async def test_a_frozen_refusal_names_its_records(store: MemoryStore, relay: Any) -> None:
    store.append(numbered(0, 3))

    def refuse(batch: Batch) -> None:
        if len(batch) > 1:
            raise FrozenError("400", {batch.offsets[1]: "odd"})

    handler = ScriptedHandler([refuse])

    async with relay(handler, name=NAME) as recorder:
        assert await recorder.flush(60)
        part = recorder.status().subscriptions[NAME]

    assert handler.delivered == [0, 2]
    assert (part.delivered, part.dead) == (2, 1)


async def test_another_relay_goes_on_where_one_was_closed(store: MemoryStore, relay: Any) -> None:
    handlers = [ScriptedHandler(), ScriptedHandler()]
    for number, handler in enumerate(handlers):
        store.append(numbered(10 * number, 10 * number + 10))
        async with relay(handler, name=NAME) as recorder:
            assert await recorder.flush(60)
            account = recorder.status().relay[0].account

    assert [handler.delivered for handler in handlers] == [list(range(10)), list(range(10, 20))]
    assert account is not None
    assert (account.delivered, account.end) == (20, 20)


async def test_rows_are_in_the_database_once_under_their_own_ids(
    store: MemoryStore, relay: Any, tmp_path: Path
) -> None:
    path = tmp_path / "x.db"
    for start in (0, 300):
        store.append(numbered(start, start + 300))
        async with relay(f"sqlite:///{path}") as recorder:
            assert await recorder.flush(60)

    with closing(sqlite3.connect(path)) as database:
        rows = database.execute("SELECT id, payload FROM events ORDER BY rowid").fetchall()
    assert [json.loads(payload)["number"] for _, payload in rows] == list(range(600))
    assert rows[7][0] == "00000000-0000-8000-8000-000000000007"


async def test_logs_are_delivered_the_oldest_first(store: MemoryStore, relay: Any) -> None:
    store.append(numbered(0, 10))
    store.shards[0].seal()
    store.append(numbered(10, 20))
    store.shards[0].seal(lost=2)
    store.append(numbered(20, 30))
    handler = ScriptedHandler()

    async with relay(handler, name=NAME) as recorder:
        assert await recorder.flush(60)
        store.shards[0].seal()
        store.append(numbered(30, 40))
        assert await recorder.flush(60)
        status = recorder.status()

    assert handler.delivered == [*range(18), *range(20, 40)]
    assert status.subscriptions[NAME].delivered == 38
    assert len(store.shards[0].held.logs) == 1


async def test_what_all_have_settled_is_trimmed(store: MemoryStore, relay: Any, until: Any) -> None:
    store.append(numbered(0, 10))

    async with relay(ScriptedHandler(), name=NAME) as recorder:
        assert await recorder.flush(60)
        (log,) = store.shards[0].held.logs.values()
        await until(lambda: log.oldest == 10)


async def test_subscription_that_begins_with_what_comes_skips_what_is_there(store: MemoryStore, relay: Any) -> None:
    store.append(numbered(0, 10))
    store.shards[0].seal()
    store.append(numbered(10, 20))
    handler = ScriptedHandler()

    async with relay(handler, name=NAME, start="latest") as recorder:
        assert await recorder.flush(60)
        store.append(numbered(20, 25))
        assert await recorder.flush(60)
    store.append(numbered(25, 30))
    async with relay(handler, name=NAME, start="latest") as recorder:
        assert await recorder.flush(60)

    assert handler.delivered == list(range(20, 30))


def is_serving(recorder: EventRecorder) -> bool:
    return [part.state for part in recorder.status().relay] == ["serving"]


async def test_subscription_that_begins_with_what_comes_gets_all_of_each_log_that_begins_later(
    store: MemoryStore, relay: Any, until: Any
) -> None:
    handler = ScriptedHandler()

    async with relay(handler, name=NAME, start="latest") as recorder:
        await until(lambda: is_serving(recorder))
        store.append(numbered(0, 10))
        assert await recorder.flush(60)
        store.shards[0].seal()
        store.append(numbered(10, 20))
        assert await recorder.flush(60)
    store.shards[0].seal()
    store.append(numbered(20, 30))
    async with relay(handler, name=NAME, start="latest") as recorder:
        assert await recorder.flush(60)

    assert handler.delivered == list(range(30))


async def test_relay_that_has_seen_no_record_yet_is_known_to_the_next_one(
    store: MemoryStore, relay: Any, until: Any
) -> None:
    async with relay(ScriptedHandler(), name=NAME, start="latest") as recorder:
        await until(lambda: is_serving(recorder))
    store.append(numbered(0, 10))
    handler = ScriptedHandler()

    async with relay(handler, name=NAME, start="latest") as recorder:
        assert await recorder.flush(60)

    assert handler.delivered == list(range(10))


async def test_what_was_dropped_before_a_relay_looked_is_lost_to_those_who_were_known(
    store: MemoryStore, relay: Any, until: Any
) -> None:
    known, new = ScriptedHandler(), ScriptedHandler()

    async with relay(known, name=NAME) as recorder:
        await until(lambda: is_serving(recorder))
        log_id = store.append(numbered(0, 10))
        store.shards[0].trim_all(log_id, 7)
        assert await recorder.flush(60)
        part = recorder.status().subscriptions[NAME]
    async with relay(new, name="another") as recorder:
        assert await recorder.flush(60)
        other = recorder.status().subscriptions["another"]

    assert (known.delivered, part.dropped) == ([7, 8, 9], {"overflow": 7})
    assert other.dropped == {}


async def test_types_that_are_not_wanted_are_filtered(store: MemoryStore, relay: Any) -> None:
    store.append(numbered(0, 10))
    store.append(numbered(10, 20, kind="other"))
    handler = ScriptedHandler()

    async with relay(handler, name=NAME, types=["other"]) as recorder:
        assert await recorder.flush(60)
        part = recorder.status().subscriptions[NAME]

    assert handler.delivered == list(range(10, 20))
    assert (part.delivered, part.filtered) == (10, 10)


async def test_what_is_recorded_at_the_relay_itself_goes_to_the_handler_directly(
    store: MemoryStore, relay: Any
) -> None:
    store.append(numbered(0, 10))
    handler = ScriptedHandler()

    async with relay(handler, name=NAME) as recorder:
        recorder.record(Numbered(500))
        assert await recorder.flush(60)
        part = recorder.status().subscriptions[NAME]

    assert sorted(handler.delivered) == [*range(10), 500]
    assert (part.delivered, part.pending) == (11, 0)


async def test_what_the_bus_dropped_unread_is_counted_as_lost(store: MemoryStore, relay: Any) -> None:
    handler = ScriptedHandler()
    async with relay(handler, name=NAME) as recorder:
        store.append(numbered(0, 5))
        assert await recorder.flush(60)
    log_id = store.append(numbered(5, 20))
    store.shards[0].trim_all(log_id, 8)
    store.shards[0].remove(log_id, [10, 11, 19])

    async with relay(handler, name=NAME) as recorder:
        assert await recorder.flush(60)
        part = recorder.status().subscriptions[NAME]

    assert handler.delivered == [*range(5), 8, 9, *range(12, 19)]
    assert part.dropped == {"overflow": 6}
    assert part.delivered == 9


async def test_log_that_the_bus_lost_as_a_whole_is_counted_as_lost(store: MemoryStore, relay: Any, until: Any) -> None:
    handler = ScriptedHandler(acts=[raising(PauseError("not now"))])
    async with relay(handler, name=NAME, batch_rows=5) as recorder:
        store.append(numbered(0, 9_000))
        await until(lambda: recorder.status().subscriptions[NAME].held)
        held = store.shards[0].held
        held.logs.clear()
        held.saved.clear()
        store.append(numbered(9_000, 9_010))
        await until(lambda: recorder.status().subscriptions[NAME].held)
        recorder.resume(NAME)
        await until(lambda: len(handler.delivered) > 0 and handler.delivered[-1] == 9_009)
        assert await recorder.flush(60)
        part = recorder.status().subscriptions[NAME]

    assert part.dropped["lost"] + part.delivered == 9_010
    assert len(handler.delivered) == part.delivered


async def test_refused_record_is_a_dead_letter_of_the_relay(
    store: MemoryStore, relay: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store.append(numbered(0, 20))
    handler = ScriptedHandler(always=refusing([7], lambda: PermanentError("number 7 is not wanted")))
    async with relay(handler, name=NAME, log=tmp_path / "log") as recorder:
        assert await recorder.flush(60)
        status = recorder.status()

    assert sorted(handler.delivered) == [*range(7), *range(8, 20)]
    assert (status.subscriptions[NAME].dead, status.subscriptions[NAME].delivered) == (1, 19)
    assert status.health.reasons == (f"{NAME}: 1 dead letter",)
    assert await anyio.to_thread.run_sync(main, ["dead", "list", str(tmp_path / "log"), "--json"]) == 0
    assert "number 7 is not wanted" in capsys.readouterr().out


async def test_paused_subscription_is_red_and_goes_on_when_it_is_resumed(
    store: MemoryStore, relay: Any, until: Any
) -> None:
    store.append(numbered(0, 10))
    handler = ScriptedHandler(acts=[raising(PauseError("no rights"))] * 3)

    async with relay(handler, name=NAME) as recorder:
        await until(lambda: recorder.status().subscriptions[NAME].held)
        assert not recorder.status().health.ready
        assert not await recorder.flush(10)
        handler.acts.clear()
        recorder.resume(NAME)
        assert await recorder.flush(60)
        assert recorder.status().health.ready

    assert handler.delivered == list(range(10))


async def test_records_that_wait_for_days_are_a_reason_of_health(store: MemoryStore, relay: Any, until: Any) -> None:
    store.append(numbered(0, 10))

    async with relay(ScriptedHandler(always=raising(PauseError("no rights"))), name=NAME) as recorder:
        await until(lambda: recorder.status().subscriptions[NAME].held)

        assert f"{NAME} on memory: records wait for more than 3 days" in recorder.status().health.reasons


async def test_operator_resumes_a_relay_through_its_log_directory(
    store: MemoryStore, relay: Any, until: Any, tmp_path: Path
) -> None:
    store.append(numbered(0, 10))
    handler = ScriptedHandler(acts=[raising(PauseError("no rights"))] * 3)

    async with relay(handler, name=NAME, log=tmp_path / "log") as recorder:
        await until(lambda: recorder.status().subscriptions[NAME].held)
        handler.acts.clear()
        request = OperatorRequest(subscription=NAME, asked=time.time())
        await anyio.to_thread.run_sync(save_request, tmp_path / "log", request)
        await until(lambda: handler.delivered == list(range(10)))


async def test_destination_that_went_back_is_sent_again_what_the_bus_keeps(store: MemoryStore, relay: Any) -> None:
    handler = FencedHandler()
    log_id = store.append(numbered(0, 10))
    async with relay(handler, name=NAME) as recorder:
        assert await recorder.flush(60)

    handler.next[log_id, NAME] = 4
    store.append(numbered(10, 20))
    async with relay(handler, name=NAME) as recorder:
        assert await recorder.flush(60)
        part = recorder.status().subscriptions[NAME]

    # All that was settled is trimmed by now: it is counted, and what follows is delivered.
    assert handler.delivered == list(range(20))
    assert part.rewound == 6


async def test_what_was_delivered_is_told_by_project_to_who_listens(store: MemoryStore, relay: Any, until: Any) -> None:
    async def refuse(verb: str) -> None:
        if verb == "notify" and not is_heard:
            refused.append(verb)
            raise ZeroDivisionError(verb)

    refused: list[str] = []
    is_heard, store.arriving = False, refuse
    handler = ScriptedHandler()
    async with relay(handler, name=NAME, relay=replace(QUICK, project="number")) as recorder:
        store.append(numbered(0, 3))
        assert await recorder.flush(60)
        await until(lambda: refused)
        is_heard = True
        store.append([*numbered(3, 5), *numbered(4, 5)])
        await until(lambda: len(store.notices) == 2)

    told = {(channel, message) for channel, message in store.notices}
    assert told == {
        ("event:saved", b'{"subscription":"tested","project":"3","count":1}'),
        ("event:saved", b'{"subscription":"tested","project":"4","count":2}'),
    }


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"bus": MemoryBus()}, "a relay needs a directory"),
        ({"stages": ["sessions"]}, "need a bus"),
        ({"relay": QUICK}, "need a bus"),
        ({"bus": MemoryBus(), "log": "x", "stages": ["none:such"]}, "the stage 'none:such' cannot be loaded"),
        ({"bus": MemoryBus(), "log": "x", "stages": ["none"]}, "no stage 'none'"),
        ({"bus": MemoryBus(), "log": "x", "stages": ["eventrec.testing.relays:QUICK"]}, "is not a stage"),
    ],
)
def test_relay_that_cannot_be_is_refused_where_it_is_made(given: dict[str, Any], said: str) -> None:
    with pytest.raises(OptionsError, match=said):
        EventRecorder(ScriptedHandler(), **given)
