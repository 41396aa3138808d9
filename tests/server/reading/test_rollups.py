"""`GET /rollups`: what is answered equals what plain Python counts, in each form; hostile questions are refused."""

from __future__ import annotations

import base64
import csv
import io
import json
from collections.abc import Callable, Sequence
from datetime import datetime
from itertools import product
from typing import Any
from zoneinfo import ZoneInfo

import pyarrow as pa
import pytest

from eventrec import StoredEvent
from eventrec.analytics import Catalogue, Question, brute_force, plan_of

Client = Any
SECOND = 1_000_000_000


@pytest.fixture(scope="session")
def stored_events(events: Sequence[Any]) -> list[StoredEvent]:
    return [
        StoredEvent(
            table=event.table, id=str(n), type=event.type, timestamp=event.timestamp, payload=event.payload.decode()
        )
        for n, event in enumerate(events)
    ]


@pytest.fixture
def counted(catalogue: Catalogue, stored_events: list[StoredEvent]) -> Callable[..., list[list[Any]]]:
    """What plain Python counts for a rollup; times in nanoseconds."""

    def count(name: str, **asked: Any) -> list[list[Any]]:
        (plan,) = (plan_of(each) for each in catalogue.rollups if plan_of(each).name == name)
        return [list(row) for row in brute_force(Question(plan, **asked), stored_events).rows]

    return count


def in_nanoseconds(rows: list[list[Any]]) -> list[list[Any]]:
    return [[round(datetime.fromisoformat(row[0]).timestamp()) * SECOND, *row[1:]] for row in rows]


def same(found: list[list[Any]], wanted: list[list[Any]]) -> None:
    assert len(found) == len(wanted) > 0
    for one, other in zip(found, wanted, strict=True):
        assert one == [pytest.approx(value) if isinstance(value, float) else value for value in other]


async def test_rollups_are_listed_with_what_they_count(client: Client) -> None:
    hourly, daily = (await client.get("/rollups")).json["rollups"]

    assert (hourly["name"], hourly["description"]) == ("orders_per_hour", "Orders of each hour and shop.")
    assert (hourly["bucket"], hourly["zone"], hourly["groups"]) == ("1 hour", "UTC", ["shop"])
    assert hourly["types"] == ["order_placed"]
    assert hourly["columns"][:3] == [
        {"name": "hour", "kind": "timestamp", "role": "bucket"},
        {"name": "shop", "kind": "text", "role": "group"},
        {"name": "orders", "kind": "integer", "role": "measure"},
    ]
    assert [(each["name"], each["function"], each["of"]) for each in hourly["measures"]] == [
        ("orders", "count", None),
        ("customers", "distinct", "payload.customer"),
        ("cents", "sum", "payload.cents"),
        ("mean", "avg", "payload.cents"),
        ("example", "first", "payload.customer"),
    ]
    assert (daily["unit"], daily["every"], daily["zone"]) == ("day", 1, "Europe/Zurich")


@pytest.mark.parametrize(("groups", "first"), list(product([None, (), ("shop",)], ["earliest", "latest"])))
async def test_pages_of_an_answer_are_together_what_plain_python_counts(
    client: Client, counted: Callable[..., list[list[Any]]], groups: tuple[str, ...] | None, first: str
) -> None:
    newest_first = first == "latest"
    asked: list[tuple[str, Any]] = [("limit", 70), ("newest_first", str(newest_first).lower())]
    asked += [] if groups is None else [("group", name) for name in groups or ("",)]

    pages = [(await client.get("/rollups/orders_per_hour", asked)).json]
    while pages[-1]["cursor"] is not None:
        pages.append((await client.get("/rollups/orders_per_hour", [*asked, ("cursor", pages[-1]["cursor"])])).json)

    rows = [row for page in pages for row in page["rows"]]
    same(in_nanoseconds(rows), counted("orders_per_hour", groups=groups, newest_first=newest_first))
    assert len(pages) > 1
    assert {len(page["rows"]) for page in pages[:-1]} == {70}
    assert pages[0]["pending"] == 0
    assert pages[0]["remarks"] == []


async def test_an_answer_says_how_far_it_is_complete(client: Client, events: Sequence[Any]) -> None:
    newest = max(event.timestamp for event in events if event.type == "order_placed")

    found = (await client.get("/rollups/orders_per_hour")).json

    whole, _, fraction = found["complete_to"].removesuffix("Z").partition(".")
    second = round(datetime.fromisoformat(f"{whole}+00:00").timestamp())
    assert second * SECOND + int(fraction) == newest


