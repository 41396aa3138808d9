"""`eventrec query`: a rollup as a table, as a chart and as JSON, and what is wrong in one line."""

from __future__ import annotations

import json
import subprocess
from datetime import datetime
from pathlib import Path
from typing import Any, Protocol

import pytest

from eventrec import EventRecorder, ReceivedEvent, cli
from eventrec.cli.query.showing import number_text
from eventrec.log.disk import DiskStorage
from eventrec.log.log import Log
from eventrec.runs.directory import list_runs

SHOP = """
from eventrec import EventModel
from eventrec.analytics import Catalogue, Rollup, bucket, count, event_timestamp, first, group, max_of, sum_of

class OrderPlaced(EventModel, table="orders"):
    amount: int
    currency: str | None = None
    is_gift: bool = False

class Orders(Rollup, name="orders_per_hour", events=[OrderPlaced]):
    hour = bucket("1 hour", zone="Europe/Berlin")
    currency = group("currency")
    gift = group("is_gift")
    orders = count()
    total = sum_of("amount")
    note = first("currency")
    newest = max_of(event_timestamp)

class Days(Rollup, name="days", events=[OrderPlaced]):
    day = bucket("day")
    note = first("currency")

class Measured(EventModel, table="sizes"):
    size: float

class Sizes(Rollup, name="largest_sizes", events=[Measured]):
    day = bucket("day")
    largest = max_of("size")

class PerMinute(Rollup, name="per_minute", events=[OrderPlaced]):
    minute = bucket("1 minute")
    gift = group("is_gift")
    orders = count()

catalogue = Catalogue(name="shop", events=[OrderPlaced, Measured], rollups=[Orders, Days, Sizes, PerMinute])
"""
ARGUMENTS = ("--to", "sqlite:///shop.db", "--catalogue", "shop_events:catalogue")


class Run(Protocol):
    def __call__(self, *arguments: str | Path, stdin: str | bytes = b"") -> subprocess.CompletedProcess[str]: ...


def at(said: str) -> int:
    return int(datetime.fromisoformat(said).timestamp()) * 1_000_000_000


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    """A directory with a catalogue, and a database with four orders around the end of summer time in Berlin."""
    (tmp_path / "shop_events.py").write_text(SHOP, encoding="utf-8")
    with EventRecorder(f"sqlite:///{tmp_path / 'shop.db'}").sync() as recorder:
        for when, amount, more in (
            ("2024-10-27T02:30+02:00", 5, '"currency": "EUR"'),
            ("2024-10-27T02:30+01:00", 1_200, '"currency": "EUR"'),
            ("2024-10-27T02:31+01:00", 2**63 - 1, '"currency": "\\u001b[31mUSD", "is_gift": true'),
            ("2024-10-27T05:00+01:00", 2**63 - 1, '"is_gift": true'),
        ):
            payload = f'{{"amount": {amount}, {more}}}'.encode()
            recorder.record(ReceivedEvent("order_placed", payload, timestamp=at(when), table="orders"))
        assert recorder.flush(timeout=30)
    return tmp_path


def asked(eventrec: Run, *arguments: str) -> Any:
    done = eventrec("query", *arguments, *ARGUMENTS, "--json")
    assert (done.returncode, done.stderr) == (0, "")
    return json.loads(done.stdout)


def test_a_table_shows_each_row_and_how_far_it_is_complete(eventrec: Run, shop: Path) -> None:
    done = eventrec("query", "orders_per_hour", *ARGUMENTS)

    title, head, *rows = (line.rstrip() for line in done.stdout.splitlines())
    assert (done.returncode, done.stderr) == (0, "")
    assert title == "orders_per_hour"
    assert head.split() == ["hour", "currency", "gift", "orders", "total", "note", "newest"]
    assert rows[0].split()[:6] == ["2024-10-27", "02:00+02:00", "EUR", "1", "5", "EUR"]
    assert "\\x1b[31mUSD" in rows[1]
    assert "yes" in rows[1]
    assert rows[2].split()[:6] == ["2024-10-27", "02:00+01:00", "EUR", "1", "1,200", "EUR"]
    assert "9,223,372,036,854,775,807" in rows[3]
    assert rows[-1] == "4 rows; complete to 2024-10-27T04:00:00Z"


