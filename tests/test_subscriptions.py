"""What `register` was told: names, settings, and what a handler inherits."""

from __future__ import annotations

from collections.abc import Awaitable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from eventrec import (
    Batch,
    EventHandler,
    EventRecorder,
    EventRecorderOptions,
    OptionsError,
    SubscriptionError,
)
from eventrec.subscriptions import Subscriptions
from eventrec.testing.scripted import Numbered, ScriptedHandler, quickly
from eventrec_handlers.postgres import PostgresHandler


class Keeping(EventHandler):
    """Remembers which ttl it inherited."""

    ttl: float | None = None

    def inherit_ttl(self, seconds: float) -> None:
        self.ttl = seconds

    async def handle(self, batch: Batch) -> None:
        pass


def registered(options: EventRecorderOptions, handler: EventHandler) -> Subscriptions:
    subscriptions = Subscriptions(options, has_log=False)
    subscriptions.register(handler, name=None, types=None, start="earliest", on_new_destination="pause")
    return subscriptions


def test_a_name_defaults_to_the_class_of_the_handler() -> None:
    subscriptions = registered(EventRecorderOptions(), Keeping())

    assert subscriptions.names == ["Keeping"]
    assert [each.name for each in subscriptions] == ["Keeping"]


def test_a_handler_inherits_the_ttl_of_the_recorder_in_seconds() -> None:
    handler = Keeping()
    registered(EventRecorderOptions(ttl="90d"), handler)

    assert handler.ttl == 90 * 86_400


def test_without_a_ttl_a_handler_is_told_of_none() -> None:
    handler = Keeping()
    EventRecorder(handler)

    assert handler.ttl is None


def test_a_ttl_of_its_own_stays() -> None:
    own, inheriting = (PostgresHandler("postgresql://localhost/a", ttl=ttl) for ttl in (60.0, None))
    for handler in (own, inheriting):
        registered(EventRecorderOptions(ttl=5), handler)

    assert own._expiry._ttl == 60
    assert inheriting._expiry._ttl == 5


def test_a_ttl_of_zero_is_refused() -> None:
    with pytest.raises(ValidationError, match="a ttl is more than zero"):
        EventRecorderOptions(ttl=0)


@pytest.mark.parametrize(
    ("given", "named"),
    [
        (Keeping, "the class Keeping, not an instance"),
        (None, "None"),
        (Keeping().handle, "bound method Keeping.handle"),
        (b"sqlite:///x.db", "b'sqlite:///x.db'"),
        ([Keeping()], "Keeping object"),
    ],
)
def test_what_is_not_a_handler_is_refused_when_it_is_given(given: object, named: str, tmp_path: Path) -> None:
    for log in (None, tmp_path):
        with pytest.raises(SubscriptionError, match=named):
            EventRecorder(given, log=log)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"start": "lastest"}, "start is one of earliest, latest, got 'lastest'"),
        ({"start": None}, "start is one of"),
        ({"start": ["latest"]}, "start is one of"),
        ({"on_new_destination": "erliest"}, "on_new_destination is one of pause, earliest, latest"),
        ({"types": [5]}, "texts, got 5"),
        ({"types": 5}, "a collection of event types, got 5"),
        ({"types": [["order"]]}, "texts, got"),
    ],
)
def test_what_is_misspelt_is_refused(wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(SubscriptionError, match=said):
        EventRecorder().register(Keeping(), **wrong)


@pytest.mark.parametrize("wrong", [{}, 0, 5, "ttl", EventRecorderOptions])
def test_options_of_another_kind_are_refused(wrong: Any) -> None:
    with pytest.raises(OptionsError, match="EventRecorderOptions"):
        EventRecorder(options=wrong)


class Plain(EventHandler):
    """Forgot `async`."""

    def __init__(self) -> None:
        self.calls = 0

    def handle(self, batch: Batch) -> None:  # type: ignore[override]
        self.calls += 1


@pytest.mark.anyio
@pytest.mark.parametrize("kind", ["log", "memory"])
async def test_a_handler_that_is_not_a_coroutine_function_is_called_once_and_held(kind: str, tmp_path: Path) -> None:
    handler = Plain()
    recorder = EventRecorder(handler, log=tmp_path if kind == "log" else None, options=quickly())
    await recorder.open()
    recorder.record(Numbered(0))

    assert await recorder.flush(timeout=5) is False
    assert recorder.status().subscriptions["Plain"].state == (
        "paused: Plain.handle gave back NoneType: write `async def handle`"
    )
    await recorder.close(0)
    assert handler.calls == 1


class Wrapping(EventHandler):
    """Its `handle` is a plain function that gives back what can be awaited."""

    def __init__(self, inner: EventHandler) -> None:
        self._send = partial(inner.handle)

    def handle(self, batch: Batch) -> Awaitable[None]:  # type: ignore[override]
        return self._send(batch)


@pytest.mark.anyio
async def test_a_handle_that_gives_back_an_awaitable_delivers() -> None:
    inner = ScriptedHandler()
    async with EventRecorder(Wrapping(inner), options=quickly()) as recorder:
        recorder.record(Numbered(0))
        assert await recorder.flush(timeout=60)

    assert inner.delivered == [0]


@pytest.mark.anyio
async def test_flush_is_false_once_the_recorder_is_closed() -> None:
    recorder = EventRecorder(ScriptedHandler(), options=quickly())
    await recorder.open()
    recorder.record(Numbered(0))
    await recorder.close()

    assert await recorder.flush() is False