async def test_times_without_a_zone_are_of_the_zone_of_the_question(
    client: Client, counted: Callable[..., list[list[Any]]]
) -> None:
    zurich = int(datetime(2026, 3, 29, tzinfo=ZoneInfo("Europe/Zurich")).timestamp()) * SECOND
    utc = zurich + 3_600 * SECOND

    of_rollup = await client.get("/rollups/orders_per_day", from_="2026-03-29", to="2026-03-30")
    of_question = await client.get("/rollups/orders_per_day", from_="2026-03-29T00:00", zone="UTC")
    with_zone = await client.get("/rollups/orders_per_day", from_="2026-03-29T00:00:00+01:00")
    plus_lost = await client.get("/rollups/orders_per_day", from_="2026-03-29T00:00:00 01:00")

    day = 23 * 3_600 * SECOND  # the clock is put forward
    same(in_nanoseconds(of_rollup.json["rows"]), counted("orders_per_day", start=zurich, end=zurich + day))
    assert of_rollup.json["rows"][0][0] == "2026-03-29T00:00:00+01:00"
    same(in_nanoseconds(of_question.json["rows"]), counted("orders_per_day", start=utc))
    assert of_question.json["rows"][0][0] == "2026-03-29T22:00:00Z"
    same(in_nanoseconds(with_zone.json["rows"]), counted("orders_per_day", start=zurich))
    assert plus_lost.json["rows"] == with_zone.json["rows"]


async def test_buckets_are_written_in_the_zone_that_is_asked_for(client: Client) -> None:
    found = (await client.get("/rollups/orders_per_hour", zone="Asia/Kathmandu", limit=1)).json

    assert found["zone"] == "Asia/Kathmandu"
    assert found["rows"][0][0] == "2026-03-26T05:45:00+05:45"


async def test_relative_times_go_back_from_now(client: Client) -> None:
    found = (await client.get("/rollups/orders_per_hour", from_="-5000w", limit=1)).json
    none = (await client.get("/rollups/orders_per_hour", from_="-1h30m", to="now")).json

    assert len(found["rows"]) == 1
    assert none["rows"] == []


async def test_a_cursor_keeps_the_range_of_its_first_page(client: Client) -> None:
    asked = {"from_": "-500w", "to": "now", "limit": 1}
    first = (await client.get("/rollups/orders_per_hour", **asked)).json

    second = (await client.get("/rollups/orders_per_hour", **asked, cursor=first["cursor"])).json

    held = json.loads(base64.urlsafe_b64decode(first["cursor"] + "=="))
    assert held[1:3] == json.loads(base64.urlsafe_b64decode(second["cursor"] + "=="))[1:3]
    assert second["rows"] != first["rows"]


async def test_empty_buckets_are_told_where_they_are_asked_for(client: Client) -> None:
    asked = {"from_": "2026-03-20", "to": "2026-04-04", "empty": "true"}

    found = (await client.get("/rollups/orders_per_day", **asked)).json

    assert len(found["rows"]) == 15
    assert found["rows"][0] == ["2026-03-20T00:00:00+01:00", 0, 0]


# -- other forms


async def test_csv_says_what_json_says(client: Client) -> None:
    wanted = await client.get("/rollups/orders_per_hour")

    found = await client.get("/rollups/orders_per_hour", headers={"Accept": "text/csv"}, raw="")

    assert found.headers["content-type"] == "text/csv; charset=utf-8; header=present"
    assert found.headers["content-disposition"] == 'attachment; filename="orders_per_hour.csv"'
    assert found.headers["eventrec-complete-to"] == wanted.json["complete_to"]
    assert found.headers["eventrec-pending"] == "0"
    assert found.body.endswith(b"\r\n")
    header, *rows = csv.reader(io.StringIO(found.body.decode(), newline=""), strict=True)
    assert header == [each["name"] for each in wanted.json["columns"]]
    assert rows == [["" if value is None else str(value) for value in row] for row in wanted.json["rows"]]


async def test_a_text_in_csv_is_not_a_formula(client: Client) -> None:
    found = await client.get("/rollups/orders_per_hour", format="csv")

    cells = {row[1] for row in csv.reader(io.StringIO(found.body.decode(), newline=""))}
    assert cells == {"shop", "a", "b", "'=1+1", 'say "so", now', ""}


