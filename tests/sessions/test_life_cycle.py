"""Sessions by pauses: what opens, extends and ends one, and what comes out."""

from __future__ import annotations

from itertools import count
from typing import Any

import pytest

from eventrec import from_payload
from eventrec.bus import Ids
from eventrec.errors import PauseError
from eventrec.records.entry import CONTEXT, EXPLICIT_ID, PAYLOAD, SHAPE, TIMESTAMP
from eventrec.sessions import EventFields, Session, SessionEvent, Sessions, SessionStage
from eventrec.sessions.fields import CARRIED
from eventrec.testing.sessions import VisitEvent, collapsed, entry_of
from eventrec.testing.stages import StageRun

T = 1_760_000_000_000
SECOND = 1_000
MINUTE = 60 * SECOND
NUMBERS = count()


def run_of(**options: Any) -> StageRun:
    return StageRun(SessionStage(Sessions(**options)))


def event(at: int, device: str = "d", **more: Any) -> VisitEvent:
    given: dict[str, Any] = {"id": f"e{next(NUMBERS)}", "at": T + at, "project": "shop", "path": "/", **more}
    return VisitEvent(device=device, **given)


def rows(run: StageRun) -> list[dict[str, Any]]:
    return run.events("session")


def only_row(run: StageRun) -> dict[str, Any]:
    (row,) = collapsed(rows(run)).values()
    return row


# -- start and end


def test_first_event_of_a_device_opens_a_session_that_starts_100_ms_before_it() -> None:
    run = run_of()

    run.feed([entry_of(event(0, path="/a", origin="https://x.org", profile="ann"))])

    start, view = run.events("session_start", "screen_view")
    assert (start["_at"], view["_at"]) == (T - 100, T)
    assert start["session_id"] == view["session_id"] != ""
    assert (start["_table"], start["name"], start["project_id"], start["device_id"]) == (
        "events",
        "session_start",
        "shop",
        "d",
    )
    assert (start["profile_id"], start["path"], start["origin"], start["duration"]) == ("ann", "/a", "https://x.org", 0)


def test_an_event_that_extends_has_no_start_of_its_own() -> None:
    run = run_of()

    run.feed([entry_of(event(at)) for at in (0, 10, 20)])

    assert len(run.events("session_start")) == 1


def test_three_rapid_events_in_turns_of_their_own_have_one_start() -> None:
    run = run_of()

    for at in (0, 1, 2):
        run.feed([entry_of(event(at))])

    assert len(run.events("session_start")) == 1
    assert len({each["session_id"] for each in run.events("screen_view")}) == 1


def test_idle_session_ends_1000_ms_after_its_last_event_with_duration_path_and_bounce() -> None:
    run = run_of()
    run.feed([entry_of(event(0, path="/a")), entry_of(event(5 * SECOND, path="/b", origin="https://x.org"))])

    run.wait(1_799)
    before = run.events("session_end")
    run.wait(1)

    (end,) = run.events("session_end")
    assert before == []
    assert (end["_at"], end["duration"]) == (T + 6 * SECOND, 5_000)
    assert (end["path"], end["origin"], end["properties"]) == ("/b", "https://x.org", {"__bounce": "false"})


def test_one_view_is_a_bounce() -> None:
    run = run_of()
    run.feed([entry_of(event(0)), entry_of(event(5, type="click"))])

    run.wait(3_600)

    assert run.events("session_end")[0]["properties"] == {"__bounce": "true"}
    assert only_row(run)["is_bounce"] is True


def test_a_session_ends_once_and_nothing_is_kept_of_it() -> None:
    run = run_of()
    run.feed([entry_of(event(0, profile="ann"))])

    run.wait(3_600)
    run.wait(3_600)

    assert len(run.events("session_end")) == 1
    assert (run.state, run.deadlines) == ({}, {})


def test_each_event_gives_a_session_its_time_again() -> None:
    run = run_of()

    for minute in range(0, 100, 20):
        run.feed([entry_of(event(minute * MINUTE))])
        run.wait(20 * 60)
    before = run.events("session_end")
    run.wait(10 * 60)

    assert before == []
    assert [end["duration"] for end in run.events("session_end")] == [80 * MINUTE]


