"""Sessions of the reference design: what it documents, and each of its known defects as what must hold instead."""

from __future__ import annotations

from itertools import count
from typing import Any

import pytest

from eventrec.bus import Entry, Records
from eventrec.errors import PauseError
from eventrec.records.entry import CONTEXT, EXPLICIT_ID, PAYLOAD, SHAPE, TIMESTAMP, make_entry
from eventrec.sessions import ReferenceSessions, SessionStage
from eventrec.testing.sessions import VisitEvent, entry_of
from eventrec.testing.stages import StageRun

T = 1_760_000_000_000
NUMBERS = count()


def run_of(**options: Any) -> StageRun:
    return StageRun(SessionStage(ReferenceSessions(**options)))


def view(at: int, session: str = "s", path: str = "/", **more: Any) -> Entry:
    return event("screen_view", at, session, path, **more)


def event(kind: str, at: int, session: str = "s", path: str = "", **more: Any) -> Entry:
    given = {"project": more.pop("project", "shop"), "device": "d", "profile": more.pop("profile", "ann")}
    visit = VisitEvent(id=f"e{next(NUMBERS)}", at=T + at, type=kind, path=path, **given)
    return entry_of(visit, **{"session_id": session, "origin": f"https://x.org{path}" if path else "", **more})


def end(at: int, session: str = "s", **more: Any) -> Entry:
    return event("session_end", at, session, **more)


def flow(run: StageRun) -> list[tuple[str, str, object]]:
    """What was given out: type, path and duration."""
    return [(each["_type"], each["path"], each.get("duration")) for each in run.events()]


# -- what is documented


def test_the_documented_example() -> None:
    """Two views, a click between and a purchase after them, then the end."""
    run = run_of()
    first = view(0, path="/home")
    second = view(4_000, path="/shoes")

    for entry in (first, event("click", 1_000), second, event("purchase", 5_000, revenue=10), end(9_000)):
        run.feed([entry])

    assert flow(run) == [
        ("click", "/home", None),
        ("screen_view", "/home", 4_000),
        ("purchase", "/shoes", None),
        ("screen_view", "/shoes", 5_000),
        ("session_end", "", None),
    ]
    click, purchase = run.events("click", "purchase")
    views = run.events("screen_view")
    assert click["properties"]["__inherit_from"] == views[0]["_id"]
    assert (purchase["properties"]["__inherit_from"], purchase["origin"]) == (views[1]["_id"], "https://x.org/shoes")
    assert run.state == {}


def test_a_first_view_is_held_and_can_be_looked_up() -> None:
    run = run_of()
    held = view(0, path="/a")

    output = run.feed([held])

    assert output.entries == []
    assert len(run.state) == 1
    assert run.published["session:last_screen_view:shop:ann"] == held[2]
    assert run.published["session:last_screen_view:session:shop:s"] == held[2]


def test_the_next_view_passes_the_one_before_with_its_duration() -> None:
    run = run_of()

    run.feed([view(0, path="/a"), view(1_000, path="/b")])
    run.feed([view(3_000, path="/c")])

    assert flow(run) == [("screen_view", "/a", 1_000), ("screen_view", "/b", 2_000)]
    assert len(run.state) == 1


def test_a_view_and_the_end_are_both_passed() -> None:
    run = run_of()

    run.feed([view(0), end(500)])

    assert flow(run) == [("screen_view", "/", 500), ("session_end", "", None)]
    assert run.state == {}


def test_the_end_alone_is_passed_as_it_came() -> None:
    run = run_of()
    alone = end(0)

    assert run.feed([alone]).entries == [alone]


def test_the_end_passes_all_views_in_order() -> None:
    run = run_of()

    run.feed([view(0, path="/a"), view(1_000, path="/b"), view(3_000, path="/c"), end(6_000)])

    assert flow(run) == [
        ("screen_view", "/a", 1_000),
        ("screen_view", "/b", 2_000),
        ("screen_view", "/c", 3_000),
        ("session_end", "", None),
    ]


def test_a_regular_event_is_passed_at_once() -> None:
    run = run_of()
    click = event("click", 0)

    assert run.feed([click]).entries == [click]
    assert run.state == {}


def test_a_view_without_a_session_is_passed_as_it_came() -> None:
    run = run_of()
    view_ = view(0, session="")

    assert run.feed([view_]).entries == [view_]


def test_sessions_are_independent() -> None:
    run = run_of()

    run.feed([view(0, "one", "/1"), view(100, "two", "/2"), view(500, "one", "/3")])

    assert flow(run) == [("screen_view", "/1", 500)]
    assert len(run.state) == 2


