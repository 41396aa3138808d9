"""`eventrec drain`: what was filtered or lost is not called delivered; what keeps nothing is not a destination."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Protocol

import anyio
import pytest

from eventrec import EventRecorder, EventStruct, PermanentError, TransientError
from eventrec.runs.directory import list_runs
from eventrec.testing.scripted import Numbered, ScriptedHandler, quickly, raising, refusing


class Main(Protocol):
    def __call__(self, *arguments: str | Path) -> tuple[int, str, str]: ...


class Leave(Protocol):
    def __call__(self, directory: Path, start: int, end: int, *names: str) -> None: ...


def test_filtered_records_are_not_called_delivered(main: Main, leave: Leave, tmp_path: Path) -> None:
    leave(tmp_path / "log", 0, 10, "sqlite")
    leave(tmp_path / "log", 10, 13, "sqlite")

    _, out, _ = main("drain", "log", "--to", "sqlite:///events.db", "--type", "other", "--discard-others")

    assert out.startswith("2 of 2 logs delivered: 0 records, 13 filtered, in ")


def test_filtered_records_are_counted_apart_in_json(main: Main, leave: Leave, tmp_path: Path) -> None:
    leave(tmp_path / "log", 0, 10, "sqlite")

    _, out, _ = main("drain", "log", "--to", "sqlite:///events.db", "--type", "other", "--discard-others", "--json")

    told = json.loads(out)
    assert (told["records"], told["filtered"], told["lost"]) == (0, 10, 0)


@pytest.mark.parametrize(
    "types", [("nope",), ("numbered", "nope"), ("lettered",)], ids=["unknown", "one of two unknown", "one of two there"]
)
def test_a_type_that_would_cost_the_others_is_refused_and_nothing_changes(
    main: Main, leave: Leave, tmp_path: Path, types: tuple[str, ...]
) -> None:
    leave(tmp_path / "log", 0, 10, "sqlite")
    leave_one_of_another_type(tmp_path / "log", "sqlite")
    before = list_runs(tmp_path / "log")

    code, out, err = main(
        "drain", "log", "--to", "sqlite:///events.db", *(word for kind in types for word in ("--type", kind))
    )

    assert (code, out, len(err.splitlines())) == (2, "", 1)
    assert err.startswith("eventrec: --type: ")
    assert ("'nope'" in err) is ("nope" in types)
    assert list_runs(tmp_path / "log") == before
    assert not (tmp_path / "events.db").exists()


def test_a_type_may_be_left_to_a_subscription_that_has_it(main: Main, leave: Leave, tmp_path: Path) -> None:
    leave(tmp_path / "log", 0, 10, "sqlite", "all")
    leave_one_of_another_type(tmp_path / "log", "sqlite", "all")

    code, out, err = main(
        "drain", "log", "--to", "sqlite:///events.db", "--name", "sqlite", "--type", "lettered", "--json"
    )

    told = json.loads(out)
    assert (code, told["records"], told["filtered"]) == (1, 1, 10)
    assert err.count("pending for 'all'") == 2


def test_a_type_is_all_there_is(main: Main, leave: Leave, tmp_path: Path) -> None:
    leave(tmp_path / "log", 0, 10, "sqlite")

    code, out, _ = main("drain", "log", "--to", "sqlite:///events.db", "--type", "numbered", "--type", "other")

    assert (code, out.rpartition(",")[0]) == (0, "1 of 1 log delivered: 10 records")
    assert list_runs(tmp_path / "log") == []


class Lettered(EventStruct):
    letter: str


def leave_one_of_another_type(directory: Path, *names: str) -> None:
    async def record() -> None:
        recorder = EventRecorder(log=directory, options=quickly())
        for name in names:
            recorder.register(ScriptedHandler(always=raising(TransientError("nobody answers"))), name=name)
        await recorder.open()
        recorder.record(Lettered("a"))
        await recorder.close(0)

    anyio.run(record)


def damage(log: Path, position: int) -> None:
    path = next(log.glob("*.stdb.log"))
    content = bytearray(path.read_bytes())
    content[position] ^= 1
    path.write_bytes(content)


def test_records_of_a_damaged_end_are_lost_and_said(main: Main, leave: Leave, tmp_path: Path) -> None:
    leave(tmp_path / "log", 0, 10, "sqlite")
    leave(tmp_path / "log", 10, 13, "sqlite")
    damage(tmp_path / "log" / str(list_runs(tmp_path / "log")[0]), 60)

    assert "records 0 to 0, " in (seen := main("status", "log")[1])
    assert ", 10 more lost at its damaged end\n" in seen
    code, out, _ = main("drain", "log", "--to", "sqlite:///events.db")

    assert (code, out.rpartition(",")[0]) == (1, "2 of 2 logs delivered: 3 records, 10 lost to damage")


def test_records_lost_at_an_end_are_told_to_machines(main: Main, leave: Leave, tmp_path: Path) -> None:
    leave(tmp_path / "log", 0, 10, "sqlite")
    damage(tmp_path / "log" / str(list_runs(tmp_path / "log")[0]), 60)

    assert [each["lost"] for each in json.loads(main("status", "log", "--json")[1])["logs"]] == [10]
    code, out, _ = main("drain", "log", "--to", "sqlite:///events.db", "--json")

    told = json.loads(out)
    assert (code, told["exit_code"], told["records"], told["lost"]) == (1, 1, 0, 10)


def test_records_lost_within_a_log_are_said(main: Main, leave: Leave, tmp_path: Path) -> None:
    leave(tmp_path / "log", 0, 5_000, "sqlite")  # two commits
    damage(tmp_path / "log" / str(list_runs(tmp_path / "log")[0]), 60)

    code, out, _ = main("drain", "log", "--to", "sqlite:///events.db", "--json")

    told = json.loads(out)
    assert (code, told["records"] + told["lost"], told["lost"] > 0, told["records"] > 0) == (1, 5_000, True, True)


def test_records_that_are_dead_letters_already_are_not_called_delivered(
    main: Main, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a process that was killed between the letters and its checkpoint."""
    log = tmp_path / "log"
    with monkeypatch.context() as killed:
        killed.setattr("eventrec.runs.checkpoint.CheckpointFiles.save", lambda *_, **__: None)
        killed.setattr("eventrec.runs.run.Run.retire", lambda run: run.release())

        async def record() -> None:
            recorder = EventRecorder(log=log, options=quickly())
            recorder.register(ScriptedHandler(always=raising(PermanentError("no"))), name="sqlite")
            await recorder.open()
            for letter in "abc":
                recorder.record(Lettered(letter))
            await recorder.flush(5)
            await recorder.close(0)

        anyio.run(record)

    code, out, _ = main("drain", "log", "--to", "sqlite:///events.db")

    assert (code, out.rpartition(",")[0]) == (1, "1 of 1 log delivered: 0 records, 3 dead letters from before")


