"""A directory and its mirror, over TCP: what arrives, what is acknowledged, and what they are like in the end."""

from __future__ import annotations

import shutil
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import pytest
from anyio.to_thread import run_sync as in_thread

from eventrec.log.log import Log
from eventrec.log.segment import list_segments, segment_name
from eventrec.runs.checkpoint import CHECKPOINTS, CheckpointFiles
from eventrec.runs.directory import DEAD, list_runs
from eventrec.runs.files import file_name
from eventrec.runs.mirrors import MIRRORS, Mirrors
from eventrec.runs.run import Run


@pytest.fixture
def here(tmp_path: Path) -> Path:
    return tmp_path / "here"


@pytest.fixture
def there(tmp_path: Path) -> Path:
    return tmp_path / "there"


async def written(kit: Any, directory: Path, commits: int, *, ends: bool = True, **options: Any) -> Any:
    source = await in_thread(partial(kit.source, directory, **options))
    await in_thread(source.write, commits)
    if ends:
        await in_thread(source.end)
    return source


async def test_a_mirror_gets_all_logs_alike_and_says_so(here: Path, there: Path, kit: Any) -> None:
    first = await written(kit, here, 100)
    second = await written(kit, here, 5, ends=False)

    async with kit.serving(here) as served, kit.mirroring(served.address, there):
        end = await in_thread(second.write, 50)
        await kit.until(lambda: kit.acknowledged(here, second.run.id) == end)
        await in_thread(second.end)
        await kit.until(lambda: kit.are_alike(here, there))
        third = await written(kit, here, 20)
        await kit.until(lambda: kit.acknowledged(here, third.run.id) == 60)

    assert (
        await in_thread(list_runs, there)
        == await in_thread(list_runs, here)
        == [first.run.id, second.run.id, third.run.id]
    )
    assert kit.are_alike(here, there)


async def test_while_it_is_mirrored_a_copy_is_held_and_after_that_an_orphan(here: Path, there: Path, kit: Any) -> None:
    source = await written(kit, here, 10)

    async with kit.serving(here) as served, kit.mirroring(served.address, there):
        await kit.until(lambda: kit.acknowledged(here, source.run.id) == 30)
        held = await in_thread(Run.try_adopt, there, source.run.id)
    adopted = await in_thread(Run.adopt, there, source.run.id)

    assert held == "held"
    assert adopted is not None
    await in_thread(adopted.release)


async def test_mirror_and_source_that_begin_again_go_on_where_they_were(here: Path, there: Path, kit: Any) -> None:
    source = await written(kit, here, 10, ends=False)

    for _ in range(3):
        async with kit.serving(here) as served, kit.mirroring(served.address, there) as mirror:
            end = await in_thread(source.write, 40)
            await kit.until(lambda end=end: kit.acknowledged(here, source.run.id) == end)
            received = mirror.counts.bytes
    await in_thread(source.end)

    async with kit.serving(here) as served, kit.mirroring(served.address, there):
        await kit.until(lambda: kit.are_alike(here, there))
    assert received < 40 * 800 * 1.1


async def test_a_mirror_that_comes_late_begins_where_the_source_does(here: Path, there: Path, kit: Any) -> None:
    source = await written(kit, here, 200, ends=False)
    firsts = await in_thread(list_segments, source.run.storage)
    await in_thread(source.log.delete_below, firsts[3])

    async with kit.serving(here) as served, kit.mirroring(served.address, there):
        await kit.until(lambda: kit.acknowledged(here, source.run.id) == 600)
    await in_thread(source.end)

    assert (there / str(source.run.id) / segment_name(firsts[3])).exists()
    assert kit.are_alike(here, there)


async def test_a_mirror_that_forfeited_begins_again(here: Path, there: Path, kit: Any) -> None:
    source = await written(kit, here, 50, ends=False)
    async with kit.serving(here) as served, kit.mirroring(served.address, there):
        await kit.until(lambda: kit.acknowledged(here, source.run.id) == 150)
    await in_thread(source.write, 200)
    firsts = await in_thread(list_segments, source.run.storage)
    await in_thread(source.log.delete_below, firsts[-2])

    async with kit.serving(here) as served, kit.mirroring(served.address, there):
        await kit.until(lambda: kit.acknowledged(here, source.run.id) == 750)
    await in_thread(source.end)

    assert kit.are_alike(here, there)


