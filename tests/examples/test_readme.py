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
