"""What is recorded of marked fields, for every kind of class; and which markers are refused."""

from __future__ import annotations

import dataclasses
import enum
from collections import OrderedDict, defaultdict, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from typing import Annotated, Any, ClassVar, Generic, NamedTuple, NewType, TypeVar
from uuid import UUID

import attrs
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PlainSerializer,
    RootModel,
    SecretStr,
    SerializeAsAny,
    ValidationError,
    computed_field,
    field_serializer,
    model_serializer,
)
from pydantic.dataclasses import dataclass as pydantic_dataclass
from typing_extensions import TypeAliasType, TypedDict

from eventrec import (
    Allowed,
    Column,
    ColumnSchema,
    ColumnType,
    EncodeError,
    Event,
    EventModel,
    EventRecorder,
    EventStruct,
    Hashed,
    InvalidEventError,
    Redacted,
    Row,
    Sampling,
    Timestamp,
    Truncated,
    UnruledError,
)
from eventrec.events.admission import Admission
from eventrec.events.encoder import Encoder
from eventrec.events.hashing import hashed
from eventrec.events.privacy_plans import Privacy
from eventrec.records.entry import CONTEXT, EXTRA_ROWS, PAYLOAD, SHAPE
from eventrec.records.extra_rows import decode_rows

SALT = "salt of these tests"
SECRET = "alice@example.com"
HASH = hashed(SECRET, SALT)
GONE = "[redacted]"

Email = Annotated[str, Hashed()]
Mail = NewType("Mail", Annotated[str, Hashed()])
Note = Annotated[str, Truncated(3)]
T = TypeVar("T")


def recorded(event: object, *, salt: str | None = SALT) -> Any:
    """The payload and the extra rows of the entry that `event` becomes; no byte of it is the secret."""
    entry = Encoder(now=lambda: 1, privacy=Privacy(salt=None if salt is None else salt.encode())).encode(event)
    assert isinstance(entry, tuple), entry
    for part in (entry[PAYLOAD], entry[CONTEXT] or b"", entry[EXTRA_ROWS] or b""):
        assert SECRET.encode() not in part
    extras = entry[EXTRA_ROWS]
    rows = None if extras is None else decode_rows(extras)
    return msgspec.json.decode(entry[PAYLOAD]), rows


class Color(enum.Enum):
    RED = "red"


class Login(EventModel, type="login"):
    email: Annotated[str, Hashed()]
    password: Annotated[str, Redacted()]
    note: Annotated[str, Truncated(3)]
    plain: str
    pin: Annotated[int, Redacted()] = 1234
    maybe: Annotated[str, Hashed()] | None = None


class LoginStruct(EventStruct):
    type: ClassVar[str] = "login"
    email: Annotated[str, Hashed()]
    password: Annotated[str, Redacted()]
    note: Annotated[str, Truncated(3)]
    plain: str
    pin: Annotated[int, Redacted()] = 1234
    maybe: Annotated[str, Hashed()] | None = None


@dataclass(frozen=True)
class LoginDataclass(Event):
    email: Annotated[str, Hashed()]
    password: Annotated[str, Redacted()]
    note: Annotated[str, Truncated(3)]
    plain: str
    pin: Annotated[int, Redacted()] = 1234
    maybe: Annotated[str, Hashed()] | None = None

    @property
    def payload(self) -> object:
        return dataclasses.asdict(self)


@attrs.frozen
class LoginAttrs:
    email: Annotated[str, Hashed()]
    password: Annotated[str, Redacted()]
    note: Annotated[str, Truncated(3)]
    plain: str
    pin: Annotated[int, Redacted()] = 1234
    maybe: Annotated[str, Hashed()] | None = None
    type: str = "login"
    table: str = "events"
    timestamp: int | None = None

    @property
    def payload(self) -> object:
        return {name: getattr(self, name) for name in ("email", "password", "note", "plain", "pin", "maybe")}

    def extra_schema(self) -> Sequence[ColumnSchema]:
        return ()

    def extra_rows(self) -> Sequence[Row]:
        return ((),)


class LoginPlain(Event):
    email: Annotated[str, Hashed()]
    password: Annotated[str, Redacted()]
    note: Annotated[str, Truncated(3)]
    pin: Annotated[int, Redacted()]
    maybe: Annotated[str, Hashed()] | None

    def __init__(self, *, email: str, password: str, note: str, plain: str) -> None:
        self.email, self.password, self.note, self.plain = email, password, note, plain
        self.pin, self.maybe = 1234, None

    @property
    def payload(self) -> object:
        return vars(self)


class LoginMaker:
    """Not an event itself: says it by `to_event`."""

    email: Annotated[str, Hashed()]
    password: Annotated[str, Redacted()]
    note: Annotated[str, Truncated(3)]
    pin: Annotated[int, Redacted()] = 1234
    maybe: Annotated[str, Hashed()] | None = None

    def __init__(self, *, email: str, password: str, note: str, plain: str) -> None:
        self.email, self.password, self.note, self.plain = email, password, note, plain

    def to_event(self) -> Event:
        return Said({**vars(self), "pin": self.pin, "maybe": None})


class Said(Event):
    def __init__(self, payload: object, columns: Sequence[ColumnSchema] = (), rows: Sequence[Row] = ((),)) -> None:
        self.given, self.columns, self.rows = payload, columns, rows

    @property
    def payload(self) -> object:
        return self.given

    def extra_schema(self) -> Sequence[ColumnSchema]:
        return self.columns

    def extra_rows(self) -> Sequence[Row]:
        return self.rows


class LoginOverriding(Login, type="login"):
    def to_event(self) -> Event | None:
        return super().to_event()


class LoginRewriting(Login, type="login"):
    def to_event(self) -> Event | None:
        return Said(self.model_dump())


@pytest.mark.parametrize(
    "cls",
    [
        Login,
        LoginStruct,
        LoginDataclass,
        LoginAttrs,
        LoginPlain,
        LoginMaker,
        LoginOverriding,
        LoginRewriting,
    ],
)
def test_every_kind_of_class_is_recorded_as_marked(cls: Callable[..., object]) -> None:
    payload, _ = recorded(cls(email=SECRET, password=SECRET, note=SECRET, plain="as it is"))

    assert payload == {
        "email": HASH,
        "password": GONE,
        "note": SECRET[:3],
        "plain": "as it is",
        "pin": None,
        "maybe": None,
    }


