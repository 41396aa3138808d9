"""Anything at any time: odd files in the log directory, handlers and log handlers that raise, a system that refuses.

A run has a directory with logs that earlier runs left, some of them damaged or of a newer version, and things that are
not ours; a subscription whose handler raises anything from anywhere for a while, and one that is well; and a disk that
fails at random calls. Then all faults end, and what must hold is looked at. `EVENTREC_TEST_SEED` and
`EVENTREC_TEST_FUZZ_RUNS` choose where the runs begin and how many there are; threads make each a little different.
"""

from __future__ import annotations

import fcntl
import hashlib
import logging
import os
import random
import shutil
import socket
import stat
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal
from uuid import UUID

import anyio
import anyio.to_thread
import msgspec
import pytest

from eventrec import Backoff, EventRecorder, EventRecorderOptions, LogError, PauseError, Status
from eventrec.delivery.letters.log import letters_of
from eventrec.log.log import Log
from eventrec.records.entry import PAYLOAD
from eventrec.runs.checkpoint import CHECKPOINTS
from eventrec.runs.directory import DEAD, DONE, LOCK, list_runs
from eventrec.runs.files import encode
from eventrec.runs.requests import REQUESTS
from eventrec.runs.run import Run
from eventrec.runs.survey import QUOTA
from eventrec.testing import assert_conserved
from eventrec.testing.scripted import Numbered, ScriptedHandler, raising

SEED: Final = int(os.environ.get("EVENTREC_TEST_SEED", "1"))
RUNS: Final = int(os.environ.get("EVENTREC_TEST_FUZZ_RUNS", "2000"))
PARTS: Final = 20
CLOSING: Final = 3.0
"""Seconds beyond its timeout that `close` may take, where 0.5 are allowed: more on a machine that is busy."""

PATIENCE: Final = 20.0
"""Seconds after the last fault in which everything must be well again."""

FINE, WILD = "fine", "wild"


def options() -> EventRecorderOptions:
    return EventRecorderOptions(
        retry=Backoff(first=0.005, max=0.05), flush_interval=0.005, write_interval=0.005, close_timeout=5, batch_rows=20
    )


# -- what lies in the directory


def state_of(path: Path) -> dict[str, tuple[int, str]]:
    """Names, modes, targets of links, and a hash of every byte below `path`."""
    found = {}
    for each in [path, *(path.rglob("*") if path.is_dir() and not path.is_symlink() else [])]:
        status = each.lstat()
        content = b""
        if stat.S_ISLNK(status.st_mode):
            content = os.fsencode(each.readlink())
        elif stat.S_ISREG(status.st_mode):
            content = each.read_bytes()
        found[str(each)] = (status.st_mode, hashlib.blake2b(content).hexdigest())
    return found


