"""Profiles: what of which event becomes part of one, and what comes out."""

from __future__ import annotations

from itertools import count
from typing import Any

import msgspec
import pytest

from eventrec import from_payload
from eventrec.bus import Entry, Output, make_entry
from eventrec.errors import OptionsError, PauseError
from eventrec.records.entry import SHAPE
from eventrec.records.schema import Shape
from eventrec.relaying import stage_from_text
from eventrec.sessions import ProfileFields, Profiles, Sessions, SessionStage
from eventrec.sessions.profile import MAX_PROPERTIES_BYTES
from eventrec.testing.profiles import HOUR, PersonEvent, last_rows, person_entry
from eventrec.testing.stages import StageRun

T = 1_760_000_000_000
MINUTE = 60_000
NUMBERS = count()


def run_of(**options: Any) -> StageRun:
    return StageRun(SessionStage(Profiles(**options)))


def event(at: int = 0, *, profile: str = "ann", on: str = "d", **more: Any) -> Entry:
    """An event; what is neither a field of PersonEvent nor `names` is a member of its payload."""
    own = {name: more.pop(name) for name in ("type", "names", "properties", "groups", "project") if name in more}
    return person_entry(
        PersonEvent(id=f"e{next(NUMBERS)}", at=T + at, profile=profile, device=on, observed=more, **own)
    )


def identify(at: int = 0, *, profile: str = "ann", **more: Any) -> Entry:
    names = {name: more.pop(name) for name in ("first_name", "last_name", "email", "avatar") if name in more}
    return event(at, profile=profile, type="identify", names=names, **more)


def rows(run: StageRun) -> list[dict[str, Any]]:
    return run.events("profile")


def profile(run: StageRun, id_: str = "ann") -> dict[str, Any]:
    return last_rows(rows(run))["p", id_]


# -- what is written


def test_first_event_of_a_profile_is_a_row_with_all_of_it() -> None:
    run = run_of()

    run.feed([event(path="/a", country="SE", longitude=18.5, device="desktop", referrer_name="Search", groups=["g"])])

    (row,) = rows(run)
    assert {name: row[name] for name in ("id", "project_id", "is_external", "first_name", "email", "groups")} == {
        "id": "ann",
        "project_id": "p",
        "is_external": True,
        "first_name": "",
        "email": "",
        "groups": ["g"],
    }
    assert row["properties"] == {
        "path": "/a",
        "country": "SE",
        "longitude": "18.5",
        "device": "desktop",
        "referrer_name": "Search",
    }
    assert row["created_at"] == row["last_seen_at"] == "2025-10-09T08:53:20Z"
    assert (row["_at"], row["_table"], row["_type"]) == (T, "profiles", "profile")


def test_every_event_is_passed_on_as_it_came() -> None:
    run = run_of()
    given = [event(0), identify(5, email="a@x"), event(9, profile="", on=""), event(9, project="")]

    run.feed(given)

    assert [entry for entry in run.entries if entry[SHAPE].type != "profile"] == given
    assert run.counts["without_profile"] == 2


def test_updates_are_dropped_where_that_is_asked_for() -> None:
    run = run_of(updates="drop")

    run.feed([identify(email="a@x")])

    assert [entry[SHAPE].type for entry in run.entries] == ["profile"]
    assert run.counts["dropped"] == 1


def test_several_changes_in_one_turn_are_one_row() -> None:
    run = run_of()

    run.feed([event(0), identify(1, email="a@x"), identify(2, first_name="Ann"), event(3, profile="bob")])

    assert [(row["id"], row["email"], row["first_name"]) for row in rows(run)] == [
        ("ann", "a@x", "Ann"),
        ("bob", "", ""),
    ]


def test_versions_grow_and_are_never_below_when_it_was_last_seen() -> None:
    run = run_of()

    run.feed([event(0)])
    run.feed([identify(0, email="a@x")])
    run.feed([identify(-5, email="b@x")])
    run.feed([event(2 * HOUR)])

    assert [row["version"] for row in rows(run)] == [T, T + 1, T + 2, T + 2 * HOUR]


def test_created_at_never_changes_and_last_seen_never_goes_back() -> None:
    run = run_of()

    run.feed([event(HOUR)])
    run.feed([identify(0, email="a@x")])
    run.feed([identify(3 * HOUR)])

    assert [(row["created_at"], row["last_seen_at"], row["_at"] - T) for row in rows(run)] == [
        ("2025-10-09T09:53:20Z", "2025-10-09T09:53:20Z", HOUR),
        ("2025-10-09T09:53:20Z", "2025-10-09T09:53:20Z", HOUR),
        ("2025-10-09T09:53:20Z", "2025-10-09T11:53:20Z", 3 * HOUR),
    ]