def test_the_application_sees_no_change() -> None:
    event = Login(
        email=SECRET,
        password="p",  # noqa: S106 - not one
        note="long note",
        plain="x",
        maybe="m",
    )

    assert event.email == SECRET
    assert event.model_dump() == {
        "email": SECRET,
        "password": "p",
        "note": "long note",
        "plain": "x",
        "pin": 1234,
        "maybe": "m",
    }
    assert SECRET in event.model_dump_json()


@pytest.mark.parametrize(
    "cls", [Login, LoginStruct, LoginDataclass, LoginAttrs, LoginPlain, LoginOverriding, LoginRewriting, LoginMaker]
)
def test_without_a_salt_nothing_that_asks_for_a_hash_is_recorded(cls: Callable[..., object]) -> None:
    event = cls(email=SECRET, password=SECRET, note=SECRET, plain="as it is")

    with pytest.raises(InvalidEventError, match="hash_salt") as caught:
        Encoder().encode(event)

    assert SECRET not in str(caught.value)


def test_an_event_that_was_made_by_hand_from_a_marked_one_stays_marked() -> None:
    said = Login(email=SECRET, password=SECRET, note=SECRET, plain="x").to_event()

    payload, _ = recorded(said)

    assert (payload["email"], payload["password"]) == (HASH, GONE)


class LoginAdding(Login, type="login"):
    def to_event(self) -> Event | None:
        said: Any = super().to_event()
        said.payload["more"] = 5
        changed: Event = dataclasses.replace(said, table="elsewhere")
        return changed


def test_what_an_override_changes_counts_and_marks_stay() -> None:
    event = LoginAdding(email=SECRET, password=SECRET, note=SECRET, plain="x")
    entry = Encoder(privacy=Privacy(salt=SALT.encode())).encode(event)
    assert isinstance(entry, tuple)
    payload = msgspec.json.decode(entry[PAYLOAD])

    assert entry[SHAPE].table == "elsewhere"
    assert (payload["more"], payload["email"], payload["password"], payload["note"]) == (5, HASH, GONE, SECRET[:3])


def test_an_override_that_changes_nothing_is_recorded_like_its_source() -> None:
    class Passing(EventModel):
        anything: Any

        def to_event(self) -> Event | None:
            return super().to_event()

    assert recorded(Passing(anything=[Person(email=SECRET)]))[0] == {"anything": [PERSON]}


def test_an_override_sees_its_own_values_and_not_those_inside_others() -> None:
    class Holder(EventModel):
        email: Annotated[str, Hashed()]
        anything: Any

        def to_event(self) -> Event | None:
            said: Any = super().to_event()
            assert said.payload == {"email": SECRET, "anything": {"email": GONE, "name": "n"}}
            return Said({**said.payload, "copy": said.payload["anything"]})

    payload, _ = recorded(Holder(email=SECRET, anything=Person(email=SECRET)))

    assert payload["email"] == HASH
    assert payload["copy"] == {"email": GONE, "name": "n"}


# -- values -----------------------------------------------------------------------------------------------------------


class Text(str):
    __slots__ = ()

    def __str__(self) -> str:
        return SECRET

    def __repr__(self) -> str:
        return SECRET


MOMENT = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
IDENTIFIER = UUID("7b0c4f3e-4c8f-4c7f-9b52-0d0d3c3e2f11")


class Hashes(EventModel):
    text: Annotated[str, Hashed()] = Text("inner")
    number: Annotated[int, Hashed()] = 42
    big: Annotated[int, Hashed()] = 2**80
    real: Annotated[float, Hashed()] = float("nan")
    flag: Annotated[bool, Hashed()] = True
    id: Annotated[UUID, Hashed()] = IDENTIFIER
    color: Annotated[Color, Hashed()] = Color.RED
    raw: Annotated[bytes, Hashed()] = b"\xff\xfe"
    when: Annotated[datetime, Hashed()] = MOMENT
    cost: Annotated[Decimal, Hashed()] = Decimal("1.10")
    secret: Annotated[SecretStr, Hashed()] = SecretStr(SECRET)
    anything: Annotated[Any, Hashed()] = "inner"
    structure: Annotated[Any, Hashed()] = field(default_factory=lambda: [SECRET])
    nothing: Annotated[str, Hashed()] | None = None


EXPECTED: Mapping[str, object] = {
    "text": hashed("inner", SALT),
    "number": hashed(42, SALT),
    "big": hashed(2**80, SALT),
    "real": hashed(float("nan"), SALT),
    "flag": hashed(True, SALT),  # noqa: FBT003 - a value
    "id": hashed(str(IDENTIFIER), SALT),
    "color": hashed("red", SALT),
    "raw": hashed(b"\xff\xfe", SALT),
    "when": hashed("2026-01-02T03:04:05Z", SALT),
    "cost": hashed("1.10", SALT),
    "anything": hashed("inner", SALT),
    "structure": GONE,
    "nothing": None,
}


def test_values_of_every_kind_are_hashed() -> None:
    payload, _ = recorded(Hashes(structure=[SECRET]))

    assert payload == {**EXPECTED, "secret": HASH}


def test_a_struct_hashes_them_to_the_same() -> None:
    class Struct(EventStruct):
        text: Annotated[str, Hashed()] = Text("inner")
        number: Annotated[int, Hashed()] = 42
        big: Annotated[int, Hashed()] = 2**80
        real: Annotated[float, Hashed()] = float("nan")
        flag: Annotated[bool, Hashed()] = True
        id: Annotated[UUID, Hashed()] = IDENTIFIER
        color: Annotated[Color, Hashed()] = Color.RED
        raw: Annotated[bytes, Hashed()] = b"\xff\xfe"
        when: Annotated[datetime, Hashed()] = MOMENT
        cost: Annotated[Decimal, Hashed()] = Decimal("1.10")
        anything: Annotated[Any, Hashed()] = "inner"
        structure: Annotated[Any, Hashed()] = msgspec.field(default_factory=lambda: [SECRET])
        nothing: Annotated[str, Hashed()] | None = None

    payload, _ = recorded(Struct())

    assert payload == EXPECTED


