from __future__ import annotations

import json
from contextlib import suppress
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventrec.ingest.posthog_wal import HalfWrittenLineError, SessionReading, pieces, session_of
from eventrec.ingest.received import EventTooLargeError, LineError

SESSION = UUID("0195f9b5-6f0e-4d6b-9d1a-3c1d6a1f0b7e")
READING = SessionReading(session=SESSION, distinct_id="9f86d081884c4d65")
LINE = (
    b'{"time_utc":"2025-04-03T01:20:10.557958200Z","kind":"Append","name":"open_recording",'
    b'"props":{"source":{"String":"http \\"x\\""},"event_id":{"Integer":1},'
    b'"size":{"Float":1.5e300},"web":{"Bool":true}}}'
)


def line(**changed: Any) -> bytes:
    return json.dumps({**json.loads(LINE), **changed}).encode()


def test_append_is_an_event_of_its_name() -> None:
    event = READING.event(LINE)

    assert (event.type, event.timestamp, event.table) == ("open_recording", 1_743_643_210_557_958_200, "events")
    assert event.payload == b'{"source":"http \\"x\\"","event_id":1,"size":1.5e300,"web":true}'
    assert json.loads(event.context or b"") == {"session_id": str(SESSION), "distinct_id": "9f86d081884c4d65"}


@pytest.mark.parametrize(("kind", "type_"), [("Identify", "$identify"), ("SetPersonProperties", "$set")])
def test_other_kinds_have_types_of_their_own(kind: str, type_: str) -> None:
    event = READING.event(line(kind=kind, name="update_metadata", props={"email": {"String": "a@example.org"}}))

    assert (event.type, event.payload) == (type_, b'{"email":"a@example.org"}')


def test_append_whose_name_is_that_of_another_kind_stays_an_append() -> None:
    event = READING.event(line(name="$set"))

    assert event.type == "$set"
    assert json.loads(event.context or b"")["posthog_kind"] == "Append"


def test_float_that_could_not_be_written_is_null() -> None:
    assert READING.event(line(props={"ratio": {"Float": None}})).payload == b'{"ratio":null}'


@given(
    st.dictionaries(
        st.text(),
        st.one_of(
            st.booleans().map(lambda value: {"Bool": value}),
            st.integers(-(2**63), 2**63 - 1).map(lambda value: {"Integer": value}),
            st.floats(allow_nan=False, allow_infinity=False).map(lambda value: {"Float": value}),
            st.text(st.characters(exclude_categories=["Cs"])).map(lambda value: {"String": value}),
        ),
    )
)
def test_any_property_is_its_value(props: dict[str, dict[str, Any]]) -> None:
    event = READING.event(line(props=props))

    assert json.loads(event.payload) == {name: next(iter(tagged.values())) for name, tagged in props.items()}


def test_same_line_has_the_same_id_again_and_equal_lines_of_a_file_have_others() -> None:
    other = SessionReading(session=UUID(int=1))
    ids = [READING.event(LINE).id, READING.event(LINE, repeat=1).id, other.event(LINE).id, READING.event(line()).id]

    assert READING.event(LINE).id == ids[0]
    assert len(set(ids)) == 4
    assert all(UUID(bytes=id_ or b"").version == 5 for id_ in ids)
    assert ids[0] == UUID("0a43d056-8041-5e42-97dc-5d929fa33023").bytes, "an id is for ever"


@pytest.mark.parametrize("end", range(1, len(LINE), 7))
def test_line_cut_anywhere_is_half_written(end: int) -> None:
    with pytest.raises(HalfWrittenLineError, match="half-written"):
        READING.event(LINE[:end])


@pytest.mark.parametrize(
    "text",
    [
        b"{}",
        b"[]",
        b"null",
        b"[" * 100_000,
        line(kind="Alias"),
        line(time_utc="yesterday"),
        line(time_utc="2500-01-01T00:00:00Z"),
        line(name=""),
        line(name="x" * 256),
        line(props=[]),
        line(props={"n": 1}),
        line(props={"n": {}}),
        line(props={"n": {"Integer": 1, "Float": 1}}),
        line(props={"n": {"Integer": 1.5}}),
        line(props={"n": {"Integer": 2**63}}),
        line(props={"n": {"Integer": "1"}}),
        line(props={"n": {"Float": "1"}}),
        line(props={"n": {"Bool": 1}}),
        line(props={"n": {"String": None}}),
        line(props={"n": {"List": []}}),
        LINE.replace(b"http", b"\\ud800"),
    ],
)
def test_whole_line_that_is_not_understood_is_told_from_a_half_written_one(text: bytes) -> None:
    with pytest.raises(LineError) as caught:
        READING.event(text)

    assert not isinstance(caught.value, HalfWrittenLineError)


def test_line_that_is_too_large_is_refused() -> None:
    with pytest.raises(EventTooLargeError):
        SessionReading(session=SESSION, max_event_bytes=300).event(LINE)


@given(st.binary(max_size=300))
def test_any_bytes_are_an_event_or_refused(text: bytes) -> None:
    with suppress(LineError):
        assert READING.event(text).type


def test_lines_that_were_written_into_one_another_are_parted() -> None:
    half = LINE[:60]

    assert pieces(LINE) == [LINE]
    assert pieces(half) == [half]
    assert pieces(half + LINE) == [half, LINE]
    assert pieces(LINE + LINE) == [LINE, LINE]
    assert pieces(b"\0\0" + LINE) == [b"\0\0", LINE]
    assert pieces(b"{}") == [b"{}"]


@pytest.mark.parametrize(
    ("name", "session"),
    [
        (f"{SESSION}.json", SESSION),
        (f"{SESSION}.jsonl", None),
        (f"{SESSION}.json.bak", None),
        (f"{SESSION.hex}.json", None),
        (f"{str(SESSION).upper()}.json", None),
        ("analytics.json", None),
        (f"x{SESSION}.json", None),
    ],
)
def test_session_is_the_name_of_the_file(name: str, session: UUID | None) -> None:
    assert session_of(name) == session