def test_last_views_are_by_session_and_the_newest_by_profile() -> None:
    run = run_of()

    run.feed([view(0, "one", "/1"), view(1, "two", "/2")])

    published = run.published
    assert b'"/1"' in published["session:last_screen_view:session:shop:one"]
    assert b'"/2"' in published["session:last_screen_view:session:shop:two"]
    assert b'"/2"' in published["session:last_screen_view:shop:ann"]
    assert "session:last_screen_view:shop:bob" not in published


def test_the_end_takes_the_last_view_back() -> None:
    run = run_of()
    run.feed([view(0)])

    run.feed([end(1)])

    assert not any("last_screen_view" in key for key in run.published)


def test_the_last_view_can_be_looked_up_for_1860_seconds() -> None:
    run = run_of(idle_seconds=10_000)
    run.feed([view(0)])

    run.wait(1_859)
    before = "session:last_screen_view:shop:ann" in run.published
    run.wait(1)

    assert before
    assert "session:last_screen_view:shop:ann" not in run.published


def test_a_visitor_is_live_for_300_seconds() -> None:
    run = run_of()
    run.feed([event("click", 0), event("click", 1, profile="bob"), event("click", 2, profile="bob")])

    run.wait(299)
    before = ("live:event:shop:ann" in run.published, run.count_seen("live:shop", seconds=300))
    run.wait(2)

    assert before == (True, 2)
    assert ("live:event:shop:ann" in run.published, run.count_seen("live:shop", seconds=300)) == (False, 0)


@pytest.mark.parametrize(("regular", "sessions"), [(0, 0), (10, 0), (0, 10), (50, 250)])
def test_what_is_held_and_what_was_passed_are_counted_exactly(regular: int, sessions: int) -> None:
    run = run_of()

    run.feed([event("click", i, "") for i in range(regular)])
    for i in range(3):
        run.feed([view(i, f"s{number}") for number in range(sessions)])

    assert len(run.state) == sessions == run.counts["held"] - run.counts["released"]
    assert run.counts["regular"] == regular
    assert len(run.entries) == regular + 2 * sessions


def test_an_event_with_a_path_of_its_own_may_keep_it() -> None:
    run = run_of(inherits="missing")
    own = event("click", 1, path="/own")
    run.feed([view(0, path="/view")])

    output = run.feed([own, event("click", 2)])

    assert output.entries[0] == own
    assert run.events("click")[1]["path"] == "/view"


# -- out of order


def test_an_earlier_view_lasts_until_the_one_that_follows_it() -> None:
    run = run_of()
    run.feed([view(0, path="/a"), view(10_000, path="/c")])

    run.feed([view(4_000, path="/b")])
    run.feed([end(12_000)])

    assert flow(run)[1:] == [
        ("screen_view", "/b", 6_000),
        ("screen_view", "/c", 2_000),
        ("session_end", "", None),
    ]


def test_no_duration_is_negative() -> None:
    run = run_of()

    run.feed([view(5_000), view(5_000), end(1_000)])

    assert [each["duration"] for each in run.events("screen_view")] == [0, 0]


def test_an_event_inherits_from_the_latest_view_that_is_not_later() -> None:
    run = run_of()
    run.feed([view(0, path="/a"), view(5_000, path="/b"), view(9_000, path="/c")])

    run.feed([event("click", 4_999), event("click", 5_000), event("click", 20_000), event("click", -1)])

    assert [each["path"] for each in run.events("click")] == ["/a", "/b", "/c", ""]
    assert "properties" not in run.events("click")[3]


# -- its defects


def test_defect_1_a_session_end_within_a_batch_is_never_lost() -> None:
    run = run_of()

    run.feed([view(0), event("click", 1), end(2), end(3, "other")])

    assert len(run.events("session_end")) == 2
    assert len(run.entries) == 4


def test_defect_2_no_sessions_at_all_is_nothing_and_not_an_error() -> None:
    run = run_of()

    output = run.feed([])

    assert (output.entries, output.state, run.wait(10_000)) == ([], {}, [])


def test_defect_3_views_of_a_session_are_passed_in_their_order() -> None:
    run = run_of()

    for i in range(5):
        run.feed([view(i * 1_000, path=f"/{i}")])
    run.feed([end(9_000)])

    assert [each["path"] for each in run.events("screen_view")] == ["/0", "/1", "/2", "/3", "/4"]


