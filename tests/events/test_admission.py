"""Which events of a type are taken: samples and rates."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Sequence
from enum import Enum
from typing import Annotated, Any, ClassVar
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventrec import (
    Column,
    ColumnSchema,
    ColumnType,
    Event,
    EventModel,
    EventRecorder,
    EventRecorderOptions,
    EventStruct,
    Hashed,
    RateLimit,
    ReceivedEvent,
    Row,
    Sampling,
)
from eventrec.events.admission import Admission, Windows, is_sampled
from eventrec.events.encoder import Encoder
from eventrec.events.privacy_plans import Privacy

IN, OUT = "user 7", "user 3"
RATE = 0.3


def test_the_two_keys_of_these_tests_are_what_they_are_called() -> None:
    """The decision is a format: it must never change, or users drop out of running samples."""
    assert is_sampled(IN.encode(), RATE)
    assert not is_sampled(OUT.encode(), RATE)


def encoder(sample: Sampling, **limits: RateLimit) -> Encoder:
    return Encoder(privacy=Privacy(salt=b"s", admission=Admission({"visit": sample}, limits)))


class Visit(EventModel):
    user_id: str


class VisitOfColumn(EventModel, type="visit"):
    user_id: Annotated[str, Column(), Hashed()]


class VisitStruct(EventStruct):
    type: ClassVar[str] = "visit"
    user_id: str


class VisitPlain(Event):
    def __init__(self, payload: object, rows: Sequence[Row] = ()) -> None:
        self.given, self.rows = payload, rows

    @property
    def type(self) -> str:
        return "visit"

    @property
    def payload(self) -> object:
        return self.given

    def extra_schema(self) -> Sequence[ColumnSchema]:
        return (ColumnSchema("user_id", ColumnType.STRING),) if self.rows else ()

    def extra_rows(self) -> Sequence[Row]:
        return self.rows or ((),)


class VisitAttribute(Event):
    def __init__(self, user_id: str) -> None:
        self.user_id = user_id

    @property
    def type(self) -> str:
        return "visit"


class VisitMaker:
    def __init__(self, user_id: str) -> None:
        self.user_id = user_id

    def to_event(self) -> Event:
        return VisitPlain({"user_id": self.user_id})


@pytest.mark.parametrize(
    "make",
    [
        lambda key: Visit(user_id=key),
        lambda key: VisitOfColumn(user_id=key),
        lambda key: VisitStruct(user_id=key),
        lambda key: VisitPlain({"user_id": key}),
        lambda key: VisitPlain(None, [(key,)]),
        VisitAttribute,
        VisitMaker,
        lambda key: ReceivedEvent("visit", b'{"user_id": "%s"}' % key.encode()),
        lambda key: ReceivedEvent("visit", b"null", context=b'{"user_id": "%s"}' % key.encode()),
    ],
)
def test_the_key_is_found_wherever_an_event_has_it(make: Any) -> None:
    encode = encoder(Sampling(rate=RATE, key="user_id")).encode

    assert isinstance(encode(make(IN)), tuple)
    assert encode(make(OUT)) == "sampled"


def test_the_key_may_stand_inside_another_field_and_in_the_context() -> None:
    inside = encoder(Sampling(rate=RATE, key="user.id")).encode
    around = Encoder(
        context=lambda: b'{"user_id": "user 3"}',
        privacy=Privacy(admission=Admission({"visit": Sampling(rate=RATE, key="user_id")})),
    ).encode

    assert inside(VisitPlain({"user": {"id": OUT}})) == "sampled"
    assert isinstance(inside(VisitPlain({"user": {"id": IN}})), tuple)
    assert around(VisitPlain({"a": 1})) == "sampled"


@pytest.mark.parametrize("payload", [None, {}, {"user_id": None}, {"user_id": ["a"]}, "text", {"user": 5}])
def test_an_event_without_the_key_is_taken(payload: object) -> None:
    assert isinstance(encoder(Sampling(rate=0, key="user_id")).encode(VisitPlain(payload)), tuple)


def test_other_types_are_taken() -> None:
    class Other(Event):
        pass

    assert isinstance(encoder(Sampling(rate=0)).encode(Other()), tuple)


@given(st.text(), st.floats(0, 1), st.floats(0, 1))
def test_what_is_in_a_share_is_in_a_larger_one(key: str, one: float, other: float) -> None:
    encoded = key.encode("utf-8", "surrogatepass")
    low, high = sorted((one, other))

    assert is_sampled(encoded, low) <= is_sampled(encoded, high)
    assert is_sampled(encoded, 1.0)
    assert not is_sampled(encoded, 0.0)


def test_the_share_is_about_what_was_asked() -> None:
    taken = sum(is_sampled(b"%d" % number, 0.1) for number in range(10_000))

    assert 850 <= taken <= 1_150


class Which(Enum):
    FIVE = 5


def test_keys_of_other_kinds() -> None:
    decide = Admission({"visit": Sampling(rate=0.5, key="k")}).refusal
    identifier = UUID("7b0c4f3e-4c8f-4c7f-9b52-0d0d3c3e2f11")

    def refusal(value: object) -> object:
        return decide("visit", lambda _: value)

    assert refusal(5) == refusal("5") == refusal(Which.FIVE)
    assert refusal(identifier) == refusal(str(identifier))
    assert len({refusal(value) for value in (1.5, True, b"x", 10**5_000, "\ud800", -1, 2)}) == 2


def test_a_sample_without_a_key_is_drawn() -> None:
    drawn = iter([0.0, 0.29, 0.3, 0.99])
    admission = Admission({"visit": Sampling(rate=0.3)}, chance=lambda: next(drawn))

    assert [admission.refusal("visit", lambda _: None) for _ in range(4)] == [None, None, "sampled", "sampled"]


def test_another_process_decides_alike() -> None:
    code = (
        "from eventrec.events.admission import is_sampled; print([n for n in range(50) if is_sampled(b'%d' % n, 0.3)])"
    )

    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)

    assert said.stdout.strip() == str([n for n in range(50) if is_sampled(b"%d" % n, 0.3)])


# -- rates


class Clock:
    def __init__(self) -> None:
        self.seconds = 1_000.0

    def __call__(self) -> float:
        return self.seconds


def test_so_many_in_each_period() -> None:
    clock = Clock()
    windows = Windows(RateLimit(count=3, period=10), clock)

    first = [windows.has_room() for _ in range(5)]
    clock.seconds += 9.9
    late = windows.has_room()
    clock.seconds += 0.1
    second = [windows.has_room() for _ in range(5)]
    clock.seconds += 1_000
    third = windows.has_room()

    assert first == [True, True, True, False, False]
    assert not late
    assert second == first
    assert third
    assert len(windows._counters) <= 2


def test_none_at_all() -> None:
    assert not Windows(RateLimit(count=0, period=1), Clock()).has_room()


def test_many_threads_get_exactly_as_many() -> None:
    clock = Clock()
    windows = Windows(RateLimit(count=1_000, period=1), clock)
    taken: list[int] = []
    begin = threading.Barrier(8)

    def ask() -> None:
        begin.wait()
        taken.append(sum(windows.has_room() for _ in range(1_000)))

    for _ in range(3):
        threads = [threading.Thread(target=ask) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        clock.seconds += 1

    assert [sum(taken[start : start + 8]) for start in (0, 8, 16)] == [1_000, 1_000, 1_000]


def test_what_is_sampled_out_does_not_count_against_the_rate() -> None:
    admission = Admission({"visit": Sampling(rate=RATE, key="k")}, {"visit": RateLimit(count=1, period=1)}, now=Clock())

    assert admission.refusal("visit", lambda _: OUT) == "sampled"
    assert admission.refusal("visit", lambda _: IN) is None
    assert admission.refusal("visit", lambda _: IN) == "rate_limited"


def test_a_refusal_is_decided_before_anything_is_encoded() -> None:
    class Costly(Event):
        @property
        def type(self) -> str:
            return "visit"

        @property
        def payload(self) -> object:
            return {"never": object()}

    assert encoder(Sampling(rate=0)).encode(Costly()) == "sampled"


async def test_each_refusal_is_counted_by_its_reason(caplog: pytest.LogCaptureFixture) -> None:
    options = EventRecorderOptions(sample={"visit": Sampling(rate=RATE, key="user_id")}, rate_limits={"visit": "2/d"})
    async with EventRecorder("memory://", options=options) as recorder:
        results = [recorder.record(Visit(user_id=key)) for key in (OUT, IN, IN, IN, IN, OUT)]
        status = recorder.status()

    assert results == [False, True, True, False, False, False]
    assert status.refused == {"sampled": 2, "rate_limited": 2}
    assert status.is_balanced
    lines = [record.getMessage() for record in caplog.records if "rate_limited" in record.getMessage()]
    assert len(lines) <= 1
    assert not [record for record in caplog.records if "sampled" in record.getMessage()]