def test_a_pause_of_more_than_30_minutes_is_a_boundary() -> None:
    run = run_of()

    run.feed([entry_of(event(0, path="/a")), entry_of(event(30 * MINUTE, path="/b"))])
    still_one = len(run.events("session_start"))
    run.feed([entry_of(event(60 * MINUTE + 1, path="/c"))])

    types = [each["_type"] for each in run.events() if each["_type"] != "session"]
    assert still_one == 1
    assert types == ["session_start", "screen_view", "screen_view", "session_end", "session_start", "screen_view"]
    (end,) = run.events("session_end")
    assert (end["path"], end["duration"], end["_at"]) == ("/b", 30 * MINUTE, T + 30 * MINUTE + 1_000)
    first, second = (each["session_id"] for each in run.events("session_start"))
    assert first != second
    assert end["session_id"] == first


def test_an_event_after_expiry_opens_a_session_with_another_id() -> None:
    run = run_of()
    run.feed([entry_of(event(0))])
    run.wait(1_800)

    run.feed([entry_of(event(10 * MINUTE))])

    first, second = (each["session_id"] for each in run.events("session_start"))
    assert first != second
    assert len(run.events("session_end")) == 1


def test_one_id_across_extensions_and_another_after_the_gap() -> None:
    run = run_of()

    for at in (0, 10 * MINUTE, 20 * MINUTE, 70 * MINUTE):
        run.feed([entry_of(event(at))])

    ids = [each["session_id"] for each in run.events("screen_view")]
    assert ids[0] == ids[1] == ids[2] != ids[3]


def test_an_id_follows_from_the_first_event() -> None:
    first, again = run_of(), run_of()

    first.feed([entry_of(VisitEvent(id="x", at=T, project="p", device="d"))])
    again.feed([entry_of(VisitEvent(id="x", at=T, project="p", device="d"))])

    assert first.events("session_start") == again.events("session_start")


def test_given_ids_are_taken_unless_the_session_before_had_them() -> None:
    run = run_of(ids="given")

    for at in (0, 10, 60 * MINUTE):
        run.feed([entry_of(event(at), session_id="given")])

    first, second = (each["session_id"] for each in run.events("session_start"))
    assert first == "given"
    assert second != "given"
    assert [each["session_id"] for each in run.events("screen_view")] == [first, first, second]


def test_devices_and_projects_have_sessions_of_their_own() -> None:
    run = run_of()

    run.feed(
        [
            entry_of(event(0, "a:b", project="c")),
            entry_of(event(1, "b", project="c:a")),
            entry_of(event(2, "b", project="c")),
        ]
    )

    assert len({each["session_id"] for each in run.events("session_start")}) == 3
    run.wait(3_600)
    assert {(each["project_id"], each["device_id"]) for each in run.events("session_end")} == {
        ("c", "a:b"),
        ("c:a", "b"),
        ("c", "b"),
    }


# -- rows


def test_a_new_session_has_a_row_of_version_1() -> None:
    run = run_of()

    run.feed([entry_of(event(0, path="/a", profile="ann", revenue=2.5, groups=["g"]), country="DE", longitude=13.4)])

    (row,) = rows(run)
    assert (row["_table"], row["sign"], row["version"], row["_at"]) == ("sessions", 1, 1, T)
    assert (row["screen_view_count"], row["event_count"], row["is_bounce"], row["duration"]) == (1, 0, True, 0)
    assert (row["entry_path"], row["exit_path"], row["revenue"], row["groups"]) == ("/a", "/a", 2.5, ["g"])
    assert (row["country"], row["city"], row["longitude"], row["latitude"]) == ("DE", "", 13.4, None)
    assert row["ended_at"] == "2025-10-09T08:53:20Z"


def test_extending_takes_the_old_row_back_before_the_new_one() -> None:
    run = run_of()
    run.feed([entry_of(event(0))])

    run.feed([entry_of(event(10))])

    assert [(row["sign"], row["version"]) for row in rows(run)] == [(1, 1), (-1, 1), (1, 2)]


def test_what_is_taken_back_is_the_old_row_byte_for_byte() -> None:
    run = run_of()
    run.feed([entry_of(event(0, revenue=3), longitude=13, latitude=52.5, city="Köln")])

    run.feed([entry_of(event(-10 * MINUTE, revenue=0.1))])
    run.feed([entry_of(event(5))])

    added = [entry for entry in run.entries if entry[SHAPE].type == "session" and b'"sign":1' in entry[PAYLOAD]]
    taken = [entry for entry in run.entries if entry[SHAPE].type == "session" and b'"sign":-1' in entry[PAYLOAD]]
    assert [entry[PAYLOAD].replace(b'"sign":-1', b'"sign":1') for entry in taken] == [
        entry[PAYLOAD] for entry in added[:2]
    ]
    assert [entry[TIMESTAMP] for entry in taken] == [entry[TIMESTAMP] for entry in added[:2]]
    assert len({entry[EXPLICIT_ID] for entry in added + taken}) == 5


