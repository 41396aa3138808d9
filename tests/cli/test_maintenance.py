"""`eventrec log forget` and `log compress`: what may be released, and what must stay."""

import json
import os
import pty
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from eventrec.log.disk import DiskStorage
from eventrec.log.log import Log, LogOptions
from eventrec.log.reader import LogReader
from eventrec.runs.checkpoint import CHECKPOINTS, Checkpoint, CheckpointFiles, Progress
from eventrec.runs.directory import LogDirectory, list_runs
from eventrec.runs.follower_locks import FollowerLocks
from eventrec.runs.followers import Followers
from eventrec.runs.run import Run, new_run_id
from eventrec.runs.survey import QUOTA

Main = Callable[..., tuple[int, str, str]]
Leave = Callable[..., None]


@pytest.fixture
def held(tmp_path: Path) -> Iterator[Callable[[int], str]]:
    """Holds a log of the directory as a process does, by its number."""
    runs: list[Run] = []

    def hold(number: int) -> str:
        run = Run.adopt(tmp_path / "log", list_runs(tmp_path / "log")[number])
        assert run is not None
        runs.append(run)
        return str(run.id)

    yield hold
    for run in runs:
        run.release()


def names_in(directory: Path) -> list[list[str]]:
    return [
        sorted(path.stem for path in (directory / str(id_) / CHECKPOINTS).iterdir()) for id_ in list_runs(directory)
    ]


# -- forget


def test_forgotten_by_the_only_one_who_needs_it_a_log_is_deleted(main: Main, leave: Leave, tmp_path: Path) -> None:
    leave(tmp_path / "log", 0, 10, "old")
    leave(tmp_path / "log", 10, 13, "old")

    code, out, err = main("log", "forget", "log", "old", "--yes")

    assert (code, err) == (0, "")
    assert [line.partition(": ")[2] for line in out.splitlines()] == [
        "10 records given up; no subscription needs this log any more: deleted",
        "3 records given up; no subscription needs this log any more: deleted",
    ]
    assert {path.name for path in (tmp_path / "log").iterdir()} <= {QUOTA}


def test_log_that_another_one_needs_is_kept_for_it_and_delivered(main: Main, leave: Leave, tmp_path: Path) -> None:
    leave(tmp_path / "log", 0, 10, "old", "sqlite")

    code, out, _ = main("log", "forget", "log", "old", "--yes", "--json")
    kept = names_in(tmp_path / "log")
    drained, _, _ = main("drain", "log", "--to", "sqlite:///e.db")

    (told,) = json.loads(out)["logs"]
    assert code == 0
    assert (told["given_up"], told["is_deleted"], told["kept_for"]) == (10, False, ["sqlite"])
    assert kept == [["sqlite"]]
    assert drained == 0
    with closing(sqlite3.connect(tmp_path / "e.db")) as connection:
        assert connection.execute("SELECT count(*), count(DISTINCT id) FROM events").fetchone() == (10, 10)
    assert list((tmp_path / "log").iterdir()) == []


def test_log_that_the_others_have_behind_them_is_deleted(main: Main, leave: Leave, tmp_path: Path) -> None:
    leave(tmp_path / "log", 0, 10, "old", "done", delivered=("done",))

    code, out, _ = main("log", "forget", "log", "old", "--yes", "--json")

    assert code == 0
    assert (json.loads(out)["given_up"], json.loads(out)["logs"][0]["is_deleted"]) == (10, True)
    assert list((tmp_path / "log").iterdir()) == []


def test_it_gives_up_only_what_it_has_not_delivered(main: Main, leave: Leave, tmp_path: Path) -> None:
    leave(tmp_path / "log", 0, 10, "old", "new", delivered=("old",))

    _, out, _ = main("log", "forget", "log", "old", "--yes", "--json")

    assert json.loads(out)["given_up"] == 0
    assert names_in(tmp_path / "log") == [["new"]]


def test_unknown_name_is_an_error_that_lists_those_there_are(main: Main, leave: Leave, tmp_path: Path) -> None:
    leave(tmp_path / "log", 0, 10, "old", "new")

    code, out, err = main("log", "forget", "log", "odl")

    assert (code, out) == (2, "")
    assert err == "eventrec: no log in log knows a subscription 'odl'; there are: 'new', 'old'\n"
    assert names_in(tmp_path / "log") == [["new", "old"]]


