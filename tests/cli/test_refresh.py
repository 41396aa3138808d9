"""`eventrec refresh` with a real PostgreSQL: what it says, and that it goes on until it is ended."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from eventrec.testing.servers import PostgresServer

pytestmark = pytest.mark.handlers

SHOP = """
from eventrec import EventModel
from eventrec.analytics import Catalogue, Refresh, Rollup, bucket, count

class OrderPlaced(EventModel, table="orders"):
    amount: int

class OrdersPerHour(Rollup, name="orders_per_hour", events=[OrderPlaced]):
    hour = bucket("1 hour")
    orders = count()
    refresh = Refresh(window="3 days", lag=0)

catalogue = Catalogue(name="shop", events=[OrderPlaced], rollups=[OrdersPerHour])
"""
TABLE = (
    "CREATE TABLE orders (id uuid NOT NULL, type text NOT NULL, timestamp timestamptz NOT NULL, payload jsonb NOT NULL)"
    "; CREATE INDEX ON orders (type, timestamp DESC);"
    " INSERT INTO orders SELECT gen_random_uuid(), 'order_placed', now() - n * interval '1 hour', '{}'"
    " FROM generate_series(1, 10) AS n"
)

DIVIDED = """
from eventrec import TIMESTAMP, TYPE, PAYLOAD, Layout, LayoutColumn
from eventrec.analytics import Catalogue, Refresh, Rollup, bucket, count

class VisitsPerDay(Rollup, name="visits_per_day", table="visits"):
    day = bucket("day")
    visits = count()
    refresh = Refresh(window="3 days", lag=0)

visits = Layout(
    "visits",
    [LayoutColumn("at", TIMESTAMP, "timestamptz"), LayoutColumn("kind", TYPE, "text"),
     LayoutColumn("said", PAYLOAD, "jsonb")],
    partition="day", retention="2d",
)
catalogue = Catalogue(name="shop", layouts=[visits], rollups=[VisitsPerDay])
"""
DIVIDED_TABLE = (
    "CREATE TABLE visits (at timestamptz NOT NULL, kind text NOT NULL, said jsonb NOT NULL) PARTITION BY RANGE (at);"
    " CREATE TABLE visits_default PARTITION OF visits DEFAULT;"
    " INSERT INTO visits SELECT date_trunc('day', now(), 'UTC') - n * interval '1 day', 'visit', '{}'"
    " FROM generate_series(0, 9) AS n"
)

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def shop(tmp_path: Path) -> None:
    (tmp_path / "shop.py").write_text(SHOP, encoding="utf-8")


@pytest.mark.slow
@pytest.mark.usefixtures("shop")
def test_new_rollups_are_filled_and_the_next_time_nothing_is_left_to_do(
    eventrec: Run, postgres_server: PostgresServer, postgres_database: str
) -> None:
    postgres_server.execute(TABLE, database=postgres_database)
    asked = ("refresh", "--to", postgres_server.url(postgres_database), "--catalogue", "shop:catalogue")

    first = eventrec(*asked)
    second = eventrec(*asked, "--json")

    assert (first.returncode, first.stderr) == (0, "")
    assert first.stdout == "1 rollup: 10 buckets computed\n"
    said: dict[str, Any] = json.loads(second.stdout)
    assert said == {"rollups": ["orders_per_hour"], "buckets": 0, "remaining": 0, "late": 0, "remarks": []}
    counted = postgres_server.execute("SELECT sum(orders) FROM orders_per_hour", database=postgres_database)
    assert counted == "10"


def test_partitions_of_a_layout_are_made_and_old_events_removed_once_they_are_counted(
    eventrec: Run, postgres_server: PostgresServer, postgres_database: str, tmp_path: Path
) -> None:
    (tmp_path / "shop.py").write_text(DIVIDED, encoding="utf-8")
    postgres_server.execute(DIVIDED_TABLE, database=postgres_database)

    done = eventrec("refresh", "--to", postgres_server.url(postgres_database), "--catalogue", "shop:catalogue")

    assert (done.returncode, done.stderr) == (0, "")
    left = "SELECT count(*) FROM visits; SELECT sum(visits) FROM visits_per_day; SELECT count(*) FROM visits_default"
    counted = postgres_server.execute(left, database=postgres_database)
    assert counted.split("\n") == ["3", "10", "0"]


@pytest.mark.usefixtures("shop")
def test_it_goes_on_until_it_is_ended_and_ends_in_good_order(
    start: Any, postgres_server: PostgresServer, postgres_database: str
) -> None:
    postgres_server.execute(TABLE, database=postgres_database)
    url = postgres_server.url(postgres_database)

    running = start("refresh", "--to", url, "--catalogue", "shop:catalogue", "--every", "50ms")
    assert running.process.stdout.readline() == b"1 rollup: 10 buckets computed\n"
    postgres_server.execute(
        "INSERT INTO orders VALUES (gen_random_uuid(), 'order_placed', now() - interval '20 hours', '{}')",
        database=postgres_database,
    )
    while b"1 bucket computed" not in running.process.stdout.readline():
        pass

    running.process.terminate()
    assert running.process.wait(120) == 0


@pytest.mark.usefixtures("shop")
@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["nothing", "--to", "sqlite:///x.db"], 2, "the catalogue has no rollup 'nothing'; it has orders_per_hour"),
        (["--to", "jsonl:///x"], 3, "the handler of this URL answers no rollups"),
        (["--to", "sqlite:///x.db", "--every", "0"], 2, "--every is a time longer than 0"),
        (["--to", "postgresql://127.0.0.1:1/x?sslmode=disable"], 3, "postgresql://127.0.0.1:1/x"),
    ],
)
def test_what_is_wrong_is_one_line(eventrec: Run, arguments: list[str], code: int, said: str) -> None:
    done = eventrec("refresh", *arguments, "--catalogue", "shop:catalogue")

    assert done.returncode == code
    assert done.stderr.count("\n") == 1
    assert said in done.stderr


@pytest.mark.slow
@pytest.mark.usefixtures("shop")
def test_rollups_of_a_sqlite_file_are_kept_in_tables_once_they_are_refreshed(eventrec: Run, tmp_path: Path) -> None:
    lines = "".join(
        f'{{"type": "order_placed", "amount": {n}, "time": {1_700_000_000 + n * 3_600}}}\n' for n in range(5)
    )
    (tmp_path / "orders.jsonl").write_text(lines, encoding="utf-8")
    url, named = f"sqlite:///{tmp_path / 'shop.db'}", ("--catalogue", "shop:catalogue")
    fields = ("--type-field", "type", "--timestamp-field", "time")
    recorded = eventrec("record", "orders.jsonl", "--to", url, "--table", "orders", *fields)
    asked = eventrec("query", "orders_per_hour", "--to", url, *named, "--json")

    first = eventrec("refresh", "--to", url, *named)
    second = eventrec("refresh", "--to", url, *named, "--json")
    again = eventrec("query", "orders_per_hour", "--to", url, *named, "--json")
    migrated = eventrec("migrate", "--to", f"{url}?refresh=true", *named)
    status = eventrec("migrate", "status", "--to", f"{url}?refresh=true", *named)

    assert (recorded.returncode, first.returncode, first.stderr) == (0, 0, "")
    assert first.stdout == "1 rollup: 5 buckets computed\n"
    assert json.loads(second.stdout)["buckets"] == 0
    assert (again.stdout, again.returncode) == (asked.stdout, 0)
    assert "rollup orders_per_hour is there already: it is adopted as it is" in migrated.stderr
    assert (migrated.returncode, status.returncode) == (0, 0)
    assert "Pending: 0" in status.stdout