async def test_arrow_says_what_json_says(client: Client) -> None:
    wanted = await client.get("/rollups/orders_per_hour", zone="Europe/Zurich")

    found = await client.get("/rollups/orders_per_hour", format="arrow", zone="Europe/Zurich")

    assert found.headers["content-type"] == "application/vnd.apache.arrow.stream"
    table = pa.ipc.open_stream(found.body).read_all()
    assert table.schema.field("hour").type == pa.timestamp("ns", tz="Europe/Zurich")
    assert table.schema.field("orders").type == pa.int64()
    assert table.schema.metadata[b"eventrec_complete_to"].decode() == wanted.json["complete_to"]
    columns = table.drop_columns(["hour"]).to_pydict()
    assert list(zip(*columns.values(), strict=True)) == [tuple(row[1:]) for row in wanted.json["rows"]]
    moments = table.column("hour").cast(pa.int64()).to_pylist()
    assert [[at] for at in moments] == [row[:1] for row in in_nanoseconds(wanted.json["rows"])]


async def test_an_answer_without_rows_has_every_form(client: Client) -> None:
    asked = {"from_": "2020-01-01", "to": "2020-01-02"}

    csv_ = await client.get("/rollups/orders_per_hour", format="csv", **asked)
    arrow = await client.get("/rollups/orders_per_hour", format="arrow", **asked)

    assert csv_.body.count(b"\r\n") == 1
    assert pa.ipc.open_stream(arrow.body).read_all().num_rows == 0


@pytest.mark.parametrize(
    ("accept", "wanted"),
    [
        ("*/*", "application/json"),
        ("text/*", "text/csv"),
        ("text/csv;q=0.5, application/json;q=0.4", "text/csv"),
        ("text/html, application/json;q=0.9, */*;q=0.8", "application/json"),
        ("application/vnd.apache.arrow.stream", "application/vnd.apache.arrow.stream"),
        ("text/html", None),
        ("application/json;q=0", None),
    ],
)
async def test_the_form_is_the_one_that_the_client_prefers(client: Client, accept: str, wanted: str | None) -> None:
    found = await client.get("/rollups/orders_per_hour", headers={"Accept": accept})

    assert found.status == (406 if wanted is None else 200)
    assert wanted is None or found.headers["content-type"].startswith(wanted)


async def test_without_pyarrow_arrow_is_not_acceptable(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("eventrec.server.reading.rollups.has_arrow", lambda: False)
    arrow = "application/vnd.apache.arrow.stream"

    asked = await client.get("/rollups/orders_per_hour", format="arrow")
    only = await client.get("/rollups/orders_per_hour", headers={"Accept": arrow})
    other = await client.get("/rollups/orders_per_hour", headers={"Accept": f"{arrow}, text/csv;q=0.1"})

    assert asked.status == only.status == 406
    assert "eventrec[arrow]" in asked.detail
    assert other.headers["content-type"].startswith("text/csv")


async def test_an_answer_that_has_not_changed_is_not_sent_again(client: Client) -> None:
    first = await client.get("/rollups/orders_per_hour")
    tag = first.headers["etag"]

    again = await client.get("/rollups/orders_per_hour", headers={"If-None-Match": f'"other", W/{tag}'})
    other = await client.get("/rollups/orders_per_hour", headers={"If-None-Match": tag}, format="csv")

    assert (again.status, again.body, again.headers["etag"]) == (304, b"", tag)
    assert other.status == 200


# -- refusals


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"from_": "yesterday"}, "from: 'yesterday' is not a time"),
        ({"to": "2026-13-01"}, "to: '2026-13-01' is not a time"),
        ({"from_": "2026"}, "from: '2026' is not a time"),
        ({"from_": "1774483792"}, "from: '1774483792' is not a time"),
        ({"from_": "9999-12-31"}, "from: '9999-12-31' is outside the years 1677 to 2262"),
        ({"from_": "-9999999w"}, "from: '-9999999w' is outside the years 1677 to 2262"),
        ({"from_": "2026-01-01T10:00:00+99:00"}, "from: '2026-01-01T10:00:00+99:00' is not a time"),
        ({"from_": "x" * 10_000}, f"from: '{'x' * 40}...' is not a time"),
        ({"from_": "2026-02-01", "to": "2026-01-01"}, "from: it is after to"),
        ({"from_": "1990-01-01", "to": "2026-01-01"}, "from: at most 3660 days before to"),
        ({"zone": "Mars/Olympus"}, "zone: there is no time zone 'Mars/Olympus'"),
        ({"zone": "../../etc/passwd"}, "zone: there is no time zone '../../etc/passwd'"),
        ({"zone": "/etc/localtime"}, "zone: there is no time zone '/etc/localtime'"),
        ({"zone": "Europe"}, "zone: there is no time zone 'Europe'"),
        ({"limit": "0"}, "limit: a whole number from 1 to 50000, not '0'"),
        ({"limit": "-1"}, "limit: a whole number"),
        ({"limit": "1e3"}, "limit: a whole number"),
        ({"limit": "9" * 400}, "limit: a whole number"),
        ({"limit": "٣"}, "limit: a whole number"),
        ({"group": 'shop"; DROP TABLE shop; --'}, "group: "),
        ({"newest_first": "perhaps"}, "newest_first: true or false, not 'perhaps'"),
        ({"format": "xml"}, "format: one of json, csv, arrow, not 'xml'"),
        ({"empty": "1"}, "empty: it needs from"),
        ({"empty": "1", "from_": "2020-01-01", "to": "2026-01-01"}, "empty: over 50000 buckets: ask for less time"),
        ({"form": "csv"}, "form: there is no such parameter; there are from, to, zone,"),
        ({"cursor": "nonsense"}, "cursor: it was not given by an answer"),
        ({"cursor": "é"}, "cursor: it was not given by an answer"),
        ({"zone": "UTC\0"}, "zone: a text without NUL"),
    ],
)
async def test_a_question_that_cannot_be_answered_is_refused_by_its_parameter(
    client: Client, asked: dict[str, str], said: str
) -> None:
    found = await client.get("/rollups/orders_per_hour", **asked)

    assert found.status == 400
    assert found.detail.startswith(said)


