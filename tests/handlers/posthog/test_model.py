"""Events spliced from bytes, beside what dicts would make of them."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from eventrec import Batch, ColumnSchema, ColumnType, ReceivedEvent
from eventrec_handlers.posthog.events import Persons, sendables
from eventrec_handlers.posthog.requests import in_v0, in_v1

pytestmark = pytest.mark.handlers

WITH_FIXTURE = settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow], deadline=None
)

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
names = st.one_of(
    texts,
    st.sampled_from(
        ["session_id", "distinct_id", "table", "payload", "$set", "column", "host", "uuid", "$process_person_profile"]
    ),
)
values = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-(2**63), 2**64 - 1),
        st.floats(allow_nan=False, allow_infinity=False),
        texts,
    ),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(names, inner, max_size=3)),
    max_leaves=6,
)
contexts: st.SearchStrategy[dict[str, Any] | None] = st.one_of(
    st.none(),
    st.dictionaries(names.filter(lambda name: name not in {"distinct_id", "session_id"}), values, max_size=3),
    st.fixed_dictionaries(
        {},
        optional={
            "distinct_id": st.one_of(st.none(), st.just("me"), st.integers(0, 9)),
            "session_id": st.one_of(st.none(), st.just("s"), st.integers()),
            "host": values,
            "posthog_kind": st.sampled_from(["Append", "Identify", "Alias", None, 1]),
        },
    ),
)
cut = values.map(lambda value: json.dumps(value).encode()[:15])
types = st.sampled_from(["done", "$set", "$identify", 'a "name"\\\n'])
spaces = st.sampled_from(["", " ", "\n\t "])


def model(said: ReceivedEvent, payload: Any, context: dict[str, Any], column: Any, uuid: str) -> dict[str, Any] | None:
    """The event, made of dicts; None where there can be none."""
    around = dict(context)
    kind = around.pop("posthog_kind", None)
    session, person = around.pop("session_id", None), around.pop("distinct_id", None)
    if kind not in {"Append", "Identify", "SetPersonProperties"}:
        kind = {"$identify": "Identify", "$set": "SetPersonProperties"}.get(said.type, "Append")
    if kind != "Append" and (person is None or not (payload is None or isinstance(payload, dict))):
        return None
    empty: dict[str, Any] = {} if kind != "Append" else {"payload": None}
    own = dict(payload) if isinstance(payload, dict) else empty if payload is None else {"payload": payload}
    if column is not None:
        own.setdefault("column", column)
    event: dict[str, Any] = {"event": said.type, "uuid": uuid, "distinct_id": uuid if person is None else str(person)}
    shared = {**({} if said.table == "events" else {"table": said.table}), **around}
    with_session = {} if session is None else {"session_id": session}
    match kind:
        case "Append":
            event["properties"] = {**shared, **own, **with_session}
            if person is None:
                event["properties"].setdefault("$process_person_profile", False)
        case "Identify":
            event |= {"event": "$identify", "$set": own, "properties": {**shared, **with_session}}
        case _:
            event |= {"event": "$set", "properties": {"$set": own}}
    return event


@WITH_FIXTURE
@given(st.data())
def test_bytes_say_what_dicts_would(batch: Callable[..., Batch], data: st.DataObject) -> None:
    type_, space, table = data.draw(types), data.draw(spaces), data.draw(st.sampled_from(["events", "orders"]))
    payload: Any = data.draw(values)
    context, column = data.draw(contexts), data.draw(st.one_of(st.none(), texts))
    has_column = data.draw(st.booleans())
    indent, is_ascii = data.draw(st.sampled_from([None, 1])), data.draw(st.booleans())
    text = space + json.dumps(payload, ensure_ascii=is_ascii, indent=indent)
    columns = {"columns": (ColumnSchema("column", ColumnType.STRING),), "rows": ((column,),)} if has_column else {}
    said = ReceivedEvent(
        type_.replace("\n", ""),
        (text + space).encode(),
        0,
        table,
        context=None if context is None else json.dumps(context).encode(),
        **columns,  # type: ignore[arg-type]
    )
    uuid = batch(said).records[0].id
    expected = model(said, payload, context or {}, column if has_column else None, uuid)

    (request,) = batch(said).row_inserts()
    refused: dict[int, str] = {}

    events = [in_v0(event) for event in sendables(request, Persons(), refused)]

    if expected is None:
        assert not events
        assert refused.keys() == {0}
    else:
        assert [json.loads(event, object_pairs_hook=unique) for event in events] == [
            {"timestamp": "1970-01-01T00:00:00Z", **expected}
        ]


def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object, in which no name stands twice."""
    assert len({name for name, _ in pairs}) == len(pairs), pairs
    return dict(pairs)


@WITH_FIXTURE
@given(st.lists(st.one_of(st.binary(max_size=20), cut), max_size=4))
@pytest.mark.parametrize("protocol", ["v0", "v1"])
def test_no_payload_breaks_out_of_its_event(batch: Callable[..., Batch], protocol: str, payloads: list[bytes]) -> None:
    """What is not JSON is refused alone; the rest is as many events."""
    kept = [b"{}", *payloads]
    (request,) = batch(*(ReceivedEvent("done", payload) for payload in kept)).row_inserts()
    refused: dict[int, str] = {}
    form = {"v0": in_v0, "v1": in_v1}[protocol]

    text = b"[%b]" % b",".join(map(form, sendables(request, Persons(default="me"), refused)))

    assert not any(is_json(kept[offset]) for offset in refused)
    events = json.loads(text)
    assert len(events) == len(kept) - len(refused)
    assert {event["event"] for event in events} == {"done"}


def is_json(text: bytes) -> bool:
    try:
        json.loads(text.decode(), parse_constant=int)
    except ValueError:
        return False
    return True