def test_json_has_moments_in_the_zone_and_numbers_of_any_size(eventrec: Run, shop: Path) -> None:
    told = asked(eventrec, "orders_per_hour", "--group", "")
    days = asked(eventrec, "days", "--from", "2024-10-27", "--to-time", "2024-10-28")

    assert [(row["hour"], row["orders"], row["total"]) for row in told["rows"]] == [
        ("2024-10-27T02:00:00+02:00", 1, 5),
        ("2024-10-27T02:00:00+01:00", 2, 2**63 - 1 + 1_200),
        ("2024-10-27T05:00:00+01:00", 1, 2**63 - 1),
    ]
    assert [each["name"] for each in told["columns"]] == ["hour", "orders", "total", "note", "newest"]
    assert (told["complete_to"], told["pending"], told["zone"]) == ("2024-10-27T04:00:00Z", 0, "Europe/Berlin")
    assert days["rows"] == [{"day": "2024-10-27T00:00:00Z", "note": "EUR"}]


def test_a_time_without_a_zone_is_in_the_zone_of_the_rollup(eventrec: Run, shop: Path) -> None:
    for start in (
        "2024-10-27T02:00+01:00",
        "2024-10-27T01:00Z",
        "2024-10-27T02:00:00.0000000001+01:00",
        "2024-10-27 02:00:00 +01:00",
        "1729990800",
        "1729990800000",
    ):
        told = asked(eventrec, "orders_per_hour", "--group", "", "--from", start, "--to-time", "2024-10-27T05:00")

        assert [row["orders"] for row in told["rows"]] == [2]


def test_a_span_before_now_is_a_time_too(eventrec: Run, shop: Path) -> None:
    told = asked(eventrec, "orders_per_hour", "--group", "", "--from", "-1w", "--to-time", "now")
    before = asked(eventrec, "orders_per_hour", "--group", "", "--from", "-1000w", "--to-time=-1m")

    assert told["rows"] == []
    assert [row["orders"] for row in before["rows"]] == [1, 2, 1]


def test_a_chart_draws_a_bar_for_each_row(eventrec: Run, shop: Path) -> None:
    done = eventrec("query", "orders_per_hour", *ARGUMENTS, "--chart", "--group", "currency", "--empty")
    total = eventrec("query", "orders_per_hour", *ARGUMENTS, "--chart", "--measure", "total", "--group", "")

    assert (done.returncode, total.returncode) == (0, 0)
    assert done.stdout.count("█" * 30) == 4
    assert len(done.stdout.splitlines()) == 2 + 3 * 5 + 2
    assert total.stdout.count("█" * 29) == 2  # one is a little shorter


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (1e300, "1e+300"),
        (-1.7976931348623157e308, "-1.79769313486232e+308"),
        (12_345_678.9, "12,345,678.90"),
        (1e23, "99,999,999,999,999,991,611,392.00"),
        (float("inf"), "inf"),
        (10**400, "1.00000000000000e+400"),
        (2**63, "9,223,372,036,854,775,808"),
    ],
)
def test_a_number_is_shown_in_few_characters(value: float, shown: str) -> None:
    assert number_text(value) == shown


def test_large_numbers_leave_the_table_readable_and_json_exact(eventrec: Run, shop: Path) -> None:
    with EventRecorder(f"sqlite:///{shop / 'shop.db'}", environment={}).sync() as recorder:
        recorder.record(
            ReceivedEvent("measured", b'{"size": 9.5e299}', timestamp=at("2024-10-27T01:00Z"), table="sizes")
        )
        assert recorder.flush(timeout=30)

    table = eventrec("query", "largest_sizes", *ARGUMENTS)
    chart = eventrec("query", "largest_sizes", *ARGUMENTS, "--chart")
    told = asked(eventrec, "largest_sizes")

    for done in (table, chart):
        assert (done.returncode, done.stderr) == (0, "")
        assert "9.5e+299" in done.stdout
        assert max(map(len, done.stdout.splitlines())) < 100
    assert told["rows"][0]["largest"] == 9.5e299


