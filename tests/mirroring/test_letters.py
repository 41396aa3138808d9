"""Dead letters on two machines: none is lost, none waits where it is settled at the source, and when each goes."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from anyio.to_thread import run_sync as in_thread

from eventrec import ColumnSchema, ColumnType
from eventrec.delivery.letters.dead_letters import DeadLetter
from eventrec.delivery.letters.kept import forfeit_settled, kept_letters, purge, sweep_letters
from eventrec.delivery.letters.log import LetterLog
from eventrec.mirroring.served_run import ServedRun
from eventrec.records.schema import Shape
from eventrec.runs.checkpoint import CHECKPOINTS, CheckpointFiles
from eventrec.runs.directory import DEAD, LogDirectory, list_runs
from eventrec.runs.mirrors import MIRRORS, Acknowledged, Mirrors
from eventrec.runs.run import Run, new_run_id


@pytest.fixture
def here(tmp_path: Path) -> Path:
    return tmp_path / "here"


@pytest.fixture
def there(tmp_path: Path) -> Path:
    return tmp_path / "there"


SHAPE = Shape("t", "a", (ColumnSchema("n", ColumnType.INT64),))


def letter(offset: int, log: UUID, *, padding: int = 0) -> DeadLetter:
    payload = b"{}" + b" " * padding
    entry = (SHAPE, 1, payload, None, b"\x91\x91\x01", None, 100 + padding)
    return DeadLetter(log, offset, "s", "Handler", "never", 1.5, entry, b'{"host":"h"}')


async def set_aside(directory: Path, *letters: DeadLetter, id_: UUID | None = None) -> UUID:
    """A log of letters that its writer has left."""
    made = new_run_id() if id_ is None else id_
    log = LetterLog(directory / DEAD, lambda: made, max_bytes=1 << 20)
    await log.write(letters)
    await in_thread(log.close)
    return made


def give_up(directory: Path, id_: UUID) -> None:
    """As the command does."""
    purge(directory / DEAD, id_, "s", below=100)
    sweep_letters(directory / DEAD)


def waiting(directory: Path) -> list[int]:
    if not (directory / DEAD).exists():
        return []
    return [each.letter.offset for each in kept_letters(directory / DEAD) if each.is_waiting]


def letter_logs(directory: Path) -> list[UUID]:
    return list_runs(directory / DEAD) if (directory / DEAD).exists() else []


async def test_letters_given_up_at_the_source_wait_nowhere_and_their_log_goes_on_both(
    here: Path, there: Path, kit: Any
) -> None:
    id_ = await set_aside(here, letter(1, UUID(int=5)), letter(2, UUID(int=5)))

    async with kit.serving(here) as served, kit.mirroring(served.address, there):
        await kit.until(lambda: letter_logs(there) == [id_] and waiting(there) == [1, 2])
        await in_thread(give_up, here, id_)

        await kit.until(lambda: letter_logs(here) == letter_logs(there) == [])


async def test_letters_given_up_while_the_mirror_is_away_wait_there_no_longer_once_it_is_back(
    here: Path, there: Path, kit: Any
) -> None:
    id_ = await set_aside(here, letter(1, UUID(int=5)))
    async with kit.serving(here) as served, kit.mirroring(served.address, there):
        await kit.until(lambda: waiting(there) == [1])

    await in_thread(give_up, here, id_)
    kept = await in_thread(letter_logs, here)
    async with kit.serving(here) as served, kit.mirroring(served.address, there):
        await kit.until(lambda: letter_logs(here) == letter_logs(there) == [])

    assert kept == [id_]


async def test_a_letter_that_a_later_one_settles_goes_with_that(here: Path, there: Path, kit: Any) -> None:
    older = await set_aside(here, letter(1, UUID(int=5)))
    newer = await set_aside(here, letter(1, UUID(int=5)))

    async with kit.serving(here) as served, kit.mirroring(served.address, there):
        await kit.until(lambda: letter_logs(there) == [older, newer])
        await in_thread(give_up, here, newer)

        await kit.until(lambda: letter_logs(here) == letter_logs(there) == [])


async def test_a_checkpoint_comes_after_the_letters_that_it_says_were_set_aside(
    here: Path, there: Path, kit: Any
) -> None:
    source = await in_thread(kit.source, here)
    end = await in_thread(source.write, 10)
    checkpoints = CheckpointFiles(there / str(source.run.id) / CHECKPOINTS)

    async with kit.serving(here) as served, kit.mirroring(served.address, there) as mirror:
        await kit.until(lambda: kit.acknowledged(here, source.run.id) == end)
        # The mirror cannot take the letter, for now.
        held = await in_thread(Run.create, there / DEAD, new_run_id())
        await set_aside(here, letter(4, source.run.id), id_=held.id)
        await kit.until(lambda: len(mirror.counts.refused))
        await in_thread(source.save, end)
        end = await in_thread(source.write, 10)
        await kit.until(lambda: kit.acknowledged(here, source.run.id) == end)
        before = await in_thread(checkpoints.load)
        await in_thread(held.release)

        await kit.until(lambda: waiting(there) == [4] and "s" in checkpoints.load())
    await in_thread(source.end)

    assert before == {}


async def test_a_checkpoint_is_given_out_again_where_letters_held_it_back(here: Path, kit: Any) -> None:
    def turns() -> list[list[str]]:
        source = kit.source(here)
        end = source.write(1)
        source.save(end)
        run = ServedRun(served, source.run.id, is_dead=False)
        run.begin(1, None)
        first = run.turn(1 << 20)
        run.take_back(first.checkpoints)
        second, third = run.turn(1 << 20), run.turn(1 << 20)
        run.close()
        source.end()
        return [list(each.checkpoints) for each in (first, second, third)]

    served = LogDirectory(here)

    assert await in_thread(turns) == [["s.json"], ["s.json"], []]


@pytest.mark.parametrize("has_checkpoint", [False, True])
async def test_settled_letters_stay_until_a_mirror_has_them_as_settled(here: Path, *, has_checkpoint: bool) -> None:
    id_ = await set_aside(here, letter(1, UUID(int=5)))
    mirrors = Mirrors(here)
    await in_thread(mirrors.register, "standby")
    carried = {"s.json": 100} if has_checkpoint else {}

    def acknowledge() -> list[UUID]:
        give_up(here, id_)
        mirrors.acknowledge("standby", Acknowledged(log=id_, next_offset=1, checkpoints=carried), is_dead=True)
        sweep_letters(here / DEAD)
        return letter_logs(here)

    assert await in_thread(acknowledge) == ([] if has_checkpoint else [id_])


async def test_settled_letters_of_a_mirror_that_stays_away_make_room_for_new_ones(here: Path) -> None:
    id_ = await set_aside(here, letter(1, UUID(int=5), padding=5_000))
    await in_thread(Mirrors(here).register, "standby")
    await in_thread(give_up, here, id_)
    with_room = LetterLog(here / DEAD, new_run_id, max_bytes=8_000, make_room=lambda: forfeit_settled(here / DEAD))

    await with_room.write([letter(2, UUID(int=5), padding=5_000)])
    await in_thread(with_room.close)

    assert await in_thread(waiting, here) == [2]
    assert id_ not in await in_thread(letter_logs, here)


async def test_what_a_mirror_has_of_a_log_and_of_its_letters_is_noted_apart(here: Path) -> None:
    mirrors, id_ = Mirrors(here), new_run_id()

    def note() -> tuple[int, int, set[UUID], set[UUID]]:
        here.mkdir()
        mirrors.register("standby")
        mirrors.acknowledge("standby", Acknowledged(log=id_, next_offset=5))
        mirrors.acknowledge("standby", Acknowledged(log=id_, next_offset=2), is_dead=True)
        ends = [mirrors.of_log(id_, is_dead=is_dead)["standby"].next_offset for is_dead in (False, True)]
        mirrors.forget_log("standby", id_)
        return ends[0], ends[1], mirrors.logs_of("standby"), mirrors.logs_of("standby", is_dead=True)

    assert await in_thread(note) == (5, 2, set(), {id_})
    assert await in_thread(mirrors.forget, "standby")
    assert list((here / MIRRORS).iterdir()) == []
