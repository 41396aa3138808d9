"""Sessions of any events, cut into any batches, with crashes anywhere: equal to what the whole list comes to."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from itertools import pairwise

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from eventrec.bus import Entry, Ids, Records, make_entry
from eventrec.records.entry import EXPLICIT_ID, PAYLOAD, SHAPE, TIMESTAMP
from eventrec.records.schema import Shape
from eventrec.sessions import ReferenceSessions, SessionPolicy, Sessions, SessionStage
from eventrec.testing.sessions import ExpectedSession, VisitEvent, brute_force, collapsed, entry_of
from eventrec.testing.stages import StageRun, payloads

T = 1_760_000_000_000
MINUTE = 60_000
OURS = ("session_start", "session_end", "session")

FEW = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])

# Around the gap of half an hour, and far off: what decides is the difference of two of them.
times = st.integers(-6, 6).map(lambda half: half * 15 * MINUTE) | st.integers(-200 * MINUTE, 200 * MINUTE)
texts = st.sampled_from(["", "", "/", "/a", "/b", "/ü\u2028"])


@st.composite
def visit_events(draw: st.DrawFn, devices: tuple[str, ...] = ("d", "e")) -> list[VisitEvent]:
    count = draw(st.integers(0, 14))
    return [
        VisitEvent(
            id=str(i),
            at=T + draw(times),
            project=draw(st.sampled_from(["p", "q:1"])),
            device=draw(st.sampled_from(devices)),
            type=draw(st.sampled_from(["screen_view", "click"])),
            profile=draw(st.sampled_from(["", "", "d", "ann", "bob"])),
            path=draw(texts),
            origin=draw(texts),
            revenue=draw(st.sampled_from([0.0, 0.25, 8.0])),
            groups=draw(st.lists(st.sampled_from("ghi"), max_size=2)),
        )
        for i in range(count)
    ]


cuts = st.lists(st.integers(0, 14), max_size=6)


def batches(entries: list[Entry], cut: list[int]) -> list[list[Entry]]:
    places = sorted({0, *(min(each, len(entries)) for each in cut), len(entries)})
    return [entries[start:end] for start, end in pairwise(places)]


def without_rows(run: StageRun) -> list[Entry]:
    return [entry for entry in run.entries if entry[SHAPE].type != "session"]


def found(run: StageRun) -> list[ExpectedSession]:
    """What the output says of sessions, once all have ended."""
    rows = collapsed(run.events("session"))
    starts = {each["session_id"]: each for each in run.events("session_start")}
    ends = {each["session_id"]: each for each in run.events("session_end")}
    assert len(starts) == len(run.events("session_start"))
    assert len(ends) == len(run.events("session_end"))
    assert rows.keys() == starts.keys() == ends.keys()
    events: dict[str, list[str]] = {}
    for each in run.events("screen_view", "click"):
        events.setdefault(each["session_id"], []).append(each["number"])
    sessions = []
    for id_, start in starts.items():
        row, end = rows[id_], ends[id_]
        assert (end["duration"], end["path"], end["origin"]) == (row["duration"], row["exit_path"], row["exit_origin"])
        assert (end["properties"]["__bounce"] == "true") is row["is_bounce"] is (row["screen_view_count"] <= 1)
        assert row["version"] == len(events[id_])
        sessions.append(
            ExpectedSession(
                project=row["project_id"],
                device=row["device_id"],
                profile=row["profile_id"],
                events=tuple(events[id_]),
                created_at=row["_at"],
                ended_at=row["_at"] + row["duration"],
                started=start["_at"],
                ended_event=end["_at"],
                screen_view_count=row["screen_view_count"],
                event_count=row["event_count"],
                revenue=row["revenue"],
                entry_path=row["entry_path"],
                entry_origin=row["entry_origin"],
                exit_path=row["exit_path"],
                exit_origin=row["exit_origin"],
                groups=tuple(row["groups"]),
            )
        )
    return sorted(sessions, key=lambda each: (each.project, each.device, int(each.events[0])))


@FEW
@given(visit_events(), cuts)
def test_sessions_are_what_the_whole_list_comes_to(events: list[VisitEvent], cut: list[int]) -> None:
    run = StageRun(SessionStage(Sessions()))

    for batch in batches([entry_of(event, number=event.id) for event in events], cut):
        run.feed(batch)
    run.wait(1_800)

    assert found(run) == brute_force(events)
    assert (run.state, run.deadlines) == ({}, {})


@FEW
@given(visit_events(), st.lists(st.sampled_from([0, 1, 600, 1_799, 1_800, 4_000]), min_size=14, max_size=14))
def test_sessions_end_by_idleness_as_the_whole_list_says(events: list[VisitEvent], pauses: list[int]) -> None:
    run = StageRun(SessionStage(Sessions()))
    received = []

    for event, pause in zip(events, pauses, strict=False):
        run.wait(pause)
        received.append(replace(event, received=run.now))
        run.feed([entry_of(event, number=event.id)])
    run.wait(1_800)

    assert found(run) == brute_force(received, idle=1_800)


@pytest.mark.parametrize("policy", [Sessions, ReferenceSessions])
@FEW
@given(events=visit_events(("d", "e", "")), cut=cuts, ends=st.sets(st.integers(0, 14)))
def test_any_batches_give_the_same_out(
    policy: type[SessionPolicy], events: list[VisitEvent], cut: list[int], ends: set[int]
) -> None:
    entries = [_of_a_session(event, is_end=i in ends) for i, event in enumerate(events)]
    whole, parts = StageRun(SessionStage(policy())), StageRun(SessionStage(policy()))

    whole.feed(entries)
    for batch in batches(entries, cut):
        parts.feed(batch)

    assert without_rows(whole) == without_rows(parts)
    assert collapsed(whole.events("session")) == collapsed(parts.events("session"))
    assert whole.state == parts.state
    assert whole.deadlines == parts.deadlines
    assert whole.published == parts.published
    assert whole.counts - Counter(rows=99) == parts.counts - Counter(rows=99)


def _of_a_session(event: VisitEvent, *, is_end: bool) -> Entry:
    shape, *rest = entry_of(event, session_id=event.device, number=event.id)
    return (Shape("events", "session_end") if is_end else shape, *rest)  # type: ignore[return-value]


@pytest.mark.parametrize("policy", [Sessions, ReferenceSessions])
@FEW
@given(events=visit_events(("d", "e", "")), cut=cuts, crashes=st.sets(st.integers(0, 20)))
def test_a_crash_before_any_commit_changes_nothing(
    policy: type[SessionPolicy], events: list[VisitEvent], cut: list[int], crashes: set[int]
) -> None:
    entries = [_of_a_session(event, is_end=False) for event in events]
    calm, shaken = StageRun(SessionStage(policy())), StageRun(SessionStage(policy()))

    for step, batch in enumerate(batches(entries, cut)):
        calm.feed(batch)
        if step in crashes:
            # Processed, not committed; then by another process, at another time.
            records = Records(
                shaken.next, shaken.next + len(batch), range(shaken.next, shaken.next + len(batch)), batch
            )
            state = {key: shaken.state.get(key) for key in shaken.stage.keys(shaken.log_id, records)}
            before = dict(state)
            shaken.stage.process(shaken.log_id, records, state, shaken.now + 5)
            assert state == before
            shaken.stage = SessionStage(policy())
        shaken.feed(batch)
    calm.wait(1_800)
    shaken.now += 1_800
    shaken.stage.expire(shaken.due(), shaken.now)
    shaken.wait(0)

    assert shaken.entries == calm.entries
    assert shaken.state == calm.state == {}


# -- what nobody would send

NAMES = ("project_id", "device_id", "profile_id", "session_id", "path", "origin", "revenue", "groups", "properties")
odd = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.sampled_from(["p", "d", "", "NaN", "inf", "1e999", "-0", "\x00", "\u202e\U0001d54f", "x" * 600]),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(NAMES), inner, max_size=2),
    max_leaves=4,
)
odd_payloads = (
    st.fixed_dictionaries(
        {"project_id": st.just("p") | odd, "device_id": st.just("d") | odd},
        optional=dict.fromkeys(NAMES[2:], odd),
    ).map(msgspec.json.encode)
    | odd.map(msgspec.json.encode)
    | st.binary(max_size=30)
    | st.sampled_from(
        [
            b"",
            b"NaN",
            b'{"project_id":NaN,"device_id":"d"}',
            b'{"project_id":"p","device_id":"d","project_id":"q"}',
            b' {\n"project_id":"p",\t"device_id":"d" } \r\n',
            b'{"project_id":"p","device_id":"d","session\\u005fid":"x"}',
            b'{"project_id":"p","device_id":"d","a":{"session_id":""},"session_id" : ""}',
            b'{"project_id":"p","device_id":"d","x\\"session_id":"","session_id":""}',
            b'{"project_id":"p","device_id":"d","x":' + b"[" * 5_000 + b"]" * 5_000 + b"}",
            b'{"project_id":"p","device_id":"d","revenue":1e400}',
            b'{"project_id":"p","device_id":"d","revenue":' + b"9" * 5_000 + b"}",
            b'{"project_id":' + b"9" * 5_000 + b',"device_id":"d"}',
            b'{"project_id":"p","device_id":"\xff\xfe"}',
            b'{"project_id":"p","device_id":"d","x":"\xff"}',
            b'{"project_id":"p","device_id":"\\ud800"}',
            b'\xef\xbb\xbf{"project_id":"p","device_id":"d"}',
        ]
    )
)
odd_times = st.sampled_from([-(2**63), 2**63 - 1, 0, -1, T * 1_000_000]) | st.integers(-(2**63), 2**63 - 1)
odd_types = st.sampled_from(["screen_view", "session_end", "session_start", "click", "ü" * 100])
odd_entries = st.builds(
    lambda kind, at, payload, id_: make_entry(Shape("events", kind), at, payload, None, None, id_),
    odd_types,
    odd_times,
    odd_payloads,
    st.none() | st.sampled_from([bytes(16), b"\xff" * 16]),
)


@pytest.mark.parametrize("policy", [Sessions, ReferenceSessions])
@FEW
@given(entries=st.lists(odd_entries, max_size=6), cut=cuts)
def test_no_record_is_lost_and_none_is_an_error(
    policy: type[SessionPolicy], entries: list[Entry], cut: list[int]
) -> None:
    run = StageRun(SessionStage(policy()))
    ids = Ids(run.log_id)

    for batch in batches(entries, cut):
        run.feed(batch)
    run.wait(1_800)

    given_ = Counter(
        (ids.as_bytes(i, 0, entry[EXPLICIT_ID]), entry[SHAPE].type, entry[TIMESTAMP]) for i, entry in enumerate(entries)
    )
    made = Counter((entry[EXPLICIT_ID] or b"", entry[SHAPE].type, entry[TIMESTAMP]) for entry in run.entries)
    assert not given_ - made
    extra = made - given_
    assert all(kind in OURS for _, kind, _ in extra)
    assert run.state == {}


@FEW
@given(odd_payloads)
def test_a_payload_changes_in_its_session_alone(payload: bytes) -> None:
    run = StageRun(SessionStage(Sessions()))

    run.feed([make_entry(Shape("events", "click"), T * 1_000_000, payload)])

    (passed,) = [entry[PAYLOAD] for entry in run.entries if entry[SHAPE].type == "click"]
    if passed != payload:
        before, after = (msgspec.json.decode(text, type=dict[str, msgspec.Raw]) for text in (payload, passed))
        (start,) = payloads(run.entries, "session_start")
        assert bytes(after.pop("session_id")) == b'"%b"' % start["session_id"].encode()
        before.pop("session_id", None)
        assert {name: bytes(raw) for name, raw in after.items()} == {name: bytes(raw) for name, raw in before.items()}
    else:
        assert run.counts["unreadable"] + run.counts["without_session"] + run.counts["joined"] == 1


@pytest.mark.parametrize(
    "payload",
    [b"", b"nul", b"[]", b'{"project_id":', b'{"project_id":"p","device_id":{}}', b'{"project_id":"p","path":5}'],
)
def test_a_record_that_cannot_be_read_is_passed_untouched_and_counted(payload: bytes) -> None:
    run = StageRun(SessionStage(Sessions()))
    broken = make_entry(Shape("events", "click"), 5, payload, b'{"c":1}', None, b"\1" * 16)

    output = run.feed([broken])

    assert output.entries == [broken]
    assert output.counts["unreadable"] == 1
    assert output.state == {}
