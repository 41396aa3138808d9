import json
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

QUICKSTART = Path(__file__).parents[2] / "examples" / "quickstart.py"


def test_events_of_each_kind_are_stored(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", str(QUICKSTART), str(tmp_path / "events.db")],
        check=False,
        capture_output=True,
        text=True,
    )

    assert (done.returncode, done.stderr) == (0, "")
    assert "delivered 4, pending 0" in done.stdout
    with closing(sqlite3.connect(tmp_path / "events.db")) as database:
        assert database.execute("SELECT type, payload FROM events").fetchall() == [
            ("job_done", '{"name":"import","seconds":0.25}')
        ]
        assert database.execute("SELECT sensor, value FROM measurements ORDER BY value").fetchall() == [
            ("cellar", 12.0),
            ("kitchen", 21.5),
        ]
        ((path, view),) = database.execute("SELECT path, context FROM page_views").fetchall()
        ((customer, order),) = database.execute("SELECT customer, context FROM orders").fetchall()
    assert (path, customer) == ("/offers", "ada")
    assert json.loads(view) == json.loads(order) == {"user_id": 42}


def test_without_a_path_it_leaves_nothing_in_the_current_directory(tmp_path: Path) -> None:
    temporary = tmp_path / "temporary"
    here = tmp_path / "here"
    temporary.mkdir()
    here.mkdir()

    done = subprocess.run(
        [sys.executable, str(QUICKSTART)],
        check=False,
        capture_output=True,
        cwd=here,
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": ":".join(filter(None, sys.path)), "TMPDIR": str(temporary)},
    )

    assert done.returncode == 0
    assert list(here.iterdir()) == []
    assert len(list(temporary.glob("*/events.db"))) == 1
