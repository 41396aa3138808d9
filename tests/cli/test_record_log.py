"""`eventrec record --log`: what is read is in the log, whatever becomes of the process or the destination."""

import json
import signal
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import anyio
import pytest

from eventrec import Batch, EventHandler
from eventrec.cli.exit_codes import ExitCode
from eventrec.cli.record.in_flight import Backlog, LineNumbers
from eventrec.cli.record.record import Recording
from eventrec.cli.record.sources import JsonLines
from eventrec.cli.terminal import Terminal
from eventrec.ingest.received import Reading

Main = Callable[..., tuple[int, str, str]]


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 45
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def given(start: int, stop: int) -> str:
    return "".join(f'{{"n":{n}}}\n' for n in range(start, stop))


def stored(database: Path) -> list[int]:
    """The numbers in the database, in their order; no id stands there twice."""
    found = _asked(database, "SELECT json_extract(payload, '$.n'), id FROM events ORDER BY 1")
    assert len({id_ for _, id_ in found}) == len(found)
    return [n for n, _ in found]


def count_stored(database: Path) -> int:
    """How many rows there are: cheap enough to be asked again and again beside the process that writes them."""
    return sum(count for (count,) in _asked(database, "SELECT count(*) FROM events"))


def _asked(database: Path, query: str) -> list[tuple[Any, ...]]:
    if not database.exists():
        return []
    with closing(sqlite3.connect(database)) as connection:
        if not connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'events'").fetchone():
            return []
        return connection.execute(query).fetchall()


