"""`eventrec status`: each log, and all together."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from eventrec.runs.checkpoint import CHECKPOINTS, Checkpoint, CheckpointFiles, Progress
from eventrec.runs.directory import LogDirectory, list_runs
from eventrec.runs.follower_locks import FollowerLocks
from eventrec.runs.followers import Followers
from eventrec.runs.run import Run

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


def test_what_follows_is_shown_with_what_is_kept_for_it(main: Main, leave: Leave, tmp_path: Path) -> None:
    directory = LogDirectory(tmp_path / "log")
    leave(directory.path, 0, 10, "a", "b", delivered=("a",))
    held = Run.adopt(directory, list_runs(directory)[0])
    assert held is not None
    broken = Checkpoint(subscription="b", progress=Progress(0, 0, 0), state="retrying", last_error="it is down")
    CheckpointFiles(held.storage).save(broken, sync=False)
    for name in ("b", "dead"):
        Followers(directory).remember(name, held.id)
    locks = FollowerLocks(directory, ["b"])
    locks.take()

    code, out, _ = main("status", "log")
    _, machine, _ = main("status", "log", "--json")
    locks.release()
    held.release()

    assert code == 0
    assert "  b: pending 10; retrying; last error: it is down\n  dead: pending 10, nothing of it delivered yet\n" in out
    assert f"b: followed by process {os.getpid()}; 10 records in 1 log kept for it\n" in out
    assert (
        "dead: no process follows now; 10 records in 1 log kept for it; to give it up: eventrec log forget log dead\n"
    ) in out
    told = json.loads(machine)
    assert told["followed"] == {
        "b": {"is_alive": True, "process": os.getpid(), "is_remembered": True, "logs": 1, "pending": 10},
        "dead": {"is_alive": False, "process": None, "is_remembered": True, "logs": 1, "pending": 10},
    }
    assert told["logs"][0]["awaited"] == {"dead": 10}
    account = told["logs"][0]["subscriptions"]["b"]
    assert (account["state"], account["last_error"], account["by_holder"]) == ("retrying", "it is down", False)
    assert told["total"]["pending"] == {"a": 0, "b": 10, "dead": 10}


@pytest.mark.parametrize("kind", ["link", "folder"])
def test_a_segment_that_is_not_a_file_is_named_and_nothing_of_its_log_counts_as_delivered(
    main: Main, leave: Leave, tmp_path: Path, kind: str
) -> None:
    leave(tmp_path / "log", 0, 10, "sqlite")
    (run,) = list_runs(tmp_path / "log")
    (segment,) = (tmp_path / "log" / str(run)).glob("*.log")
    moved = segment.rename(tmp_path / "moved")
    if kind == "link":
        segment.symlink_to(moved)
    else:
        segment.mkdir()

    code, out, _ = main("status", "log")
    left, _, err = main("drain", "log", "--to", "sqlite:///events.db", "--timeout", "1")

    assert code == 0
    assert f"an orphan: {segment.name} is not a file" in out
    assert "sqlite: pending not known" in out
    assert left == 1
    assert f"eventrec: {run}: left, {segment.name} is not a file\n" in err
