"""Profiles of any events, cut into any batches, with crashes anywhere: equal to what the whole list comes to."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import msgspec
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from eventrec.bus import Entry, Records, make_entry
from eventrec.records.entry import PAYLOAD, SHAPE, TIMESTAMP
from eventrec.records.schema import Shape
from eventrec.sessions import Profiles, SessionStage
from eventrec.sessions.payloads import flattened
from eventrec.testing.profiles import PersonEvent, brute_force_profiles, last_rows, moment_of, person_entry
from eventrec.testing.stages import StageRun

T = 1_760_000_000_000
MINUTE = 60_000

FEW = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])

times = st.integers(-4, 8).map(lambda half: half * 30 * MINUTE) | st.integers(-100 * MINUTE, 300 * MINUTE)
values: st.SearchStrategy[Any] = st.sampled_from(["", "x", "y", "ü\u2028", None, 5, 2.5, True, [], ["a", 1, None], {}])
objects = st.dictionaries(st.sampled_from("abc"), values, max_size=3)
properties = st.dictionaries(
    st.sampled_from(["plan", "a", "country", "device"]), values | objects | st.dictionaries(st.just("a"), objects)
)
observed = st.fixed_dictionaries(
    {},
    optional={
        "country": st.sampled_from(["SE", "US", ""]),
        "device": st.sampled_from(["server", "mobile", ""]),
        "path": st.sampled_from(["/a", "/b", ""]),
        "longitude": st.sampled_from([18.5, None]),
    },
)
people = st.lists(
    st.builds(
        PersonEvent,
        id=st.uuids().map(str),
        at=times.map(lambda at: T + at),
        project=st.sampled_from(["p", "q:1", ""]),
        device=st.sampled_from(["d", "e", ""]),
        profile=st.sampled_from(["", "d", "ann", "ann", "bob"]),
        type=st.sampled_from(["screen_view", "click", "identify", "identify", "session_start", "session_end"]),
        names=st.dictionaries(
            st.sampled_from(["first_name", "last_name", "email", "avatar"]), st.sampled_from(["", "A", "B"])
        ),
        properties=properties,
        observed=observed,
        groups=st.lists(st.sampled_from("ghi"), max_size=2),
    ),
    max_size=12,
)
cuts = st.lists(st.integers(0, 12), max_size=6)


def batches(entries: list[Entry], cut: list[int]) -> list[list[Entry]]:
    places = sorted({0, *(min(each, len(entries)) for each in cut), len(entries)})
    return [entries[start:end] for start, end in pairwise(places)]


def last_of(run: StageRun) -> list[dict[str, Any]]:
    """The last row of each profile, with its times in milliseconds."""
    found = last_rows(run.events("profile"))
    return [
        {
            "project": row["project_id"],
            **{name: row[name] for name in ("id", "is_external", "first_name", "last_name", "email", "avatar")},
            "created_at": moment_of(row, "created_at"),
            "last_seen_at": moment_of(row),
            "properties": row["properties"],
            "groups": row["groups"],
        }
        for _, row in sorted(found.items())
    ]


@FEW
@given(people, cuts)
def test_profiles_are_what_the_whole_list_comes_to(events: list[PersonEvent], cut: list[int]) -> None:
    run = StageRun(SessionStage(Profiles()))

    for batch in batches([person_entry(event) for event in events], cut):
        run.feed(batch)

    expected = [msgspec.to_builtins(each) for each in brute_force_profiles(events)]
    changes = sum(each.pop("changes") for each in expected)
    assert last_of(run) == [{**each, "properties": flattened(each["properties"])} for each in expected]
    assert run.counts["created"] + run.counts["changed"] == changes
    assert len([entry for entry in run.entries if entry[SHAPE].type != "profile"]) == len(events)


@FEW
@given(people, cuts, st.sets(st.integers(0, 12)))
def test_a_crash_before_any_commit_changes_nothing(
    events: list[PersonEvent], cut: list[int], crashes: set[int]
) -> None:
    calm, shaken = StageRun(SessionStage(Profiles())), StageRun(SessionStage(Profiles()))

    for step, batch in enumerate(batches([person_entry(event) for event in events], cut)):
        calm.feed(batch)
        if step in crashes:
            # Processed, not committed; then by another process, at another time.
            end = shaken.next + len(batch)
            records = Records(shaken.next, end, range(shaken.next, end), batch)
            state = {key: shaken.state.get(key) for key in shaken.stage.keys(shaken.log_id, records)}
            before = dict(state)
            shaken.stage.process(shaken.log_id, records, state, shaken.now + 5)
            assert state == before
            shaken.stage = SessionStage(Profiles())
        shaken.feed(batch)

    assert shaken.entries == calm.entries
    assert shaken.state == calm.state
    assert shaken.published == calm.published


@FEW
@given(people, cuts)
def test_any_batches_come_to_the_same_profiles(events: list[PersonEvent], cut: list[int]) -> None:
    entries = [person_entry(event) for event in events]
    whole, parts = StageRun(SessionStage(Profiles())), StageRun(SessionStage(Profiles()))

    whole.feed(entries)
    for batch in batches(entries, cut):
        parts.feed(batch)

    assert whole.state == parts.state
    assert whole.deadlines == parts.deadlines
    assert whole.published == parts.published
    assert last_rows(whole.events("profile")) == last_rows(parts.events("profile"))


odd = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.sampled_from(["", "server", "\x00", "\u202e\U0001d54f", "x" * 3_000]),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(["a", "a.b", ""]), inner, max_size=2),
    max_leaves=6,
)
NAMES = ("profile_id", "first_name", "email", "properties", "$set", "groups", "country", "device", "path", "longitude")
odd_payloads = st.fixed_dictionaries(
    {"project_id": st.just("p") | odd, "device_id": st.just("d") | odd}, optional=dict.fromkeys(NAMES, odd)
).map(msgspec.json.encode) | st.sampled_from(
    [
        b"",
        b"[]",
        b'{"project_id":"p","device_id":"d","properties":' + b'{"a":' * 900 + b"1" + b"}" * 901,
        b'{"project_id":"p","device_id":"d","properties":' + b"[" * 5_000 + b"]" * 5_000 + b"}",
        b'{"project_id":"p","device_id":"d","properties":{"a":' + b"9" * 4_000 + b"}}",
        b'{"project_id":"p","device_id":"d","properties":{"a":1e308,"b":-0.0,"\\u0000":1}}',
        b'{"project_id":"p","device_id":"d","first_name":5,"email":"a@x"}',
        b'{"project_id":"p","device_id":"d","first_name":"\\ud800"}',
    ]
)


@FEW
@given(st.lists(st.tuples(odd_payloads, st.sampled_from(["identify", "click"]), st.integers(-(2**63), 2**63 - 1))))
def test_no_record_is_lost_and_none_is_an_error(given_: list[tuple[bytes, str, int]]) -> None:
    run = StageRun(SessionStage(Profiles()))

    for payload, kind, at in given_:
        run.feed([make_entry(Shape("events", kind), at, payload)])

    passed = [
        (entry[PAYLOAD], entry[SHAPE].type, entry[TIMESTAMP]) for entry in run.entries if entry[SHAPE].type != "profile"
    ]
    assert passed == given_
    for row in run.events("profile"):
        assert all(isinstance(value, str) for value in row["properties"].values())
    run.stage = SessionStage(Profiles())
    run.feed([make_entry(Shape("events", "identify"), at, payload) for payload, _, at in given_])
