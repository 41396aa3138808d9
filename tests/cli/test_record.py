import json
import re
import sqlite3
import subprocess
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any, Protocol
from uuid import UUID

import pytest


class Run(Protocol):
    def __call__(self, *arguments: str | Path, stdin: str | bytes = b"") -> subprocess.CompletedProcess[str]: ...


def commits(count: int) -> list[str]:
    return [json.dumps({"type": "commit", "sha": f"{n:040x}", "at": 1_700_000_000 + n}) for n in range(1, count + 1)]


def rows(database: Path, table: str = "events") -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(database)) as connection:
        return connection.execute(f'SELECT type, timestamp, payload FROM "{table}" ORDER BY timestamp').fetchall()


def test_every_line_is_stored_once_with_its_own_time(eventrec: Run, tmp_path: Path) -> None:
    given = commits(3_000)

    done = eventrec(
        *("record", "-", "--to", "sqlite:///c.db", "--type-field", "type", "--timestamp-field", "at"),
        stdin="\n".join(given),
    )

    assert (done.returncode, done.stderr) == (0, "")
    assert rows(tmp_path / "c.db") == [
        ("commit", (1_700_000_000 + n) * 1_000_000_000, f'{{"sha":"{n:040x}"}}') for n in range(1, 3_001)
    ]


def test_malformed_line_is_named_and_all_others_are_stored(eventrec: Run, tmp_path: Path) -> None:
    given = commits(2_999)
    given.insert(1_233, '{"type": "commit", "sha": oops')

    done = eventrec("record", "-", "--to", "sqlite:///c.db", "--timestamp-field", "at", stdin="\n".join(given))

    assert done.returncode == 1
    assert done.stderr == "line 1234: not JSON: Expecting value at character 27\n"
    assert [timestamp for _, timestamp, _ in rows(tmp_path / "c.db")] == [
        (1_700_000_000 + n) * 1_000_000_000 for n in range(1, 3_000)
    ]
    assert "2,999 events delivered, 1 malformed" in done.stdout