def test_eight_events_in_one_turn_are_one_row_of_version_8() -> None:
    run = run_of()

    run.feed([entry_of(event(at)) for at in range(8)])

    assert [(row["sign"], row["version"]) for row in rows(run)] == [(1, 8)]


def test_a_boundary_within_a_turn_has_a_row_for_both() -> None:
    run = run_of()
    run.feed([entry_of(event(0, path="/old"))])

    run.feed([entry_of(event(10)), entry_of(event(60 * MINUTE))])

    assert [(row["sign"], row["version"]) for row in rows(run)] == [(1, 1), (-1, 1), (1, 2), (1, 1)]
    assert sorted(row["version"] for row in collapsed(rows(run)).values()) == [1, 2]


def test_rows_can_be_left_out() -> None:
    run = run_of(sessions_table=None)

    run.feed([entry_of(event(0)), entry_of(event(1))])
    run.feed([entry_of(event(2))])

    assert rows(run) == []


# -- what an event changes


def test_events_out_of_order_move_both_ends_and_no_duration_is_negative() -> None:
    run = run_of()

    for at, path in ((0, "/b"), (-5 * MINUTE, "/a"), (-1 * MINUTE, "/x"), (2 * MINUTE, "/c")):
        run.feed([entry_of(event(at, path=path))])

    row = only_row(run)
    assert (row["_at"], row["duration"]) == (T - 5 * MINUTE, 7 * MINUTE)
    assert (row["entry_path"], row["exit_path"]) == ("/a", "/c")
    assert all(each["duration"] >= 0 for each in rows(run))


def test_an_earlier_event_without_a_path_leaves_the_entry() -> None:
    run = run_of()

    run.feed([entry_of(event(0, path="/a")), entry_of(event(-10, path="", type="click"))])

    assert (only_row(run)["entry_path"], only_row(run)["_at"]) == ("/a", T - 10)


def test_the_first_path_is_the_entry_also_where_it_comes_later() -> None:
    run = run_of()

    run.feed([entry_of(event(0, path="", type="click"))])
    run.feed([entry_of(event(10, path="/b")), entry_of(event(5, path="/a"))])

    assert (only_row(run)["entry_path"], only_row(run)["exit_path"]) == ("/a", "/b")


def test_views_without_a_path_count_as_events() -> None:
    run = run_of()

    run.feed([entry_of(event(0, path="")), entry_of(event(1, path="/a")), entry_of(event(2, type="click"))])

    assert (only_row(run)["screen_view_count"], only_row(run)["event_count"]) == (1, 2)


def test_revenue_adds_up() -> None:
    run = run_of()

    run.feed([entry_of(event(0, revenue=1.5)), entry_of(event(1), revenue="2.25"), entry_of(event(2), revenue=None)])

    assert only_row(run)["revenue"] == 3.75


def test_a_device_becomes_the_profile_that_is_known_later() -> None:
    run = run_of()

    run.feed([entry_of(event(0)), entry_of(event(1, profile="d"))])
    anonymous = only_row(run)["profile_id"]
    run.feed([entry_of(event(2, profile="ann"))])
    run.feed([entry_of(event(3)), entry_of(event(4, profile="d"))])

    assert anonymous == "d"
    assert only_row(run)["profile_id"] == "ann"


def test_groups_are_united_in_the_order_in_which_they_came() -> None:
    run = run_of()

    run.feed([entry_of(event(0, groups=["b", "a"]))])
    run.feed([entry_of(event(1, groups=["c", "a"])), entry_of(event(2), groups=None)])

    assert only_row(run)["groups"] == ["b", "a", "c"]


@pytest.mark.parametrize(
    "properties",
    [{"__query": {"utm_source": "news", "utm_term": "x"}}, {"__query.utm_source": "news", "__query.utm_term": "x"}],
)
def test_campaign_is_read_from_the_query_of_the_first_event(properties: dict[str, Any]) -> None:
    run = run_of()

    run.feed(
        [entry_of(event(0), properties=properties), entry_of(event(1), properties={"__query": {"utm_source": "y"}})]
    )

    row = only_row(run)
    assert (row["utm_source"], row["utm_medium"], row["utm_term"]) == ("news", "", "x")


