"""`policy="allowlist"`: an event with a field that no rule is about is refused."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Annotated, Any, ClassVar

import pytest
from pydantic import BaseModel

from eventrec import (
    Allowed,
    Column,
    ColumnSchema,
    ColumnType,
    Event,
    EventModel,
    EventRecorder,
    EventRecorderOptions,
    EventStruct,
    Hashed,
    ReceivedEvent,
    Redaction,
    Row,
    Timestamp,
    UnruledError,
)
from eventrec.events.encoder import Encoder
from eventrec.events.entry_rules import EntryRules
from eventrec.events.privacy_plans import Privacy
from eventrec.records.entry import PAYLOAD

SECRET = "4111 1111 1111 1111"


class Untyped(Event):
    def __init__(self, payload: object, columns: Sequence[ColumnSchema] = (), rows: Sequence[Row] = ((),)) -> None:
        self.given, self.columns, self.rows = payload, columns, rows

    @property
    def payload(self) -> object:
        return self.given

    def extra_schema(self) -> Sequence[ColumnSchema]:
        return self.columns

    def extra_rows(self) -> Sequence[Row]:
        return self.rows


class Person(BaseModel):
    email: Annotated[str, Hashed()]
    name: Annotated[str, Allowed()]


class Ruled(EventModel, type="ruled"):
    who: Person
    people: list[Person]
    plain: Annotated[dict[str, object], Allowed()]
    column: Annotated[int, Column(name="other"), Allowed()]
    when: Annotated[int, Timestamp()] = 5
    city: str = "named by the option"
    password: str = "redacted by the option"


class RuledStruct(EventStruct):
    type: ClassVar[str] = "ruled"
    who: Annotated[str, Hashed()]
    plain: Annotated[Any, Allowed()]
    column: Annotated[int, Column(name="other"), Allowed()]
    city: str = "named by the option"


class RuledPlain(Event):
    email: Annotated[str, Allowed()]

    def __init__(self, email: str) -> None:
        self.email = email

    @property
    def payload(self) -> object:
        return {"email": self.email}


class Maker:
    email: Annotated[str, Hashed()] = "x"

    def to_event(self) -> Event:
        return Untyped({"email": self.email, "city": "x"})


class Overriding(RuledStruct):
    type: ClassVar[str] = "ruled"

    def to_event(self) -> Event | None:
        return super().to_event()


class PartlyRuled(EventModel):
    known: Annotated[str, Hashed()]
    unknown: str = "x"


def encode(event: object, context: bytes | None = None, redaction: Redaction | None = None) -> Any:
    rules = EntryRules(redaction or Redaction(), {"ci-ty", "a", "list*"})
    return Encoder(context=lambda: context, privacy=Privacy(salt=b"s", rules=rules)).encode(event)


PERSON = Person(email="e", name="n")


@pytest.mark.parametrize(
    "event",
    [
        Ruled(who=PERSON, people=[PERSON], plain={"x": [{"y": 1}]}, column=5),
        RuledStruct("x", {"x": 1}, 5),
        Overriding("x", {"x": 1}, 5),
        RuledPlain("x"),
        Maker(),
        Untyped(None),
        Untyped({}),
        Untyped({"City": "x", "a": {"list_of": [1, "x", None]}, "api_key": {"b": 1}, "b": {"a": 1}, "c": []}),
        Untyped([{"a": 1}]),
        Untyped(None, (ColumnSchema("a", ColumnType.JSON),), (({"a": 1},), ([1, 2],), (None,))),
        ReceivedEvent("x", b'{"a":1}', context=b'{"city":1}'),
    ],
)
def test_an_event_whose_fields_all_have_a_rule_is_taken(event: object) -> None:
    assert isinstance(encode(event), tuple)


@pytest.mark.parametrize(
    ("event", "named"),
    [
        (PartlyRuled(known="k"), "unknown"),
        (Untyped({"b": 1}), "for b:"),
        (Untyped({"b": None}), "for b:"),
        (Untyped({"a": {"b": 1}}), "for b:"),
        (Untyped([{"a": 1}, {"b": 1}]), "for b:"),
        (Untyped("text"), "for payload:"),
        (Untyped([1]), "for payload:"),
        (Untyped({"b": [1]}), "for b:"),
        (Untyped(None, (ColumnSchema("b", ColumnType.INT64),), ((1,),)), "column b"),
        (Untyped(None, (ColumnSchema("b", ColumnType.JSON),), (([1],),)), "column b"),
        (Untyped(None, (ColumnSchema("b", ColumnType.JSON),), (({"a": 1},), ({"c": 1},))), "for c:"),
        (ReceivedEvent("x", b'{"a":1,"b":2}'), "for b:"),
        (ReceivedEvent("x", b"{}", context=b'{"b":1}'), "for b:"),
        (Untyped(dict.fromkeys("bcdefghi", 1)), "for b, c, d, e, f, …:"),
    ],
)
def test_an_event_with_another_field_is_refused(event: object, named: str) -> None:
    with pytest.raises(UnruledError, match=named):
        encode(event)


def test_the_context_of_the_call_counts() -> None:
    assert isinstance(encode(Untyped(None), b'{"a":1}'), tuple)
    with pytest.raises(UnruledError, match="for b:"):
        encode(Untyped(None), b'{"b":1}')


def test_a_key_that_may_be_a_value_is_not_named() -> None:
    with pytest.raises(UnruledError, match="a key that is not a name") as caught:
        encode(Untyped({SECRET: 1, "alice@example.com": 1}))

    assert SECRET not in str(caught.value)
    assert "alice" not in str(caught.value)


def test_without_redaction_nothing_is_changed() -> None:
    rules = EntryRules(None, {"a"})
    entry = Encoder(privacy=Privacy(rules=rules)).encode(Untyped({"a": SECRET}))

    assert isinstance(entry, tuple)
    assert entry[PAYLOAD] == b'{"a":"4111 1111 1111 1111"}'


async def test_it_is_counted_and_said(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, "eventrec")
    options = EventRecorderOptions(policy="allowlist", plain_keys=frozenset({"a"}))
    async with EventRecorder("memory://", options=options) as recorder:
        taken = [recorder.record(Untyped(payload)) for payload in ({"a": 1}, {"b": 1}, {"b": 2})]
        await recorder.flush()
        status = recorder.status()

    assert taken == [True, False, False]
    assert status.refused == {"not_allowed": 2}
    lines = [record.getMessage() for record in caplog.records if "not_allowed" in record.getMessage()]
    assert len(lines) <= 2
    assert "no rule for b" in lines[0]