def test_defect_4_a_session_of_one_view_ends_by_idleness() -> None:
    run = run_of()
    run.feed([view(0, path="/only")])

    run.wait(1_799)
    before = len(run.entries)
    run.wait(1)

    assert before == 0
    assert flow(run) == [("screen_view", "/only", None)]
    assert (run.state, run.deadlines) == ({}, {})


def test_defect_4_idle_sessions_cost_the_others_nothing() -> None:
    run = run_of()
    run.feed([view(i, f"idle{i}") for i in range(500)])
    records = Records(500, 501, range(500, 501), [view(0, "other")])

    keys = run.stage.keys(run.log_id, records)
    output = run.stage.process(run.log_id, records, dict.fromkeys(keys), run.now)

    assert len(keys) == 1
    assert list(output.state) == list(keys)


def test_defect_5_a_turn_that_is_repeated_gives_the_same_out() -> None:
    run = run_of()
    run.feed([view(0, path="/a")])
    records = Records(1, 4, range(1, 4), [view(1_000, path="/b"), event("click", 1_500), end(2_000)])
    state = {key: run.state.get(key) for key in run.stage.keys(run.log_id, records)}

    first = run.stage.process(run.log_id, records, state, run.now)
    again = run.stage.process(run.log_id, records, state, run.now + 999)

    assert first == again
    assert all(entry[EXPLICIT_ID] is not None for entry in first.entries)


def test_defect_6_a_state_that_cannot_be_read_is_an_error_with_words() -> None:
    run = run_of()
    run.state["s4:shop:s"] = b"\x90"

    with pytest.raises(PauseError, match="'s4:shop:s' is not a held view"):
        run.feed([view(0)])


def test_defect_7_a_record_that_cannot_be_read_moves_no_other() -> None:
    run = run_of()
    shape, timestamp, *_ = view(0)
    broken = (shape, timestamp, b'{"session_id":"s","project_id":', None, None, b"\1" * 16, 300)

    run.feed([view(0, path="/a"), broken, view(1_000, path="/b"), broken, end(3_000)])

    assert [entry[PAYLOAD] for entry in run.entries].count(broken[2]) == 2
    passed = [entry[PAYLOAD] for entry in run.entries if entry[PAYLOAD] != broken[2]]
    assert b'"duration":1000' in passed[0]
    assert b'"duration":2000' in passed[1]
    assert run.counts["unreadable"] == 2


def test_defect_8_what_is_pending_is_kept_also_where_nothing_is_passed() -> None:
    run = run_of()

    first = run.feed([view(0, path="/a")])
    late = run.feed([event("click", 1_000)])

    assert (first.entries, len(first.state)) == ([], 1)
    assert late.state == {}
    assert run.events("click")[0]["path"] == "/a"


def test_defect_9_events_inherit_from_views_of_earlier_batches() -> None:
    run = run_of()
    run.feed([view(0, path="/a")])
    run.feed([view(1_000, path="/b")])

    run.feed([event("click", 500)])
    run.feed([event("click", 1_500)])

    assert [each["path"] for each in run.events("click")] == ["/a", "/b"]


def test_defect_10_notices_are_beside_what_is_kept_and_not_before_it() -> None:
    run = run_of()

    output = run.feed([view(0), event("click", 1), event("click", 1, project="other")])

    assert output.notices == {
        "event:received": [b'{"project_id":"shop","count":2}', b'{"project_id":"other","count":1}']
    }
    assert len(output.entries) == 2


@pytest.mark.parametrize("split", [0, 1, 2])
def test_defect_11_a_view_and_its_end_are_never_parted(split: int) -> None:
    run = run_of()
    both = [view(0), end(1_000)]

    run.feed(both[:split])
    run.feed(both[split:])

    assert flow(run) == [("screen_view", "/", 1_000), ("session_end", "", None)]
    assert run.state == {}


def test_defect_12_every_key_is_named_before_it_is_read_or_written() -> None:
    run = run_of()
    given = [view(0, "one"), end(1, "two"), event("click", 2, "three"), event("click", 3, ""), view(4, "one")]
    records = Records(0, 5, range(5), given)

    keys = run.stage.keys(run.log_id, records)
    output = run.stage.process(run.log_id, records, dict.fromkeys(keys), run.now)

    assert list(keys) == ["s4:shop:one", "s4:shop:two", "s4:shop:three"]
    assert set(output.state) <= set(keys)


@pytest.mark.parametrize("properties", [..., None, {}, [], {"a": 1}])
def test_defect_13_events_without_properties_inherit_too(properties: object) -> None:
    run = run_of()
    run.feed([view(0, path="/a")])

    run.feed([event("click", 1, properties=properties), end(2)])

    (click,) = run.events("click")
    assert click["path"] == "/a"
    assert click["properties"]["__inherit_from"] == run.events("screen_view")[0]["_id"]
    assert {*click["properties"]} == {"__inherit_from", *(properties if isinstance(properties, dict) else ())}


