import json
import re
import signal
import sqlite3
import subprocess
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

import httpcore2
import pytest

from eventrec import cli
from eventrec.cli.demo.shop import TABLES, count_by_type, shop_events
from eventrec.runs.directory import list_runs
from eventrec.runs.run_folder import is_locked

QUICK = ("demo", "--events", "2000", "--seconds", "0.5")


class Run(Protocol):
    def __call__(self, *arguments: str | Path, stdin: str | bytes = b"") -> subprocess.CompletedProcess[str]: ...


class Main(Protocol):
    def __call__(self, *arguments: str | Path) -> tuple[int, str, str]: ...


def count_rows(database: Path) -> dict[str, int]:
    union = " UNION ALL ".join(f"SELECT type FROM {table}" for table in TABLES)
    with closing(sqlite3.connect(database)) as connection:
        return dict(connection.execute(f"SELECT type, count(*) FROM ({union}) GROUP BY type").fetchall())


def test_shop_makes_the_same_events_again() -> None:
    assert list(shop_events(500)) == list(islice(shop_events(1_000), 500))
    assert list(shop_events(500)) != list(shop_events(500, seed=1))


def test_database_holds_what_the_shop_made(eventrec: Run, tmp_path: Path) -> None:
    done = eventrec(*QUICK)

    assert done.returncode == 0
    assert done.stderr == "recording 2,000 events into eventrec-demo/run-1/shop.db\n"
    assert count_rows(tmp_path / "eventrec-demo" / "run-1" / "shop.db") == count_by_type(2_000)
    for words in (
        "delivered to sqlite",
        "2,000",
        "page_view",
        "█",
        "killed with SIGKILL after 1,000",
        "are equal; the account balances",
        "eventrec tail",
    ):
        assert words in done.stdout


def test_second_run_counts_anew(main: Main, tmp_path: Path) -> None:
    told = [json.loads(main(*QUICK, "--dir", "d", "--json")[1]) for _ in range(2)]

    assert [Path(each["database"]) for each in told] == [Path("d/run-1/shop.db"), Path("d/run-2/shop.db")]
    for each in told:
        assert each["is_complete"]
        assert each["made"] == each["stored"] == count_rows(tmp_path / each["database"])
        assert each["account"]["offered"] == each["killed_at"] == 1_000


def test_a_killed_half_is_neither_missing_nor_doubled(main: Main) -> None:
    code, out, _ = main("demo", "--events", "5001", "--seconds", "1", "--json")

    told = json.loads(out)
    assert code == 0
    assert told["rows"] == 5_001
    assert told["stored_at_kill"] < told["killed_at"] == 2_500
    assert list(Path(told["database"]).parent.glob("log/*")) == []


@pytest.mark.parametrize(("events", "seconds"), [(2, 0), (41, 0), (4_000, 0.1), (4_000, 0)])
def test_the_kill_always_leaves_something_for_the_log_to_save(main: Main, events: int, seconds: float) -> None:
    code, out, _ = main("demo", "--events", str(events), "--seconds", str(seconds), "--json")

    told = json.loads(out)
    assert (code, told["rows"]) == (0, events)
    assert told["killed_at"] - told["stored_at_kill"] >= max(1, events // 2 // 20)


def test_as_fast_as_it_goes_nothing_overflows(main: Main) -> None:
    code, out, _ = main("demo", "--events", "30000", "--seconds", "0", "--json")

    told = json.loads(out)
    assert code == 0
    assert told["rows"] == 30_000
    assert told["account"]["refused"] == {}


def test_how_to_look_at_it_is_right(eventrec: Run) -> None:
    shown = eventrec(*QUICK, "--dir", "a dir").stdout
    command = next(line.strip() for line in shown.splitlines() if line.strip().startswith("eventrec tail"))

    done = eventrec("tail", command.split(maxsplit=2)[2].strip("'"))

    assert (done.returncode, len(done.stdout.splitlines())) == (0, 10)


def test_counts_that_differ_are_said_and_an_exit_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("eventrec.cli.demo.demo.read_counts", lambda _: (Counter(page_view=1), 1))

    code = cli.main(["demo", "--events", "10", "--seconds", "0"])

    assert code == 1
    assert "are NOT equal; the account balances" in capsys.readouterr().out


def test_no_event_at_all_is_fine(main: Main) -> None:
    assert main("demo", "--events", "0", "--seconds", "0")[0] == 0


def test_directory_that_cannot_be_made_is_one_line(main: Main, tmp_path: Path) -> None:
    (tmp_path / "taken").touch()

    for directory in ("taken", "taken/below"):
        code, _, err = main(*QUICK, "--dir", directory)

        assert code == 4
        assert len(err.splitlines()) == 1
        assert "see --dir" in err


def test_progress_is_shown_on_a_terminal(on_terminal: Callable[..., Any]) -> None:
    code, written = on_terminal("demo", "--events", "2000", "--seconds", "1")

    assert code == 0
    assert "stored in" in written
    assert "recorded," in written


@pytest.mark.parametrize(("number", "expected"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_interrupted_it_stops_and_what_was_recorded_is_stored(
    number: signal.Signals, expected: int, start: Callable[..., Any], tmp_path: Path
) -> None:
    running = start("demo", "--events", "100000", "--seconds", "60")
    running.wait_for_error("recording 100,000 events")

    running.interrupt(number)
    code, _ = running.end()

    assert code == expected
    assert "Traceback" not in "".join(running.errors)
    log = tmp_path / "eventrec-demo" / "run-1" / "log"
    assert not any(is_locked(log, id_) for id_ in list_runs(log)), "the other process ended too"
    assert (tmp_path / "eventrec-demo" / "run-1").is_dir()


def test_a_directory_whose_name_is_not_unicode_is_no_obstacle(eventrec: Run) -> None:
    shown = eventrec("demo", "--events", "10", "--seconds", "0", "--dir", "\udcff")

    assert (shown.returncode, shown.stderr.splitlines()[1:]) == (0, [])
    assert "eventrec tail sqlite:///%FF/run-1/shop.db\n" in shown.stdout


def test_served_it_shows_the_shop_and_goes_on_until_it_is_interrupted(start: Callable[..., Any]) -> None:
    running = start("demo", "--events", "400", "--seconds", "0.2", "--serve")
    running.wait_for_error("http://127.0.0.1:")
    address = re.findall(r"http://127\.0\.0\.1:\d+/", "".join(running.errors))[0]
    page = httpcore2.request("GET", address).content
    rollup = json.loads(httpcore2.request("GET", f"{address}rollups/payments_by_method").content)
    stored = 0
    while stored <= 400:
        stored = len(json.loads(httpcore2.request("GET", f"{address}events?order=newest&limit=1000").content)["events"])

    running.interrupt()
    code, out = running.end()

    assert b"<title>eventrec</title>" in page
    assert rollup["rows"]
    assert code == 0
    assert "are equal; the account balances" in out
    assert "Traceback" not in "".join(running.errors)


def test_served_without_the_extra_it_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("eventrec.cli.demo.serving.find_spec", lambda _: None)

    code = cli.main(["demo", "--serve"])

    assert code == 2
    assert "pip install 'eventrec[server]'" in capsys.readouterr().err
