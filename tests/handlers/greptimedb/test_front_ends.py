from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import anyio.to_thread
import grpc
import pytest

from eventrec import Batch, Event, PermanentError, TransientError
from eventrec_handlers.greptimedb.frontends import FrontEnd, FrontEnds
from eventrec_handlers.greptimedb.options import CallOptions

pytestmark = pytest.mark.handlers

Batches = Callable[..., Batch]
Events = Callable[..., Event]

EMPTY = bytes.fromhex("3200")
"""A request without rows."""


class Clock:
    """Stands still until it is moved."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Draw:
    """Draws the first, and notes between which."""

    def __init__(self) -> None:
        self.between: list[list[str]] = []

    def __call__(self, front_ends: Sequence[FrontEnd]) -> FrontEnd:
        self.between.append([one.address for one in front_ends])
        return front_ends[0]


def address(server: Any) -> str:
    return f"127.0.0.1:{server.port}"


async def test_calls_are_spread_over_all_front_ends(
    make_server: Any, opened: Any, batch: Batches, event: Events
) -> None:
    servers = [make_server() for _ in range(3)]
    handler = await opened(*servers)

    for _ in range(60):
        await handler.handle(batch(event()))

    counts = [len(server.received) for server in servers]
    assert sum(counts) == 60
    assert min(counts) > 0  # all but one time in ten thousand million


async def test_batch_goes_to_another_front_end_where_one_is_gone(
    make_server: Any, opened: Any, batch: Batches, event: Events
) -> None:
    gone, here = make_server(), make_server()
    await anyio.to_thread.run_sync(gone.close)
    handler = await opened(gone, here)

    for _ in range(20):
        await handler.handle(batch(event()))

    assert len(here.received) == 20


async def test_front_end_that_is_gone_is_left_out_for_longer_each_time_and_comes_back(make_server: Any) -> None:
    first, second = make_server(), make_server()
    clock, draw = Clock(), Draw()
    front_ends = FrontEnds(
        [address(first), address(second)], CallOptions(timeout=20), where="here", draw=draw, clock=clock
    )
    await front_ends.open()
    port = first.port
    await anyio.to_thread.run_sync(first.close)
    both, rest = [address(first), address(second)], [address(second)]

    for seconds in (0, 0.9, 0.2, 1.9, 0.2):  # out at 0 for 1 s, at 1.1 for 2 s, at 3.2 for 4 s
        clock.now += seconds
        await front_ends.call(EMPTY, ())
    assert draw.between == [both, rest, rest, both, rest, rest, both, rest]

    make_server(port=port)
    clock.now += 4.1
    draw.between.clear()
    for _ in range(2):
        await front_ends.call(EMPTY, ())
    await front_ends.close()

    assert draw.between == [both, both]


async def test_where_all_are_gone_each_is_asked_once_and_it_is_transient(
    make_server: Any, opened: Any, batch: Batches, event: Events
) -> None:
    servers = [make_server() for _ in range(3)]
    for server in servers:
        await anyio.to_thread.run_sync(server.close)
    handler = await opened(*servers)

    for _ in range(2):
        with pytest.raises(TransientError, match="UNAVAILABLE"):
            await handler.handle(batch(event()))


async def test_what_the_database_says_is_not_asked_of_another_front_end(
    make_server: Any, opened: Any, batch: Batches, event: Events
) -> None:
    """They have one storage behind them: what one cannot write the others cannot either."""
    servers = [make_server() for _ in range(3)]
    for server in servers:
        trailers = (("x-greptime-err-code", "4010"),)
        server.refuse_all(status=grpc.StatusCode.UNAVAILABLE, trailers=trailers)
    handler = await opened(*servers)

    with pytest.raises(TransientError, match="4010"):
        await handler.handle(batch(event()))

    assert sum(len(server.received) for server in servers) == 1


async def test_refused_rows_are_refused_by_one(make_server: Any, opened: Any, batch: Batches, event: Events) -> None:
    servers = [make_server() for _ in range(3)]
    for server in servers:
        server.refuse_all(1004)
    handler = await opened(*servers)

    with pytest.raises(PermanentError):
        await handler.handle(batch(event()))

    assert sum(len(server.received) for server in servers) == 1


async def test_front_end_that_hangs_is_left_out_afterwards(make_server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("eventrec_handlers.greptimedb.frontends.FIRST_ABSENCE", 1_000.0)
    monkeypatch.setattr("eventrec_handlers.greptimedb.frontends.LONGEST_ABSENCE", 1_000.0)
    hanging, here = make_server(), make_server()
    hanging.acts.append(hanging.hang)
    draw = Draw()
    front_ends = FrontEnds([address(hanging), address(here)], CallOptions(timeout=0.3), where="here", draw=draw)
    await front_ends.open()

    with pytest.raises(TransientError, match="DEADLINE_EXCEEDED"):
        await front_ends.call(EMPTY, ())
    front_ends._options = CallOptions(timeout=20)  # what is not hanging may still be slow, on a busy machine
    for _ in range(5):
        await front_ends.call(EMPTY, ())
    await front_ends.close()

    assert len(here.received) == 5
    assert draw.between[1:] == [[address(here)]] * 5


async def test_server_that_comes_back_is_reached_by_the_next_call(
    make_server: Any, opened: Any, batch: Batches, event: Events
) -> None:
    server = make_server()
    handler = await opened(server)
    await handler.handle(batch(event()))
    await anyio.to_thread.run_sync(server.close)
    with pytest.raises(TransientError):
        await handler.handle(batch(event()))

    again = make_server(port=server.port)
    await handler.handle(batch(event()))

    assert len(again.received) == 1