def test_what_cannot_hold_text_is_null_where_it_is_redacted() -> None:
    class Redactions(EventModel):
        text: Annotated[str, Redacted()] = "t"
        optional: Annotated[str | None, Redacted()] = "t"
        mixed: Annotated[str | int, Redacted()] = 5
        anything: Annotated[Any, Redacted()] = 5
        number: Annotated[int, Redacted()] = 5
        color: Annotated[Color, Redacted()] = Color.RED
        several: Annotated[list[str], Redacted()] = ["t"]  # noqa: RUF012 - pydantic copies it
        mapping: Annotated[dict[str, str], Redacted()] = {"a": "t"}  # noqa: RUF012 - likewise

    payload, _ = recorded(Redactions())

    assert payload == {
        "text": GONE,
        "optional": GONE,
        "mixed": GONE,
        "anything": GONE,
        "number": None,
        "color": None,
        "several": None,
        "mapping": None,
    }


# -- inside -----------------------------------------------------------------------------------------------------------


class Person(BaseModel):
    email: Email
    name: str = "n"


@dataclass
class Company:
    email: Email
    name: str = "n"


@dataclass(frozen=True)
class FrozenCompany:
    email: Email


@pydantic_dataclass
class Shop:
    email: Email
    name: str = "n"


class Address(TypedDict):
    email: Email
    name: str


class Pair(NamedTuple):
    email: Email
    name: str


PERSON = {"email": HASH, "name": "n"}


def test_markers_inside_a_model_are_found_at_any_depth() -> None:
    class Deep(EventModel):
        several: list[Email]
        named: dict[str, list[Email | None]]
        pair: tuple[Email, str]
        any_number: tuple[Email, ...]
        mail: Mail
        person: Person
        people: list[Person]
        company: Company
        shop: Shop
        address: Address
        names: Pair
        either: Person | Company
        widened: SerializeAsAny[Person]
        aliased: Annotated[str, Field(serialization_alias="other", validation_alias="given"), Hashed()]
        whatever: Any
        untyped: dict[str, Any]

        @computed_field  # type: ignore[prop-decorator]
        @property
        def again(self) -> Email:
            return self.mail

    class Employee(Person):
        private: Annotated[str, Hashed()]

    payload, _ = recorded(
        Deep(
            several=[SECRET, "b"],
            named={"a": [SECRET, None]},
            pair=(SECRET, "n"),
            any_number=(SECRET, SECRET),
            mail=Mail(SECRET),
            person=Person(email=SECRET),
            people=[Person(email=SECRET)],
            company=Company(SECRET),
            shop=Shop(SECRET),
            address={"email": SECRET, "name": "n"},
            names=Pair(SECRET, "n"),
            either=Company(SECRET),
            widened=Employee(email=SECRET, private=SECRET),
            given=SECRET,  # type: ignore[call-arg]
            whatever=[Person(email=SECRET), Shop(SECRET)],
            untyped={"a": Person(email=SECRET)},
        )
    )

    assert payload == {
        "several": [HASH, hashed("b", SALT)],
        "named": {"a": [HASH, None]},
        "pair": [HASH, "n"],
        "any_number": [HASH, HASH],
        "mail": HASH,
        "person": PERSON,
        "people": [PERSON],
        "company": PERSON,
        "shop": PERSON,
        "address": PERSON,
        "names": [HASH, "n"],
        "either": PERSON,
        "widened": {**PERSON, "private": HASH},
        "aliased": HASH,
        "whatever": [PERSON, PERSON],
        "untyped": {"a": PERSON},
        "again": HASH,
    }


class Inner(msgspec.Struct, rename="upper"):
    email: Email
    name: str = "n"


class Outer(msgspec.Struct, array_like=True, tag=True):
    email: Email
    name: str = "n"


@attrs.define
class Member:
    email: Email
    name: str = "n"


class Derived(Inner):
    more: Email = "m"


def test_markers_inside_a_struct_are_found_at_any_depth() -> None:
    class Deep(EventStruct, rename="camel"):
        several_mails: list[Email]
        named: dict[str, list[Email | None]]
        pair: tuple[Email, str]
        any_number: tuple[Email, ...]
        some: frozenset[Email]
        company: Company
        address: Address
        names: Pair
        inner: Inner
        wider: Inner
        outer: list[Outer]
        member: Member
        whatever: Any
        untyped: dict[Any, Any]
        left_out: Email | msgspec.UnsetType = msgspec.UNSET

    payload, _ = recorded(
        Deep(
            several_mails=[SECRET, "b"],
            named={"a": [SECRET, None]},
            pair=(SECRET, "n"),
            any_number=(SECRET, SECRET),
            some=frozenset({SECRET}),
            company=Company(SECRET),
            address={"email": SECRET, "name": "n"},
            names=Pair(SECRET, "n"),
            inner=Inner(SECRET),
            wider=Derived(SECRET, more=SECRET),
            outer=[Outer(SECRET)],
            member=Member(SECRET),
            whatever=[Inner(SECRET), {"x": Company(SECRET)}],
            untyped={1: Member(SECRET), Color.RED: [Company(SECRET)]},
        )
    )

    assert payload == {
        "severalMails": [HASH, hashed("b", SALT)],
        "named": {"a": [HASH, None]},
        "pair": [HASH, "n"],
        "anyNumber": [HASH, HASH],
        "some": [HASH],
        "company": PERSON,
        "address": PERSON,
        "names": [HASH, "n"],
        "inner": {"EMAIL": HASH, "NAME": "n"},
        "wider": {"EMAIL": HASH, "NAME": "n", "MORE": HASH},
        "outer": [["Outer", HASH, "n"]],
        "member": PERSON,
        "whatever": [{"EMAIL": HASH, "NAME": "n"}, {"x": PERSON}],
        "untyped": {"1": PERSON, "red": [PERSON]},
    }


@pytest.mark.parametrize(
    ("payload", "expected"),
    [
        (Company(SECRET), PERSON),
        ({"a": [Company(SECRET)]}, {"a": [PERSON]}),
        ({"a": (Member(SECRET),)}, {"a": [PERSON]}),
        ([Inner(SECRET), 1], [{"EMAIL": HASH, "NAME": "n"}, 1]),
        (Pair(SECRET, "n"), [HASH, "n"]),
        ({"a": Shop(SECRET)}, {"a": PERSON}),
    ],
)
def test_a_payload_that_holds_instances_of_marked_classes(payload: object, expected: object) -> None:
    assert recorded(Said(payload)) == (expected, None)


def test_an_unmarked_struct_that_holds_one() -> None:
    class Holder(EventStruct):
        given: Any
        column: Annotated[Any, Column(ColumnType.JSON)]

    payload, rows = recorded(Holder(Company(SECRET), {"a": Company(SECRET)}))

    assert payload == {"given": PERSON}
    assert msgspec.json.decode(rows[0][0]) == {"a": PERSON}