def test_ids_of_rows_differ_by_project_profile_and_version() -> None:
    run = run_of()

    run.feed([event(0), event(0, profile="bob"), event(0, project="q")])
    run.feed([identify(0, email="a@x")])

    assert len({row["_id"] for row in rows(run)}) == 4


# -- known and unknown


def test_profile_that_is_the_device_is_not_known() -> None:
    run = run_of()

    run.feed([event(0, profile="d"), event(0, profile="", on="e"), event(0, profile="ann")])

    assert {row["id"]: row["is_external"] for row in rows(run)} == {"d": False, "e": False, "ann": True}


def test_an_update_makes_a_profile_known_for_ever() -> None:
    run = run_of()

    run.feed([event(0, profile="d")])
    run.feed([identify(1, profile="d", first_name="Dee")])
    run.feed([event(2 * HOUR, profile="d")])

    assert [row["is_external"] for row in rows(run)] == [False, True, True]


def test_server_event_without_a_device_is_of_a_known_profile() -> None:
    run = run_of()

    run.feed([event(0, profile="ann", on="")])

    assert profile(run)["is_external"] is True


def test_unknown_profiles_are_left_out_where_that_is_asked_for() -> None:
    run = run_of(unknown="skip")

    run.feed([event(0, profile=""), event(0, profile="d"), event(0, profile="ann")])

    assert [row["id"] for row in rows(run)] == ["ann"]
    assert list(run.state) == ["u1:p:ann"]


def test_unknown_profile_is_forgotten_after_two_days_and_begins_again() -> None:
    run = run_of()
    run.feed([event(0, profile="", country="SE")])

    run.wait(172_799)
    before = dict(run.state)
    run.wait(1)
    after = dict(run.state)
    run.feed([event(49 * HOUR, profile="", os="macOS")])

    assert (len(before), after) == (1, {})
    first, second = rows(run)
    assert second["version"] > first["version"]
    assert (second["properties"], second["created_at"]) == ({"os": "macOS"}, "2025-10-11T09:53:20Z")


def test_known_profile_is_kept_without_end() -> None:
    run = run_of()
    run.feed([identify(0, first_name="Ann")])

    run.wait(10 * 365 * 86_400)
    run.feed([event(10 * 365 * 24 * HOUR)])

    assert profile(run)["first_name"] == "Ann"
    assert run.deadlines == {}


def test_known_profile_is_kept_as_long_as_that_is_asked_for() -> None:
    run = run_of(keep_seconds=86_400)
    run.feed([event(0)])

    run.wait(86_400)

    assert run.state == {}
    assert run.counts["forgotten"] == 1


def test_profile_that_became_known_is_not_forgotten_by_the_time_of_an_unknown_one() -> None:
    run = run_of()
    run.feed([event(0, profile="d")])

    run.feed([identify(1, profile="d", email="d@x")])
    run.wait(5 * 86_400)

    assert list(run.state) == ["u1:p:d"]


def test_what_is_kept_for_a_time_is_kept_without_end_by_a_stage_that_keeps_so() -> None:
    run = run_of(keep_seconds=60)
    run.feed([event(0)])

    run.stage = SessionStage(Profiles())
    run.wait(60)

    assert (list(run.state), run.deadlines) == (["u1:p:ann"], {})


# -- how often


def test_events_within_an_hour_of_a_change_change_nothing() -> None:
    run = run_of()

    run.feed([event(0, path="/a")])
    output = run.feed([event(HOUR - 1, path="/b"), event(MINUTE, path="/c")])

    assert output.state == {}
    assert len(rows(run)) == 1
    assert run.counts["seen"] == 2


def test_an_event_after_an_hour_says_when_it_was_last_seen_and_where() -> None:
    run = run_of()

    run.feed([event(0, path="/a", country="SE")])
    run.feed([event(HOUR, path="/b")])

    assert profile(run)["last_seen_at"] == "2025-10-09T09:53:20Z"
    assert profile(run)["properties"] == {"path": "/b", "country": "SE"}


def test_start_and_end_of_a_session_always_say_when_it_was_last_seen() -> None:
    run = run_of()
    times = []

    for each in (
        event(0),
        event(5 * MINUTE),
        event(9 * MINUTE + 1_000, type="session_end"),
        event(40 * MINUTE - 100, type="session_start"),
    ):
        run.feed([each])
        times.append(profile(run)["last_seen_at"])

    assert times == [
        "2025-10-09T08:53:20Z",
        "2025-10-09T08:53:20Z",
        "2025-10-09T09:02:20Z",
        "2025-10-09T09:33:20Z",
    ]


def test_a_session_end_that_comes_late_changes_nothing() -> None:
    run = run_of()
    run.feed([event(HOUR, path="/b")])

    run.feed([event(MINUTE, type="session_end", path="/a")])

    assert len(rows(run)) == 1