def write(path: Path, content: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def an_id(rng: random.Random, version: int) -> UUID:
    chance = rng.getrandbits(128)
    return UUID(int=chance & ~(0xF << 76 | 0x3 << 62) | version << 76 | 0x2 << 62)


def an_odd_name(rng: random.Random, log: Path) -> Path:
    """A path in the log directory that is free, odd, or looks like one of ours."""
    prefix = rng.choice(["", "", ".new-", "gone-", "done-", "x"])
    name = prefix + rng.choice([str(an_id(rng, 4)), str(an_id(rng, 7)), an_id(rng, 4).hex, str(an_id(rng, 7)).upper()])
    name = rng.choice([name, name, "others", "requests", "done", "dead", QUOTA, "lock", "notes", f"{FINE}.json"])
    within = rng.choice([log, log, log / "requests", log / "done", log / "dead"])
    if not within.exists() and not within.is_symlink():
        within.mkdir(parents=True)
    path = within / name if within.is_dir() and not within.is_symlink() else log / name
    if path.exists() or path.is_symlink():
        path = log / f"other-{an_id(rng, 4)}"
    return path


def a_foreign_thing(rng: random.Random, log: Path, outside: Path) -> Path:
    """Something that is not ours."""
    path = an_odd_name(rng, log)
    match rng.randrange(8):
        case 0:
            path = path.with_name(path.name.replace(QUOTA, "quota"))  # As a file of its own it is ours.
            write(path, rng.randbytes(rng.randint(0, 300)))
        case 1:
            write(path / "checkpoints" / f"{FINE}.json", b"{}\n")
            write(path / "00000000000000000000.stdb.log", rng.randbytes(100))
        case 2:
            write(path / "lock", rng.choice([b"", b"1234\n", rng.randbytes(40)]))
            write(path / "deep" / "er" / "file", b"theirs")
        case 3:
            target = write(outside / an_id(rng, 4).hex / "00000000000000000000.stdb.log", b"(ds)^2\x01\0\0\0")
            path.symlink_to(rng.choice([target, target.parent, Path("nowhere"), Path("..")]))
        case 4:
            os.mkfifo(path)
        case 5:
            with socket.socket(socket.AF_UNIX) as listening, suppress(OSError):
                listening.bind(str(path))
            if not path.exists():
                path.touch()
        case 6:
            path = log / os.fsdecode(b"not-utf-8-\xff\xfe" + rng.randbytes(2).hex().encode())
            path.write_bytes(b"theirs")
        case _:
            path.mkdir()
            if path.name in (DONE, DEAD, REQUESTS):  # Empty, nothing tells them from ours.
                write(path / "file", b"theirs")
    return path


def a_newer_log(rng: random.Random, log: Path) -> Path:
    """A log of a version that comes: of its segments, of their content, of a checkpoint, or of dead letters."""
    of = rng.choice(["segment", "content", "checkpoint", "letters"])
    where = log / DEAD if of == "letters" and is_folder(log / DEAD) else log
    run = Run.create(where, an_id(rng, 7))
    made = Log.create(run.storage)
    made.append_encoded(b"\x09" + rng.randbytes(50), 3)
    made.close()
    if of == "checkpoint":
        write(run.path / CHECKPOINTS / f"{FINE}.json", encode({"version": 9, "told": "otherwise"}))
    run.release()
    (segment,) = run.path.glob("*.stdb.log")
    if of == "segment":
        content = bytearray(segment.read_bytes())
        content[6] = 9
        segment.write_bytes(content)
    return run.path


def is_folder(path: Path) -> bool:
    return not path.is_symlink() and (not path.exists() or path.is_dir())


def damage(rng: random.Random, run: Path) -> Literal["harmless", "flipped", "doubtful"]:
    """Spoil one file of a log.

    "flipped": a bit of its records, so that any that are gone must be counted. "doubtful": any may be gone.
    """
    files = sorted(path for path in run.rglob("*") if path.is_file())
    path = rng.choice(files)
    content = bytearray(path.read_bytes())
    at = rng.randrange(len(content)) if content else 0
    kind = rng.randrange(5)
    match kind:
        case 0 if content:
            content[at] ^= 1 << rng.randrange(8)
        case 1:
            del content[at:]
        case 2:
            content[at : at + 8] = b"\xff" * 8
        case 3:
            content += rng.randbytes(rng.randint(1, 60))
        case _:
            content = bytearray(rng.randbytes(len(content)))
    path.write_bytes(content)
    if path.name.endswith(".stdb.log"):
        return "doubtful" if kind else "flipped"
    return "doubtful" if path.name == LOCK else "harmless"


def is_held(lock: Path) -> bool:
    """Asked of the system itself, whatever fails for the recorder."""
    try:
        fd = os.open(lock, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW)
    except OSError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(fd)
    return False


# -- a run


@dataclass
class Fuzz:
    """One run. `written` are the numbers whose records are whole in some log, `doubtful` those in a damaged one."""

    rng: random.Random
    home: Path
    unruly: Any
    fine: ScriptedHandler = field(default_factory=ScriptedHandler)
    written: set[int] = field(default_factory=set)
    doubtful: set[int] = field(default_factory=set)
    flipped: dict[Path, set[int]] = field(default_factory=dict)
    """The numbers in logs of which one bit is wrong."""
    foreign: dict[str, tuple[int, str]] = field(default_factory=dict)
    next: int = 0
    told: Counter[str] = field(default_factory=Counter)
    """What `on_drop` was told of the recorder that was made last."""
    told_before: Counter[str] = field(default_factory=Counter)
    """And of those before it."""
    ended: Status | None = None
    """The account of the first life."""

    @property
    def log(self) -> Path:
        return self.home / "log"

    def recorder(self) -> EventRecorder:
        self.told_before += self.told
        self.told = Counter()
        recorder = EventRecorder(log=self.log, options=options(), on_drop=self.note_drop)
        recorder.register(self.fine, name=FINE)
        recorder.register(self.unruly.handler, name=WILD)
        return recorder

    def note_drop(self, reason: str, count: int) -> None:
        self.told[reason] += count

    async def leave_a_log(self) -> None:
        """As a process leaves one whose destinations went away in the middle of it."""
        before = set(list_runs(self.log))
        recorder = self.recorder()
        await recorder.open()
        numbers = set(self.record(recorder, self.rng.randint(1, 30)))
        await recorder.flush(timeout=self.rng.choice([0.0, 0.02]))
        self.fine.always = raising(PauseError("until later"))
        self.unruly.handler.is_paused = True
        numbers |= set(self.record(recorder, self.rng.randint(1, 30)))
        await recorder.close(self.rng.choice([0.0, 0.0, 1.0]))
        await self.until_free()
        status = recorder.status()
        assert_conserved(status, offered=len(numbers))
        assert status.appended == len(numbers), status.to_dict()
        self.fine.always = lambda _: None
        self.unruly.handler.is_paused = False
        spoilt = False
        for id_ in set(list_runs(self.log)) - before:
            if self.rng.random() < 0.4:
                run = self.log / str(id_)
                how = damage(self.rng, run)
                spoilt = how != "harmless" or spoilt
                if how == "flipped":
                    self.flipped[run] = numbers
                if self.rng.random() < 0.3:
                    self.unruly.system.unreadable.add(str(self.rng.choice([run, *run.rglob("*")])))
                    self.flipped.pop(run, None)
                    spoilt = True
        (self.doubtful if spoilt else self.written).update(numbers)

    def record(self, recorder: EventRecorder, count: int) -> list[int]:
        """The numbers that were taken."""
        numbers = range(self.next, self.next + count)
        taken = [number for number in numbers if recorder.record(Numbered(number))]
        if not taken or taken != list(numbers):
            pytest.fail(f"refused: {recorder.status().to_dict()}\n" + "\n".join(self.unruly.log_handler.said[-60:]))
        self.next += count
        return taken

    def plant(self) -> None:
        things = [a_foreign_thing(self.rng, self.log, self.home / "outside") for _ in range(self.rng.randint(0, 12))]
        if self.rng.random() < 0.4:
            things.append(a_newer_log(self.rng, self.log))
        if not (self.log / QUOTA).exists() and not (self.log / QUOTA).is_symlink() and self.rng.random() < 0.2:
            write(self.log / QUOTA, self.rng.randbytes(self.rng.randint(0, 100)))
        if things and self.rng.random() < 0.3:
            self.unruly.system.unreadable.add(str(self.rng.choice(things)))
        for path in [*things, self.home / "outside"]:
            if path.exists() or path.is_symlink():
                self.foreign |= state_of(path)

    async def live(self) -> None:
        (self.home / "outside").mkdir(parents=True)
        for _ in range(self.rng.randint(0, 2)):
            await self.leave_a_log()
        self.log.mkdir(exist_ok=True)
        self.plant()
        system, wild = self.unruly.system, self.unruly.handler
        recorder, start = self.recorder(), self.next
        fails_early = self.rng.random() < 0.3
        wild.share = self.rng.choice([0.0, 0.1, 0.5, 1.0])
        share = self.rng.choice([0.0, 0.0, 0.01, 0.1])
        if fails_early:
            system.share = share
        try:
            await recorder.open()
        except (LogError, OSError):  # Told to the caller, who tries again.
            system.share = 0.0
            recorder = self.recorder()
            await recorder.open()
        system.share = share
        for _ in range(self.rng.randint(1, 12)):
            self.written.update(self.record(recorder, self.rng.randint(1, 20)))
            await anyio.sleep(self.rng.choice([0.0, 0.002, 0.02]))
        system.share = wild.share = 0.0
        self.written.update(self.record(recorder, 5))
        await self.all_is_well(recorder)
        system.share = self.rng.choice([0.0, 0.0, 0.1, 0.5])
        wild.share = self.rng.choice([0.0, 0.5, 1.0])
        self.written.update(self.record(recorder, 5))
        await self.end(recorder, start)
        async with self.recorder() as after:
            await self.all_is_well(after)
        assert_conserved(after.status(), offered=0)

    async def end(self, recorder: EventRecorder, start: int) -> None:
        """Close it; what it took is in its log then, or counted."""
        seconds, began = self.rng.choice([0.0, 0.1, 2]), time.monotonic()
        early = await recorder.close(seconds)
        assert time.monotonic() - began < seconds + CLOSING
        assert early.state == "closed"
        assert_conserved(early, offered=self.next - start)
        await self.until_free()
        self.unruly.system.share = self.unruly.handler.share = 0.0
        self.ended = status = recorder.status()
        assert_conserved(status, offered=self.next - start)
        lost = status.refused.get("not_written", 0)
        assert status.in_intake == 0, status.to_dict()
        assert status.refused == ({"not_written": lost} if lost else {})
        assert self.told["not_written"] == lost
        for name, part in status.subscriptions.items():
            assert part.end == status.appended, status.to_dict()
            assert self.told.total() >= lost + sum(part.dropped.values()), (name, self.told, status.to_dict())
        self.written -= set(range(self.next - lost, self.next))

    async def until_free(self) -> None:
        """Until no log is locked: the end of a recorder goes on where the disk takes longer than `close` may."""
        locked: list[Path] = []
        with anyio.move_on_after(PATIENCE):
            while locked := await anyio.to_thread.run_sync(self.locked):  # noqa: ASYNC110 - the system tells nobody
                await anyio.sleep(0.005)
        if locked:
            self.fail(f"locked: {locked}")

    def fail(self, what: str, *recorders: EventRecorder) -> None:
        """Fail, and say what there is."""
        accounts = [str(each.to_dict()) for each in (self.ended, *(each.status() for each in recorders)) if each]
        found = str(sorted(str(path.relative_to(self.log)) for path in self.log.rglob("*")))
        said = dict.fromkeys(self.unruly.log_handler.said)
        pytest.fail("\n".join([what, *accounts, found, str(self.unruly.system.unreadable), *said]))

    def locked(self) -> list[Path]:
        return [path for path in self.log.glob(f"*-*/{LOCK}") if is_held(path)]

    async def all_is_well(self, recorder: EventRecorder) -> None:
        """Until each written record is delivered, or dead, in both subscriptions."""
        missing: dict[str, list[int]] = {}
        with anyio.move_on_after(PATIENCE):
            while missing := await anyio.to_thread.run_sync(self.missing):
                recorder.resume(WILD)
                await anyio.sleep(0.01)
        if missing:
            self.fail(f"not delivered: {missing}", recorder)

    def missing(self) -> dict[str, list[int]]:
        fine = self.written - set(self.fine.delivered)
        wild = self.written - set(self.unruly.handler.delivered) - self.dead()
        return {name: sorted(each) for name, each in ((FINE, fine), (WILD, wild)) if each}

    def dead(self) -> set[int]:
        """The numbers that dead letters are about."""
        directory = self.log / DEAD
        with suppress(OSError):
            return {
                msgspec.json.decode(letter.entry[PAYLOAD])["number"]
                for id_ in list_runs(directory)
                for _, letter in letters_of(directory, id_)
            }
        return set()

    def check(self) -> None:
        for path, before in self.foreign.items():
            assert Path(path).exists() or Path(path).is_symlink(), f"{path} is gone"
            assert state_of(Path(path))[path] == before, f"{path} has changed"
        known = self.written | self.doubtful
        for delivered in (self.fine.delivered, self.unruly.handler.delivered):
            assert set(delivered) <= known | set(range(self.next)), "forged"
        assert self.dead() <= known
        gone = [numbers for run, numbers in self.flipped.items() if not run.exists()]
        wild = {*self.unruly.handler.delivered, *self.dead()}
        lost = [numbers - wild for numbers in gone] + [numbers - set(self.fine.delivered) for numbers in gone]
        if any(lost):
            told = self.told_before + self.told
            assert told["corrupt"] + told["lost"], f"lost in silence: {lost}"


def fuzz(home: Path, number: int, unruly: Callable[[random.Random], Any], monkeypatch: pytest.MonkeyPatch) -> None:
    rng = random.Random(SEED * 1_000_003 + number)
    run = Fuzz(rng, home / str(number), unruly(rng))
    logger = logging.getLogger("eventrec")
    logger.addHandler(run.unruly.log_handler)
    try:
        with run.unruly.system.installed():
            anyio.run(run.live, backend=rng.choice(["asyncio", "trio"]))
        run.check()
    except BaseException as exc:
        exc.add_note(f"EVENTREC_TEST_SEED={SEED}, run {number}")
        raise
    finally:
        logger.removeHandler(run.unruly.log_handler)
    shutil.rmtree(run.home)


def hasten(monkeypatch: pytest.MonkeyPatch) -> None:
    """Looks and tries again a hundred times as often."""
    for name in (
        "delivery.orphans.adoption.SCAN_SECONDS",
        "delivery.log_supervisor.SCAN_SECONDS",
        "delivery.retained_logs.FIRST_LOOK",
        "runs.measure.LOOKS_EVERY",
        "delivery.orphans.adoption.FIRST_PAUSE",
        "delivery.orphans.adoption.LONGEST_PAUSE",
        "delivery.orphans.queue.FIRST_PAUSE",
        "delivery.orphans.queue.LONGEST_PAUSE",
        "delivery.sources.log._PATIENCE",
        "delivery.supervisor._FIRST_PAUSE",
        "intake.writer._RETRY_SECONDS",
        "intake.writer._CLOSING_PAUSE",
        "intake.syncer._RETRY_SECONDS",
    ):
        monkeypatch.setattr(f"eventrec.{name}", 0.02)


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    hasten(monkeypatch)


@pytest.mark.slow
def test_nothing_is_lost_or_harmed_whatever_goes_wrong(
    tmp_path: Path, unruly: Callable[[random.Random], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(8):
        fuzz(tmp_path, number, unruly, monkeypatch)


@pytest.mark.faults
@pytest.mark.timeout(3_600)
@pytest.mark.parametrize("part", range(PARTS))
def test_nothing_is_lost_or_harmed_in_many_runs(
    tmp_path: Path, unruly: Callable[[random.Random], Any], monkeypatch: pytest.MonkeyPatch, part: int
) -> None:
    for number in range(part, RUNS, PARTS):
        fuzz(tmp_path, number, unruly, monkeypatch)