def staged(path: Path) -> list[int]:
    return [json.loads(line)["n"] for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []


@pytest.fixture
def logged(eventrec: Callable[..., Any]) -> Callable[[], int]:
    """How many records the logs hold, delivered or not, since they were made."""

    def count() -> int:
        told = eventrec("status", "log", "--json")
        return sum(log["end"] for log in json.loads(told.stdout)["logs"]) if told.returncode == 0 else 0

    return count


@pytest.fixture
def killed(start: Callable[..., Any], logged: Callable[[], int], tmp_path: Path) -> Path:
    """A database with some of 10,000 lines; the process that had read them all was killed, and the log has the rest."""
    database = tmp_path / "e.db"
    running = start("record", "-", "--to", "sqlite:///e.db", "--log", "log")
    running.write(given(0, 5_000))
    wait_until(lambda: count_stored(database) > 0)
    with closing(sqlite3.connect(database, isolation_level=None, timeout=20)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        running.write(given(5_000, 10_000))
        wait_until(lambda: logged() == 10_000)
        running.interrupt(signal.SIGKILL)
        running.process.wait()
    assert 0 < len(stored(database)) < 10_000
    return database


def test_killed_half_way_drain_delivers_the_rest_and_every_line_is_there_once(
    killed: Path, eventrec: Callable[..., Any], tmp_path: Path
) -> None:
    done = eventrec("drain", "log", "--to", "sqlite:///e.db")

    assert done.returncode == 0, done.stderr
    assert stored(killed) == list(range(10_000))
    assert list((tmp_path / "log").iterdir()) == []


def test_killed_half_way_the_next_run_delivers_the_rest_too(
    killed: Path, eventrec: Callable[..., Any], tmp_path: Path
) -> None:
    (tmp_path / "more.jsonl").write_text(given(10_000, 12_000), encoding="utf-8")

    done = eventrec("record", "more.jsonl", "--to", "sqlite:///e.db", "--log", "log", "--json")

    told = json.loads(done.stdout)
    assert (done.returncode, told["delivered"], told["earlier_left"]) == (0, 2_000, 0)
    assert 0 < told["earlier"] <= 10_000
    assert "records that earlier runs left in log too" in done.stderr
    assert stored(killed) == list(range(12_000))
    assert list((tmp_path / "log").iterdir()) == []


@pytest.mark.parametrize("rows", [1, 15_000, 40_000])
def test_killed_at_any_time_what_is_delivered_in_the_end_are_the_first_lines_once_each(
    start: Callable[..., Any], eventrec: Callable[..., Any], tmp_path: Path, rows: int
) -> None:
    (tmp_path / "in.jsonl").write_text(given(0, 200_000), encoding="utf-8")
    running = start("record", "in.jsonl", "--to", "sqlite:///e.db", "--log", "log")
    wait_until(lambda: count_stored(tmp_path / "e.db") >= rows)

    running.interrupt(signal.SIGKILL)
    running.process.wait()
    at_kill = len(stored(tmp_path / "e.db"))
    done = eventrec("drain", "log", "--to", "sqlite:///e.db")

    numbers = stored(tmp_path / "e.db")
    # In the middle of a write, what it tore looks as if the disk had damaged it, and is told as that.
    assert done.returncode == 0 or "lost to damage" in done.stdout + done.stderr, done.stderr
    assert at_kill <= len(numbers) <= 200_000
    assert numbers == list(range(len(numbers)))


def test_interrupted_it_keeps_what_is_read_and_says_so(
    start: Callable[..., Any], eventrec: Callable[..., Any], logged: Callable[[], int], tmp_path: Path
) -> None:
    running = start("record", "-", "--to", f"staged:///{tmp_path}/out?until=up", "--log", "log", "--json")
    running.write(given(0, 100))
    running.wait_for_error("delivery interrupted")
    wait_until(lambda: logged() == 100)

    running.interrupt()
    code, out = running.end()

    told = json.loads(out)
    said = "".join(running.errors)
    assert code == told["exit_code"] == 130
    assert (told["lines"], told["delivered"], told["undelivered"]) == (100, 0, 100)
    assert "interrupted, what is read stays in log" in said
    assert "not delivered yet: 100 events, kept in log" in said
    (tmp_path / "up").touch()
    assert eventrec("drain", "log", "--to", f"staged:///{tmp_path}/out?until=up").returncode == 0
    assert staged(tmp_path / "out") == list(range(100))


def test_it_reads_on_while_the_destination_is_down(
    start: Callable[..., Any], logged: Callable[[], int], tmp_path: Path
) -> None:
    (tmp_path / "in.jsonl").write_text(given(0, 50_000), encoding="utf-8")
    running = start("record", "in.jsonl", "--to", f"staged:///{tmp_path}/out?until=up", "--log", "log")

    wait_until(lambda: logged() == 50_000)
    (tmp_path / "up").touch()
    code, out = running.end()

    assert code == 0
    assert out.startswith("50,000 lines: 50,000 events delivered, in ")
    assert staged(tmp_path / "out") == list(range(50_000))
    assert list((tmp_path / "log").iterdir()) == []


def test_destination_that_takes_nothing_ends_it_once_all_is_in_the_log(
    eventrec: Callable[..., Any], logged: Callable[[], int], tmp_path: Path
) -> None:
    (tmp_path / "in.jsonl").write_text(given(0, 30_000), encoding="utf-8")

    done = eventrec("record", "in.jsonl", "--to", "sqlite:///none/e.db", "--log", "log")

    assert done.returncode == 3
    assert "the destination takes no more, paused: " in done.stderr
    assert "not delivered yet: 30,000 events, kept in log" in done.stderr
    assert logged() == 30_000
    assert eventrec("drain", "log", "--to", "sqlite:///e.db").returncode == 0
    assert stored(tmp_path / "e.db") == list(range(30_000))


def test_lines_that_are_malformed_or_refused_are_named_by_their_number(main: Main, tmp_path: Path) -> None:
    given_lines = given(0, 100).splitlines()
    given_lines[6] = "not json"
    given_lines[60] = json.dumps({"n": 60, "text": "x" * 3_000})
    (tmp_path / "in.jsonl").write_text("\n\n".join(given_lines), encoding="utf-8")

    code, out, err = main(
        *("record", "in.jsonl", "--to", "sqlite:///e.db", "--log", "log", "--max-event-bytes", "2000", "--json")
    )

    told = json.loads(out)
    assert (code, told["delivered"], told["malformed"]) == (1, 98, 2)
    assert [line.partition(":")[0] for line in err.splitlines()] == ["line 13", "line 121"]
    assert stored(tmp_path / "e.db") == [n for n in range(100) if n not in {6, 60}]


def test_refused_line_is_named_with_a_log_too(eventrec: Callable[..., Any], tmp_path: Path) -> None:
    given_lines = [*given(0, 2_400).splitlines(), "", '{"n":"poison"}', *given(2_400, 2_500).splitlines()]

    done = eventrec(
        *("record", "-", "--to", f"staged:///{tmp_path}/out?poison=poison", "--log", "log", "--json"),
        stdin="\n".join(given_lines),
    )

    told = json.loads(done.stdout)
    assert (done.returncode, told["delivered"], told["refused"]) == (1, 2_500, 1)
    assert "line 2402: refused by the destination: it is poison" in done.stderr


def test_same_file_again_is_recorded_again_and_an_id_field_gives_its_rows_the_same_ids(
    main: Main, tmp_path: Path
) -> None:
    (tmp_path / "in.jsonl").write_text(given(0, 10), encoding="utf-8")

    for _ in range(2):
        main("record", "in.jsonl", "--to", "sqlite:///plain.db", "--log", "log")
        main("record", "in.jsonl", "--to", "sqlite:///named.db", "--log", "log", "--id-field", "n")

    for database, ids in (("plain.db", 20), ("named.db", 10)):
        with closing(sqlite3.connect(tmp_path / database)) as connection:
            assert connection.execute("SELECT count(*), count(DISTINCT id) FROM events").fetchone() == (20, ids)


class Behind(EventHandler):
    """Notes how much was read and not delivered at each batch."""

    def __init__(self) -> None:
        self.recording: Recording | None = None
        self.numbers: list[int] = []
        self.waiting: list[int] = []

    async def handle(self, batch: Batch) -> None:
        assert self.recording is not None
        await anyio.sleep(0.1)
        self.waiting.append(self.recording._outcome.events - len(self.numbers))
        self.numbers += [json.loads(record.payload)["n"] for record in batch.records]


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_reading_waits_for_the_destination_once_enough_waits_in_the_log(
    tmp_path: Path, backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("eventrec.cli.record.reading.MAX_LOGGED_BYTES", 50_000)
    monkeypatch.setattr("eventrec.cli.record.reading.LOGGED_ROWS", 500)
    (tmp_path / "in.jsonl").write_text("".join(f'{{"n":{n:6d}}}\n' for n in range(20_000)), encoding="utf-8")
    handler = Behind()

    async def record() -> Any:
        handler.recording = Recording(
            [JsonLines(tmp_path / "in.jsonl", Reading())],
            handler,
            dead=tmp_path / "dead",
            terminal=Terminal(),
            log=tmp_path / "log",
        )
        return await handler.recording.run()

    outcome = anyio.run(record, backend=backend)

    assert outcome.exit_code is ExitCode.OK
    assert handler.numbers == list(range(20_000))
    # A line has 12 bytes; the batch in hand, and one part, come on top of the bound.
    assert 3_000 < max(handler.waiting) <= 50_000 / 12 + 2 * 500 + 1_000


def test_line_numbers_are_those_of_a_plain_mapping() -> None:
    numbers, plain, line = LineNumbers(), dict[int, int](), 0
    for offset in range(3_000):
        line += 1 + (offset % 7 == 0) * (offset % 5)
        numbers.add(line)
        plain[offset] = line
        if offset % 100 == 99:
            known = offset - offset % 37
            numbers.forget_below(known)
            plain = {key: value for key, value in plain.items() if key >= known}
            assert {key: numbers.line_of(key) for key in range(offset + 2)} == {
                key: plain.get(key) for key in range(offset + 2)
            }
            assert numbers.first == min(plain.values())
    numbers.forget_below(5_000)

    assert (numbers.first, numbers.line_of(2_999), len(numbers)) == (None, None, 1)


def test_lines_one_after_the_other_take_no_room() -> None:
    numbers = LineNumbers()
    for line in range(1, 100_001):
        numbers.add(line)

    assert len(numbers) == 1


@pytest.mark.parametrize("lines", [[], [3], [3, 4, 5], [3, 5], [3, 3, 5], [3, 3, 4, 4, 7]])
def test_lines_of_several_records_at_once_are_those_of_each(lines: list[int]) -> None:
    numbers = LineNumbers()
    numbers.add(2)

    numbers.add_all(lines)
    numbers.add(9)

    assert [numbers.line_of(offset) for offset in range(numbers.end)] == [2, *lines, 9]


def test_backlog_counts_what_is_not_delivered() -> None:
    backlog = Backlog()
    backlog.add(10, 100)
    backlog.add(30, 500)

    backlog.settle(29)

    assert backlog.bytes == 500