def test_an_update_that_says_nothing_new_is_no_row_within_an_hour() -> None:
    run = run_of()
    run.feed([identify(0, email="a@x", properties={"plan": "pro"}, groups=["g"])])

    run.feed([identify(MINUTE, email="a@x", properties={"plan": "pro"}, groups=["g"])])
    run.feed([identify(HOUR, email="a@x")])

    assert [row["last_seen_at"][11:16] for row in rows(run)] == ["08:53", "09:53"]


# -- how it is merged


def test_names_that_are_empty_or_missing_leave_what_is_there() -> None:
    run = run_of()

    run.feed([identify(0, first_name="John", last_name="Doe", email="john@x", avatar="a.png")])
    run.feed([identify(1, first_name="", email="", avatar="b.png")])

    found = profile(run)
    assert [found[name] for name in ("first_name", "last_name", "email", "avatar")] == [
        "John",
        "Doe",
        "john@x",
        "b.png",
    ]


def test_groups_are_added_each_once() -> None:
    run = run_of()

    run.feed([identify(0, groups=["a", "b"])])
    run.feed([identify(1, groups=["b", "c"])])

    assert profile(run)["groups"] == ["a", "b", "c"]


def test_properties_are_merged_by_their_members_and_written_by_their_paths() -> None:
    run = run_of()

    run.feed([identify(0, properties={"plan": {"name": "pro", "seats": 3}, "tags": ["x", "y"], "age": 40})])
    run.feed([identify(1, properties={"plan": {"seats": 4, "trial": True}, "tags": ["z"], "age": None})])

    assert profile(run)["properties"] == {
        "plan.name": "pro",
        "plan.seats": "4",
        "plan.trial": "true",
        "tags.0": "z",
        "age": "40",
    }


def test_a_property_that_becomes_an_object_or_ceases_to_be_one_is_replaced() -> None:
    run = run_of()

    run.feed([identify(0, properties={"a": "x", "b": {"c": "y"}})])
    run.feed([identify(1, properties={"a": {"c": "y"}, "b": "x"})])

    assert profile(run)["properties"] == {"a.c": "y", "b": "x"}


@pytest.mark.parametrize("empty", ["", None, [], {}])
def test_properties_that_are_empty_leave_what_is_there(empty: Any) -> None:
    run = run_of()

    run.feed([identify(0, properties={"plan": "pro"})])
    run.feed([identify(1, properties={"plan": empty})])

    assert profile(run)["properties"] == {"plan": "pro"}


def test_an_empty_member_replaces_no_text_inside_an_object() -> None:
    run = run_of()

    run.feed([identify(0, properties={"plan": {"name": "pro"}})])
    run.feed([identify(1, properties={"plan": {"name": "", "other": ""}})])

    assert profile(run)["properties"] == {"plan.name": "pro", "plan.other": ""}


def test_server_events_leave_place_and_system_of_a_person() -> None:
    run = run_of()

    run.feed([event(0, country="SE", os="iOS", os_version="18", browser="Safari", device="mobile", brand="Apple")])
    run.feed([event(HOUR, country="US", os="Linux", os_version="6", browser="curl", device="server", path="/api")])
    run.feed([identify(HOUR + 1, city="Boston", device="server", properties={"plan": "pro", "isServer": "yes"})])

    assert profile(run)["properties"] == {
        "country": "SE",
        "os": "iOS",
        "os_version": "18",
        "browser": "Safari",
        "device": "mobile",
        "brand": "Apple",
        "path": "/api",
        "plan": "pro",
    }


def test_profile_of_a_server_has_its_place_and_system() -> None:
    run = run_of()

    run.feed([event(0, country="US", device="server")])
    run.feed([event(HOUR, country="DE", device="server")])

    assert profile(run)["properties"] == {"country": "DE", "device": "server"}


def test_what_is_seen_stands_before_what_an_update_says_under_its_name() -> None:
    run = run_of()

    run.feed([identify(0, country="SE", properties={"country": "nowhere", "city": "Lund"})])

    assert profile(run)["properties"] == {"country": "SE", "city": "Lund"}


def test_updates_of_posthog_clients_are_read() -> None:
    run = run_of()
    payload = {"project_id": "p", "profile_id": "ann", "$set": {"email": "a@x", "plan": "pro"}}

    run.feed([make_entry(Shape("events", "$identify"), T * 1_000_000, msgspec.json.encode(payload))])

    assert (profile(run)["email"], profile(run)["properties"]) == ("a@x", {"email": "a@x", "plan": "pro"})


# -- what is kept for others to read