async def test_a_copy_that_diverged_is_refused_and_kept_and_the_others_go_on(here: Path, there: Path, kit: Any) -> None:
    one = await written(kit, here, 20)
    async with kit.serving(here) as served, kit.mirroring(served.address, there):
        await kit.until(lambda: kit.are_alike(here, there))
    path = here / str(one.run.id)
    for each in path.glob("*.stdb.*"):
        each.unlink()
    (path / segment_name(0)).write_bytes(next((there / str(one.run.id)).glob("*.log")).read_bytes()[:5_000])
    other = await written(kit, here, 10)
    kept = kit.content_of(there)

    async with kit.serving(here) as served, kit.mirroring(served.address, there) as mirror:
        await kit.until(lambda: kit.acknowledged(here, other.run.id) == 30)
        await kit.until(lambda: len(mirror.counts.diverged))
        await kit.until(lambda: kit.acknowledged(here, one.run.id) == 0)

    assert list(mirror.counts.diverged) == [one.run.id]
    assert "more than its source" in mirror.counts.diverged[one.run.id]
    assert kept.items() <= kit.content_of(there).items()


async def test_checkpoints_come_with_what_they_name_and_go_with_the_source(here: Path, there: Path, kit: Any) -> None:
    source = await written(kit, here, 20, ends=False)
    await in_thread(source.save, 30)
    await in_thread(source.save, 60, "other")
    there_files = CheckpointFiles(there / str(source.run.id) / CHECKPOINTS)

    async with kit.serving(here) as served, kit.mirroring(served.address, there):
        await kit.until(lambda: sorted(there_files.load()) == ["other", "s"])
        await in_thread(source.save, 1_000)
        await in_thread(source.write, 10)
        await kit.until(lambda: kit.acknowledged(here, source.run.id) == 90)
        ahead = (await in_thread(there_files.load))["s"].progress.scanned
        await in_thread(CheckpointFiles(here / str(source.run.id) / CHECKPOINTS).remove, "other")
        await kit.until(lambda: sorted(there_files.load()) == ["s"])
        await in_thread(source.save, 90)
        await kit.until(lambda: there_files.load()["s"].progress.scanned == 90)
        noted = await in_thread(kit.noted, here, source.run.id)
        await kit.until(lambda: kit.noted(here, source.run.id).checkpoints == {file_name("s"): 90})
    await in_thread(source.end)

    assert ahead == 30
    assert noted.next_offset == 90


@pytest.mark.parametrize("scanned", [60, 57])
async def test_a_log_that_is_retired_goes_where_all_of_it_is_settled(
    here: Path, there: Path, kit: Any, scanned: int
) -> None:
    source = await written(kit, here, 20, ends=False)
    await in_thread(source.save, scanned)

    async with kit.serving(here) as served, kit.mirroring(served.address, there) as mirror:
        saved = {file_name("s"): scanned}
        await kit.until(lambda: kit.noted(here, source.run.id).checkpoints == saved)
        await in_thread(source.log.close)
        await in_thread(source.run.retire)
        if scanned == 60:
            await kit.until(lambda: not list_runs(there))
        await kit.until(lambda: not list((here / MIRRORS / "standby").glob(f"{source.run.id}*")))
        await kit.until(lambda: mirror.counts.logs == 0)

    assert await in_thread(list_runs, there) == ([] if scanned == 60 else [source.run.id])
    assert mirror.counts.kept == (set() if scanned == 60 else {source.run.id})


async def test_a_log_that_went_while_the_mirror_was_away_goes_too(here: Path, there: Path, kit: Any) -> None:
    source = await written(kit, here, 20, ends=False)
    await in_thread(source.save, 60)
    async with kit.serving(here) as served, kit.mirroring(served.address, there):
        await kit.until((there / str(source.run.id) / CHECKPOINTS / file_name("s")).exists)
    await in_thread(source.log.close)
    await in_thread(source.run.retire)

    async with kit.serving(here) as served, kit.mirroring(served.address, there):
        await kit.until(lambda: not list_runs(there))