def test_a_model_refuses_a_dataclass_with_marks_of_which_pydantic_does_not_know() -> None:
    class Holder(EventModel):
        given: Any

    for held in ([Company(SECRET)], {"a": deque([Company(SECRET)])}, {FrozenCompany(SECRET): 1}, Pair(SECRET, "n")):
        with pytest.raises(EncodeError, match="which has marked fields"):
            recorded(Holder(given=held))


Alias = TypeAliasType("Alias", Annotated[str, Hashed()])
Marked = TypeAliasType("Marked", Annotated[T, Hashed()], type_params=(T,))


class Aliases(EventModel):
    named: Alias
    generic: Marked[str]
    several: list[Alias]
    column: Annotated[Alias, Column()]


class AliasesStruct(EventStruct, rename="kebab"):
    type: ClassVar[str] = "aliases"
    named: Alias
    generic: Marked[str]
    several: list[Alias]
    column: Annotated[Alias, Column()]


@pytest.mark.parametrize("cls", [Aliases, AliasesStruct])
def test_named_aliases_are_looked_through(cls: Callable[..., object]) -> None:
    assert recorded(cls(named=SECRET, generic=SECRET, several=[SECRET], column=SECRET)) == (
        {"named": HASH, "generic": HASH, "several": [HASH]},
        [[HASH]],
    )


class Anything(BaseModel):
    given: Any = None


class Open(BaseModel):
    model_config = ConfigDict(extra="allow")


class Computing(BaseModel):
    @computed_field
    def company(self) -> Any:
        return Company(SECRET)


class WritesItself(BaseModel):
    email: Email

    @model_serializer
    def said(self) -> dict[str, str]:
        return {"email": self.email}


class FrozenPerson(BaseModel, frozen=True):
    email: Email


@pydantic_dataclass
class ShopWithSerializer:
    email: Email

    @field_serializer("email")
    def said(self, email: str) -> str:
        return email


class MarkedAndOpen(BaseModel):
    model_config = ConfigDict(extra="allow")
    email: Email
    given: Any = None


@dataclass
class Around:
    given: Any


@attrs.frozen
class AttrsAround:
    given: Any


class PairAround(NamedTuple):
    given: Any


class DictAround(dict[str, Any]):
    pass


class StructAround(msgspec.Struct):
    given: Any


class MemberAround(enum.Enum):
    COMPANY = Company(SECRET)


class Holder(EventModel):
    model_config = ConfigDict(arbitrary_types_allowed=True)
    email: Email = "x"
    config: Any = None
    inner: Anything | Open | Computing | None = None
    each: tuple[Anything, ...] = ()
    by_name: dict[str, list[MarkedAndOpen]] = Field(default_factory=dict)
    cell: Annotated[Any, Column(type=ColumnType.JSON)] = None
    open_cell: Annotated[Anything, Column(type=ColumnType.JSON)] = Anything()


class HolderWithoutMarks(Holder):
    email: str = "x"


@pytest.mark.parametrize(
    "fields",
    [
        {"cell": Company(SECRET)},
        {"cell": [{"a": Company(SECRET)}]},
        {"open_cell": Anything(given=Company(SECRET))},
        {"inner": Anything(given=Company(SECRET))},
        {"inner": Open.model_validate({"a": [Company(SECRET)]})},
        {"inner": Computing()},
        {"each": [Anything(given=(Company(SECRET),))]},
        {"by_name": {"a": [MarkedAndOpen(email=SECRET, given=Company(SECRET))]}},
        {"by_name": {"a": [MarkedAndOpen.model_validate({"email": SECRET, "more": Company(SECRET)})]}},
        {"config": iter([Company(SECRET)])},
        {"config": (each for each in [Company(SECRET)])},
        {"config": WritesItself(email=SECRET)},
        {"config": [ShopWithSerializer(SECRET)]},
        {"config": [Around([Company(SECRET)])]},
        {"config": [AttrsAround([Company(SECRET)])]},
        {"config": [PairAround([Company(SECRET)])]},
        {"config": [DictAround(a=Company(SECRET))]},
        {"config": [StructAround([Company(SECRET)])]},
        {"config": [MemberAround.COMPANY]},
        {"config": {FrozenPerson(email=SECRET): 1}},
    ],
)
def test_what_pydantic_takes_by_the_class_of_an_instance_is_refused_at_any_depth(fields: dict[str, Any]) -> None:
    for cls in (Holder, HolderWithoutMarks):
        with pytest.raises(EncodeError) as caught:
            recorded(cls(**fields))
        assert SECRET not in str(caught.value)


def test_what_is_declared_is_recorded_wherever_something_else_may_stand_beside_it() -> None:
    class Declared(EventModel):
        companies: dict[str, list[Company]]
        given: Any
        each: Iterable[datetime]

    payload, _ = recorded(
        Declared(companies={"a": [Company(SECRET)]}, given=[Person(email=SECRET), Shop(SECRET)], each=iter([]))
    )

    person = {"email": HASH, "name": "n"}
    assert payload == {"companies": {"a": [person]}, "given": [person, person], "each": []}


# -- columns ----------------------------------------------------------------------------------------------------------


class Columns(EventModel, type="columns"):
    email: Annotated[str, Column(), Hashed()]
    user: Annotated[int, Column(), Hashed()]
    note: Annotated[str, Truncated(2), Column()]
    card: Annotated[str, Column(), Redacted()]
    amount: Annotated[int, Column(), Redacted()]
    people: Annotated[list[Person], Column()]
    maybe: Annotated[int | None, Column(name="perhaps"), Hashed()] = None


class ColumnsStruct(EventStruct):
    type: ClassVar[str] = "columns"
    email: Annotated[str, Column(), Hashed()]
    user: Annotated[int, Column(), Hashed()]
    note: Annotated[str, Truncated(2), Column()]
    card: Annotated[str, Column(), Redacted()]
    amount: Annotated[int, Column(), Redacted()]
    people: Annotated[list[Member], Column()]
    maybe: Annotated[int | None, Column(name="perhaps"), Hashed()] = None


class ColumnsOverriding(Columns, type="columns"):
    def to_event(self) -> Event | None:
        return super().to_event()


