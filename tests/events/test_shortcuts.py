from __future__ import annotations

import linecache
import math
import traceback
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Annotated, Any, ClassVar

import msgspec
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from pydantic import create_model

from eventrec import Column, ColumnType, EncodeError, Event, EventModel, EventStruct, Timestamp
from eventrec.events import plain_payloads, shortcuts
from eventrec.events.encoder import Encoder
from eventrec.events.plain_payloads import MAX_LESSONS, PlainPayloads
from eventrec.records.entry import EXTRA_ROWS, PAYLOAD
from eventrec.records.extra_rows import decode_rows
from eventrec.records.json import is_plain_object


class Clicked(EventStruct):
    target: str
    user: Annotated[str, Column()]


class Measured(EventStruct):
    at: Annotated[int, Timestamp()]
    name: str
    value: float
    tags: list[str]


class Bought(EventModel):
    item: str
    price: float
    user: Annotated[str, Column()]
    pieces: Annotated[int, Column()]


class Loose(EventStruct):
    a: str
    b: float
    c: Annotated[str, Column()]
    d: Annotated[float, Column(ColumnType.FLOAT64)]


class Whole(EventStruct):
    a: Any
    b: float


class Word(str):
    __slots__ = ()


VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(),
    st.sampled_from(
        [
            b"bytes",
            math.nan,
            -math.inf,
            "\ud800",
            Word("a word"),
            datetime(2026, 1, 1, tzinfo=UTC),
            msgspec.UNSET,
            object(),
            [1, "two", [math.nan]],
            {"in": {"it": b"bytes"}},
            {"in": [1.5, None]},
            Clicked("inner", "user"),
            10**5_000,
        ]
    ),
)


def encoder() -> Encoder:
    return Encoder(now=lambda: 7)


def plan_of(event: object) -> Any:
    made = encoder()
    made.encode(event)
    return made.plans[event.__class__]


def outcome(work: Callable[[], Any]) -> tuple[object, ...]:
    """What comes back, or how it fails."""
    try:
        shape, *rest = work()
    except Exception as exc:  # noqa: BLE001 - it is compared
        return type(exc), str(exc)
    return (shape.table, shape.type, *rest)


def test_what_is_made_for_a_class_is_what_the_module_says() -> None:
    source = plan_of(Clicked("a", "b")).__source__

    documented = (shortcuts.__doc__ or "").partition("of which one is a column:\n\n")[2]
    assert [line.strip() for line in source.splitlines()] == [line.strip() for line in documented.splitlines()]


def test_what_is_made_for_a_model_asks_its_own_serializer() -> None:
    source = plan_of(Bought(item="a", price=1.5, user="b", pieces=2)).__source__

    assert "        payload = to_json(event, exclude=excluded, warnings=False)\n" in source
    assert "    if 78 in payload or 73 in payload:\n        refuse_constants(payload)\n" in source


def test_a_marked_timestamp_is_the_one_that_is_recorded() -> None:
    entry = encoder().encode(Measured(at=3, name="a", value=1.5, tags=["b"]))

    assert entry[1:3] == (3, b'{"name":"a","value":1.5,"tags":["b"]}')


def test_a_traceback_shows_the_line_that_was_made() -> None:
    with pytest.raises(EncodeError) as caught:
        plan_of(Clicked("a", "b"))(Clicked("\ud800", "b"))

    assert caught.value.__cause__ is not None
    assert "payload = encode(Payload(event_target))" in "".join(traceback.format_exception(caught.value.__cause__))


def test_a_function_that_is_forgotten_leaves_no_source_behind() -> None:
    before = set(linecache.cache)
    plan = plan_of(Clicked("a", "b"))
    file = plan.__code__.co_filename
    assert file in linecache.cache

    del plan

    assert file not in linecache.cache
    assert set(linecache.cache) <= before


