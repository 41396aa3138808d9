"""Rollups of what the handler has stored: the same numbers as brute force."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from random import Random

import anyio
import pytest

from eventrec import Batch, ReceivedEvent
from eventrec.analytics import Answer
from eventrec.registry import rollup_store_from_url
from eventrec.testing.clickhouse_http import ClickHouseDatabase
from eventrec.testing.rollups import assert_same_answer, random_case
from eventrec_handlers.clickhouse import ClickHouseHandler

EXAMPLES = int(os.environ.get("EVENTREC_TEST_EXAMPLES", "6"))

pytestmark = [pytest.mark.handlers, pytest.mark.timeout(240 + 8 * EXAMPLES)]


def readable(event: ReceivedEvent) -> ReceivedEvent:
    """`event` with no number beyond those of a float: of a document that has one, ClickHouse reads nothing."""
    payload, context = (
        text and text.replace(b"1e999", b"1e308").replace(b"-1e400", b"-1e308")
        for text in (event.payload, event.context)
    )
    return replace(event, payload=payload or b"", context=context)


@pytest.mark.slow
def test_random_rollups_of_stored_events_equal_brute_force(
    clickhouse: ClickHouseDatabase, batch: Callable[..., Batch]
) -> None:
    """From the events, and from views that were made and filled when some of them were there."""
    seed = Random().randrange(2**32)
    cases = [random_case(Random(seed + n), table=f"events_{n}", laid_out=True) for n in range(EXAMPLES)]
    cases = [replace(case, events=tuple(map(readable, case.events))) for case in cases]
    cases = [replace(case, plan=replace(case.plan, name=f"told_{n}")) for n, case in enumerate(cases)]
    cases = [
        replace(case, questions=tuple(replace(each, rollup=case.plan) for each in case.questions)) for case in cases
    ]
    expected = [[case.expected(question) for question in case.questions] for case in cases]
    answers: list[list[Answer]] = []
    answers_kept: list[list[Answer]] = []

    async def store_and_ask() -> None:
        handler = ClickHouseHandler(clickhouse.url())
        await handler.open()
        start = 0
        async with rollup_store_from_url(clickhouse.url()) as store:
            for case in cases:
                if case.layout is not None:
                    handler.use_layouts({case.plan.table: case.layout})
                half = len(case.events) // 2
                for events in (case.events[:half], case.events[half:]):
                    if events:
                        await handler.handle(batch(*events, start=start))
                        start += len(events)
                    await store.refresh([case.plan])
                answers.append([await store.answer(question) for question in case.questions])
                await store.refresh([case.plan])
                answers_kept.append([await store.answer(question) for question in case.questions])
        await handler.close()

    anyio.run(store_and_ask)

    for number, (found, kept, wanted) in enumerate(zip(answers, answers_kept, expected, strict=True)):
        for one, other, right in zip(found, kept, wanted, strict=True):
            try:
                assert_same_answer(one, right)
                assert_same_answer(other, right)
            except AssertionError as exc:
                exc.add_note(f"random_case(Random({seed + number}), …)")
                raise


def test_table_that_is_not_there_has_no_events(clickhouse: ClickHouseDatabase) -> None:
    question = random_case(Random(1)).questions[0]

    async def ask() -> Answer:
        async with rollup_store_from_url(clickhouse.url()) as store:
            return await store.answer(question)

    answer = anyio.run(ask)

    assert answer.rows == ()
    assert answer.complete_to is None