async def test_segments_that_the_source_deleted_go_once_the_mirrors_checkpoints_are_past(
    here: Path, there: Path, kit: Any
) -> None:
    source = await written(kit, here, 200, ends=False)
    firsts = await in_thread(list_segments, source.run.storage)
    await in_thread(source.save, firsts[2])

    async with kit.serving(here) as served, kit.mirroring(served.address, there):
        await kit.until((there / str(source.run.id) / CHECKPOINTS / file_name("s")).exists)
        await in_thread(source.log.delete_below, firsts[2])
        await in_thread(source.write, 1)
        await kit.until(lambda: not (there / str(source.run.id) / segment_name(firsts[1])).exists())
        await in_thread(source.end)
        await kit.until(lambda: kit.are_alike(here, there))


async def test_dead_letters_come_along(here: Path, there: Path, kit: Any) -> None:
    letters = await written(kit, here / DEAD, 10)

    async with kit.serving(here) as served, kit.mirroring(served.address, there):
        await kit.until(lambda: kit.are_alike(here, there) and list_runs(there / DEAD))

    assert await in_thread(list_runs, there / DEAD) == [letters.run.id]
    assert await in_thread(list_runs, there) == []


async def test_a_copy_that_another_process_holds_waits_and_the_others_go_on(here: Path, there: Path, kit: Any) -> None:
    one, two = await written(kit, here, 10), await written(kit, here, 10)
    held = await in_thread(Run.create, there, one.run.id)

    async with kit.serving(here) as served, kit.mirroring(served.address, there) as mirror:
        await kit.until(lambda: kit.acknowledged(here, two.run.id) == 30)
        await kit.until(lambda: len(mirror.counts.refused))
        said = dict(mirror.counts.refused)
        await in_thread(held.release)
        await kit.until(lambda: kit.acknowledged(here, one.run.id) == 30 and not mirror.counts.refused)

    assert "another process holds" in said[one.run.id]
    assert kit.are_alike(here, there)


async def test_a_copy_that_is_taken_away_is_not_acknowledged_and_begins_again(
    here: Path, there: Path, kit: Any
) -> None:
    source = await written(kit, here, 10, ends=False)

    async with kit.serving(here) as served, kit.mirroring(served.address, there):
        await kit.until(lambda: kit.acknowledged(here, source.run.id) == 30)
        await in_thread(shutil.rmtree, there / str(source.run.id))
        await in_thread(source.write, 10)
        await kit.until(lambda: kit.acknowledged(here, source.run.id) == 60)
        await in_thread(source.end)
        await kit.until(lambda: kit.are_alike(here, there))


@pytest.mark.parametrize("small_volume", ["400k"], indirect=True)
async def test_a_full_disk_of_the_mirror_stops_the_log_until_there_is_room(
    here: Path, small_volume: Path, kit: Any
) -> None:
    there = small_volume / "there"
    ballast = small_volume / "ballast"
    ballast.write_bytes(b"x" * 300_000)
    source = await written(kit, here, 150)

    async with kit.serving(here) as served, kit.mirroring(served.address, there) as mirror:
        await kit.until(lambda: len(mirror.counts.refused))
        await in_thread(ballast.unlink)
        await kit.until(lambda: kit.acknowledged(here, source.run.id) == 450)

    assert kit.are_alike(here, there)


async def test_a_bandwidth_is_kept(here: Path, there: Path, kit: Any) -> None:
    source = await written(kit, here, 100)

    async with kit.serving(here) as served, kit.mirroring(served.address, there, bandwidth=50_000) as mirror:
        started = anyio.current_time()
        await kit.until(lambda: kit.acknowledged(here, source.run.id) == 300)
        took = anyio.current_time() - started

    assert mirror.counts.bytes / took <= 2 * 50_000