@pytest.mark.parametrize(
    ("cls", "person"),
    [(Columns, Person(email=SECRET)), (ColumnsStruct, Member(SECRET)), (ColumnsOverriding, Person(email=SECRET))],
)
def test_columns_are_recorded_as_marked(cls: Callable[..., object], person: object) -> None:
    event = cls(email=SECRET, user=42, note=SECRET, card=SECRET, amount=5, people=[person])

    payload, rows = recorded(event)

    assert payload == {}
    (row,) = rows
    assert row[:5] == [HASH, hashed(42, SALT), SECRET[:2], GONE, None]
    assert msgspec.json.decode(row[5]) == [PERSON]
    assert row[6] is None


def test_a_hash_is_a_text_column() -> None:
    entry = Encoder(privacy=Privacy(salt=b"s")).encode(
        Columns(email="a", user=42, note="n", card="c", amount=5, people=[], maybe=1)
    )

    assert isinstance(entry, tuple)
    assert [str(column) for column in entry[SHAPE].columns] == [
        "email STRING",
        "user STRING",
        "note STRING",
        "card STRING",
        "amount INT64",
        "people JSON",
        "perhaps STRING",
    ]


def test_extra_rows_of_a_plain_event_are_recorded_as_marked() -> None:
    class Rows(Event):
        email: Annotated[str, Hashed()] = SECRET
        amount: Annotated[int, Redacted()] = 5

        def extra_schema(self) -> Sequence[ColumnSchema]:
            return (ColumnSchema("email", ColumnType.STRING), ColumnSchema("amount", ColumnType.INT64))

        def extra_rows(self) -> Sequence[Row]:
            return ((SECRET, 5), [None, 6])

    assert recorded(Rows()) == (None, [[HASH, None], [None, None]])


def test_a_hash_fits_no_column_of_numbers() -> None:
    class Rows(Event):
        user: Annotated[int, Hashed()] = 42

        def extra_schema(self) -> Sequence[ColumnSchema]:
            return (ColumnSchema("user", ColumnType.INT64),)

        def extra_rows(self) -> Sequence[Row]:
            return ((42,),)

    with pytest.raises(InvalidEventError):
        recorded(Rows())


def test_json_columns_of_a_plain_event_may_hold_marked_instances() -> None:
    event = Said(None, (ColumnSchema("who", ColumnType.JSON),), (({"a": Company(SECRET)},), (None,)))

    _, rows = recorded(event)

    assert msgspec.json.decode(rows[0][0]) == {"a": PERSON}


def test_a_marked_value_that_goes_elsewhere_is_refused() -> None:
    class Renamed(Event):
        email: Annotated[str, Hashed()] = SECRET

        @property
        def payload(self) -> object:
            return {"mail": self.email}

    with pytest.raises(UnruledError, match=r"Renamed\.email"):
        recorded(Renamed())


# -- classes ----------------------------------------------------------------------------------------------------------


def test_a_subclass_may_mark_anew_or_not() -> None:
    class Base(EventModel):
        email: Annotated[str, Hashed()]

    class Inheriting(Base):
        more: str = "m"

    class Stricter(Base):
        email: Annotated[str, Redacted()]

    assert recorded(Inheriting(email=SECRET))[0] == {"email": HASH, "more": "m"}
    assert recorded(Stricter(email=SECRET))[0] == {"email": GONE}


def test_generic_models() -> None:
    class Box(EventModel, Generic[T]):
        inside: T
        email: Annotated[str, Hashed()]

    box = Box[Annotated[str, Redacted()]]
    nested = Box[Person]

    assert recorded(box(inside=SECRET, email=SECRET))[0] == {"inside": GONE, "email": HASH}
    assert recorded(nested(inside=Person(email=SECRET), email=SECRET))[0] == {"inside": PERSON, "email": HASH}


class Node(EventModel):
    email: Email
    children: list[Node] = Field(default_factory=list)


def test_classes_that_hold_themselves() -> None:
    payload, _ = recorded(Node(email=SECRET, children=[Node(email=SECRET)]))

    assert payload == {"email": HASH, "children": [{"email": HASH, "children": []}]}


def test_values_of_another_kind_than_declared_are_refused() -> None:
    class Wrong(EventModel):
        several: list[Email]

    with pytest.raises(EncodeError) as caught:
        recorded(Wrong.model_construct(several=(SECRET,)))

    assert SECRET not in str(caught.value)


def test_a_struct_whose_values_are_of_another_kind_shows_nothing() -> None:
    class Wrong(EventStruct):
        several: list[Email]
        pair: tuple[Email, str]
        note: Note

    wrong: Any = Wrong
    payload, _ = recorded(wrong(SECRET, [SECRET], [SECRET]))

    assert payload == {"several": GONE, "pair": [GONE], "note": GONE}


def test_validation_errors_do_not_quote_what_was_given() -> None:
    class Strict(EventModel):
        email: Annotated[str, Field(max_length=3), Hashed()]
        number: int

    with pytest.raises(ValidationError) as caught:
        Strict(email=SECRET, number=SECRET)  # type: ignore[arg-type]

    assert SECRET not in str(caught.value)
    assert "number" in str(caught.value)


def test_a_model_may_ask_for_its_input_in_errors() -> None:
    class Open(EventModel):
        model_config = ConfigDict(hide_input_in_errors=False)
        email: Annotated[str, Field(max_length=3), Hashed()]

    with pytest.raises(ValidationError, match=SECRET):
        Open(email=SECRET)


def test_decoding_gives_the_hash_back() -> None:
    from eventrec import Record  # noqa: PLC0415 - for this test alone

    entry = Encoder(privacy=Privacy(salt=SALT.encode())).encode(
        Columns(email=SECRET, user=42, note="nnn", card="c", amount=5, people=[])
    )
    assert isinstance(entry, tuple)
    shape, extras = entry[SHAPE], entry[EXTRA_ROWS]
    assert extras is not None
    record = Record(
        0, "id", shape.type, shape.table, 1, entry[PAYLOAD], None, shape.columns, tuple(map(tuple, decode_rows(extras)))
    )

    class Reading(EventModel, type="columns"):
        email: Annotated[str, Column()]
        user: Annotated[str, Column()]
        note: Annotated[str, Column()]
        card: Annotated[str, Column()]
        amount: Annotated[int | None, Column()]

    assert record.decode(Reading) == Reading(email=HASH, user=hashed(42, SALT), note="nn", card=GONE, amount=None)


# -- markers without effect -------------------------------------------------------------------------------------------


