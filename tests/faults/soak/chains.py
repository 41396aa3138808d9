"""A chain: lives that share a log directory and destinations, every fault between and in them, and what is left.

What must hold at its end, for each destination: what was told to be written or synced is there, or is one dead letter
if the destination refuses it for good, or stood in a commit that was damaged, and then a loss was told; nothing is
there twice; nothing that was not recorded; of each producer everything before the last that is there.
"""

from __future__ import annotations

import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Self
from uuid import uuid4

from damaging import Damage, damage_segment, damage_small_file, small_files
from destinations import Destination, Servers, mend
from eventrec.delivery.letters.log import letters_of
from eventrec.records.entry import PAYLOAD
from eventrec.runs.directory import DEAD, list_runs
from soak_writer import FORKED, FULL, NO_ROOM, OFFERED, REFUSED, STEPPED, SYNCED, WRITTEN
from steps import STEPS

WRITER: Final = Path(__file__).with_name("soak_writer.py")
EVENTS: Final = 30
CHILD_EVENTS: Final = 10
LIVES: Final = 14
NUMBERS: Final = 3 * LIVES * (EVENTS + CHILD_EVENTS)
OFTEN: Final = {"before fetching", "fetched", "before sending", "before the commit", "committed", "sent"}
HOURS: Final = 3_600.0


