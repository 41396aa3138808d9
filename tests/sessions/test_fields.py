"""Where things stand in a record: payload, context, columns; and what options say of it."""

from __future__ import annotations

import tomllib
from collections.abc import Callable
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any
from uuid import UUID

import msgspec
import pytest

from eventrec import ID, TYPE, Layout, LayoutColumn, from_context, from_field, from_payload
from eventrec.bus import Entry, Ids, make_entry
from eventrec.errors import OptionsError
from eventrec.records.column_types import ColumnType
from eventrec.records.extra_rows import encode_rows
from eventrec.records.layout_columns import EVENT, TIMESTAMP, LayoutSource
from eventrec.records.layout_rows import lay_out
from eventrec.records.schema import ColumnSchema, Shape
from eventrec.sessions import CARRIED, EventFields, Sessions, SessionStage
from eventrec.sessions.from_options import reference_sessions, sessions
from eventrec.testing.stages import StageRun

T = 1_760_000_000_000
PLAIN = {"project_id": "p", "device_id": "d", "path": "/"}


def entry(payload: Any, *, at: int = T, context: Any = None, shape: Shape | None = None, rows: Any = None) -> Entry:
    shape = Shape("events", "screen_view") if shape is None else shape
    return make_entry(
        shape,
        at * 1_000_000,
        msgspec.json.encode(payload),
        None if context is None else msgspec.json.encode(context),
        None if rows is None else encode_rows(shape, rows),
    )


def starts(fields: EventFields, *entries: Entry, static: bytes | None = None) -> list[dict[str, Any]]:
    run = StageRun(SessionStage(Sessions(fields=fields)))
    run.feed(entries, static_context=static)
    return run.events("session_start")


def test_fields_are_taken_from_inside_the_payload() -> None:
    fields = EventFields(project=from_payload("site", "id"), device=from_payload("site", "user", "device"))

    (start,) = starts(fields, entry({"site": {"id": "p", "user": {"device": "d"}}}))

    assert (start["project_id"], start["device_id"]) == ("p", "d")


def test_fields_are_taken_from_the_context_of_the_call_before_the_static_one() -> None:
    fields = EventFields(project=from_context("app"), device=from_context("user", "device"))

    (start,) = starts(
        fields, entry(None, context={"user": {"device": "d"}}), static=b'{"app":"p","user":{"device":"other"}}'
    )

    assert (start["project_id"], start["device_id"]) == ("p", "d")


def test_fields_are_taken_from_columns() -> None:
    shape = Shape(
        "events", "screen_view", (ColumnSchema("dev", ColumnType.STRING), ColumnSchema("cents", ColumnType.INT64))
    )
    run = StageRun(SessionStage(Sessions(fields=EventFields(device=from_field("dev"), revenue=from_field("cents")))))

    run.feed([entry({"project_id": "p"}, shape=shape, rows=[("d", 5)]), entry({"project_id": "p"})])

    (row,) = run.events("session")
    assert (row["device_id"], row["revenue"]) == ("d", 5.0)
    assert run.counts["without_session"] == 1


def test_of_several_sources_the_first_with_a_value_counts() -> None:
    fields = EventFields(device=(from_payload("device_id"), from_payload("anonymous"), from_context("device")))

    found = starts(
        fields,
        entry({"project_id": "p", "device_id": "a", "anonymous": "b"}),
        entry({"project_id": "p", "device_id": "", "anonymous": "c"}),
        entry({"project_id": "p"}, context={"device": "e"}),
    )

    assert [each["device_id"] for each in found] == ["a", "c", "e"]


def test_numbers_are_ids_too() -> None:
    (start,) = starts(EventFields(), entry({"project_id": 1, "device_id": 22}))

    assert (start["project_id"], start["device_id"]) == ("1", "22")


def test_type_can_be_a_member_of_the_payload() -> None:
    run = StageRun(SessionStage(Sessions(fields=EventFields(type=from_payload("name")))))

    run.feed([entry({**PLAIN, "name": name}, shape=Shape("events", "event")) for name in ("screen_view", "click")])

    (row,) = run.events("session")
    assert (row["screen_view_count"], row["event_count"]) == (1, 1)


@pytest.mark.parametrize(
    "time", [T, float(T), "2025-10-09T08:53:20Z", "2025-10-09 08:53:20.000", "2025-10-09T10:53:20+02:00"]
)
def test_time_can_be_a_member_of_the_payload(time: object) -> None:
    fields = EventFields(time=(from_payload("created_at"), TIMESTAMP))

    (start,) = starts(fields, entry({**PLAIN, "created_at": time}, at=5))

    assert start["_at"] == T - 100


@pytest.mark.parametrize("time", ["tomorrow", 1e300, True, {}, 10**40])
def test_a_time_that_is_none_makes_a_record_unreadable(time: object) -> None:
    run = StageRun(SessionStage(Sessions(fields=EventFields(time=from_payload("created_at")))))

    run.feed([entry({**PLAIN, "created_at": time})])

    assert run.counts["unreadable"] == 1


def test_ids_that_are_too_long_make_a_record_unreadable() -> None:
    run = StageRun(SessionStage(Sessions()))

    run.feed([entry({**PLAIN, "device_id": "x" * 512}), entry({**PLAIN, "device_id": "x" * 513})])

    assert run.counts == {"unreadable": 1, "in_session": 1, "opened": 1, "rows": 1}


def test_what_a_session_keeps_of_long_values_is_bounded() -> None:
    run = StageRun(SessionStage(Sessions()))
    huge = {"path": "/" * 900_000, "referrer": "r" * 900_000, "groups": [f"{i}" * 3_000 for i in range(1_000)]}

    run.feed([entry({**PLAIN, **huge, "city": "c" * 900_000})])

    (kept,) = run.state.values()
    assert len(kept) < 100 * 2_051 + 20_000
    assert run.events("screen_view")[0]["path"] == huge["path"]