@pytest.mark.parametrize("cls", [Loose, Whole])
@given(values=st.lists(VALUES, min_size=4, max_size=4))
def test_a_struct_becomes_what_the_long_way_makes_of_it(cls: type[EventStruct], values: list[Any]) -> None:
    event = cls(*values[: len(cls.__struct_fields__)])
    plan = plan_of(Loose("a", 1.0, "b", 1.0) if cls is Loose else Whole(1, 1.0))
    assert outcome(lambda: plan(event)) == outcome(lambda: plan.__globals__["long_way"](event))


@given(values=st.lists(VALUES, min_size=4, max_size=4))
def test_a_model_becomes_what_the_long_way_makes_of_it(values: list[Any]) -> None:
    item, price, user, pieces = values
    event = Bought.model_construct(item=item, price=price, user=user, pieces=pieces)
    plan = plan_of(Bought(item="a", price=1.5, user="b", pieces=2))

    assert outcome(lambda: plan(event)) == outcome(lambda: plan.__globals__["long_way"](event))


@pytest.mark.parametrize("field", [list[str], Any])
def test_a_model_with_what_must_be_looked_at_has_no_shortcut(field: Any) -> None:
    class Open(EventModel):
        inside: field

    assert hasattr(plan_of(Open(inside=["a"])), "__source__") is (field is not Any)


def test_a_column_of_json_has_no_shortcut() -> None:
    class Detailed(EventStruct):
        type: ClassVar[str] = "detailed"
        details: Annotated[dict[str, int], Column()]

    assert not hasattr(plan_of(Detailed({"a": 1})), "__source__")


@pytest.mark.parametrize("value", [math.nan, b"bytes", {"in": math.inf}])
def test_a_property_that_stands_before_a_field_does_not_answer_for_it(value: Any) -> None:
    class Raw(EventStruct):
        amount: Any

    class Rounded(Raw):
        @property  # type: ignore[misc]
        def amount(self) -> float:
            return 1.5

    with pytest.raises(EncodeError, match="not a JSON value"):
        encoder().encode(Rounded(value))


LIGATURE, ACCENT = "\N{LATIN SMALL LIGATURE FI}", "e\N{COMBINING ACUTE ACCENT}"


def said_of(event: object) -> tuple[Any, list[list[Any]] | None]:
    """Payload and extra rows of what it becomes."""
    entry: Any = encoder().encode(event)
    rows = entry[EXTRA_ROWS]
    return msgspec.json.decode(entry[PAYLOAD]), None if rows is None else decode_rows(rows)


def test_names_that_code_would_read_as_another_one_are_of_their_own_field() -> None:
    struct = msgspec.defstruct("Odd", [(LIGATURE, str), ("fi", Annotated[str, Column()])], bases=(EventStruct,))

    assert said_of(struct("ligature", "letters")) == ({LIGATURE: "ligature"}, [["letters"]])


def test_names_that_code_would_read_as_no_field_are_recorded() -> None:
    fields: dict[str, Any] = {"a": (str, ...), ACCENT: (Annotated[str, Column()], ...)}
    model: Any = create_model("Odd", __base__=EventModel, **fields)
    struct = msgspec.defstruct("Odd", [(ACCENT, str)], bases=(EventStruct,))

    assert said_of(model(**{"a": "x", ACCENT: "y"})) == ({"a": "x"}, [["y"]])
    assert said_of(struct("z")) == ({ACCENT: "z"}, None)


@pytest.mark.parametrize("name", [LIGATURE, ACCENT, "two words", 'quoted"\n', "class", "\N{ROMAN NUMERAL TWELVE}"])
def test_a_class_of_any_name_has_a_shortcut(name: str) -> None:
    plan = plan_of(msgspec.defstruct(name, [("a", str)], bases=(EventStruct,))("x"))

    assert hasattr(plan, "__source__")


def test_a_class_may_call_itself_what_no_file_is_called() -> None:
    class Named(EventStruct):
        a: str

    Named.__qualname__ = "No\0file"

    assert hasattr(plan_of(Named("x")), "__source__")


