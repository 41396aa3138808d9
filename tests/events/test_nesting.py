"""What pydantic would change, or end the process for, is refused before it is asked."""

from __future__ import annotations

import subprocess
import sys
import threading
from datetime import UTC, datetime, timedelta, timezone
from typing import Annotated, Any

import pytest
from pydantic import BaseModel, ConfigDict, Field, computed_field, field_serializer

from eventrec import Column, ColumnType, EventModel
from eventrec.errors import EncodeError
from eventrec.events.encoder import Encoder
from eventrec.events.nesting import MAX_LEVELS, SAFE_LEVELS, levels_on_this_stack, refuse_unserializable
from eventrec.records.entry import PAYLOAD

ODD = timezone(timedelta(hours=1, seconds=15))


class Fine(datetime):
    nanosecond = 789


class FineSpan(timedelta):
    nanoseconds = 7


class Inner(BaseModel):
    model_config = ConfigDict(arbitrary_types_allowed=True)
    at: Any


class Anything(EventModel):
    v: Any


class Moment(EventModel):
    v: datetime | None


class Span(EventModel):
    v: timedelta


class Holding(EventModel):
    v: list[Inner]


class Open(EventModel):
    model_config = ConfigDict(extra="allow")


class Computed(EventModel):
    @computed_field  # type: ignore[prop-decorator]
    @property
    def v(self) -> datetime:
        return datetime(2024, 1, 1, tzinfo=ODD)


class Columned(EventModel):
    v: Annotated[datetime, Column()]
    w: Annotated[dict[str, Any], Column()]


def nested(levels: int) -> object:
    value: object = []
    for _ in range(levels):
        value = [value]
    return value


MOMENT = datetime(2024, 1, 1, tzinfo=ODD)
FINE = Fine(2024, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    "event",
    [
        Moment(v=MOMENT),
        Anything(v=MOMENT),
        Anything(v={MOMENT: 1}),
        Anything(v=[{"a": MOMENT}]),
        Holding(v=[Inner(at={"b": (MOMENT,)})]),
        Open.model_validate({"v": MOMENT}),
        Computed(),
        Moment(v=FINE),
        Anything(v=[FINE]),
        Holding(v=[Inner(at=FINE)]),
        Span(v=FineSpan(1)),
        Anything(v=FineSpan(1)),
    ],
    ids=repr,
)
def test_model_never_says_another_time(event: EventModel) -> None:
    with pytest.raises(EncodeError, match=r"UTC offset|nanoseconds"):
        Encoder().encode(event)


def test_times_that_json_can_say_pass() -> None:
    entry = Encoder().encode(Anything(v=[datetime(2024, 1, 1, tzinfo=UTC), timedelta(seconds=1), None]))

    assert not isinstance(entry, str)
    assert entry[PAYLOAD] == b'{"v":["2024-01-01T00:00:00Z","PT1S",null]}'


def test_column_keeps_an_instant_that_json_cannot_say() -> None:
    entry = Encoder().encode(Columned(v=MOMENT, w={}))

    assert not isinstance(entry, str)


def test_nesting_within_the_limit_passes_and_beyond_it_is_refused() -> None:
    refuse_unserializable([nested(MAX_LEVELS - 2)])

    with pytest.raises(EncodeError, match="nested deeper than 250 levels"):
        refuse_unserializable([nested(MAX_LEVELS + 2)])


def test_value_that_holds_itself_is_refused() -> None:
    around: list[object] = []
    around.append({"again": around})

    with pytest.raises(EncodeError, match="nested deeper"):
        refuse_unserializable([around])


def test_value_that_stands_in_many_places_is_looked_at_once_a_level() -> None:
    shared: object = []
    for _ in range(60):
        shared = [shared, shared]

    refuse_unserializable([shared])  # 2^60 paths


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux says how large a stack is")
def test_small_stack_allows_fewer_levels() -> None:
    found: dict[int, int] = {}
    before = threading.stack_size()
    try:
        for size in (32, 128, 512):
            threading.stack_size(size * 1024)
            thread = threading.Thread(target=lambda size=size: found.update({size: levels_on_this_stack()}))
            thread.start()
            thread.join()
    finally:
        threading.stack_size(before)

    assert found[32] == SAFE_LEVELS < found[128] < found[512]


DEEP = """
import sys, threading
from typing import Any
from eventrec import Column, EventModel, EventRecorder, EventStruct, Event
from typing import Annotated

class Model(EventModel):
    v: Any

class Columned(EventModel):
    v: Annotated[list[Any], Column()]

class Struct(EventStruct):
    v: Any

class Plain(Event):
    def __init__(self, v):
        self.v = v
    @property
    def payload(self):
        return self.v

recorder = EventRecorder("memory:")
deep = []
for _ in range(int(sys.argv[2])):
    deep = [deep]
events = [Model(v=deep), Columned(v=deep), Struct(v=deep), Plain(deep)]
threading.stack_size(int(sys.argv[1]) * 1024)
thread = threading.Thread(target=lambda: print([recorder.record(event) for event in events]))
thread.start()
thread.join()
"""


@pytest.mark.parametrize("kibibytes", [64, 128, 256])
@pytest.mark.parametrize("levels", [200, 3_000])
def test_deep_payload_never_ends_the_process(kibibytes: int, levels: int) -> None:
    done = subprocess.run(
        [sys.executable, "-c", DEEP, str(kibibytes), str(levels)], capture_output=True, text=True, check=False
    )

    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("[")


class Keyed(EventModel):
    v: dict[int | str, str]


class Noted(EventModel):
    v: Annotated[Any, Column(ColumnType.JSON)] = None


@pytest.mark.parametrize(
    ("cls", "keys"),
    [(Anything, (1, "1")), (Anything, ("true", True)), (Keyed, (1, "1")), (Open, (1, "1")), (Noted, (1, "1"))],
)
def test_keys_that_json_writes_alike_are_refused(cls: type[EventModel], keys: tuple[Any, Any]) -> None:
    event = cls.model_validate({"v": dict.fromkeys(keys, "x")})

    with pytest.raises(EncodeError, match=r"keys.* JSON can tell (1 )?apart"):
        Encoder(types=None, context=lambda: None, now=lambda: 0).encode(event)


def test_keys_that_are_not_written_as_they_stand_are_no_reason() -> None:
    class Cached(EventModel):
        number: int
        cache: dict[Any, int] = Field(exclude=True)

    class Listed(EventModel):
        pairs: dict[Any, int]

        @field_serializer("pairs")
        def as_list(self, value: dict[Any, int]) -> list[int]:
            return list(value.values())

    encode = Encoder(types=None, context=lambda: None, now=lambda: 0).encode
    for event, payload in (
        (Cached(number=1, cache={1: 1, "1": 2}), b'{"number":1}'),
        (Listed(pairs={1: 1, "1": 2}), b'{"pairs":[1,2]}'),
    ):
        entry = encode(event)
        assert isinstance(entry, tuple)
        assert entry[PAYLOAD] == payload


@pytest.mark.parametrize("value", [{1: "a", 2: "b"}, {1: "a", "2": "b"}, {"1": "a", "2": "b"}])
def test_keys_that_json_tells_apart_are_written(value: dict[Any, str]) -> None:
    for cls in (Anything, Keyed):
        entry = Encoder(types=None, context=lambda: None, now=lambda: 0).encode(cls(v=value))
        assert isinstance(entry, tuple)
        assert entry[PAYLOAD] == b'{"v":{"1":"a","2":"b"}}'