def struct_of(annotation: Any) -> Callable[[], object]:
    return lambda: Encoder(privacy=Privacy(salt=b"s")).encode(
        msgspec.defstruct("Wrong", [("a", annotation, None)], bases=(EventStruct,))()
    )


def model_of(annotation: Any) -> Callable[[], object]:
    return lambda: type("Wrong", (EventModel,), {"__annotations__": {"a": annotation}, "__module__": __name__})


@pytest.mark.parametrize("make", [struct_of, model_of])
@pytest.mark.parametrize(
    ("annotation", "said"),
    [
        (Annotated[str, Hashed], r"Wrong\.a: Hashed is a class; write Hashed\(\)"),
        (Annotated[str, Redacted], r"Wrong\.a: Redacted is a class; write Redacted\(\)"),
        (Annotated[str, Truncated], r"Wrong\.a: Truncated is a class; write Truncated\(…\)"),
        (Annotated[str, Allowed], r"Wrong\.a: Allowed is a class; write Allowed\(\)"),
        (Annotated[str, Column], r"Wrong\.a: Column is a class; write Column\(\)"),
        (Annotated[datetime, Timestamp], r"Wrong\.a: Timestamp is a class; write Timestamp\(\)"),
        (Annotated[str, Redacted, Hashed()], r"Wrong\.a: Redacted is a class"),
        (list[Annotated[str, Redacted]], r"Wrong\.a: Redacted is a class"),
        (dict[str, tuple[Annotated[str, Hashed] | None, ...]], r"Wrong\.a: Hashed is a class"),
        (list[Annotated[str, Column]] | None, r"Wrong\.a: Column is a class"),
        (Annotated[str, Hashed(), Redacted()], "at a time"),
        (Annotated[int, Truncated(3)], "marks text, not int"),
        (Annotated[list[str], Truncated(3)], r"marks text, not list\[str\]"),
        (Annotated[list[str], Hashed()], "single values"),
        (Annotated[Person | None, Hashed()], "single values"),
        (Annotated[str, Hashed()] | int, r"Annotated\[str \| int, Hashed\(\)\]"),
        (list[Annotated[str, Truncated(3)] | int], r"Annotated\[str \| int, Truncated\(3\)\]"),
        (dict[Email, str], "keys"),
        (Annotated[list[Email], Redacted()], "marked again"),
        (Annotated[int, Column(ColumnType.INT64), Hashed()], "its column is a STRING"),
        (Annotated[datetime, Timestamp(), Redacted()], "timestamp"),
        (Annotated[str, Hashed(), PlainSerializer(str.upper)], "serializer"),
        (Callable[[Email], str], "no effect"),
    ],
)
def test_a_marker_that_has_no_effect_is_refused(
    make: Callable[[Any], Callable[[], object]], annotation: Any, said: str
) -> None:
    with pytest.raises(TypeError, match=said):
        make(annotation)()


def test_a_marker_without_parentheses_is_refused_in_every_class_that_is_recorded() -> None:
    class Inner(BaseModel):
        email: Annotated[str, Redacted]

    @dataclass
    class Paid(Event):
        customer: Annotated[str, Column]

        @property
        def payload(self) -> object:
            return {"customer": self.customer}

    with pytest.raises(TypeError, match=r"Inner\.email: Redacted is a class"):

        class Outer(EventModel):
            inner: Inner

    with pytest.raises(EncodeError, match=r"Inner\.email: Redacted is a class"):
        recorded(Said({"a": Inner(email=SECRET)}))
    with pytest.raises(TypeError, match=r"Paid\.customer: Column is a class"):
        recorded(Paid("ada"))


def test_serializers_before_a_marker_are_refused_at_class_definition() -> None:
    with pytest.raises(TypeError, match=r"email: has a serializer"):

        class OfField(EventModel):
            email: Annotated[str, Hashed()]

            @field_serializer("email")
            def upper(self, value: str) -> str:
                return value.upper()

    with pytest.raises(TypeError, match="of all fields"):

        class OfAll(EventModel):
            email: Annotated[str, Hashed()]

            @field_serializer("*")
            def upper(self, value: object) -> object:
                return value

    with pytest.raises(TypeError, match="model_serializer"):

        class OfModel(EventModel):
            email: Annotated[str, Hashed()]

            @model_serializer
            def everything(self) -> dict[str, object]:
                return {"x": self.email}

    class Inside(BaseModel):
        person: Person

        @field_serializer("person")
        def mail(self, value: Person) -> str:
            return value.email

    with pytest.raises(TypeError, match=r"Inside\.person"):

        class OfAnother(EventModel):
            inside: Inside


def test_a_serializer_over_what_holds_a_marker_is_refused() -> None:
    @dataclass
    class Serialized:
        email: Annotated[str, Hashed()]

        @field_serializer("email")
        def upper(self, value: str) -> str:
            return value.upper()

    with pytest.raises(TypeError, match=r"Serialized\.email: something else writes it"):
        model_of(Serialized)()
    with pytest.raises(TypeError, match=r"Wrong\.a: something else writes it"):
        model_of(list[Annotated[Person, PlainSerializer(lambda person: person.email)]])()


def test_containers_that_pydantic_writes_in_its_own_way_keep_their_markers() -> None:
    class Containers(EventModel):
        sequence: Sequence[Email]
        queue: deque[Email]
        mapping: Mapping[str, Email]
        ordered: OrderedDict[str, Email]
        default: defaultdict[str, list[Email]]
        some: set[Email]
        root: Root
        roots: list[Root]

    payload, _ = recorded(
        Containers(
            sequence=[SECRET],
            queue=deque([SECRET]),
            mapping={"a": SECRET},
            ordered=OrderedDict(a=SECRET),
            default=defaultdict(list, a=[SECRET]),
            some={SECRET},
            root=Root(SECRET),
            roots=[Root(SECRET)],
        )
    )

    assert payload == {
        "sequence": [HASH],
        "queue": [HASH],
        "mapping": {"a": HASH},
        "ordered": {"a": HASH},
        "default": {"a": [HASH]},
        "some": [HASH],
        "root": HASH,
        "roots": [HASH],
    }


class Root(RootModel[Email]):
    pass


def test_extra_fields_may_be_marked() -> None:
    class Open(EventModel):
        model_config = ConfigDict(extra="allow")
        __pydantic_extra__: dict[str, Annotated[str, Hashed()]] = Field(init=False)
        known: int

    assert recorded(Open(known=1, more=SECRET))[0] == {"known": 1, "more": HASH}  # type: ignore[call-arg]