@pytest.mark.parametrize("properties", ["text", 5, [1]])
def test_defect_13_properties_that_are_not_an_object_leave_the_event_as_it_came(properties: object) -> None:
    run = run_of()
    run.feed([view(0, path="/a")])
    click = event("click", 1, properties=properties)

    assert run.feed([click]).entries == [click]


def test_defect_14_the_end_says_how_long_the_last_view_lasted() -> None:
    run = run_of()
    run.feed([view(0, path="/last")])

    run.feed([end(7_000)])

    assert run.events("screen_view")[0]["duration"] == 7_000


def test_defect_15_nothing_regular_is_left_behind_to_be_cleaned() -> None:
    run = run_of()

    run.feed([event("click", i, f"s{i % 3}") for i in range(10)])

    assert len(run.entries) == 10
    assert run.state == {}


# -- what is held


def test_a_held_view_comes_out_as_it_was_but_for_its_duration() -> None:
    run = run_of()
    given = view(0, properties={"b": [1.0], "ü": "ü"}, big=10**30)

    run.feed([given], static_context=b'{"host":"a"}')
    run.feed([end(1)], static_context=b'{"host":"b","other":1}')

    held, ended = run.entries
    assert held[2] == given[2][:-1] + b',"duration":1}'
    assert (held[0], held[1], held[5]) == (given[0], given[1], given[5])
    assert (held[3], ended[3]) == (b'{"host":"a"}', b'{"host":"b","other":1}')


@pytest.mark.parametrize("context", [b"[]", b'{"a":', b"\xff"])
def test_a_context_that_cannot_be_read_holds_nothing_up(context: bytes) -> None:
    run = run_of()
    given = [view(0, path="/a"), event("click", 1), end(2)]
    given = [
        make_entry(entry[SHAPE], entry[TIMESTAMP], entry[PAYLOAD], context, None, entry[EXPLICIT_ID]) for entry in given
    ]
    records = Records(0, 3, range(3), given, b'{"region":"eu"}')

    output = run.stage.process(run.log_id, records, dict.fromkeys(run.stage.keys(run.log_id, records)), run.now)

    assert [(entry[SHAPE].type, entry[CONTEXT]) for entry in output.entries] == [
        ("click", context),
        ("screen_view", context),
        ("session_end", context),
    ]


def test_a_duration_that_a_view_has_is_replaced_once() -> None:
    run = run_of()

    run.feed([view(0, duration=0), end(1_000)])

    assert run.entries[0][PAYLOAD].count(b'"duration"') == 1
    assert run.events("screen_view")[0]["duration"] == 1_000


def test_a_huge_view_is_held_and_passed() -> None:
    run = run_of()

    run.feed([view(0, text="x" * 1_000_000)])
    run.feed([end(1)])

    assert len(run.entries[0][PAYLOAD]) > 1_000_000


def test_views_that_are_remembered_are_bounded() -> None:
    run = run_of()
    run.feed([view(0)])
    (early,) = (len(kept) for kept in run.state.values())

    for start in range(0, 1_000, 100):
        run.feed([view(start + i) for i in range(100)])
    (late,) = (len(kept) for kept in run.state.values())

    assert late < early + 50 * 60


def test_a_held_view_of_version_1_is_read_for_ever() -> None:
    run = run_of()
    run.state = {
        "s4:shop:s": bytes.fromhex(
            "9a01cf00000199c82cc000a3616e6e93a66576656e7473ab73637265656e5f7669657790cf186cc6acd4b00000c47b7b2270"
            "726f6a6563745f6964223a2273686f70222c226465766963655f6964223a2264222c2270726f66696c655f6964223a22616e"
            "6e222c2270617468223a222f61222c226f726967696e223a22222c22726576656e7565223a302e302c2267726f757073223a"
            "5b5d2c2273657373696f6e5f6964223a2273227dc40c7b22686f7374223a2261227dc0c410d720e32d47655177b65b42dd7f"
            "6e64459194cf00000199c82cc000c410d720e32d47655177b65b42dd7f6e6445a22f61a0"
        )
    }

    run.feed([end(3_000)])

    (shown,) = run.events("screen_view")
    assert (shown["path"], shown["duration"], shown["_at"], shown["profile_id"]) == ("/a", 3_000, T, "ann")
    assert run.entries[0][CONTEXT] == b'{"host":"a"}'