def test_log_that_a_process_holds_is_left_alone_and_named(
    main: Main, leave: Leave, held: Callable[[int], str], tmp_path: Path
) -> None:
    leave(tmp_path / "log", 0, 10, "old")
    leave(tmp_path / "log", 10, 20, "old")
    id_ = held(0)

    code, out, err = main("log", "forget", "log", "old", "--yes")

    assert code == 5
    assert err == f"eventrec: {id_}: held by a process; end that first\n"
    assert "10 records given up" in out
    assert [str(run) for run in list_runs(tmp_path / "log")] == [id_]
    assert names_in(tmp_path / "log") == [["old"]]


def test_log_whose_other_checkpoint_cannot_be_read_is_kept(main: Main, leave: Leave, tmp_path: Path) -> None:
    leave(tmp_path / "log", 0, 10, "old", "other", delivered=("other",))
    (run,) = list_runs(tmp_path / "log")
    (tmp_path / "log" / str(run) / CHECKPOINTS / "other.json").write_text("{")

    code, out, _ = main("log", "forget", "log", "old", "--yes")

    assert code == 0
    assert "kept: a checkpoint cannot be read" in out
    assert names_in(tmp_path / "log") == [["other"]]


def test_own_checkpoint_that_cannot_be_read_is_forgotten_too(main: Main, leave: Leave, tmp_path: Path) -> None:
    leave(tmp_path / "log", 0, 10, "old", delivered=())
    (run,) = list_runs(tmp_path / "log")
    (tmp_path / "log" / str(run) / CHECKPOINTS / "old.json").write_text("{")

    code, out, _ = main("log", "forget", "log", "old", "--yes")

    assert code == 0
    assert "10 records given up" in out
    assert list((tmp_path / "log").iterdir()) == []