def test_profile_can_be_read_for_an_hour_after_it_changed() -> None:
    run = run_of()
    run.feed([identify(0, email="a@x")])

    run.wait(3_599)
    cached = dict(run.published)
    run.wait(1)

    assert msgspec.json.decode(cached["profile-cache:p:ann"])["email"] == "a@x"
    assert run.published == {}


def test_nothing_is_published_without_a_cache() -> None:
    run = StageRun(stage_from_text("profiles?cache=0"))

    run.feed([event(0)])

    assert run.published == {}


# -- bounds


def test_properties_of_a_profile_have_a_bound_and_what_finds_no_room_is_counted() -> None:
    run = run_of()

    for number in range(30):
        run.feed([identify(number, properties={f"p{number}": "x" * 1_000, "small": str(number)})])

    (state,) = run.state.values()
    kept = profile(run)["properties"]
    assert len(msgspec.json.encode(kept)) <= MAX_PROPERTIES_BYTES
    assert (kept["small"], len(kept)) == ("29", 17)
    assert run.counts["cut"] == 30 - 16
    assert len(state) < MAX_PROPERTIES_BYTES + 1_000


def test_names_and_groups_have_bounds() -> None:
    run = run_of()

    run.feed([identify(0, first_name="x" * 5_000, groups=[f"g{i}" for i in range(200)])])

    assert (len(profile(run)["first_name"]), len(profile(run)["groups"])) == (2_048, 100)


@pytest.mark.parametrize("depth", [16, 900])
def test_what_is_too_deep_is_left_out_and_counted(depth: int) -> None:
    run = run_of()
    deep = b'{"project_id":"p","profile_id":"ann","properties":{"a":"x","b":%b1%b}}'
    payload = deep % (b'{"c":' * depth, b"}" * depth)

    run.feed([make_entry(Shape("events", "identify"), T * 1_000_000, payload)])

    assert profile(run)["properties"] == {"a": "x"}
    assert run.counts["cut"] == 1


def test_state_of_another_format_is_for_an_operator() -> None:
    run = run_of()
    run.feed([event(0)])
    (key,) = run.state

    for kept in (b"\xc0", msgspec.msgpack.encode([2, 1, True, 0, 0])):
        run.state[key] = kept
        with pytest.raises(PauseError, match=r"profile|format 2"):
            run.feed([event(1)])


# -- with sessions


def through(first: StageRun, second: StageRun, output: Output) -> None:
    second.feed(output.entries, static_context=output.static_context)


def test_behind_sessions_a_visit_of_one_device_is_two_rows_at_most() -> None:
    sessions, run = StageRun(SessionStage(Sessions())), run_of()

    for minute in range(10):
        through(sessions, run, sessions.feed([event(minute * MINUTE, profile="", path=f"/{minute}", country="SE")]))
    for output in sessions.wait(1_800):
        through(sessions, run, output)

    first, last = rows(run)
    assert (first["id"], first["is_external"], first["created_at"]) == ("d", False, "2025-10-09T08:53:20Z")
    assert (first["last_seen_at"], last["last_seen_at"]) == ("2025-10-09T08:53:20Z", "2025-10-09T09:02:20Z")
    assert last["properties"] == {"path": "/9", "country": "SE"}
    assert len(run.events("session")) == 19


def test_rows_of_sessions_are_passed_on_and_change_nothing() -> None:
    sessions, run = StageRun(SessionStage(Sessions(boundaries="drop"))), run_of()
    output = sessions.feed([event(0)])
    row = next(entry for entry in output.entries if entry[SHAPE].type == "session")

    run.feed([row])

    assert (run.entries, run.state, run.counts["without_profile"]) == ([row], {}, 0)


# -- options


def test_options_say_where_things_are_read_and_how_long_they_are_kept() -> None:
    stage = stage_from_text("profiles?project=payload:shop&email=payload:mail&every=1m&keep=1d&profiles_table=people")
    run = StageRun(stage)
    payload = {"shop": "p", "profile_id": "ann", "mail": "a@x"}
    entry = make_entry(Shape("events", "identify"), T * 1_000_000, msgspec.json.encode(payload))

    run.feed([entry])

    (row,) = rows(run)
    assert (row["email"], row["_table"]) == ("a@x", "people")
    assert run.deadlines == {"u1:p:ann": run.now + 86_400}


@pytest.mark.parametrize(
    "options", ["x=1", "unknown=no", "updates=no", "every=0", "keep=", "cache=-1s", "email=nowhere:a", "gap=30m"]
)
def test_options_that_are_wrong_are_refused(options: str) -> None:
    with pytest.raises(OptionsError):
        stage_from_text(f"profiles?{options}")


def test_fields_that_contradict_each_other_are_refused() -> None:
    with pytest.raises(OptionsError, match="two fields"):
        ProfileFields(observed={"a": from_payload("x"), "b": from_payload("x")})
