"""Random rollups of random events give on ClickHouse's engine what brute force computes."""

from __future__ import annotations

import os
from dataclasses import replace
from itertools import count
from random import Random
from typing import Any, Final

import anyio
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from eventrec import ReceivedEvent, default_layout
from eventrec.testing.clickhouse import ClickHouseEngine
from eventrec.testing.rollup_events import COLUMNS
from eventrec.testing.rollups import assert_same_answer, random_case, stored_event
from eventrec_handlers.clickhouse.rollups import Columns, answer, create_table

EXAMPLES: Final = int(os.environ.get("EVENTREC_TEST_EXAMPLES", "15"))

pytestmark = [pytest.mark.handlers, pytest.mark.timeout(240 + 3 * EXAMPLES)]

_numbers = count()


def readable(event: ReceivedEvent) -> ReceivedEvent:
    """`event` with no number beyond those of a float: of a document that has one, ClickHouse reads nothing."""
    payload, context = (
        text and text.replace(b"1e999", b"1e308").replace(b"-1e400", b"-1e308")
        for text in (event.payload, event.context)
    )
    return replace(event, payload=payload or b"", context=context)


@pytest.mark.slow
def test_random_rollups_equal_brute_force(engine: ClickHouseEngine) -> None:
    """EVENTREC_TEST_EXAMPLES in the environment says how many there are."""

    async def run(sql: str) -> list[list[Any]]:
        return engine.query(sql)

    @settings(max_examples=EXAMPLES, phases=[Phase.reuse, Phase.generate])  # a smaller seed is not a smaller case
    @given(st.integers(0, 2**63))
    def check(seed: int) -> None:
        case = random_case(Random(seed), table=f"events_{next(_numbers)}")
        case = replace(case, events=tuple(map(readable, case.events)))
        layout = default_layout(case.plan.table, COLUMNS)
        engine.query(create_table(layout))
        rows = [
            {
                "id": event.id,
                "type": event.type,
                "timestamp": event.timestamp,
                "payload": event.payload,
                "context": event.context,
                **event.columns,
            }
            for event in map(stored_event, case.events)
        ]
        if rows:
            engine.insert(layout.table, rows)
        for question in case.questions:
            found = anyio.run(answer, question, Columns(layout), run)
            assert_same_answer(found, case.expected(question))
        engine.query(f"DROP TABLE {layout.table}")

    check()
