import json
import os
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


def test_what_it_shows_from_events_to_answers_does_so_in_an_empty_folder(tmp_path: Path) -> None:
    *_, module = fenced("python")
    commands = next(block for block in fenced("sh") if "eventrec query" in block)
    (tmp_path / "api.py").write_text(module, encoding="utf-8")
    environment = {**os.environ, "PYTHONWARNINGS": "error"}
    asked: list[str] = []

    for line in commands.splitlines():
        word, *arguments = line.split()
        match word:
            case "export":
                name, value = arguments[0].split("=")
                environment[name] = value
                continue
            case "eventrec":
                arguments = ["-m", "eventrec.cli", *arguments]
        done = subprocess.run(
            [sys.executable, *arguments], cwd=tmp_path, env=environment, check=False, capture_output=True, text=True
        )
        assert (done.returncode, done.stderr) == (0, ""), line
        asked.append(done.stdout)

    rows = [line.split() for line in asked[-1].splitlines() if line.startswith("20")]
    assert {row[2] for row in rows} == {"/0", "/1", "/2"}
    assert [sum(int(row[place]) for row in rows) for place in (3, 4)] == [1_000, 100]
    assert asked[0].startswith("applied 0001 ")