def test_further_events_inherit_the_referrer_of_the_first() -> None:
    run = run_of()
    given = {"referrer": "https://g.org/?q=\u00fc", "referrer_name": "G", "referrer_type": "search"}
    run.feed([entry_of(event(0), **given)])

    run.feed([entry_of(event(1)), entry_of(event(2), referrer="https://other.org", referrer_name="", referrer_type="")])

    for each in run.events("screen_view"):
        assert {name: each[name] for name in given} == given
    assert {name: only_row(run)[name] for name in given} == given


def test_a_session_without_a_referrer_leaves_those_of_its_events() -> None:
    run = run_of()

    run.feed([entry_of(event(0)), entry_of(event(1), referrer="https://other.org")])

    assert run.events("screen_view")[1]["referrer"] == "https://other.org"


def test_carried_values_are_those_of_the_first_event() -> None:
    run = run_of()

    run.feed([entry_of(event(0), os="macOS", properties=[])])
    run.feed([entry_of(event(1), os="Windows", browser="x")])

    assert (only_row(run)["os"], only_row(run)["browser"]) == ("macOS", "")


# -- late events


def test_a_late_event_neither_breaks_nor_extends_the_current_session() -> None:
    run = run_of()
    run.feed([entry_of(event(0))])

    run.feed([entry_of(event(-40 * MINUTE))])
    run.feed([entry_of(event(10))])

    current, late, again = (each["session_id"] for each in run.events("screen_view"))
    assert current == again != late
    assert sorted(row["duration"] for row in collapsed(rows(run)).values()) == [0, 10]
    assert run.counts["late"] == 1


def test_late_events_of_one_visit_are_one_session_and_end_with_the_current_one() -> None:
    run = run_of()
    run.feed([entry_of(event(0))])

    for at in (-180, -179, -181, -100):
        run.feed([entry_of(event(at * MINUTE))])
    run.wait(1_800)

    ends = run.events("session_end")
    assert [(end["duration"], end["_at"] - T - 1_000) for end in ends] == [
        (2 * MINUTE, -179 * MINUTE),
        (0, -100 * MINUTE),
        (0, 0),
    ]
    assert run.state == {}


def test_late_events_can_be_passed_without_a_session() -> None:
    run = run_of(late="pass")
    run.feed([entry_of(event(0))])
    late = entry_of(event(-40 * MINUTE))

    output = run.feed([late])

    assert output.entries == [late]
    assert output.state == {}
    assert run.counts["late"] == 1


def test_one_event_of_the_future_does_not_tear_what_follows_apart() -> None:
    run = run_of()

    run.feed([entry_of(event(0)), entry_of(event(24 * 60 * MINUTE))])
    run.feed([entry_of(event(at * MINUTE)) for at in range(1, 10)])

    assert len(run.events("session_start")) == 3
    assert len({each["session_id"] for each in run.events("screen_view")[2:]}) == 1


# -- servers, clients' own boundaries


def test_a_servers_event_is_of_the_session_that_its_profile_is_in() -> None:
    run = run_of()
    run.feed([entry_of(event(0, profile="ann", path="/a"), referrer="https://g.org")])
    before = rows(run)

    run.feed([entry_of(event(5, device="", profile="ann", type="paid", path=""))])

    (paid,) = run.events("paid")
    assert paid["session_id"] == run.events("screen_view")[0]["session_id"]
    assert (paid["device_id"], paid["path"], paid["referrer"]) == ("d", "/a", "https://g.org")
    assert rows(run) == before
    assert run.counts["joined"] == 1


@pytest.mark.parametrize("profile", ["bob", ""])
def test_a_servers_event_without_a_session_is_passed_as_it_came(profile: str) -> None:
    run = run_of()
    run.feed([entry_of(event(0, profile="ann"))])
    paid = entry_of(event(5, device="", profile=profile, type="paid"))

    output = run.feed([paid])

    assert output.entries == [paid]
    assert run.counts["without_session"] == 1


def test_a_servers_event_of_another_time_is_in_no_session() -> None:
    run = run_of()
    run.feed([entry_of(event(0, profile="ann"))])
    historical = entry_of(event(-24 * 60 * MINUTE, device="", profile="ann"))

    assert run.feed([historical]).entries == [historical]


