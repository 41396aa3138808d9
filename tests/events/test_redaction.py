"""Secrets in untyped fields: which are found, where, and what is left in their place."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Annotated, Any, ClassVar

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from eventrec import (
    Column,
    ColumnSchema,
    ColumnType,
    EncodeError,
    Event,
    EventModel,
    EventStruct,
    Hashed,
    ReceivedEvent,
    Redaction,
    Row,
)
from eventrec.events.encoder import Encoder
from eventrec.events.entry_rules import EntryRules
from eventrec.events.hashing import hashed
from eventrec.events.privacy_plans import Privacy
from eventrec.events.redaction import Redactor, is_card_number
from eventrec.records.entry import CONTEXT, EXTRA_ROWS, PAYLOAD
from eventrec.records.extra_rows import decode_rows

SECRET = "hunter2!"
GONE = "[redacted]"
CARDS = [
    "4111111111111111",
    "5500005555555559",
    "2221000000000009",
    "378282246310005",
    "30569309025904",
    "4222222222222",
]
REDACTOR = Redactor(Redaction())


# -- keys


@pytest.mark.parametrize(
    "key",
    [
        *("password", "Password", "PASSWORD", "user_password", "passwordHash", "db-password", "pass word", "passwd"),
        *("mysql_pwd", "token", "access_token", "refreshToken", "X-Auth-Token", "CSRF", "csrf_middleware_token"),
        *("sessionid", "PHP_SESSION_ID", "session.id", "cookie", "Set-Cookie", "secret", "clientSecret", "secrets"),
        *(
            "api_key",
            "X-API-Key",
            "apiKey",
            "private-key",
            "aws_secret_access_key",
            "credentials",
            "\uff50\uff41\uff53\uff53word",
        ),
        *("Authorization", "Proxy-Authorization", "auth", "card_number", "creditCard", "CVV", "pan", "iban", "ssn"),
    ],
)
def test_keys_that_are_redacted(key: str) -> None:
    assert list(REDACTOR.value({key: SECRET}).values()) == [GONE]


@pytest.mark.parametrize(
    "key",
    [
        *("tokens", "max_tokens", "token_count", "author", "authors", "session", "sessions", "secretary", "passenger"),
        *("compass", "key", "keyboard", "card", "company", "panel", "cookies_accepted", "user", "email", ""),
    ],
)
def test_keys_that_are_not(key: str) -> None:
    assert REDACTOR.value({key: "value"}) == {key: "value"}


def test_whatever_the_value_is_except_null() -> None:
    given = {"password": None, "token": 5, "secret": {"a": ["b"]}, "cookie": ["a"], "auth": True}

    assert REDACTOR.value(given) == {"password": None, "token": GONE, "secret": GONE, "cookie": GONE, "auth": GONE}


def test_at_any_depth_and_in_the_forms_that_headers_take() -> None:
    given = {
        "a": [[{"b": {"API-Key": SECRET}}]],
        "headers": [["Authorization", SECRET], ["Accept", "text/html"]],
        "har": [{"name": "Cookie", "value": SECRET}, {"name": "Accept", "value": "x"}],
    }

    assert REDACTOR.value(given) == {
        "a": [[{"b": {"API-Key": GONE}}]],
        "headers": [["Authorization", GONE], ["Accept", "text/html"]],
        "har": [{"name": "Cookie", "value": GONE}, {"name": "Accept", "value": "x"}],
    }


def test_keys_and_patterns_of_an_application() -> None:
    redactor = Redactor(
        Redaction(
            defaults=False,
            cards=False,
            keys=frozenset({"nick*", "Real Name", "a.b"}),
            patterns=("[A-Z]{2}\\d{6}", "id=(?P<secret>\\w+)"),
        )
    )

    assert redactor.value(
        {"nick_name": "x", "realName": "y", "AB": "z", "password": SECRET, "text": "AB123456 id=abc", "AB123456": 1}
    ) == {"nick_name": GONE, "realName": GONE, "AB": GONE, "password": SECRET, "text": f"{GONE} id={GONE}", GONE: 1}


def test_a_pattern_whose_group_is_not_in_the_match_goes_whole() -> None:
    redactor = Redactor(Redaction(defaults=False, patterns=("a(?P<secret>b)?",)))

    assert redactor.text("a ab") == f"{GONE} a{GONE}"


# -- texts


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Authorization: Bearer abc.def-ghi", f"Authorization: {GONE} {GONE}"),
        ("Authorization: Token abc def", f"Authorization: {GONE}"),
        ('authorization: Digest username="a", response="b"', f"authorization: {GONE}"),
        ("curl -H 'Authorization: Token abc' http://host", f"curl -H 'Authorization: {GONE}' http://host"),
        ("Cookie: a=b; c=d\r\nHost: x", f"Cookie: {GONE}\r\nHost: x"),
        ("Set-Cookie: id=a; Path=/", f"Set-Cookie: {GONE}"),
        ("sent basic dXNlcjpwYXNz to x", f"sent basic {GONE} to x"),
        ("eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.abc-_", GONE),
        ("postgres://user:p@ss:w@host/db", f"postgres://user:{GONE}@host/db"),
        ("GET /a?b=c&access_token=abc&d=e#f", f"GET /a?b=c&access_token={GONE}&d=e#f"),
        ("Server=x;Password=abc;Port=5", f"Server=x;Password={GONE};Port=5"),
        ('{"a": 1, "password": "x \\" y", "b": 2}', f'{{"a": 1, "password": "{GONE}", "b": 2}}'),
        ('{"credentials": {"user": "}a", "pin": [1, 2]}, "b": 2}', f'{{"credentials": {GONE}, "b": 2}}'),
        ('{\\"secrets\\": [\\"a\\", {\\"b\\": 1}], \\"c\\": 2}', f'{{\\"secrets\\": {GONE}, \\"c\\": 2}}'),
        ('{"a": [{"tokens": 1, "secret": [\n  "b",\n  "c', f'{{"a": [{{"tokens": 1, "secret": {GONE}'),
        ("{'secret': {'a': '}x'}, 'b': 2}", f"{{'secret': {GONE}, 'b': 2}}"),
        ('{\\"secret\\": {\\"a\\": \\"}x\\"}}', f'{{\\"secret\\": {GONE}}}'),
        ("secret={GONE", f"secret={GONE}"),
        ("{'password': 'x y', 'b': 2}", f"{{'password': '{GONE}', 'b': 2}}"),
        ("-----BEGIN RSA PRIVATE KEY-----\nabc\n-----END RSA PRIVATE KEY----- x", f"{GONE} x"),
        ("-----BEGIN PRIVATE KEY-----\nabc", GONE),
    ],
)
def test_texts_that_hold_a_secret(text: str, expected: str) -> None:
    assert REDACTOR.value([text]) == [expected]


@pytest.mark.parametrize(
    "text",
    [
        "the bearer of this",
        "cookie policy: accepted",
        "https://example.com:8080/a?b=c#d",
        "user@example.com",
        "12:30:45",
        "a basic idea",
        "2026-11-28T20:15:02.123456789Z",
        "7b0c4f3e-4c8f-4c7f-9b52-0d0d3c3e2f11",
        "",
    ],
)
def test_texts_that_hold_none(text: str) -> None:
    assert REDACTOR.text(text) == text


@pytest.mark.parametrize("card", CARDS)
@pytest.mark.parametrize("form", ["{}", "card {}, 12/27", "ord_{}x", "12 {} 99", "({})"])
def test_card_numbers_go(card: str, form: str) -> None:
    grouped = [card, *(separator.join((card[:4], card[4:10], card[10:])) for separator in " -\u00a0")]

    for number in grouped:
        assert REDACTOR.text(form.format(number)) == form.format(GONE)


@pytest.mark.parametrize(
    "digits",
    ["4111111111111112", "1732823456789012345", "0000000000000000", "41111111111", "41111111111111111111", "9" * 16],
)
def test_other_numbers_stay(digits: str) -> None:
    assert REDACTOR.text(digits) == digits


@given(st.integers(10**11, 10**17))
def test_luhn_by_hand(number: int) -> None:
    digits = f"4{number}"
    total = 0
    for position, digit in enumerate(reversed(digits)):
        doubled = int(digit) * (2 if position % 2 else 1)
        total += doubled - 9 if doubled > 9 else doubled

    assert is_card_number(digits) == (total % 10 == 0)


def test_cards_may_stay() -> None:
    assert Redactor(Redaction(cards=False)).text(CARDS[0]) == CARDS[0]


def test_keys_that_are_secrets_themselves_stay_apart() -> None:
    given: dict[str, object] = {CARDS[0]: 1, CARDS[1]: 2, GONE: 3}

    assert REDACTOR.value(given) == {f"{GONE} 2": 1, f"{GONE} 3": 2, GONE: 3}


@pytest.mark.parametrize(
    "unit",
    [
        "a",
        "1 ",
        "secret:[",
        "secret: {}",
        "secret: {'",
        '\\"',
        "44 ",
        "a=",
        ":",
        "://a:",
        "eyJ",
        "-----BEGIN PRIVATE KEY-----",
        '"',
        'password="',
        "bearer ",
    ],
)
def test_no_text_takes_long(unit: str) -> None:
    REDACTOR.text(unit * (200_000 // len(unit)))


# -- entries


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


def entry_of(event: object, context: bytes | None = None) -> Any:
    rules = EntryRules(Redaction())
    return Encoder(now=lambda: 1, context=lambda: context, privacy=Privacy(salt=b"s", rules=rules)).encode(event)


def payload_of(event: object) -> Any:
    return json.loads(entry_of(event)[PAYLOAD])


class Login(EventModel):
    password: str
    token: Annotated[str, Hashed()]


class LoginStruct(EventStruct):
    type: ClassVar[str] = "login"
    password: str
    token: Annotated[str, Hashed()]


class Account(BaseModel):
    token: Annotated[str, Hashed()]
    password: str


class Nested(EventModel):
    account: Account
    accounts: dict[str, list[Account]]


class Overriding(Login):
    def to_event(self) -> Event | None:
        return super().to_event()


@pytest.mark.parametrize("cls", [Login, LoginStruct, Overriding])
def test_keys_of_typed_events_count_too_and_markers_before_them(cls: Any) -> None:
    payload = payload_of(cls(password=SECRET, token=SECRET))

    assert payload == {"password": GONE, "token": hashed(SECRET, "s")}


def test_markers_inside_other_fields_count_before_keys() -> None:
    account = Account(token=SECRET, password=SECRET)
    expected = {"token": hashed(SECRET, "s"), "password": GONE}

    assert payload_of(Nested(account=account, accounts={"a": [account]})) == {
        "account": expected,
        "accounts": {"a": [expected]},
    }


def test_columns_are_redacted_by_their_names_and_what_they_hold() -> None:
    columns = (
        ColumnSchema("password", ColumnType.STRING),
        ColumnSchema("pan", ColumnType.INT64),
        ColumnSchema("request", ColumnType.JSON),
        ColumnSchema("text", ColumnType.STRING),
        ColumnSchema("amount", ColumnType.DECIMAL128),
        ColumnSchema("tokens", ColumnType.LIST),
        ColumnSchema("raw", ColumnType.BINARY),
    )
    row = (SECRET, 5, {"password": SECRET, "a": 1.50}, "password=x", 4111111111111111, [{"token": 1}], b"\xff")

    rows = decode_rows(entry_of(Untyped(None, columns, (row, [None] * 7)))[EXTRA_ROWS])

    assert rows == [
        [
            GONE,
            None,
            b'{"password":"[redacted]","a":1.5}',
            f"password={GONE}",
            "4111111111111111",
            b'[{"token":"[redacted]"}]',
            b"\xff",
        ],
        [None] * 7,
    ]


def test_a_marked_column_keeps_to_its_marker() -> None:
    class Marked(EventModel):
        token: Annotated[str, Column(), Hashed()]
        password: Annotated[str, Column()]

    assert decode_rows(entry_of(Marked(token=SECRET, password=SECRET))[EXTRA_ROWS]) == [[hashed(SECRET, "s"), GONE]]


def test_the_context_is_redacted() -> None:
    assert entry_of(Untyped(1), b'{"password":"x","a":1}')[CONTEXT] == b'{"password":"[redacted]","a":1}'


def test_received_events_are_redacted_and_their_numbers_stay_what_they_are() -> None:
    event = ReceivedEvent(
        "a", b'{"a":1e400,"b":1.10,"c":123456789012345678901234567890,"pass\\u0077ord":"x","d":"a","d":2}'
    )

    assert (
        entry_of(event)[PAYLOAD]
        == b'{"a":1e400,"b":1.10,"c":123456789012345678901234567890,"password":"[redacted]","d":2}'
    )


def test_a_received_payload_that_is_not_json_is_refused_where_secrets_are_looked_for() -> None:
    with pytest.raises(EncodeError) as caught:
        entry_of(ReceivedEvent("a", b'{"password": "hunter2!"'))

    assert SECRET not in str(caught.value)


class Raises:
    """An `Eventable` whose own error quotes what it was to say."""

    def to_event(self) -> Event | None:
        raise ValueError(f"password={SECRET}")


def test_what_an_events_own_code_raises_is_not_quoted() -> None:
    with pytest.raises(EncodeError) as caught:
        entry_of(Raises())

    assert SECRET not in str(caught.value)


@pytest.mark.parametrize("payload", [None, 1, 1.5, "text", True, [], {}, {"a": [1, None, "x"]}])
def test_what_holds_no_secret_stays(payload: object) -> None:
    assert payload_of(Untyped(payload)) == payload


def test_deep_payloads_are_redacted_or_refused() -> None:
    payload: object = {"password": SECRET}
    for _ in range(150):
        payload = {"a": [payload]}
    deeper = payload
    for _ in range(5_000):
        deeper = [deeper]

    assert SECRET.encode() not in entry_of(Untyped(payload))[PAYLOAD]
    with pytest.raises(EncodeError) as caught:
        entry_of(Untyped(deeper))
    assert SECRET not in str(caught.value)
    with pytest.raises(EncodeError):
        entry_of(ReceivedEvent("a", b"[" * 100_000 + b"]" * 100_000))


def test_a_cycle_is_refused() -> None:
    payload: dict[str, object] = {"password": SECRET}
    payload["again"] = payload

    with pytest.raises(EncodeError) as caught:
        entry_of(Untyped(payload))

    assert SECRET not in str(caught.value)


def test_errors_quote_nothing() -> None:
    class Failing(Event):
        @property
        def payload(self) -> object:
            raise ValueError(SECRET)

    with pytest.raises(EncodeError) as caught:
        entry_of(Failing())

    assert SECRET not in str(caught.value)
    assert caught.value.__suppress_context__


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


def planted(value: Any, secret: Any, draw: Any) -> Any:
    """`value` with `secret` under a key of ours, somewhere in it."""
    if isinstance(value, dict) and value and draw(st.booleans()):
        key = draw(st.sampled_from(sorted(value)))
        return {**value, key: planted(value[key], secret, draw)}
    if isinstance(value, list) and value and draw(st.booleans()):
        at = draw(st.integers(0, len(value) - 1))
        return [*value[:at], planted(value[at], secret, draw), *value[at + 1 :]]
    key = draw(st.sampled_from(["password", "API-Key", "accessToken", "x_secret", "Authorization"]))
    return {"before": value, key: secret}


@given(st.data())
def test_no_byte_of_what_stands_under_a_secret_key_is_recorded(data: st.DataObject) -> None:
    secret = "SENTINEL" + data.draw(st.text(max_size=5))
    inside = data.draw(st.sampled_from([secret, [secret], {"a": secret}, {secret: 1}]))
    payload = planted(data.draw(values), inside, data.draw)

    entry = entry_of(Untyped(payload))

    assert b"SENTINEL" not in entry[PAYLOAD]


@given(values)
def test_redacting_twice_changes_nothing_more(value: object) -> None:
    once = REDACTOR.value(msgspec.json.decode(msgspec.json.encode(value)))

    assert REDACTOR.value(once) == once
