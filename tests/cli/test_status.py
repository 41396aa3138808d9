"""`eventrec status`: each log, and all together."""

import json
from collections.abc import Callable
from pathlib import Path

from eventrec.runs.run import CHECKPOINTS, Run, list_runs

Main = Callable[..., tuple[int, str, str]]
Leave = Callable[..., None]


def test_total_counts_orphans_and_what_is_pending_for_each_subscription(
    main: Main, leave: Leave, tmp_path: Path
) -> None:
    leave(tmp_path / "log", 0, 10, "a", "b", delivered=("b",))
    leave(tmp_path / "log", 10, 17, "a")
    leave(tmp_path / "log", 17, 20)
    held = Run.adopt(tmp_path / "log", list_runs(tmp_path / "log")[0])
    assert held is not None

    code, out, _ = main("status", "log", "--json")
    held.release()

    told = json.loads(out)
    assert code == 0
    assert [(each["first"], each["end"], each["is_held"]) for each in told["logs"]] == [
        (0, 10, True),
        (0, 7, False),
        (0, 3, False),
    ]
    assert told["logs"][0]["subscriptions"]["b"]["delivered"] == 10
    assert told["total"]["pending"] == {"a": 17, "b": 0}
    assert (told["total"]["held"], told["total"]["orphans"], told["total"]["unclaimed"]) == (1, 2, 3)


def test_lines_say_the_same(main: Main, leave: Leave, tmp_path: Path) -> None:
    leave(tmp_path / "log", 0, 10, "a")

    code, out, _ = main("status", "log")

    assert code == 0
    assert "records 0 to 10" in out
    assert "0 held by a process, 1 orphan\n  a: pending 10\n" in out


def test_checkpoint_that_cannot_be_read_is_named(main: Main, leave: Leave, tmp_path: Path) -> None:
    leave(tmp_path / "log", 0, 10, "a")
    (run,) = list_runs(tmp_path / "log")
    (tmp_path / "log" / str(run) / CHECKPOINTS / "a.json").write_text("{")

    code, out, err = main("status", "log")

    assert code == 0
    assert "a.json: this checkpoint cannot be read" in out
    assert err.startswith("eventrec: checkpoint unreadable")
    assert len(err.splitlines()) == 1
