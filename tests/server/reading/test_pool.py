"""Questions to a destination: bounded, cancelled where they are put, on connections that are used again."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import anyio
import anyio.abc
import anyio.lowlevel
import pytest

from eventrec import EventReader, HandlerURLError, PauseError, PermanentError, TransientError
from eventrec.server import ServerOptions
from eventrec.server.reading.pool import Pool
from eventrec.server.reading.workers import BusyError, SlowError, Workers
from eventrec.server.refusals import RefusedError

Client = Any


class Owned:
    """What belongs to one task: it holds a task group from `open` to `close`, which no other task may leave."""

    made = 0
    is_open = False

    def __init__(self) -> None:
        Owned.made += 1
        self._tasks = anyio.create_task_group()

    async def open(self) -> None:
        await self._tasks.__aenter__()
        self.is_open = True

    async def close(self) -> None:
        if self.is_open:
            self.is_open = False
            await self._tasks.__aexit__(None, None, None)


@pytest.fixture(autouse=True)
def _made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Owned, "made", 0)


async def test_questions_of_many_tasks_share_few_connections_that_belong_to_one_task_each() -> None:
    workers: Workers[Owned] = Workers(Owned, limit=3, seconds=20)
    now, most = 0, 0

    async def question(store: Owned) -> bool:
        nonlocal now, most
        now += 1
        most = max(most, now)
        await anyio.lowlevel.checkpoint()
        now -= 1
        return store.is_open

    answers: list[bool] = []

    async def ask() -> None:
        answers.append(await workers.ask(question))

    async with anyio.create_task_group() as tasks:
        for _ in range(40):
            tasks.start_soon(ask)
    await ask()
    await workers.close()

    assert answers == [True] * 41
    assert most == Owned.made == 3


async def test_a_question_beyond_its_time_is_cancelled_and_those_behind_it_are_put() -> None:
    workers: Workers[Owned] = Workers(Owned, limit=1, seconds=1.0)
    ended: list[str] = []

    async def endless(store: Owned) -> None:
        try:
            await anyio.sleep_forever()
        finally:
            ended.append("endless")

    with pytest.raises(SlowError):
        await workers.ask(endless)

    assert ended == ["endless"]
    assert await workers.ask(_is_open)
    assert Owned.made == 1
    await workers.close()


async def test_a_question_whose_request_is_cancelled_is_cancelled() -> None:
    workers: Workers[Owned] = Workers(Owned, limit=1, seconds=20)
    begun, ended = anyio.Event(), anyio.Event()

    async def endless(store: Owned) -> None:
        begun.set()
        try:
            await anyio.sleep_forever()
        finally:
            ended.set()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(workers.ask, endless)
        await begun.wait()
        tasks.cancel_scope.cancel()
    with anyio.fail_after(60):
        await ended.wait()

    assert await workers.ask(_is_open)
    await workers.close()


async def test_a_question_that_waits_too_long_for_its_turn_is_told_so() -> None:
    workers: Workers[Owned] = Workers(Owned, limit=1, seconds=0.2)
    release, errors = anyio.Event(), []

    async def stubborn(store: Owned) -> None:
        with anyio.CancelScope(shield=True):
            await release.wait()

    async def ask(question: Any) -> None:
        try:
            await workers.ask(question)
        except Exception as exc:  # noqa: BLE001 - it is looked at
            errors.append(type(exc))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(ask, stubborn)
        await anyio.wait_all_tasks_blocked()
        await ask(_is_open)
        release.set()

    assert errors == [BusyError]
    assert await workers.ask(_is_open)
    await workers.close()


async def test_a_connection_that_fails_is_tried_again_by_the_next_question() -> None:
    failures = [OSError("one"), OSError("two")]

    class Failing(Owned):
        async def open(self) -> None:
            if failures:
                raise failures.pop(0)
            await super().open()

    workers: Workers[Owned] = Workers(Failing, limit=1, seconds=20)

    for said in ("one", "two"):
        with pytest.raises(OSError, match=said):
            await workers.ask(_is_open)

    assert await workers.ask(_is_open)
    await workers.close()


async def test_closing_cancels_what_is_asked_and_disconnects_and_a_later_question_starts_again() -> None:
    workers: Workers[Owned] = Workers(Owned, limit=1, seconds=20)
    owned: list[Owned] = []
    refused = []

    async def endless(store: Owned) -> None:
        owned.append(store)
        await anyio.sleep_forever()

    async def ask() -> None:
        try:
            await workers.ask(endless)
        except BusyError as exc:
            refused.append(exc)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(ask)
        tasks.start_soon(ask)
        await anyio.wait_all_tasks_blocked()
        await workers.close()

    assert len(refused) == 2
    assert not owned[0].is_open
    assert await workers.ask(_is_open)
    await workers.close()


def test_several_loops_may_use_it_one_after_the_other_and_at_once() -> None:
    workers: Workers[Owned] = Workers(Owned, limit=1, seconds=20)
    found: list[bool] = []

    def run(backend: str) -> None:
        async def ask() -> None:
            found.append(await workers.ask(_is_open))

        anyio.run(ask, backend=backend)

    threads = [threading.Thread(target=run, args=(backend,)) for backend in ("asyncio", "trio", "asyncio")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    run("asyncio")

    assert found == [True] * 4


async def test_a_worker_without_questions_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("eventrec.server.reading.workers.IDLE_SECONDS", 0.01)
    workers: Workers[Owned] = Workers(Owned, limit=1, seconds=20)
    owned: list[Owned] = []

    async def keep(store: Owned) -> None:
        owned.append(store)

    await workers.ask(keep)
    with anyio.fail_after(60):
        while owned[0].is_open:  # noqa: ASYNC110 - it says so itself alone
            await anyio.sleep(0.01)

    assert await workers.ask(_is_open)
    assert Owned.made == 2
    await workers.close()


async def _is_open(store: Owned) -> bool:
    return store.is_open


# -- a destination that cannot be read


@pytest.mark.parametrize(
    ("error", "status", "said", "after"),
    [
        (TransientError("no route"), 503, "the destination cannot be read now: no route", "1"),
        (TransientError("busy", retry_after=7.2), 503, "the destination cannot be read now: busy", "8"),
        (PauseError("no such database"), 503, "until an operator acts: no such database", None),
        (PermanentError("odd"), 503, "the destination cannot be read: odd", None),
        (SlowError(), 504, "the destination took longer than 30 s: ask for less", None),
        (BusyError(), 503, "all readers of the destination are busy", "1"),
    ],
)
async def test_what_a_destination_raises_is_said_to_who_has_asked(
    error: Exception, status: int, said: str, after: str | None
) -> None:
    pool = Pool("sqlite:///nothing.db", None, ServerOptions())

    async def fail(reader: EventReader) -> None:
        raise error

    with pytest.raises(RefusedError) as refused:
        await pool.read(fail)
    await pool.close()

    assert (refused.value.status, refused.value.headers.get("Retry-After")) == (status, after)
    assert said in refused.value.detail


async def test_a_file_that_is_not_there_is_503(client_of: Callable[..., Client], tmp_path: Any) -> None:
    missing = await client_of(f"sqlite:///{tmp_path / 'none' / 'none.db'}").get("/rollups/orders_per_hour")

    assert missing.status == 503
    assert "none.db" in missing.detail


async def test_a_destination_that_answers_no_rollups_says_so(client_of: Callable[..., Client], tmp_path: Any) -> None:
    client = client_of(f"jsonl:///{tmp_path / 'lines'}")

    assert (await client.get("/rollups/orders_per_hour")).status == 501
    assert (await client.get("/events")).status in {200, 503}


@pytest.mark.parametrize("url", ["nothing://x", "sqlite:///x.db?colour=red", "otlp://127.0.0.1:1", "no url"])
def test_what_cannot_be_read_is_refused_at_the_start(client_of: Callable[..., Client], url: str) -> None:
    with pytest.raises(HandlerURLError):
        client_of(url)


async def test_a_file_that_no_writer_here_makes_is_still_503(client_of: Callable[..., Client], tmp_path: Any) -> None:
    missing = await client_of(f"sqlite:///{tmp_path / 'mistyped.db'}").get("/events")

    assert missing.status == 503
    assert "there is no such file" in missing.detail