class Base(BaseModel):
    email: str


class Stricter(Base):
    email: Annotated[str, Hashed()]


def test_a_subclass_that_marks_more_than_the_declared_class_is_refused() -> None:
    class Holder(EventModel):
        who: Base | None = None
        several: list[Base] = Field(default_factory=list)
        any_of: Annotated[Any, Allowed()] = None

    assert recorded(Holder(who=Base(email="x"), any_of=Stricter(email=SECRET)))[0]["any_of"] == {"email": HASH}
    for holder in (Holder(who=Stricter(email=SECRET)), Holder(several=[Stricter(email=SECRET)])):
        with pytest.raises(EncodeError, match="marks more than is declared") as caught:
            recorded(holder)
        assert SECRET not in str(caught.value)


def test_what_stands_over_a_marker_in_another_way_is_refused() -> None:
    class Shouting:
        def __get_pydantic_core_schema__(self, source: Any, handler: Callable[[Any], Any]) -> Any:
            from pydantic_core import core_schema  # noqa: PLC0415 - for this test alone

            return {**handler(source), "serialization": core_schema.plain_serializer_function_ser_schema(str.upper)}

    with pytest.raises(TypeError, match="something else writes it"):

        class Shouted(EventModel):
            email: Annotated[str, Hashed(), Shouting()]


def test_a_class_variable_or_an_init_variable_cannot_be_marked() -> None:
    @dataclass
    class Initial:
        given: dataclasses.InitVar[Annotated[str, Hashed()]]
        kept: str = ""

        def __post_init__(self, given: str) -> None:
            self.kept = given

    class OfClass(EventStruct):
        secret: ClassVar[Annotated[str, Hashed()]] = "s"

    with pytest.raises(EncodeError, match="not a field"):
        recorded(Said({"a": Initial(SECRET)}))
    with pytest.raises(TypeError, match="not a field"):
        recorded(OfClass())


@pytest.mark.parametrize("length", [-1, 1.5, "3", True, None])
def test_a_length_is_a_number_of_characters(length: Any) -> None:
    with pytest.raises(TypeError, match="number of characters"):
        Truncated(length)


def test_allowed_changes_nothing() -> None:
    class Open(EventModel):
        email: Annotated[str, Allowed()]
        column: Annotated[int, Column(), Allowed()]

    assert recorded(Open(email="x", column=5)) == ({"email": "x"}, [[5]])


# -- errors -----------------------------------------------------------------------------------------------------------


def test_errors_of_marked_events_quote_nothing() -> None:
    class Failing(EventModel):
        email: Annotated[str, Hashed()]
        other: Any

    class Quoting:
        def __init__(self) -> None:
            self.secret = SECRET

        def __repr__(self) -> str:
            return SECRET

    with pytest.raises(EncodeError) as caught:
        recorded(Failing(email=SECRET, other=Quoting()))

    assert SECRET not in str(caught.value)
    assert caught.value.__suppress_context__


@pytest.mark.parametrize("keys", [(Color.RED, "red"), ("red", Color.RED)])
def test_keys_that_become_one_show_nothing(keys: tuple[object, object]) -> None:
    class Marked(Said):
        email: Annotated[str, Hashed()]

    payload = dict.fromkeys(keys, 1) | {keys[1]: Company(SECRET), "email": "e"}

    for event in (Said(payload), Marked(payload)):
        with pytest.raises(EncodeError) as caught:
            recorded(event)
        assert SECRET not in str(caught.value)


class KeyRaises(EventModel, type="key_raises"):
    email: Email

    @property
    def key(self) -> str:
        raise ValueError(self.email)


class KeyRaisesStruct(EventStruct):
    type: ClassVar[str] = "key_raises"
    email: Email

    @property
    def key(self) -> str:
        raise ValueError(self.email)


@pytest.mark.parametrize("event", [KeyRaises(email=SECRET), KeyRaisesStruct(SECRET)])
def test_what_a_key_of_a_sample_raises_is_not_quoted(event: object) -> None:
    admission = Admission({"key_raises": Sampling(rate=0.5, key="key")})

    with pytest.raises(EncodeError) as caught:
        Encoder(privacy=Privacy(salt=b"s", admission=admission)).encode(event)

    assert SECRET not in str(caught.value)


def test_a_cycle_is_refused_and_shows_nothing() -> None:
    payload: dict[str, object] = {"who": Company(SECRET)}
    payload["self"] = payload

    with pytest.raises(EncodeError) as caught:
        recorded(Said(payload))

    assert SECRET not in str(caught.value)


def test_depth_is_no_way_around() -> None:
    payload: object = Company(SECRET)
    for _ in range(100):
        payload = {"a": [payload]}

    found, _ = recorded(Said(payload))

    for _ in range(100):
        found = found["a"][0]
    assert found == PERSON


def test_a_context_takes_no_marked_instance() -> None:
    recorder = EventRecorder()

    with pytest.raises(EncodeError, match="Company") as caught, recorder.context(who=Company(SECRET)):
        pass

    assert SECRET not in str(caught.value)


def test_a_marker_that_cannot_be_read_when_the_program_runs_is_refused() -> None:
    class Unreadable(Event):
        email: Annotated[OnlyForCheckers, Hashed()]  # type: ignore[name-defined]  # noqa: F821 - that is the case

    class Harmless(Event):
        email: OnlyForCheckers  # type: ignore[name-defined]  # noqa: F821 - likewise

    with pytest.raises(TypeError, match=r"Unreadable\.email"):
        recorded(Unreadable())
    assert recorded(Harmless()) == (None, None)


# -- properties -------------------------------------------------------------------------------------------------------

SENTINEL = "Sentinel7f3a91c4"

sentinels = st.text(max_size=6).map(lambda text: SENTINEL + text)


class AnyModel(EventModel):
    text: Email
    gone: Annotated[str, Redacted()]
    cut: Annotated[str, Truncated(8)]
    maybe: Email | None
    several: list[Email]
    named: dict[str, tuple[Email, ...]]
    person: Person | None
    anything: Any
    column: Annotated[str, Column(), Hashed()]
    structure: Annotated[list[dict[str, Email]], Column()]


