import contextvars
import json
import math
import threading
from dataclasses import dataclass
from typing import Any

import anyio
import pytest

from eventrec.errors import EncodeError
from eventrec.records.context import ContextFields


def fields_of(context: ContextFields) -> dict[str, Any] | None:
    encoded = context.encoded()
    return None if encoded is None else json.loads(encoded)


def test_outside_any_block_there_are_no_fields() -> None:
    assert ContextFields().encoded() is None


def test_fields_hold_inside_the_block_alone() -> None:
    context = ContextFields()

    with context.bound({"user": 7, "tags": ["a"]}):
        inside = fields_of(context)

    assert (inside, context.encoded()) == ({"user": 7, "tags": ["a"]}, None)


def test_inner_block_adds_and_hides_and_gives_back() -> None:
    context = ContextFields()

    with context.bound({"a": 1, "b": 1}):
        with context.bound({"b": 2, "c": 2}):
            inner = fields_of(context)
        outer = fields_of(context)

    assert (inner, outer) == ({"a": 1, "b": 2, "c": 2}, {"a": 1, "b": 1})


def test_block_may_begin_again_once_it_has_ended_and_not_before() -> None:
    context = ContextFields()
    block = context.bound({"a": 1})

    for _ in range(2):
        with block:
            with pytest.raises(RuntimeError, match="has begun already"), block:
                pass
            assert fields_of(context) == {"a": 1}

    assert context.encoded() is None


def test_block_that_fails_gives_back_too() -> None:
    context = ContextFields()

    with pytest.raises(ZeroDivisionError), context.bound({"a": 1}):
        raise ZeroDivisionError

    assert context.encoded() is None


def test_block_without_fields_has_none() -> None:
    context = ContextFields()

    with context.bound({}):
        assert context.encoded() is None


def test_two_recorders_do_not_share_fields() -> None:
    one, other = ContextFields(), ContextFields()

    with one.bound({"a": 1}):
        assert (fields_of(one), fields_of(other)) == ({"a": 1}, None)


@pytest.mark.parametrize("value", [math.nan, b"raw", object(), "\ud800"], ids=lambda value: repr(value)[:8])
def test_field_that_is_no_json_value_is_refused_on_entering(value: object) -> None:
    context = ContextFields()

    with pytest.raises(EncodeError), context.bound({"a": value}):
        pytest.fail("entered")

    assert context.encoded() is None


def test_what_changes_a_value_afterwards_changes_no_field() -> None:
    context = ContextFields()
    tags = ["a"]

    with context.bound({"tags": tags}):
        tags.append("b")

        assert fields_of(context) == {"tags": ["a"]}


async def test_tasks_inherit_fields_and_do_not_see_those_of_each_other() -> None:
    context = ContextFields()
    seen: dict[str, object] = {}

    async def serve(name: str) -> None:
        with context.bound({"request": name}):
            await anyio.lowlevel.checkpoint()
            seen[name] = fields_of(context)

    with context.bound({"app": 1}):
        async with anyio.create_task_group() as tasks:
            for name in ("a", "b"):
                tasks.start_soon(serve, name)
        seen["outside"] = fields_of(context)

    assert seen == {
        "a": {"app": 1, "request": "a"},
        "b": {"app": 1, "request": "b"},
        "outside": {"app": 1},
    }


async def test_worker_thread_of_a_task_sees_the_fields_of_the_task() -> None:
    context = ContextFields()

    with context.bound({"a": 1}):
        seen = await anyio.to_thread.run_sync(fields_of, context)

    assert seen == {"a": 1}


def test_thread_has_the_fields_it_is_given() -> None:
    context = ContextFields()
    seen: list[object] = []

    def look() -> None:
        seen.append(fields_of(context))

    with context.bound({"a": 1}):
        copied = contextvars.copy_context()
        threads = [
            threading.Thread(target=contextvars.Context().run, args=(look,)),
            threading.Thread(target=copied.run, args=(look,)),
        ]
        for thread in threads:
            thread.start()
            thread.join()

    assert seen == [None, {"a": 1}]


@dataclass(frozen=True)
class FrozenError(Exception):
    why: str


def test_what_is_raised_inside_comes_out_as_it_is() -> None:
    context = ContextFields()

    with pytest.raises(FrozenError, match="refused"), context.bound({"a": 1}):
        raise FrozenError("refused")

    assert fields_of(context) is None


def test_each_call_of_a_decorated_function_is_a_block() -> None:
    context = ContextFields()
    seen: list[object] = []

    @context.bound({"a": 1})
    def look(times: int) -> None:
        if times:
            look(times - 1)
        seen.append(fields_of(context))

    look(2)

    assert seen == [{"a": 1}] * 3
    assert fields_of(context) is None


# -- blocks that end elsewhere


def test_a_block_may_end_in_another_context_than_it_began_in() -> None:
    context = ContextFields()
    elsewhere = contextvars.copy_context()
    block = context.bound({"user": "ada"})

    elsewhere.run(block.__enter__)
    assert elsewhere.run(fields_of, context) == {"user": "ada"}
    block.__exit__(None, None, None)

    assert elsewhere.run(fields_of, context) is None
    assert fields_of(context) is None


def test_fields_of_a_block_that_ended_elsewhere_are_in_no_block_around_or_within() -> None:
    context = ContextFields()
    with context.bound({"tenant": "t1"}):
        elsewhere = contextvars.copy_context()
        block, inner = context.bound({"user": "ada", "tenant": "t2"}), context.bound({"step": 1})
        elsewhere.run(block.__enter__)
        elsewhere.run(inner.__enter__)
        assert elsewhere.run(fields_of, context) == {"tenant": "t2", "user": "ada", "step": 1}

        block.__exit__(None, None, None)

        assert elsewhere.run(fields_of, context) == {"tenant": "t1", "step": 1}
        assert fields_of(context) == {"tenant": "t1"}


def test_a_task_that_was_started_inside_a_block_keeps_its_fields() -> None:
    context = ContextFields()
    with context.bound({"user": "ada"}):
        copied = contextvars.copy_context()

    assert copied.run(fields_of, context) == {"user": "ada"}


def test_blocks_that_overlap_are_left_in_any_order() -> None:
    context = ContextFields()
    first, second = context.bound({"a": 1}), context.bound({"b": 2})
    first.__enter__()
    second.__enter__()

    first.__exit__(None, None, None)
    assert fields_of(context) == {"b": 2}
    second.__exit__(None, None, None)

    assert fields_of(context) is None