ANNOTATIONS: list[Any] = [
    *(str, int, float, bool, Any, str | None, list[str], dict[str, Any], datetime),
    *(Annotated[each, Column()] for each in (str, int, float, bytes, datetime)),
    Annotated[Any, Column(ColumnType.STRING)],
]
NAMES = st.sampled_from(["a", "event", "payload_", "rows", "when", "shape", "encode", "len", "match", "\xe9"])
SETTINGS = st.sampled_from(
    [{}, {"rename": "camel"}, {"tag": True}, {"tag": 7}, {"omit_defaults": True}, {"kw_only": True}, {"weakref": True}]
)


@settings(max_examples=30)
@given(
    fields=st.lists(st.tuples(NAMES, st.sampled_from(ANNOTATIONS)), max_size=4, unique_by=lambda field: field[0]),
    config=SETTINGS,
    rows=st.lists(st.lists(VALUES, min_size=4, max_size=4), min_size=1, max_size=4),
)
def test_a_struct_of_any_class_becomes_what_the_long_way_makes_of_it(
    fields: list[tuple[str, Any]], config: dict[str, Any], rows: list[list[Any]]
) -> None:
    cls = msgspec.defstruct("Made", [(*field, None) for field in fields], bases=(EventStruct,), **config)
    events = [cls(**dict(zip(cls.__struct_fields__, values, strict=False))) for values in rows]
    plan = plan_of(cls())
    assume(hasattr(plan, "__source__"))  # Where values are left out, and some are columns, there is none.
    for event in events:
        assert outcome(lambda: plan(event)) == outcome(lambda: plan.__globals__["long_way"](event))  # noqa: B023 - called at once


# -- payloads that are dicts


class Said(Event):
    def __init__(self, payload: object) -> None:
        self._payload = payload

    @property
    def payload(self) -> object:
        return self._payload


KEYS = st.one_of(st.sampled_from(["a", "b", "it's", 'a "key"\n']), st.text(max_size=3), st.integers(), st.just(b"k"))


@given(payloads=st.lists(st.dictionaries(KEYS, VALUES, max_size=3), max_size=8))
def test_payloads_are_what_they_would_be_each_by_itself(payloads: list[dict[Any, Any]]) -> None:
    one = encoder()

    for payload in payloads:
        assert outcome(lambda: one.encode(Said(payload))) == outcome(lambda: encoder().encode(Said(payload)))  # noqa: B023 - called at once


@given(first=st.dictionaries(st.text(), VALUES, max_size=3), other=st.dictionaries(st.text(), VALUES, max_size=3))
def test_what_is_like_a_plain_payload_is_plain(first: dict[str, Any], other: dict[str, Any]) -> None:
    payloads = PlainPayloads(Said)
    payloads.is_plain(first)
    mixed = dict(zip(first, other.values(), strict=False))

    for payload in (first, other, mixed, {**first, **mixed}):
        assert not payloads.is_like_before(payload) or is_plain_object(payload)


def test_the_keys_of_a_payload_are_learned() -> None:
    payloads = PlainPayloads(Said)

    assert payloads.is_plain({"order": "a", "amount": 1.5, "items": [1]})

    assert payloads.is_like_before({"items": [], "amount": 2.5, "order": "b"})
    assert not payloads.is_like_before({"items": [], "amount": math.nan, "order": "b"})
    assert not payloads.is_like_before({"items": [b""], "amount": 2.5, "order": "b"})
    assert not payloads.is_like_before({"items": [], "amount": 2.5, "other": "b"})
    assert not payloads.is_like_before({"items": [], "amount": 2.5})


def test_a_payload_is_taken_where_none_can_be_learned(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> Any:
        raise MemoryError

    monkeypatch.setattr(plain_payloads, "compiled", fail)

    assert encoder().encode(Said({"a": 1}))[2] == b'{"a":1}'


def test_keys_that_go_on_changing_are_given_up() -> None:
    payloads = PlainPayloads(Said)

    for number in range(MAX_LESSONS + 1):
        assert payloads.is_plain({f"key {number}": 1})

    assert not payloads.is_like_before({f"key {number}": 1 for number in range(1)})
    assert not hasattr(payloads.is_like_before, "__source__")
