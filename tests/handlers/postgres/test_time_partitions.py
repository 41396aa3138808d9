"""Partitions for each day: made ahead, rows that strayed are moved, old ones dropped, and no row is lost or refused."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from eventrec_handlers.postgres import time_partitions
from eventrec_handlers.postgres.checkpoints import Namespace
from eventrec_handlers.postgres.divided import (
    default_partition,
    end_of,
    partition_name,
    partitions_ahead,
    read_divided,
)
from eventrec_handlers.postgres.maintained import Maintained
from eventrec_handlers.postgres.time_partitions import TimePartitions

pytestmark = pytest.mark.handlers

HERE = Namespace("public", 63, 10_000)
NOW = datetime(2026, 3, 10, 15, 30, tzinfo=UTC)
TABLE = (
    "CREATE TABLE events (id bigserial, timestamp timestamptz NOT NULL DEFAULT now(), said text,"
    " length int GENERATED ALWAYS AS (length(said)) STORED, PRIMARY KEY (timestamp, id)) PARTITION BY RANGE (timestamp)"
)


@pytest.fixture
def divided(database: Any) -> Any:
    database.execute(TABLE, default_partition(HERE, "events"), "CREATE INDEX ON events (said, timestamp DESC)")
    return database


def maintain(database: Any, now: datetime = NOW, why_kept: Any = None, **options: Any) -> Maintained:
    connection = database.session()
    work = TimePartitions(HERE, "events", **options).maintain(connection, now=now, why_kept=why_kept)
    try:
        done: Maintained = database.run(work)
    finally:
        database.run(connection.close())
    return done


def insert(database: Any, *moments: str) -> None:
    database.execute(*(f"INSERT INTO events (timestamp, said) VALUES ('{moment}', 'x')" for moment in moments))


def counts(database: Any) -> dict[str, int]:
    return dict(database.rows("SELECT tableoid::regclass::text, count(*) FROM events GROUP BY 1"))


def partitions(database: Any) -> list[str]:
    rows = database.rows(
        "SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = 'events'::regclass ORDER BY 1"
    )
    return [name for (name,) in rows]


def test_days_are_made_ahead_and_only_once(divided: Any) -> None:
    first = maintain(divided, ahead=2)
    second = maintain(divided, ahead=2)

    assert sorted(first.made) == ["events_p20260310", "events_p20260311", "events_p20260312"]
    assert second == Maintained()
    insert(divided, "2026-03-10 00:00+00", "2026-03-11 23:59:59.999999+00", "2026-03-13 00:00+00")
    assert counts(divided) == {"events_p20260310": 1, "events_p20260311": 1, "events_default": 1}


def test_a_partition_has_the_indexes_the_key_and_the_sequence_of_its_table(divided: Any) -> None:
    maintain(divided, ahead=0)
    insert(divided, "2026-03-10 00:00+00", "2026-03-10 00:00+00")

    ((indexes,),) = divided.rows("SELECT count(*) FROM pg_indexes WHERE tablename = 'events_p20260310'")
    assert indexes == 2
    assert divided.rows("SELECT id, length FROM events ORDER BY id") == [(1, 1), (2, 1)]


def test_rows_of_days_without_a_partition_are_kept_and_moved_into_their_own(divided: Any) -> None:
    insert(divided, "2026-03-08 10:00+00", "2026-03-08 11:00+00", "2026-03-10 01:00+00", "2026-09-01 00:00+00")

    done = maintain(divided, ahead=0)

    assert (done.moved, done.too_late, done.left) == (3, 0, ())
    assert counts(divided) == {"events_p20260308": 2, "events_p20260310": 1, "events_default": 1}
    assert divided.rows("SELECT id FROM events ORDER BY id") == [(1,), (2,), (3,), (4,)]


def test_a_day_that_comes_near_gets_its_rows_out_of_the_default_partition(divided: Any) -> None:
    insert(divided, "2026-03-20 10:00+00")
    assert maintain(divided, ahead=2).moved == 0

    done = maintain(divided, now=NOW + timedelta(days=9), ahead=2)

    assert done.moved == 1
    assert counts(divided) == {"events_p20260320": 1}


def test_old_days_are_dropped_and_rows_that_arrive_for_them_are_deleted_and_counted(divided: Any) -> None:
    insert(divided, "2026-03-01 10:00+00", "2026-03-09 10:00+00", "2026-03-10 10:00+00")
    maintain(divided, ahead=0)
    later = NOW + timedelta(days=1)

    done = maintain(divided, now=later, ahead=0, kept=timedelta(days=2))
    insert(divided, "2026-03-01 12:00+00", "2026-03-08 23:59+00", "2026-03-09 23:00+00")
    again = maintain(divided, now=later, ahead=0, kept=timedelta(days=2))

    assert (done.dropped, done.too_late) == (("events_p20260301",), 0)
    assert (again.dropped, again.too_late) == ((), 2)
    assert counts(divided) == {"events_p20260309": 2, "events_p20260310": 1}


def test_what_may_not_go_yet_stays_with_all_that_is_younger(divided: Any) -> None:
    insert(divided, "2026-03-01 10:00+00", "2026-03-02 10:00+00", "2026-03-03 10:00+00")
    maintain(divided, ahead=0)
    asked = []

    async def why_kept(end: datetime) -> str | None:
        asked.append(end)
        return "a rollup lacks it" if end.day == 3 else None

    done = maintain(divided, ahead=0, kept=timedelta(days=3), why_kept=why_kept)

    assert done.dropped == ("events_p20260301",)
    assert done.left == ("partition 'events_p20260302': a rollup lacks it",)
    assert [end.day for end in asked] == [2, 3]
    assert counts(divided) == {"events_p20260302": 1, "events_p20260303": 1}


def test_a_day_of_many_rows_is_not_moved_while_writers_are_in_the_default_partition(
    divided: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(time_partitions, "MAX_MOVED", 2)
    insert(divided, *(f"2026-03-{day} 0{hour}:00+00" for day in ("09", "10") for hour in range(3)))
    insert(divided, "2026-03-08 00:00+00")

    first = maintain(divided, ahead=1)
    next_day = maintain(divided, NOW + timedelta(days=1), ahead=1)

    assert sorted(first.made) == ["events_p20260308", "events_p20260311"]
    assert [reason.partition(" is not made")[0] for reason in first.left] == [
        "the partition of 2026-03-10",
        "the partition of 2026-03-09",
    ]
    assert (next_day.moved, next_day.left) == (6, ())
    assert counts(divided) == {"events_p20260308": 1, "events_p20260309": 3, "events_p20260310": 3}


# -- made with the table


@pytest.mark.parametrize(("unit", "days"), [("day", 8), ("week", 50), ("month", 210)])
def test_a_table_is_made_with_the_partitions_of_the_time_to_come(divided: Any, unit: Any, days: int) -> None:
    divided.execute(partitions_ahead(HERE, "events", unit), partitions_ahead(HERE, "events", unit))
    made = partitions(divided)
    divided.execute(
        "INSERT INTO events (timestamp, said)"
        f" SELECT now() + n * interval '1 day', 'x' FROM generate_series(0, {days - 1}) AS n"
    )

    assert len(made) == 9
    assert "events_default" not in counts(divided)
    # Those that maintenance makes are the same.
    assert set(maintain(divided, datetime.now(UTC), unit=unit).made) <= {"events_p" + after(made, unit)}


def after(made: list[str], unit: Any) -> str:
    """The partition after the last, for a test at midnight."""
    last = datetime.strptime(max(made[1:]).removeprefix("events_p"), "%Y%m%d").replace(tzinfo=UTC)
    return f"{end_of(unit, last):%Y%m%d}"


def test_a_partition_that_cannot_be_made_with_the_table_is_left_to_maintenance(divided: Any) -> None:
    divided.execute("INSERT INTO events (timestamp, said) VALUES (now() + interval '2 days', 'x')")

    divided.execute(partitions_ahead(HERE, "events", "day"))
    made = len(partitions(divided))
    done = maintain(divided, datetime.now(UTC))

    assert made == 8  # one of them is the DEFAULT one
    assert done.moved == 1
    assert "events_default" not in counts(divided)


def test_a_table_is_made_with_partitions_whatever_its_name_and_the_settings_of_a_session(database: Any) -> None:
    name = 'o\'$do$ \\ "%s" ä' + "x" * 40
    connection = database.session()
    database.run(
        connection.execute("SET TimeZone = 'Asia/Kolkata'; SET DateStyle = 'SQL, DMY'; CREATE SCHEMA \"a %I\"")
    )
    here = Namespace("a %I", 63, 5_000)
    database.run(connection.execute(f"CREATE TABLE {here.named(name)} (at timestamptz) PARTITION BY RANGE (at)"))

    database.run(connection.execute(partitions_ahead(here, name, "day")))

    names = database.run(connection.fetch("SELECT relname FROM pg_class WHERE relispartition"))
    divided = database.run(read_divided(connection, here, name))
    database.run(connection.close())
    assert len(names) == 8
    assert {part.name for part in divided.partitions} == {
        partition_name(name, part.start, longest=63) for part in divided.partitions
    }
    assert all(part.start.hour == 0 for part in divided.partitions)


def test_a_table_that_is_read_all_day_is_not_waited_for(divided: Any) -> None:
    insert(divided, "2026-03-01 10:00+00")
    maintain(divided, ahead=0)
    reader = divided.session()
    divided.run(reader.execute("BEGIN; SELECT count(*) FROM events"))

    done = maintain(divided, ahead=1, kept=timedelta(days=2))

    divided.run(reader.close())
    assert done.dropped == ()
    assert any("events_p20260301" in reason and "lock" in reason for reason in done.left)
    assert maintain(divided, ahead=1, kept=timedelta(days=2)).dropped == ("events_p20260301",)


def test_a_writer_in_the_middle_of_a_batch_keeps_no_day_from_being_made(divided: Any) -> None:
    maintain(divided, ahead=0)
    writer = divided.session()
    divided.run(writer.execute("BEGIN; INSERT INTO events (timestamp, said) VALUES ('2026-03-10 09:00+00', 'x')"))

    done = maintain(divided, ahead=1)

    divided.run(writer.execute("COMMIT"))
    divided.run(writer.close())
    assert (done.made, done.left) == (("events_p20260311",), ())
    assert counts(divided) == {"events_p20260310": 1}


def test_one_process_maintains_a_table_at_a_time(divided: Any) -> None:
    other = divided.session()
    partitions_of = TimePartitions(HERE, "events")
    divided.run(other.execute(f"BEGIN; SELECT pg_advisory_xact_lock({partitions_of._lock})"))

    done = maintain(divided)

    divided.run(other.close())
    assert done.made == ()
    assert done.left == ("table 'events': another process maintains it",)


@pytest.mark.parametrize(
    ("unit", "made"),
    [("week", ["events_p20260302", "events_p20260309"]), ("month", ["events_p20260201", "events_p20260301"])],
)
def test_weeks_and_months(divided: Any, unit: str, made: list[str]) -> None:
    insert(divided, "2026-02-28 23:00+00" if unit == "month" else "2026-03-08 23:59+00", "2026-03-09 00:00+00")

    done = maintain(divided, unit=unit, ahead=0)

    assert (sorted(done.made), done.moved) == (made, 2)
    assert set(counts(divided)) == set(made)


@pytest.mark.parametrize(
    "declared",
    [
        "(id int, timestamp timestamptz)",
        "(id int, timestamp timestamptz) PARTITION BY LIST (id)",
        "(id int, timestamp timestamptz) PARTITION BY RANGE (timestamp, id)",
        "(id int, timestamp date) PARTITION BY RANGE (timestamp)",
    ],
)
def test_a_table_that_is_divided_otherwise_is_left_alone(database: Any, declared: str) -> None:
    database.execute(f"CREATE TABLE events {declared}")

    assert maintain(database, kept=timedelta(days=1)) == Maintained()
    assert database.tables() == {"events"}


def test_partitions_of_other_lengths_are_lived_with(database: Any) -> None:
    database.execute(
        TABLE,
        "CREATE TABLE old PARTITION OF events FOR VALUES FROM (MINVALUE) TO ('2026-01-01 00:00+00')",
        "CREATE TABLE march PARTITION OF events FOR VALUES FROM ('2026-01-01 00:00+00') TO ('2026-03-11 12:00+00')",
    )

    done = maintain(database, ahead=2, kept=timedelta(days=30))

    assert done.made == ("events_p20260312",)
    assert done.dropped == ("old",)
    assert partitions(database) == ["events_p20260312", "march"]


def test_names_are_never_cut_so_that_two_tables_meet() -> None:
    day = datetime(2026, 1, 5, tzinfo=UTC)
    one, two = (partition_name("é" * 30 + letter, day, longest=63) for letter in "ab")

    assert one != two
    assert len(one.encode()) <= 63
    assert one.endswith("_p20260105")


def test_hostile_names_of_tables_and_columns(database: Any) -> None:
    here = Namespace('a "b".c', 63, 10_000)
    database.execute(
        'CREATE SCHEMA "a ""b"".c"',
        'CREATE TABLE "a ""b"".c"."x; DROP TABLE \'y" ("time; --" timestamptz) PARTITION BY RANGE ("time; --")',
        default_partition(here, "x; DROP TABLE 'y"),
        'INSERT INTO "a ""b"".c"."x; DROP TABLE \'y" VALUES (\'2026-03-09 10:00+00\')',
    )
    connection = database.session()

    done = database.run(TimePartitions(here, "x; DROP TABLE 'y", ahead=0).maintain(connection, now=NOW))
    found = database.run(read_divided(connection, here, "x; DROP TABLE 'y"))

    database.run(connection.close())
    assert (len(done.made), done.moved, done.left) == (2, 1, ())
    assert found is not None
    assert found.column == "time; --"