@pytest.mark.parametrize(
    "fields",
    [
        {"project": EVENT},
        {"project": from_payload("a"), "device": from_payload("a", "b")},
        {"project": from_payload("a"), "device": from_payload("a")},
        {"path": LayoutSource("type")},
        {"carried": {"x": from_payload("a"), "y": from_payload("a")}},
    ],
)
def test_sources_that_contradict_are_refused_where_they_are_said(fields: dict[str, Any]) -> None:
    with pytest.raises(OptionsError):
        EventFields(**fields)


def test_what_is_carried_has_no_name_of_a_member_of_ours() -> None:
    with pytest.raises(OptionsError, match="'duration' is a member that sessions have"):
        Sessions(fields=EventFields(carried={**CARRIED, "duration": from_payload("d")}))


def test_a_layout_reads_what_comes_out() -> None:
    layout = Layout(
        "sessions",
        [
            LayoutColumn("id", from_payload("id"), "uuid", nullable=False),
            LayoutColumn("created_at", TIMESTAMP, "timestamptz"),
            LayoutColumn("ended_at", from_payload("ended_at"), "timestamptz", nullable=False),
            LayoutColumn("duration", from_payload("duration"), "bigint", nullable=False),
            LayoutColumn("is_bounce", from_payload("is_bounce"), "boolean", nullable=False),
            LayoutColumn("screen_view_count", from_payload("screen_view_count"), "integer", nullable=False),
            LayoutColumn("revenue", from_payload("revenue"), "double", nullable=False),
            LayoutColumn("longitude", from_payload("longitude"), "double"),
            LayoutColumn("utm_source", from_payload("utm_source"), "text", nullable=False),
            LayoutColumn("sign", from_payload("sign"), "smallint", nullable=False),
            LayoutColumn("version", from_payload("version"), "bigint", nullable=False),
            LayoutColumn("groups", from_payload("groups"), "json", nullable=False),
            LayoutColumn("row", ID, "uuid"),
            LayoutColumn("kind", TYPE, "text"),
        ],
    )
    run = StageRun(SessionStage(Sessions()))
    run.feed([entry({**PLAIN, "longitude": 13.5}), entry({**PLAIN, "revenue": 0.25}, at=T + 1_500)])
    rows = [each for each in run.entries if each[0].table == "sessions"]

    laid = lay_out(layout, range(len(rows)), rows, Ids(UUID(int=1)), static_context=None)

    assert laid.refused == {}
    found = {column.name: values[0] for column, values in zip(laid.columns, laid.values, strict=True)}
    assert (found["created_at"], found["ended_at"]) == (T * 1_000_000, (T + 1_500) * 1_000_000)
    assert (found["duration"], found["is_bounce"], found["screen_view_count"]) == (1_500, False, 2)
    assert (found["revenue"], found["longitude"], found["sign"], found["version"]) == (0.25, 13.5, 1, 2)


# -- by options


def test_stages_are_entry_points() -> None:
    # Of the project, not of an installation that may be older.
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    points = project["entry-points"]["eventrec.stages"]

    loaded = {name: EntryPoint(name, value, "eventrec.stages").load() for name, value in points.items()}

    assert {"sessions": sessions, "reference-sessions": reference_sessions}.items() <= loaded.items()


def test_options_are_a_mapping_or_keywords() -> None:
    by_mapping, by_keywords = sessions({"gap": "10m", "name": "web"}), sessions(gap="10m", name="web")

    assert by_mapping.name == by_keywords.name == "web"
    assert isinstance(by_mapping.policy, Sessions)
    assert by_mapping.policy.gap_milliseconds == by_keywords.policy.gap_milliseconds == 600_000  # type: ignore[attr-defined]
    assert by_mapping.policy.idle_seconds == 600
    assert (sessions().name, reference_sessions({}).name) == ("sessions", "reference-sessions")


def test_options_say_where_things_stand() -> None:
    stage = sessions(project="payload:site.id", device="context:device", profile="column:who", sessions_table="")
    run = StageRun(stage)

    run.feed([entry({"site": {"id": "p"}}, context={"device": "d"})])

    assert [each["_type"] for each in run.events()] == ["session_start", "screen_view"]
    assert run.events("session_start")[0]["device_id"] == "d"


@pytest.mark.parametrize("make", [sessions, reference_sessions])
def test_properties_can_go_out_flat(make: Callable[..., SessionStage]) -> None:
    run = StageRun(make(flat_properties="true"))
    unreadable = b'{"device_id":{},"properties":{"a":{"b":1}}}'

    run.feed(
        [
            entry({**PLAIN, "session_id": "s", "properties": {"a": {"b": [True]}}}),
            make_entry(Shape("events", "click"), T, unreadable),
        ]
    )
    run.wait(1_800)

    assert [each["properties"] for each in run.events("screen_view", "click")] == (
        [{"a.b.0": "true"}, {"a.b": "1"}] if make is sessions else [{"a.b": "1"}, {"a.b.0": "true"}]
    )


@pytest.mark.parametrize(
    "options",
    [
        {"flat_properties": "maybe"},
        {"gap": "soon"},
        {"gap": "0s"},
        {"idle": "inf"},
        {"late": "never"},
        {"nothing": "x"},
        {"project": "header:x"},
        {"project": "payload:"},
        {"view_type": ""},
    ],
)
def test_options_that_are_none_are_refused_with_words(options: dict[str, str]) -> None:
    with pytest.raises(OptionsError, match=next(iter(options))):
        sessions(options)