def test_empty_buckets_of_fifty_years_are_shown_by_the_page_or_refused_in_one_line(eventrec: Run, shop: Path) -> None:
    years = ("--from", "1990-01-01", "--to-time", "2040-01-01", "--group", "", "--empty")

    page = asked(eventrec, "per_minute", *years, "--limit", "3")
    newest = asked(eventrec, "per_minute", *years, "--limit", "2", "--newest-first")
    whole = eventrec("query", "per_minute", *years, *ARGUMENTS)

    assert [row["minute"] for row in page["rows"]] == [f"1990-01-01T00:0{minute}:00Z" for minute in range(3)]
    assert [row["minute"] for row in newest["rows"]] == ["2039-12-31T23:59:00Z", "2039-12-31T23:58:00Z"]
    assert page["has_more"]
    assert (whole.returncode, whole.stdout) == (2, "")
    assert "over 1000000 rows: ask for less time" in whole.stderr
    assert len(whole.stderr.splitlines()) == 1


def test_a_part_of_the_rows_says_that_there_are_more(eventrec: Run, shop: Path) -> None:
    done = eventrec("query", "orders_per_hour", *ARGUMENTS, "--limit", "1", "--newest-first")
    told = asked(eventrec, "orders_per_hour", "--limit", "1", "--newest-first")

    assert "1 row; " in done.stdout
    assert "There are more: see --limit." in done.stdout
    assert told["has_more"]
    assert told["rows"][0]["hour"] == "2024-10-27T05:00:00+01:00"


def leave_waiting(shop: Path) -> None:
    """A log of which the database has two orders; three wait in it, with a visit, and one more in a log of its own."""
    orders = [
        ReceivedEvent("order_placed", b'{"amount":1}', timestamp=at(f"2024-10-2{day}T12:00Z"), table="orders")
        for day in (7, 8, 5, 9)
    ]
    visit = ReceivedEvent("visited", b"{}", timestamp=at("2024-10-01T12:00Z"), table="orders")
    elsewhere = ReceivedEvent("order_placed", b"{}", timestamp=at("2024-10-01T12:00Z"), table="others")
    with EventRecorder(f"sqlite:///{shop / 'shop.db'}", log=shop / "log", environment={}).sync() as recorder:
        recorder.record_many(orders[:2])
        assert recorder.flush(timeout=60)
    for waiting in ([*orders[1:], visit, elsewhere], orders[:1]):
        with EventRecorder(log=shop / "log", environment={}).sync() as recorder:
            recorder.record_many(waiting)