def test_a_profile_is_nowhere_once_its_session_was_idle() -> None:
    run = run_of()
    run.feed([entry_of(event(0, profile="ann"))])
    run.wait(1_800)
    paid = entry_of(event(5, device="", profile="ann", type="paid"))

    assert run.feed([paid]).entries == [paid]


def test_a_profile_that_moves_on_is_found_at_its_last_device() -> None:
    run = run_of()

    run.feed([entry_of(event(0, "phone", profile="ann")), entry_of(event(1, "desk", profile="ann"))])
    run.feed([entry_of(event(2, device="", profile="ann", type="paid"))])

    assert run.events("paid")[0]["device_id"] == "desk"


def test_a_profile_that_another_device_had_last_stays_there() -> None:
    run = run_of()

    run.feed(
        [
            entry_of(event(0, "phone", profile="ann")),
            entry_of(event(1, "desk", profile="ann")),
            entry_of(event(2, "phone", profile="bob")),
            entry_of(event(3, device="", profile="ann", type="paid")),
        ]
    )

    assert run.events("paid")[0]["device_id"] == "desk"


@pytest.mark.parametrize("kind", ["session_start", "session_end"])
def test_boundaries_that_clients_send_change_nothing(kind: str) -> None:
    run = run_of()
    run.feed([entry_of(event(0))])
    sent = entry_of(event(1, type=kind))

    output = run.feed([sent])

    assert output.entries == [sent]
    assert output.state == {}
    assert run.counts["boundaries"] == 1


def test_boundaries_that_clients_send_can_be_dropped_and_are_counted() -> None:
    run = run_of(boundaries="drop")

    output = run.feed([entry_of(event(1, type="session_end"))])

    assert (output.entries, output.counts) == ([], {"dropped": 1, "rows": 0})


# -- what is passed on


def test_events_keep_their_id_time_table_and_the_rest_of_their_payload() -> None:
    run = run_of()
    given = entry_of(event(0), properties={"b": [1.0, "\u00fc"], "a": None}, big=10**30)

    run.feed([given])

    (passed,) = [entry for entry in run.entries if entry[SHAPE].type == "screen_view"]
    assert (passed[0], passed[1], passed[5]) == (given[0], given[1], given[5])
    assert passed[2].startswith(given[2][:-1] + b',"session_id":"')


def test_events_without_an_id_get_the_one_that_follows_from_their_place() -> None:
    run = run_of()
    shape, timestamp, payload, *_ = entry_of(event(0))
    bare = (shape, timestamp, payload, None, None, None, len(payload) + 200)

    run.feed([bare])

    assert run.entries[1][EXPLICIT_ID] == Ids(run.log_id).as_bytes(0, 0, None)


@pytest.mark.parametrize("given", ["", "other", None, 7])
def test_a_session_id_that_an_event_brings_is_replaced(given: object) -> None:
    run = run_of()

    run.feed([entry_of(event(0), session_id=given, properties={"session_id": ""})])

    view = run.events("screen_view")[0]
    assert view["session_id"] == run.events("session_start")[0]["session_id"]
    assert view["properties"] == {"session_id": ""}


def test_the_member_of_the_session_has_the_name_that_is_asked_for() -> None:
    run, without = run_of(session_member="visit"), run_of(session_member=None)
    given = entry_of(event(0))

    run.feed([given])
    without.feed([given])

    assert run.events("screen_view")[0]["visit"] == run.events("session_start")[0]["session_id"]
    assert given in without.entries


def test_static_context_stays_with_the_events() -> None:
    run = run_of()

    run.feed([entry_of(event(0))], static_context=b'{"host":"a"}')

    assert run.entries[1][CONTEXT] == b'{"host":"a"}'


# -- visitors, notices


def test_visitors_of_a_project_are_counted() -> None:
    run = run_of()
    run.feed([entry_of(event(0, "a")), entry_of(event(0, "b")), entry_of(event(0, "c", profile="ann"))])
    run.wait(200)
    run.feed([entry_of(event(1, "z", profile="ann")), entry_of(event(1, "x", project="other"))])

    now = run.count_seen("live:shop", seconds=300)
    run.wait(150)

    assert (now, run.count_seen("live:shop", seconds=300)) == (3, 1)


