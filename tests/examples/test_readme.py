import json
import re
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

README = Path(__file__).parents[2] / "README.md"


def fenced(language: str) -> list[str]:
    """The fenced blocks of `language` in the README."""
    return re.findall(
        rf"^```{language}\n(.*?)^```$", README.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE
    )


def test_quickstart_runs_as_it_stands_and_its_events_are_in_the_database(tmp_path: Path) -> None:
    quickstart, *_ = fenced("python")

    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", quickstart], cwd=tmp_path, check=False, capture_output=True, text=True
    )

    assert done.returncode == 0, done.stderr
    with closing(sqlite3.connect(tmp_path / "events.db")) as database:
        stored = database.execute("SELECT type, customer FROM orders ORDER BY customer").fetchall()
    assert stored == [("order_placed", "ada"), ("order_placed", "grace")]


def test_quickstart_is_short() -> None:
    quickstart, *_ = fenced("python")

    assert len(quickstart.splitlines()) <= 20


def test_what_it_shows_of_privacy_does_what_it_says(tmp_path: Path) -> None:
    _, privacy, *_ = fenced("python")
    use = """
import asyncio

async def main():
    async with recorder:
        recorder.record(SignedIn(email="ada@example.com", password="hunter2", user_agent="x" * 100))
        await recorder.flush(30)

asyncio.run(main())
"""

    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", privacy + use], cwd=tmp_path, check=False, capture_output=True, text=True
    )

    assert done.returncode == 0, done.stderr
    with closing(sqlite3.connect(tmp_path / "events.db")) as database:
        ((email, payload),) = database.execute("SELECT email, payload FROM events").fetchall()
    assert re.fullmatch("[0-9a-f]{64}", email)
    assert json.loads(payload) == {"password": "[redacted]", "user_agent": "x" * 40}


def test_the_rollup_it_declares_is_answered_by_the_command_that_it_shows(tmp_path: Path) -> None:
    *_, rollup = fenced("python")
    (tmp_path / "api.py").write_text(rollup, encoding="utf-8")
    record = """
from eventrec import EventRecorder
from api import ApiRequest

with EventRecorder("sqlite:///events.db").sync() as recorder:
    for n in range(100):
        recorder.record(ApiRequest(endpoint="/", status_code=500 if n % 10 == 0 else 200, duration_ms=n))
"""
    text = README.read_text(encoding="utf-8")
    command = re.findall(r"`eventrec (query api_latency_hourly [^`]*) --chart`", text)[0].split()

    for arguments in (["-c", record], ["-m", "eventrec.cli", *command, "--json"]):
        done = subprocess.run(
            [sys.executable, "-W", "error", *arguments], cwd=tmp_path, check=False, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr

    rows = json.loads(done.stdout)["rows"]
    assert [sum(row[name] for row in rows) for name in ("requests", "errors")] == [100, 10]