def test_an_answer_says_what_waits_in_a_log(
    shop: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(shop)
    monkeypatch.syspath_prepend(shop)
    leave_waiting(shop)

    assert cli.main(["query", "orders_per_hour", *ARGUMENTS, "--log", "log"]) == 0
    shown, said = capsys.readouterr()
    asked = ["query", "orders_per_hour", *ARGUMENTS, "--log", "log", "--name", "sqlite", "--json"]
    assert cli.main([*asked, "--from", "2024-10-28", "--to-time", "2024-10-29"]) == 0
    told = json.loads(capsys.readouterr().out)

    assert shown.splitlines()[-1] == "6 rows; complete to 2024-10-25T11:59:59.999999Z, 4 pending"
    assert said == "eventrec: 4 events wait in log for 'sqlite', the oldest of 2024-10-25T12:00:00Z\n"
    assert told["pending"] == 1
    assert told["remarks"] == ["1 event waits in log for 'sqlite', the oldest of 2024-10-28T12:00:00Z"]


def test_an_answer_says_which_logs_only_a_later_eventrec_can_tell_of(
    shop: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(shop)
    monkeypatch.syspath_prepend(shop)
    leave_waiting(shop)
    with Log.open(DiskStorage(shop / "log" / str(list_runs(shop / "log")[-1]))) as log:
        log.append_encoded(b"\x02 as a later version may write it", 1)

    assert cli.main(["query", "orders_per_hour", *ARGUMENTS, "--log", "log"]) == 0

    said = capsys.readouterr().err
    assert (
        said.splitlines()[-1]
        == "eventrec: 1 log in log cannot be read here, or not to its end: see eventrec status, log cat"
    )
    assert said.startswith("eventrec: 4 events wait in log")


def test_an_answer_about_nothing_says_where_it_looked(
    shop: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(shop)
    monkeypatch.syspath_prepend(shop)
    (shop / "empty.db").touch()

    assert cli.main(["query", "orders_per_hour", "--to", "sqlite:///empty.db", *ARGUMENTS[2:]]) == 0

    shown, said = capsys.readouterr()
    assert shown.splitlines()[0] == "orders_per_hour"
    assert shown.splitlines()[-1] == "0 rows; no event of it is stored"
    assert "table 'orders' of this destination has no event of type order_placed" in said


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["nope", *ARGUMENTS], 2, "no rollup 'nope'; it has orders_per_hour, days"),
        (["days", *ARGUMENTS, "--group", "x"], 2, "'x' is not a group of 'days': it has none"),
        (["days", *ARGUMENTS, "--from", "soon"], 2, "--from: 'soon' is not"),
        (["days", *ARGUMENTS, "--to-time", "9999-99-99"], 2, "--to-time: "),
        (["days", *ARGUMENTS, "--from", "20260131"], 2, "--from: '20260131' is not a time"),
        (["days", *ARGUMENTS, "--from", "0001-01-01", "--empty"], 2, "--from: '0001-01-01' is outside the years"),
        (["days", *ARGUMENTS, "--to-time", "9999-12-31", "--empty"], 2, "--to-time: '9999-12-31' is outside the years"),
        (["days", *ARGUMENTS, "--limit", "-1"], 2, "limit must not be negative"),
        (["days", *ARGUMENTS, "--chart"], 2, "no measure that is a number"),
        (["orders_per_hour", *ARGUMENTS, "--chart", "--measure", "note"], 2, "no measure 'note' that is a number"),
        (["orders_per_hour", "--to", "sqlite:///none/x.db", *ARGUMENTS[2:]], 3, "there is no directory"),
        (["orders_per_hour", "--to", "sqlite:///none.db", *ARGUMENTS[2:]], 3, "none.db: unable to open database file"),
        (["days", *ARGUMENTS[:2], "--catalogue", "shop_events"], 4, "for example shop_events:catalogue"),
        (["days", *ARGUMENTS[:2], "--catalogue", "shop_events:x"], 4, "no 'x'; it has shop_events:catalogue"),
        (["days", *ARGUMENTS, "--log", "none"], 4, "none is not a directory"),
        (["orders_per_hour", "--to", "memory:", *ARGUMENTS[2:]], 3, "answers no rollups"),
        (["orders_per_hour", "--to", "sqlite:///shop.db", "--catalogue", "nope:x"], 4, "no module 'nope'"),
        (["orders_per_hour", "--to", "sqlite:///shop.db"], 4, "no catalogue is named"),
        (["orders_per_hour"], 2, "--to"),
    ],
)
def test_what_is_wrong_is_one_line(
    *,
    shop: Path,
    arguments: list[str],
    code: int,
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(shop)
    monkeypatch.syspath_prepend(shop)

    found = cli.main(["query", *arguments])

    out, err = capsys.readouterr()
    assert (found, out) == (code, "")
    assert said in err
    assert len(err.splitlines()) == 1