class Mortals:
    """The program `soak_writer.py`, which lives as often as it is asked to."""

    def __init__(self, errors: Path) -> None:
        self._errors = errors

    def __enter__(self) -> Self:
        with self._errors.open("ab") as errors:
            self._process = subprocess.Popen(
                [sys.executable, WRITER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors
            )
        return self

    def __exit__(self, *_: object) -> None:
        with self._process as process:
            process.kill()

    def live(self, life: dict[str, Any]) -> dict[str, Any]:
        """Let one live and die; what it has told."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(life).encode() + b"\n")
        self._process.stdin.flush()
        told = self._process.stdout.readline()
        assert told, f"no answer from a life: {self._errors.read_text()[-4_000:]}"
        found: dict[str, Any] = json.loads(told)
        return found


@dataclass
class Chain:
    """One directory, its destinations, and what is known of every event. `counts` is what the soak prints."""

    home: Path
    rng: random.Random
    servers: Servers
    mortals: tuple[Mortals, Mortals]
    counts: Counter[str]
    lives: int = LIVES
    blocks: list[range] = field(default_factory=list)
    """The numbers of each producer, children of forks among them."""
    damages: list[Damage] = field(default_factory=list)
    foreign: dict[Path, bytes] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.log = self.home / "log"
        self.states = self.home / "states"
        self.drops = self.home / "drops"
        self.plan = self.home / "plan.jsonl"
        self.log.mkdir()
        self.states.write_bytes(bytes(NUMBERS))
        self.drops.touch()
        name = self.home.name.replace("-", "_")
        self.destinations: list[Destination] = self.servers.destinations(self.home, name, self.rng)

    def run(self) -> None:
        """Live, damage, plant, and live again; then let the last one deliver, and look at what there is.

        Raises:
            AssertionError: A promise was broken.
        """
        try:
            for number in range(self.lives):
                if number and self.rng.random() < 0.4:
                    self.damage()
                if self.rng.random() < 0.25:
                    self.plant()
                if self.rng.random() < 0.2:
                    self.live_two_at_once()
                else:
                    self.live_one(self.some_life())
            mend(self.servers.proxies)
            self.live_one(self.life(events=0, ends="drained"))
        finally:
            mend(self.servers.proxies)
        self.check()

    # -- lives

    def block(self, count: int) -> int:
        """The first of so many numbers that no other has."""
        first = self.blocks[-1].stop if self.blocks else 0
        assert first + count <= NUMBERS
        self.blocks.append(range(first, first + count))
        return first

    def life(self, *, events: int = EVENTS, **how: Any) -> dict[str, Any]:
        """One without a fault but those of `how`."""
        return {
            "urls": {each.name: each.url for each in self.destinations},
            "log": str(self.log),
            "states": str(self.states),
            "drops": str(self.drops),
            "backend": self.rng.choice(["asyncio", "trio"]),
            "first": self.block(events),
            "events": events,
            "foreign": [path.name for path in self.foreign],
            **how,
        }

    def some_life(self) -> dict[str, Any]:
        """One with a few of all faults, which mostly is killed."""
        rng = self.rng
        life = self.life(ends=rng.choice(["drained", "flushed", "flushed", "hurried"]))
        first = life["first"]
        match rng.random():
            case share if share < 0.45:
                step = rng.choice([step for step in STEPS if step != "commit under way"])
                life |= {"step": step, "nth": rng.randint(1, 12 if step in OFTEN else 3)}
            case share if share < 0.9:
                life |= {"seconds": rng.uniform(0.01, 0.5)}
        if rng.random() < 0.3:
            begin = rng.randint(0, EVENTS - 8)
            life |= {"full": [first + begin, first + begin + rng.randint(2, 8)]}
        if rng.random() < 0.3:
            steps = rng.sample(range(EVENTS), rng.randint(1, 3))
            life |= {"clock": {first + each: rng.choice([-1, 1]) * rng.uniform(0.5, 48 * HOURS) for each in steps}}
        if rng.random() < 0.25:
            life |= {
                "forks_at": first + rng.randrange(EVENTS),
                "child_first": self.block(CHILD_EVENTS),
                "child_events": CHILD_EVENTS,
                "child_is_killed": rng.random() < 0.4,
            }
        for destination in self.destinations:
            if destination.proxy is not None and rng.random() < 0.6:
                destination.prepare_cuts(rng)
        return life

    def live_one(self, life: dict[str, Any], *, mortals: int = 0) -> None:
        """Let it live, count what came of it."""
        with self.plan.open("a") as plan:
            plan.write(json.dumps(life) + "\n")
        cuts = self._cuts()
        with self._dropping(life):
            death = self.mortals[mortals].live(life)
        assert death["code"] in (0, -signal.SIGKILL), f"a life ended with {death['code']}: {life}"
        is_killed = death["code"] != 0
        assert not is_killed or life.get("step") or life.get("seconds"), f"killed by another: {life}"
        self.counts["lives"] += 1
        self.counts["SIGKILLs"] += is_killed + (death["counts"][FORKED] and life.get("child_is_killed", False))
        self.counts["SIGKILLs at a step"] += is_killed and life.get("step") is not None
        self.counts["connections cut"] += self._cuts() - cuts
        for kind, place in {
            "full disks": FULL,
            "calls that found no room": NO_ROOM,
            "steps of the clock": STEPPED,
        }.items():
            self.counts[kind] += death["counts"][place]
        self.counts["forks"] += death["counts"][FORKED]

    def live_two_at_once(self) -> None:
        """Two processes in one directory, each with its faults; neither waits for the other's log."""
        two = [self.some_life() | {"ends": self.rng.choice(["flushed", "hurried"])} for _ in range(2)]
        failed: list[BaseException] = []

        def live(number: int) -> None:
            try:
                self.live_one(two[number], mortals=number)
            except BaseException as exc:  # noqa: BLE001 - raised again below, in the thread of the chain
                failed.append(exc)

        threads = [threading.Thread(target=live, args=(number,)) for number in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if failed:
            raise failed[0]
        self.counts["two processes at once"] += 1

    def _cuts(self) -> int:
        return sum(proxy.cuts for proxy in self.servers.proxies)

    @contextmanager
    def _dropping(self, life: dict[str, Any]) -> Iterator[None]:
        """In the middle of some lives every connection breaks."""
        if "seconds" not in life or self.rng.random() < 0.5:
            yield
            return
        timers = [threading.Timer(self.rng.uniform(0, life["seconds"]), proxy.drop) for proxy in self.servers.proxies]
        for timer in timers:
            timer.start()
        yield
        for timer in timers:
            timer.cancel()
            timer.join()

    # -- between lives, when no process is alive

    def damage(self) -> None:
        """Spoil one or two files of the logs that are there: no segment twice, of which the first reading would lie."""
        spoilt = {damage.path for damage in self.damages}
        for _ in range(self.rng.randint(1, 2)):
            runs = [self.log / str(id_) for id_ in list_runs(self.log)]
            segments = [path for run in runs for path in sorted(run.glob("*.stdb.log")) if path not in spoilt]
            segments = [path for path in segments if path.stat().st_size]
            others = [path for run in runs for path in small_files(run)]
            if segments and self.rng.random() < 0.5:
                made = damage_segment(self.rng, self.rng.choice(segments))
            elif others:
                made = damage_small_file(self.rng, self.rng.choice(others))
            else:
                return
            spoilt.add(made.path)
            self.damages.append(made)
            self.counts[made.kind] += 1
            with self.plan.open("a") as plan:
                plan.write(
                    json.dumps({"damage": made.kind, "path": str(made.path), "at": made.at, "lost": sorted(made.lost)})
                    + "\n"
                )

    def plant(self) -> None:
        """Put something into the directory that is not ours, whatever its name looks like."""
        name = self.rng.choice([str(uuid4()), f".new-{uuid4()}", f"gone-{uuid4()}", "notes", uuid4().hex])
        path = self.log / name
        if path in self.foreign:
            return
        content = self.rng.randbytes(self.rng.randint(0, 200))
        match self.rng.randrange(4):
            case 0:
                path.write_bytes(content)
            case 1:
                path.mkdir()
                (path / "lock").write_bytes(content)
                (path / "00000000000000000000.stdb.log").write_bytes(b"(ds)^2\x01\0\0\0" + content)
            case 2:
                path.symlink_to(self.home / "elsewhere")
            case _:
                with socket.socket(socket.AF_UNIX) as listening, suppress(OSError):
                    listening.bind(str(path))
                if not path.exists():
                    path.write_bytes(content)
        self.foreign[path] = state_of(path)
        self.counts["foreign things planted"] += 1

    # -- the oracle

    def check(self) -> None:
        """Compare what was told with what each destination holds."""
        states = self.states.read_bytes()
        told = {number for number, state in enumerate(states) if state in (WRITTEN, SYNCED)}
        offered = {number for number, state in enumerate(states) if state >= OFFERED and state != REFUSED}
        may_be_lost = frozenset().union(*(damage.lost for damage in self.damages))
        self.counts["events recorded"] += len(offered)
        self.counts["told to be written"] += len(told)
        self.counts["told to be synced"] += states.count(SYNCED)
        wrong: list[str] = []
        missing: set[int] = set()
        letters = letters_in(self.log)
        for destination in self.destinations:
            stored, dead = destination.numbers(), letters.get(destination.name, [])
            settled = {*stored, *dead}
            gone = told - settled - may_be_lost
            self.counts["written lost"] += len(gone)
            self.counts["synced lost"] += sum(states[number] == SYNCED for number in gone)
            twice = [number for number, times in Counter(stored).items() if times > 1]
            twice_dead = [number for number, times in Counter(dead).items() if times > 1]
            self.counts["doubled"] += len(twice)
            self.counts[f"rows in {destination.name}"] += len(stored)
            self.counts["dead letters"] += len(dead)
            missing |= (told & may_be_lost) - settled
            problems = {
                "told and missing": sorted(gone),
                "stored twice": twice,
                "two letters": twice_dead,
                "stored and dead": sorted(set(stored) & set(dead)),
                "stored and refused": [number for number in stored if destination.refuses(number)],
                "dead and fine": [number for number in dead if not destination.refuses(number)],
                "never recorded": sorted(settled - offered),
                "holes": self.holes(settled | may_be_lost, offered),
            }
            wrong += [f"{destination.name}: {what}: {found}" for what, found in problems.items() if found]
        self.counts["lost by damage, and told"] += len(missing)
        flips_only = not any(damage.kind == "segments cut" for damage in self.damages)
        drops = self.drops.read_text()
        if missing and flips_only and "corrupt" not in drops and "lost" not in drops:
            wrong.append(f"lost in silence: {sorted(missing)}")
        wrong += [f"changed: {path}" for path, before in self.foreign.items() if state_of(path) != before]
        if runs := list_runs(self.log):
            wrong.append(f"logs are left: {runs}")
        assert not wrong, "\n".join(wrong)

    def holes(self, settled: set[int] | frozenset[int], offered: set[int]) -> list[int]:
        """Of each producer, what it recorded before the last event that arrived, and that did not."""
        found: list[int] = []
        for block in self.blocks:
            last = max((number for number in block if number in settled), default=-1)
            found += [number for number in block if number < last and number in offered and number not in settled]
        return found


def state_of(path: Path) -> bytes:
    """Kind, mode and content of something; of a directory also those of what is in it."""
    if path.is_symlink():
        return b"link " + os.fsencode(path.readlink())
    if path.is_dir():
        return b"".join([b"%o" % path.stat().st_mode, *(state_of(each) for each in sorted(path.iterdir()))])
    return b"%o " % path.stat().st_mode + (path.read_bytes() if path.is_file() else b"")


def letters_in(log: Path) -> dict[str, list[int]]:
    """The numbers that dead letters are about, by subscription."""
    found: dict[str, list[int]] = {}
    for id_ in list_runs(log / DEAD):
        for _, letter in letters_of(log / DEAD, id_):
            number = int(re.findall(rb'"number":(\d+)', letter.entry[PAYLOAD])[0])
            found.setdefault(letter.subscription, []).append(number)
    return found