def test_notices_tell_how_many_events_of_each_project_came() -> None:
    run = run_of()

    run.feed([entry_of(event(0)), entry_of(event(1)), entry_of(event(2, project="other"))])

    assert run.notices == {"event:received": [b'{"project_id":"shop","count":2}', b'{"project_id":"other","count":1}']}


# -- state


def test_an_open_session_is_kept_in_256_bytes() -> None:
    run = run_of()

    run.feed(
        [
            entry_of(
                event(0, "0b6f8a86c4f7417fb6d5c1c36bd5c2ac", path="/shoes/red", origin="https://example.com"),
                **dict.fromkeys(CARRIED, "a value"),
            )
        ]
    )

    (kept,) = run.state.values()
    assert len(kept) <= 256


def test_state_of_version_1_is_read_for_ever() -> None:
    run = run_of()
    run.state = {
        "d4:shop:d": bytes.fromhex(
            "9301dc0012c410d5ad04b1669f84718bf81b9f7d0aa1dba3616e6ecf00000199c82cc000cf00000199c82cc3e8020200cb3f"
            "f8000000000000a22f61ad68747470733a2f2f782e6f7267cf00000199c82cc000a22f62a0cf00000199c82cc3e8a091a167"
            "93ad68747470733a2f2f672e6f7267a0a094a24445a0a0cb402acccccccccccddc0012c410100df58bd1738701b70b5ded2e"
            "303a68a0cf00000199c7f5d180cf00000199c7f5d180010001cb0000000000000000a22f63a0cf00000199c7f5d180a22f63"
            "a0cf00000199c7f5d180a0909090"
        ),
        "p4:shop:ann": bytes.fromhex(
            "9801a164d92464356164303462312d363639662d383437312d386266382d316239663764306161316462cf00000199c82cc0"
            "00cf00000199c82cc3e8a22f62a093ad68747470733a2f2f672e6f7267a0a0"
        ),
    }

    run.feed([entry_of(event(2_000, revenue=1.0)), entry_of(event(0, device="", profile="ann", type="paid"))])

    taken, row = rows(run)
    assert (taken["sign"], taken["version"], taken["revenue"], taken["duration"]) == (-1, 2, 1.5, 1_000)
    assert (row["sign"], row["version"], row["revenue"], row["duration"]) == (1, 3, 2.5, 2_000)
    assert (row["id"], row["country"], row["longitude"]) == ("d5ad04b1-669f-8471-8bf8-1b9f7d0aa1db", "DE", 13.4)
    assert (row["profile_id"], row["groups"], row["entry_path"], row["city"]) == ("ann", ["g"], "/a", "")
    assert run.events("paid")[0]["session_id"] == row["id"]


@pytest.mark.parametrize("kept", [b"", b"\xc1", b"\x90", b"\x91\x02", b"\x93\x02\x94\xc4\x00\xa0\x00\x00\xc0"])
def test_state_that_is_not_ours_pauses_and_is_left_alone(kept: bytes) -> None:
    run = run_of()
    run.state["d4:shop:d"] = kept
    run.deadlines["d4:shop:d"] = run.now

    with pytest.raises(PauseError, match="d4:shop:d"):
        run.feed([entry_of(event(0))])
    with pytest.raises(PauseError, match="d4:shop:d"):
        run.wait(0)

    assert run.state == {"d4:shop:d": kept}


# -- policies of one's own


def test_a_subclass_changes_what_a_boundary_is() -> None:
    class AtMidnight(Sessions):
        def is_boundary(self, session: Session, event: SessionEvent) -> bool:
            return event.at // 86_400_000 > session.ended // 86_400_000

    run = StageRun(SessionStage(AtMidnight()))
    midnight = 86_400_000 - T % 86_400_000

    run.feed([entry_of(event(midnight - 1)), entry_of(event(midnight))])

    assert len(run.events("session_start")) == 2


def test_more_can_be_carried() -> None:
    fields = EventFields(carried={**CARRIED, "tenant": from_payload("properties", "tenant")})
    old, new = run_of(), run_of(fields=fields)
    old.feed([entry_of(event(0), os="macOS")])
    new.state, new.next = dict(old.state), old.next

    new.feed([entry_of(event(1), properties={"tenant": "t"})])
    new.feed([entry_of(event(2, "other"), properties={"tenant": "t"})])

    assert [(row["tenant"], row["os"]) for row in rows(new)][-2:] == [("", "macOS"), ("t", "")]