def test_a_dead_letter_of_records_that_a_power_cut_took_behind_their_checkpoint_is_not_counted_again(
    main: Main, tmp_path: Path
) -> None:
    async def run() -> None:
        recorder = EventRecorder(log=tmp_path / "log", options=quickly(close_timeout=0.1))
        refusing_five = refusing({5}, lambda: PermanentError("out of range"))
        recorder.register(ScriptedHandler(always=refusing_five), name="sqlite")
        recorder.register(ScriptedHandler(always=raising(TransientError("down"))), name="other")
        async with recorder:
            recorder.record_many(Numbered(number) for number in range(8))
            while recorder.status().subscriptions["sqlite"].pending:  # noqa: ASYNC110 - delivery changes it
                await anyio.sleep(0.02)

    anyio.run(run)
    (log,) = list_runs(tmp_path / "log")
    for segment in (tmp_path / "log" / str(log)).glob("*.log"):
        segment.write_bytes(b"")

    _, out, _ = main("drain", "log", "--to", "sqlite:///events.db", "--json")

    told = json.loads(out)
    assert (told["records"], told["dead_before"]) == (0, 0)


def test_a_full_disk_costs_nothing_that_is_to_be_delivered(
    main: Main, leave: Leave, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    leave(tmp_path / "log", 0, 10, "jsonl")
    monkeypatch.setattr("eventrec.log.disk.DiskStorage.space", lambda _: (1 << 20, 1 << 40))

    code, out, _ = main("drain", "log", "--to", "jsonl:///out", "--json")

    assert (code, json.loads(out)["records"]) == (0, 10)


def test_a_full_disk_costs_nothing_that_earlier_runs_left(
    main: Main, leave: Leave, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    leave(tmp_path / "log", 0, 10, "jsonl")
    (tmp_path / "lines").write_text("{}\n" * 3, encoding="utf-8")
    monkeypatch.setattr("eventrec.log.disk.DiskStorage.space", lambda _: (1 << 20, 1 << 40))
    monkeypatch.setattr("eventrec.cli.record.reading.lacks_room", lambda _: True)

    code, out, _ = main("record", "lines", "--to", "jsonl:///out", "--log", "log", "--json")

    told = json.loads(out)
    assert (code, told["delivered"], told["earlier"]) == (0, 3, 10)
    written = [line for path in (tmp_path / "out").rglob("*.jsonl") for line in path.read_text().splitlines()]
    assert len(written) == 13


def test_a_destination_that_keeps_nothing_is_refused(main: Main, leave: Leave, tmp_path: Path) -> None:
    leave(tmp_path / "log", 0, 10, "memory")

    code, _, err = main("drain", "log", "--to", "memory:")

    assert (code, "keeps nothing" in err, len(list_runs(tmp_path / "log"))) == (3, True, 1)


def test_a_name_that_no_log_knows_is_refused(main: Main, leave: Leave, tmp_path: Path) -> None:
    leave(tmp_path / "log", 0, 10, "warehouse")

    code, _, err = main("drain", "log", "--to", "sqlite:///events.db", "--name", "warehuose")

    assert (code, "'warehouse'" in err, (tmp_path / "events.db").exists()) == (2, True, False)


@pytest.mark.parametrize("command", ["verify", "list", "cat"])
def test_log_that_this_user_may_not_open_is_said(
    main: Main, leave: Leave, tmp_path: Path, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    leave(tmp_path / "log", 0, 10, "sqlite")
    (run,) = list_runs(tmp_path / "log")
    monkeypatch.setattr("eventrec.runs.directory.LogDirectory.runs", lambda _: [])
    monkeypatch.setattr("eventrec.runs.directory.LogDirectory.may_be_ours", lambda _, id_: id_ == run)

    code, _, err = main("log", command, "log")

    assert (code, str(run) in err) == (4, True)


def test_directory_without_a_log_is_not_called_whole(main: Main, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()

    assert main("log", "verify", "empty") == (0, "there is no log in empty\n", "")