def test_commits_of_a_real_repository_are_stored(eventrec: Run, tmp_path: Path) -> None:
    git = ["git", "-c", "user.name=n", "-c", "user.email=e@example.org"]
    try:
        subprocess.run([*git, "init", "--quiet"], cwd=tmp_path, check=True)
    except FileNotFoundError:
        pytest.skip("git is not installed")
    for number in range(3):
        when = {
            "GIT_AUTHOR_DATE": f"{1_600_000_000 + number} +0200",
            "GIT_COMMITTER_DATE": f"{1_600_000_000 + number} +0200",
        }
        empty = ["commit", "--quiet", "--allow-empty", "-m", f"number {number}"]
        subprocess.run(
            [*git, *empty], cwd=tmp_path, check=True, env={"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), **when}
        )
    pretty = '{"type":"commit","sha":"%H","at":%ct}'
    log = subprocess.run([*git, "log", f"--pretty={pretty}"], cwd=tmp_path, check=True, capture_output=True).stdout

    done = eventrec(
        "record", "-", "--to", "sqlite:///c.db", "--type-field", "type", "--timestamp-field", "at", stdin=log
    )

    assert done.returncode == 0
    shas = [json.loads(line)["sha"] for line in log.splitlines()]
    assert [(when, json.loads(payload)["sha"]) for _, when, payload in rows(tmp_path / "c.db")] == [
        ((1_600_000_000 + number) * 1_000_000_000, sha) for number, sha in enumerate(reversed(shas))
    ]


def test_file_of_cloud_events_is_stored_with_their_types_times_and_ids(eventrec: Run, tmp_path: Path) -> None:
    event = {
        "specversion": "1.0",
        "type": "org.example.done",
        "source": "/jobs",
        "id": "f81d4fae-7dec-11d0-a765-00a0c91e6bf6",
        "time": "2026-01-31T12:00:00.123456789Z",
        "data": {"a": 1},
    }
    (tmp_path / "cloud.jsonl").write_text(json.dumps(event) + "\n", encoding="utf-8")

    done = eventrec("record", "cloud.jsonl", "--to", "sqlite:///c.db", "--table", "jobs")

    assert done.returncode == 0
    with closing(sqlite3.connect(tmp_path / "c.db")) as connection:
        ((id_, kind, when, payload),) = connection.execute("SELECT id, type, timestamp, payload FROM jobs").fetchall()
    assert UUID(id_) == UUID("f81d4fae-7dec-11d0-a765-00a0c91e6bf6")
    assert (kind, when) == ("org.example.done", 1_769_860_800_123_456_789)
    assert json.loads(payload) == {"specversion": "1.0", "source": "/jobs", "data": {"a": 1}}


def test_same_id_field_gives_the_same_row_id_again(eventrec: Run, tmp_path: Path) -> None:
    for _ in range(2):
        eventrec("record", "-", "--to", "sqlite:///c.db", "--id-field", "key", stdin='{"key":"A-1"}\n')

    with closing(sqlite3.connect(tmp_path / "c.db")) as connection:
        assert connection.execute("SELECT count(*), count(DISTINCT id) FROM events").fetchone() == (2, 1)


def test_line_that_is_too_large_is_named_and_the_rest_goes_on(eventrec: Run, tmp_path: Path) -> None:
    huge = '{"n":2,"text":"' + "x" * 3_000_000 + '"}'

    done = eventrec("record", "-", "--to", "sqlite:///c.db", stdin=f'{{"n":1}}\n{huge}\n{{"n":3}}\n')

    assert done.returncode == 1
    assert done.stderr.startswith("line 2: an event may have 1,048,576 bytes, this one has at least 3,000,017")
    assert [payload for _, _, payload in rows(tmp_path / "c.db")] == ['{"n":1}', '{"n":3}']


def test_json_gives_the_account(eventrec: Run) -> None:
    done = eventrec("record", "-", "--to", "sqlite:///c.db", "--json", stdin='{"n":1}\n{\n\n{"n":3}')

    told = json.loads(done.stdout)
    assert done.returncode == told["exit_code"] == 1
    assert (told["lines"], told["delivered"], told["malformed"], told["undelivered"]) == (4, 2, 1, 0)
    assert told["account"]["subscriptions"]["sqlite"]["delivered"] == 2


def test_no_input_is_no_error(eventrec: Run) -> None:
    done = eventrec("record", "-", "--to", "sqlite:///c.db")

    assert (done.returncode, done.stdout.startswith("0 lines: 0 events delivered")) == (0, True)


def test_what_the_destination_refuses_is_named_by_its_line_and_kept(eventrec: Run, tmp_path: Path) -> None:
    given = [f'{{"n":{n}}}' for n in range(1, 2_501)]
    given[6] = "not json"
    given[2_400] = '{"n":"poison"}'

    done = eventrec(
        *("record", "-", "--to", f"staged:///{tmp_path}/out?poison=poison", "--dead", "kept/dead.jsonl", "--json"),
        stdin="\n".join(given),
    )

    assert done.returncode == 1
    assert "line 2401: refused by the destination: it is poison" in done.stderr
    told = json.loads(done.stdout)
    assert (told["delivered"], told["malformed"], told["refused"]) == (2_498, 1, 1)
    (letter,) = (tmp_path / "kept" / "dead.jsonl").read_text(encoding="utf-8").splitlines()
    assert json.loads(letter)["payload"] == {"n": "poison"}
    assert len((tmp_path / "out").read_text(encoding="utf-8").splitlines()) == 2_498


def test_file_that_is_read_is_not_written_with_dead_letters(eventrec: Run, tmp_path: Path) -> None:
    given = tmp_path / "in.jsonl"
    given.write_text('{"n":1}\n')
    (tmp_path / "link").symlink_to(given)

    done = eventrec("record", "in.jsonl", "--to", f"staged:///{tmp_path}/out?poison=n", "--dead", "link")

    assert done.returncode == 2
    assert done.stderr == "eventrec: --dead: link is read: name another file\n"
    assert given.read_text() == '{"n":1}\n'


def test_too_many_refusals_end_it_with_a_line_to_go_on_from(eventrec: Run, tmp_path: Path) -> None:
    done = eventrec("record", "-", "--to", f"staged:///{tmp_path}/out?poison=n", stdin='{"n":1}\n' * 10_000)

    assert done.returncode == 3
    assert "over half of the last 1,000 records" in done.stderr
    assert "read but not delivered" in done.stderr


def test_destination_that_pauses_in_between_is_waited_for_and_said(start: Callable[..., Any], tmp_path: Path) -> None:
    running = start("record", "-", "--to", f"staged:///{tmp_path}/out?pause_after=1", "--json")
    running.write('{"n":1}\n' * 5_000)
    running.wait_for_error("takes nothing, paused: no rights; Ctrl-C stops")

    running.interrupt()
    running.wait_for_error("interrupted")
    running.interrupt()
    code, out = running.end()

    assert code == 130
    assert json.loads(out)["delivered"] == len((tmp_path / "out").read_text(encoding="utf-8").splitlines()) > 0


def test_progress_is_shown_on_a_terminal_and_errors_stand_above_it(
    on_terminal: Callable[..., tuple[int, str]], tmp_path: Path
) -> None:
    (tmp_path / "in.jsonl").write_text('{"n":1}\n' * 3_000 + "{\n", encoding="utf-8")

    code, written = on_terminal("record", "in.jsonl", "--to", f"staged:///{tmp_path}/out?seconds=0.2")

    assert code == 1
    assert re.search(r"3,001 lines · [12],[0-9]00 delivered · 1 malformed", written)
    assert "line 3001: not JSON" in written
    assert "3,001 lines: 3,000 events delivered, 1 malformed" in written