async def test_a_parameter_may_stand_only_once(client: Client) -> None:
    found = await client.get("/rollups/orders_per_hour", [("limit", 1), ("limit", 2)])

    assert (found.status, found.detail) == (400, "limit: it may stand only once")


@pytest.mark.parametrize("name", ["orders", "ORDERS_PER_HOUR", "sqlite_master", 'orders_per_hour"', "..", "a" * 5_000])
async def test_a_rollup_that_is_not_there_is_told_with_those_that_are(client: Client, name: str) -> None:
    found = await client.get(f"/rollups/{name}")

    assert found.status == 404
    assert found.detail.endswith("; there are orders_per_hour, orders_per_day")


async def test_a_cursor_of_another_question_is_refused(client: Client) -> None:
    cursor = (await client.get("/rollups/orders_per_hour", limit=1)).json["cursor"]
    others = ({"newest_first": "1"}, {"group": ""}, {"zone": "Europe/Zurich"}, {"from_": "2026-01-01"})

    refused = [await client.get("/rollups/orders_per_hour", cursor=cursor, **other) for other in others]
    of_other = await client.get("/rollups/orders_per_day", cursor=cursor)

    assert {found.detail for found in (*refused, of_other)} == {
        "cursor: it is of another question: say everything else as before"
    }


@pytest.mark.parametrize(
    ("start", "end", "inner"),
    [
        (None, None, "[]"),
        (None, None, '[0, ["a", "b"]]'),
        (None, None, "[0, [5]]"),
        (None, None, '[170141183460469231731687303715884105728, ["a"]]'),
        (None, None, '[-62104060800000000001, ["a"]]'),
        (None, None, '[253339228800000000001, ["a"]]'),
        (None, None, '[1e400, ["a"]]'),
        (None, None, f"[0, {'[' * 5_000}{']' * 5_000}]"),
        (2**63, None, '[0, ["a"]]'),
        (0, 2**62, '[0, ["a"]]'),
    ],
)
async def test_a_forged_cursor_is_refused(client: Client, start: int | None, end: int | None, inner: str) -> None:
    cursor = (await client.get("/rollups/orders_per_hour", limit=1)).json["cursor"]
    fingerprint = json.loads(base64.urlsafe_b64decode(cursor + "=="))[0]
    forged = base64.urlsafe_b64encode(json.dumps([fingerprint, start, end, inner]).encode()).decode().rstrip("=")

    found = await client.get("/rollups/orders_per_hour", limit=1, cursor=forged)

    assert found.status == 400
    assert found.detail


async def test_a_forged_cursor_at_the_ends_of_time_is_answered(client: Client) -> None:
    cursor = (await client.get("/rollups/orders_per_hour", limit=1)).json["cursor"]
    fingerprint = json.loads(base64.urlsafe_b64decode(cursor + "=="))[0]

    for bucket in (-(2**63), 2**63 - 1, -62104060800000000000, 253339228800000000000):
        forged = json.dumps([fingerprint, None, None, json.dumps([bucket, ["a"]])]).encode()
        found = await client.get("/rollups/orders_per_hour", limit=1, cursor=base64.urlsafe_b64encode(forged).decode())
        assert found.status == 200
        assert bool(found.json["rows"]) is (bucket < 0)


async def test_without_a_catalogue_there_are_no_rollups(client_of: Callable[..., Client], shop: str) -> None:
    client = client_of(shop, None)

    assert (await client.get("/rollups")).json == {"rollups": []}
    assert (
        await client.get("/rollups/x")
    ).detail == "there is no rollup 'x'; there are none: the server has no catalogue"