def test_checkpoint_is_durably_gone_before_the_log_is_and_the_directory_is_synced_after(
    main: Main, leave: Leave, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    leave(tmp_path / "log", 0, 10, "old", "done", delivered=("done",))
    (run,) = list_runs(tmp_path / "log")
    done: list[tuple[str, str]] = []

    def note(what: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(target: Any, *arguments: Any, **options: Any) -> Any:
            within = options.get("dir_fd", options.get("src_dir_fd"))
            path = Path(f"/proc/self/fd/{target}").readlink() if isinstance(target, int) else Path(target)
            if within is not None:
                path = Path(f"/proc/self/fd/{within}").readlink() / path
            done.append((what, os.path.relpath(path, tmp_path / "log")))
            return real(target, *arguments, **options)

        # The storage asks which calls take descriptors.
        monkeypatch.setattr(os, "supports_dir_fd", os.supports_dir_fd | {call})
        return call

    for what in ("unlink", "rename"):
        monkeypatch.setattr(os, what, note(what, getattr(os, what)))
    for what in ("fsync", "fdatasync"):
        monkeypatch.setattr(os, what, note("fsync", getattr(os, what)))
    main("log", "forget", tmp_path / "log", "old", "--yes")

    checkpoints = f"{run}/{CHECKPOINTS}"
    gone = done.index(("unlink", f"{checkpoints}/old.json"))
    kept = next(n for n, (what, path) in enumerate(done) if what == "fsync" and "/done.json." in path)
    renamed = done.index(("rename", str(run)))
    assert done.index(("fsync", checkpoints), gone) < renamed
    assert done.index(("fsync", checkpoints), kept) < renamed
    segments = [n for n, (what, path) in enumerate(done) if what == "unlink" and path.endswith(".stdb.log")]
    assert segments
    assert min(segments) > renamed
    assert done[-1] == ("fsync", ".")


@pytest.mark.parametrize(("answer", "yes", "left"), [("n", [], 1), ("y", [], 0), (None, ["--yes"], 0)])
def test_on_a_terminal_it_asks_unless_told_not_to(
    environment: dict[str, str], leave: Leave, tmp_path: Path, *, answer: str | None, yes: list[str], left: int
) -> None:
    leave(tmp_path / "log", 0, 10, "old")
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "eventrec.cli", "log", "forget", "log", "old", *yes]
    with subprocess.Popen(
        command, stdin=theirs, stdout=theirs, stderr=theirs, cwd=tmp_path, env={**environment, "TERM": "xterm"}
    ) as process:
        os.close(theirs)
        written = b""
        try:
            while chunk := os.read(ours, 4096):
                written += chunk
                if answer is not None and b"[y/N]" in chunk:
                    os.write(ours, f"{answer}\n".encode())
        except OSError:
            pass  # Linux's word for the end of a terminal.
        os.close(ours)
        code = process.wait(120)

    assert (b"'old' gives up 10 records in 1 log. Go on? [y/N]" in written) is (answer is not None)
    assert (code, len(list_runs(tmp_path / "log"))) == (left, left)


# -- forget what follows


def test_a_subscription_that_follows_is_forgotten_also_in_logs_that_are_held(
    main: Main, leave: Leave, held: Callable[[int], str], tmp_path: Path
) -> None:
    directory = LogDirectory(tmp_path / "log")
    leave(directory.path, 0, 10, "mine", "gone", delivered=("mine",))
    leave(directory.path, 10, 13)
    leave(directory.path, 13, 20, "mine", "gone")
    Followers(directory).remember("gone", list_runs(directory)[0])
    first = held(0)
    followed = Checkpoint(subscription="gone", progress=Progress(0, 0, 0))
    CheckpointFiles(DiskStorage(directory.path / first)).save(followed, sync=False)

    code, out, err = main("log", "forget", "log", "gone", "--yes", "--json")

    assert (code, err) == (0, "")
    told = json.loads(out)
    assert (told["was_followed"], told["given_up"]) == (True, 20)
    assert [(each["is_held"], each["is_released"], each["is_deleted"]) for each in told["logs"]] == [
        (True, True, False),
        (False, False, False),
        (False, False, False),
    ]
    # What no subscription has begun is for one that is to come.
    assert [each["is_unclaimed"] for each in told["logs"]] == [False, True, False]
    assert Followers(directory).by_file() == {}
    assert str(list_runs(directory)[0]) == first
    assert names_in(directory.path) == [["mine"], [], ["mine"]]


def test_a_log_that_another_one_follows_is_kept_for_it(main: Main, leave: Leave, tmp_path: Path) -> None:
    directory = LogDirectory(tmp_path / "log")
    leave(directory.path, 0, 10, "gone")
    Followers(directory).remember("other", new_run_id())

    code, out, _ = main("log", "forget", "log", "gone", "--yes")

    assert (code, "10 records given up; kept for 'other'" in out) == (0, True)
    assert len(list_runs(directory)) == 1


def test_one_that_is_known_by_nothing_but_being_followed_is_forgotten(main: Main, tmp_path: Path) -> None:
    (tmp_path / "log").mkdir()
    Followers(tmp_path / "log").remember("gone", new_run_id())

    assert main("log", "forget", "log", "other", "--yes")[0] == 2
    assert main("log", "forget", "log", "gone")[0] == 2  # There is no terminal to ask on.
    code, out, _ = main("log", "forget", "log", "gone", "--yes")

    assert (code, out) == (0, "gone: nothing more is kept for it\n")
    assert list((tmp_path / "log").iterdir()) == []


def test_what_its_holder_delivers_itself_stays(
    main: Main, leave: Leave, held: Callable[[int], str], tmp_path: Path
) -> None:
    directory = LogDirectory(tmp_path / "log")
    leave(directory.path, 0, 10, "gone")
    first = held(0)
    storage = DiskStorage(directory.path / first)
    own = Checkpoint(subscription="gone", progress=Progress(0, 0, 0), by_holder=True)
    CheckpointFiles(storage).save(own, sync=False)
    Followers(directory).remember("gone", list_runs(directory)[0])

    code, out, err = main("log", "forget", "log", "gone", "--yes")

    assert (code, out) == (5, "gone: nothing more is kept for it\n")
    assert first in err
    assert names_in(directory.path) == [["gone"]]


def test_while_a_process_follows_nothing_is_forgotten(main: Main, leave: Leave, tmp_path: Path) -> None:
    directory = LogDirectory(tmp_path / "log")
    leave(directory.path, 0, 10, "busy")
    Followers(directory).remember("busy", list_runs(directory)[0])
    locks = FollowerLocks(directory, ["busy"])
    locks.take()

    code, out, err = main("log", "forget", "log", "busy", "--yes")

    locks.release()
    assert (code, out) == (5, "")
    assert f"'busy' is delivered to by process {os.getpid()}; end that first" in err
    assert Followers(directory).is_remembered("busy")
    assert names_in(directory.path) == [["busy"]]


# -- compress


def segments(directory: Path, *, count: int = 3_000) -> Path:
    """A plain directory of segments with records that compress well."""
    with Log.create(DiskStorage(directory, create=True), LogOptions(segment_bytes=50_000)) as log:
        for n in range(count):
            log.append([b"record %d " % n * 8])
            log.write()
    return directory


def contents(directory: Path) -> list[bytes]:
    with closing(DiskStorage(directory)) as storage, LogReader(storage) as reader:
        return [commit.content for commit in reader.commits()]


def test_sealed_segments_are_compressed_and_read_the_same(main: Main, tmp_path: Path) -> None:
    directory = segments(tmp_path / "plain")
    before = contents(directory)
    sizes = {path.name: path.stat().st_size for path in directory.glob("*.stdb.log")}

    code, out, _ = main("log", "compress", "plain", "--json")

    after = {path.name: path.stat().st_size for path in directory.glob("*.stdb.log")}
    sealed = sorted(sizes)[:-1]
    told = json.loads(out)
    assert code == 0
    assert told["before"] == sum(sizes[name] for name in sealed)
    assert told["after"] == sum(after[name] for name in sealed) < told["before"] / 2
    assert after[max(sizes)] == sizes[max(sizes)]
    assert contents(directory) == before
    assert main("log", "verify", "plain") == (0, "no fault found\n", "")
    assert main("log", "compress", "plain")[1] == "plain: nothing to compress\n"


def test_log_that_a_process_holds_is_not_compressed(
    main: Main, leave: Leave, held: Callable[[int], str], tmp_path: Path
) -> None:
    leave(tmp_path / "log", 0, 10, "a")
    id_ = held(0)
    segments(tmp_path / "more")
    for path in (tmp_path / "more").iterdir():
        path.rename(tmp_path / "log" / id_ / f"{path.name.replace('0000', '1000', 1)}")
    before = {path: path.read_bytes() for path in (tmp_path / "log" / id_).glob("*.stdb.*")}

    code, out, err = main("log", "compress", "log")

    assert (code, out) == (5, "")
    assert err == f"eventrec: {id_}: held by a process; end that first\n"
    assert {path: path.read_bytes() for path in (tmp_path / "log" / id_).glob("*.stdb.*")} == before


def test_without_zstd_one_line_names_the_extra(tmp_path: Path) -> None:
    segments(tmp_path / "plain")
    hidden = (
        "import sys; sys.modules['compression.zstd'] = sys.modules['backports.zstd'] = None; "
        "from eventrec.cli import main; sys.exit(main(['log', 'compress', 'plain']))"
    )

    done = subprocess.run([sys.executable, "-c", hidden], cwd=tmp_path, capture_output=True, text=True, check=False)

    assert done.returncode == 6
    assert done.stderr == "eventrec: compressed segments need zstd: pip install 'eventrec[zstd]'\n"


def test_compressed_orphan_is_still_delivered(eventrec: Callable[..., Any], leave: Leave, tmp_path: Path) -> None:
    given = "".join(f'{{"n":{n},"text":"{"x" * 400}"}}\n' for n in range(3_000))
    recorder = (
        "import anyio, sys\n"
        "from eventrec import EventRecorder, EventRecorderOptions\n"
        "from eventrec.events.event import ReceivedEvent\n"
        "async def main():\n"
        "    recorder = EventRecorder(log='log', options=EventRecorderOptions(segment_bytes=100_000))\n"
        "    await recorder.open()\n"
        "    for line in sys.stdin.buffer:\n"
        "        recorder.record(ReceivedEvent('line', line.strip(), 1, 'events', None))\n"
        "        await anyio.sleep(0)\n"
        "    await recorder.close()\n"
        "anyio.run(main)\n"
    )
    subprocess.run([sys.executable, "-c", recorder], cwd=tmp_path, input=given.encode(), check=True)

    compressed = eventrec("log", "compress", "log", "--json")
    drained = eventrec("drain", "log", "--to", "sqlite:///e.db")

    told = json.loads(compressed.stdout)
    assert (compressed.returncode, drained.returncode) == (0, 0)
    assert 0 < told["after"] < told["before"] / 2
    with closing(sqlite3.connect(tmp_path / "e.db")) as connection:
        rows = connection.execute("SELECT json_extract(payload, '$.n') FROM events ORDER BY 1").fetchall()
    assert [n for (n,) in rows] == list(range(3_000))