class AnyStruct(EventStruct):
    text: Email
    gone: Annotated[str, Redacted()]
    cut: Annotated[str, Truncated(8)]
    maybe: Email | None
    several: list[Email]
    named: dict[str, tuple[Email, ...]]
    person: Member | None
    anything: Any
    column: Annotated[str, Column(), Hashed()]
    structure: Annotated[list[dict[str, Email]], Column()]


@given(st.data(), st.sampled_from([(AnyModel, Person), (AnyStruct, Member)]))
def test_no_byte_of_a_marked_value_is_recorded(data: st.DataObject, classes: tuple[Any, Any]) -> None:
    cls, person = classes
    people = sentinels.map(lambda text: person(email=text))
    nested = st.recursive(people, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner))
    event = cls(
        text=data.draw(sentinels),
        gone=data.draw(sentinels),
        cut=data.draw(sentinels),
        maybe=data.draw(st.none() | sentinels),
        several=data.draw(st.lists(sentinels)),
        named=data.draw(st.dictionaries(st.text(), st.lists(sentinels).map(tuple))),
        person=data.draw(st.none() | people),
        anything=data.draw(nested),
        column=data.draw(sentinels),
        structure=data.draw(st.lists(st.dictionaries(st.text(), sentinels))),
    )

    for record in (event, event.to_event()):
        entry = Encoder(privacy=Privacy(salt=b"s")).encode(record)
        assert isinstance(entry, tuple)
        assert SENTINEL.encode() not in entry[PAYLOAD] + (entry[EXTRA_ROWS] or b"")


# -- what stands in itself

Json = TypeAliasType("Json", "dict[str, Json] | list[Json] | str | int | None")
Tree = TypeAliasType("Tree", "T | list[Tree[T]]", type_params=(T,))
Growing = TypeAliasType("Growing", "list[Growing[list[T]]] | T", type_params=(T,))  # type: ignore[misc]
Whole = TypeAliasType("Whole", "Annotated[list[Whole] | str, Redacted()]")
Chain = TypeAliasType("Chain", "tuple[Annotated[str, Redacted()], Chain] | None")
Rows = TypeAliasType("Rows", "list[Line | Rows]")
Unreadable = TypeAliasType("Unreadable", "list[Annotated[Missing, Redacted()]]")  # type: ignore[name-defined] # noqa: F821


class Line(TypedDict):
    email: Annotated[str, Redacted()]


class Roots(RootModel["list[Roots] | dict[str, Roots]"]):
    pass


@pytest.mark.parametrize(
    ("base", "alias"),
    [
        (EventModel, Json),
        (EventModel, Tree[str]),
        *((EventStruct, alias) for alias in (Json, Tree[str], Growing[str])),  # of the last, pydantic makes nothing
    ],
)
def test_an_alias_that_stands_in_itself_is_read(base: Any, alias: Any) -> None:
    made: Any = type("Made", (base,), {"__annotations__": {"data": alias, "email": Email}, "__module__": __name__})

    assert recorded(made(data=["a"], email=SECRET))[0] == {"data": ["a"], "email": HASH}


@pytest.mark.parametrize("base", [EventModel, EventStruct])
def test_an_alias_that_stands_in_itself_may_be_a_column_or_marked_as_a_whole(base: Any) -> None:
    fields = {"whole": Whole, "data": Annotated[Json, Redacted()], "column": Annotated[Json, Column(ColumnType.JSON)]}
    made: Any = type("Made", (base,), {"__annotations__": fields, "__module__": __name__})

    payload, rows = recorded(made(whole=[SECRET], data={"a": [SECRET]}, column={"a": [1]}))

    assert payload == {"whole": GONE, "data": GONE}
    assert rows == [[b'{"a":[1]}']]
    with pytest.raises(TypeError, match=r"column: no column type fits .*Json"):
        Encoder().encode(struct_with(Annotated[Json, Column()], {}))


def test_a_dataclass_and_a_root_model_that_stand_in_themselves_are_read() -> None:
    @dataclass
    class Made(Event):
        data: Json
        roots: Roots

        @property
        def payload(self) -> object:
            return {"data": self.data}

    class WithRoots(EventModel):
        roots: Roots
        email: Email

    assert recorded(Made({"a": ["b"]}, Roots([])))[0] == {"data": {"a": ["b"]}}
    model = WithRoots.model_validate({"roots": [[], {"a": []}], "email": SECRET})
    assert recorded(model)[0] == {"roots": [[], {"a": []}], "email": HASH}


@pytest.mark.parametrize(("alias", "value"), [(Chain, (SECRET, (SECRET, None))), (Rows, [[{"email": SECRET}]])])
def test_a_marker_inside_of_what_stands_in_itself_is_refused(alias: Any, value: object) -> None:
    said = r"column: something in (Chain|Rows), which stands in itself, is marked; mark the whole of it, or"

    with pytest.raises(TypeError, match=said):
        recorded(struct_with(alias, value))


def test_what_stands_in_itself_and_holds_something_marked_is_marked_as_a_whole() -> None:
    assert recorded(struct_with(Annotated[Rows, Redacted()], [[{"email": SECRET}]]))[0] == {"column": None}


def test_a_marker_in_an_alias_that_cannot_be_read_is_refused() -> None:
    with pytest.raises(TypeError, match="the alias Unreadable cannot be read: name 'Missing' is not defined"):
        recorded(struct_with(Unreadable, [SECRET]))


Swapped = TypeAliasType("Swapped", dict[str, "T"], type_params=(T,))
K = TypeVar("K")
Turned = TypeAliasType("Turned", dict[K, T], type_params=(T, K))
Same = TypeAliasType("Same", "T", type_params=(T,))
Contact = NewType("Contact", "Annotated[Email, 1]")
Phantom = TypeAliasType("Phantom", Annotated[str, Hashed()], type_params=(T,))


@pytest.mark.parametrize(
    ("annotation", "value", "expected"),
    [
        (Turned[Email, str], {"a": SECRET}, {"a": HASH}),
        (Swapped[Email], {"a": SECRET}, {"a": HASH}),
        (Same[Email], SECRET, HASH),
        (Phantom[int], SECRET, HASH),
        (Contact, SECRET, HASH),
    ],
)
def test_parameters_of_an_alias_are_put_where_it_names_them(annotation: Any, value: Any, expected: object) -> None:
    assert recorded(struct_with(annotation, value))[0] == {"column": expected}


def struct_with(annotation: object, value: object) -> object:
    made: Any = type("Made", (EventStruct,), {"__annotations__": {"column": annotation}, "__module__": __name__})
    return made(column=value)