async def test_a_damaged_middle_is_passed_and_the_rest_arrives(here: Path, there: Path, kit: Any) -> None:
    source = await written(kit, here, 100)
    path = here / str(source.run.id) / segment_name(0)
    content = bytearray(path.read_bytes())
    content[5_000] ^= 0xFF
    path.write_bytes(content)

    async with kit.serving(here) as served, kit.mirroring(served.address, there):
        await kit.until(lambda: kit.acknowledged(here, source.run.id) == 300)


async def test_other_peoples_directories_are_neither_served_nor_touched(here: Path, there: Path, kit: Any) -> None:
    source = await written(kit, here, 10)
    (here / "theirs").mkdir()
    (here / "theirs" / segment_name(0)).write_bytes(b"not ours")
    (there / str(source.run.id)).mkdir(parents=True)
    (there / str(source.run.id) / "notes.txt").touch()

    async with kit.serving(here) as served, kit.mirroring(served.address, there) as mirror:
        await kit.until(lambda: len(mirror.counts.refused))

    assert [path.name for path in (there / str(source.run.id)).iterdir()] == ["notes.txt"]
    assert not (there / "theirs").exists()


async def test_what_is_written_now_does_not_wait_for_what_was_written_long_ago(
    here: Path, there: Path, kit: Any
) -> None:
    old = [await written(kit, here, 60) for _ in range(10)]

    async with kit.serving(here) as served, kit.mirroring(served.address, there, bandwidth=100_000):
        await kit.until(lambda: kit.acknowledged(here, old[-1].run.id) > 0)
        source = await written(kit, here, 1, ends=False)
        for number in range(1, 4):
            end = await in_thread(source.write, 1)
            await kit.until(lambda end=end: kit.acknowledged(here, source.run.id) == end)
            assert await in_thread(kit.acknowledged, here, old[0].run.id) < 180, number
    await in_thread(source.end)


async def test_a_mirror_that_is_forgotten_while_it_is_connected_is_known_again(
    here: Path, there: Path, kit: Any
) -> None:
    source = await written(kit, here, 10, ends=False)

    async with kit.serving(here) as served, kit.mirroring(served.address, there) as mirror:
        await kit.until(lambda: kit.acknowledged(here, source.run.id) == 30)
        await in_thread(Mirrors(here).forget, "standby")
        await in_thread(source.write, 10)
        await kit.until(lambda: kit.acknowledged(here, source.run.id) == 60)
    await in_thread(source.end)

    assert mirror.connections == 2


async def test_a_log_that_another_one_took_the_place_of_is_not_mixed_with_it(here: Path, there: Path, kit: Any) -> None:
    source = await written(kit, here, 10, ends=False)

    async with kit.serving(here) as served, kit.mirroring(served.address, there) as mirror:
        await kit.until(lambda: kit.acknowledged(here, source.run.id) == 30)
        await in_thread((here / str(source.run.id)).rename, here.parent / "elsewhere")
        other = await in_thread(Run.create, here, source.run.id)
        log = await in_thread(Log.create, other.storage)
        log.append_encoded(b"another", 1)
        await in_thread(log.write)
        await kit.until(lambda: len(mirror.counts.diverged))
    await in_thread(log.close)
    await in_thread(other.release)
    await in_thread(source.end)

    assert "records up to" in mirror.counts.diverged[source.run.id]


async def test_where_the_source_takes_no_notes_its_mirror_goes_on_and_they_are_made_up_for(
    here: Path, there: Path, kit: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    source = await written(kit, here, 10, ends=False)

    async with kit.serving(here) as served, kit.mirroring(served.address, there) as mirror:
        await kit.until(lambda: kit.acknowledged(here, source.run.id) == 30)
        monkeypatch.setattr(Mirrors, "acknowledge", refuse)
        end = await in_thread(source.write, 10)
        await kit.until(lambda: mirror.counts.records == end)
        await kit.until(lambda: "not noted" in caplog.text)
        noted = await in_thread(kit.acknowledged, here, source.run.id)
        monkeypatch.undo()
        await kit.until(lambda: kit.acknowledged(here, source.run.id) == end)
    await in_thread(source.end)

    assert noted == 30
    assert mirror.connections == 1
