"""The soak: every fault at once, for minutes, from a seed; what was promised is compared with what there is.

    nox -s faults -- --minutes 20 --seed 7
    python tests/faults/soak/soak.py --minutes 20 --seed 7 [--only chain-17] [--keep DIR] [--no-servers]

Two lanes run beside each other until the time is up. One lives chains (`chains.py`): processes that record into one
directory and are killed, with connections that are cut, full disks, clocks that step, forks, damaged files, things that
are not ours. The other flips and cuts bytes in memory (`flips.py`) and runs the state machines (`machines.py`), in
turn. Each unit of either has a name, as `chain-17`, and a chance of its own from the seed and that name: `--only` runs
it alone. A unit that fails leaves its directory, its plan and what was said in DIR; the others go on. At the end the
counts of each kind are printed. Exit code 1: a unit failed.
"""

from __future__ import annotations

import argparse
import json
import logging
import random
import shutil
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from chains import LIVES, Chain, Mortals
from destinations import Servers
from flips import check_some
from machines import Machines

MUST_BE_NONE: Final = ("written lost", "synced lost", "doubled")
KEPT: Final = Path(__file__).parents[3] / ".nox" / "soak"
"""Where counter-examples go. Git ignores it."""


class Soak:
    """What both lanes share: the seed, the time that is left, the counts, and what failed."""

    def __init__(self, given: argparse.Namespace) -> None:
        self.given = given
        self.until = time.monotonic() + given.minutes * 60
        self.counts: Counter[str] = Counter(dict.fromkeys(MUST_BE_NONE, 0))
        self.failed: list[str] = []
        self.kept = Path(given.keep) / f"seed-{given.seed}"

    def units(self, *kinds: str) -> Iterator[str]:
        """The names of the units to run, these kinds in turn, until the time is up; or the one that was asked for."""
        if self.given.only:
            if self.given.only.partition("-")[0] in kinds:
                yield self.given.only
            return
        number = 0
        while time.monotonic() < self.until and (not self.given.units or number < self.given.units):
            yield from (f"{kind}-{number}" for kind in kinds)
            number += 1

    def chance(self, name: str) -> random.Random:
        """The chance of a unit."""
        return random.Random(f"{self.given.seed} {name}")

    @contextmanager
    def guarded(self, name: str, *where: Path) -> Iterator[None]:
        """Whatever `name` raises is kept, with what lies at `where`, and the soak goes on."""
        try:
            yield
        except Exception:  # noqa: BLE001 - a unit that fails is a result
            self.failed.append(name)
            kept = self.kept / name
            shutil.rmtree(kept, ignore_errors=True)
            kept.mkdir(parents=True)
            said = traceback.format_exc()
            (kept / "failure.txt").write_text(said, encoding="utf-8")
            for path in where:
                copied = shutil.copytree if path.is_dir() else shutil.copy2
                copied(path, kept / path.name)
            print(f"FAILED {name}, kept in {kept}\n{said[-3_000:]}", file=sys.stderr, flush=True)

    def live_chains(self) -> None:
        """The lane of processes."""
        with tempfile.TemporaryDirectory(prefix="eventrec-soak-") as directory:
            home = Path(directory)
            said = [home / f"said-{number}.txt" for number in range(2)]
            with (
                Servers(wanted=not self.given.no_servers) as servers,
                Mortals(said[0]) as first,
                Mortals(said[1]) as second,
            ):
                for missing in servers.missing:
                    print(f"left out: {missing}", flush=True)
                for name in self.units("chain"):
                    own = home / name
                    own.mkdir()
                    mortals = (first, second)
                    with self.guarded(name, own, *said):
                        chain = Chain(own, self.chance(name), servers, mortals, self.counts, lives=self.given.lives)
                        chain.run()
                    self.counts["chains"] += 1
                    shutil.rmtree(own)
                    for each in said:
                        each.write_bytes(b"")  # They are opened for appending.

    def work_in_memory(self) -> None:
        """The lane of bytes and machines."""
        logging.getLogger("eventrec").setLevel(logging.CRITICAL + 1)
        machines = Machines()
        for name in self.units("flips", "machines"):
            chance = self.chance(name)
            with self.guarded(name):
                if name.startswith("flips"):
                    check_some(chance, self.counts, count=self.given.flips)
                else:
                    machines.run(chance.randrange(1 << 32), self.counts, examples=self.given.examples)

    def to_json(self) -> str:
        """What a lane tells the other."""
        return json.dumps({"counts": self.counts, "failed": self.failed})

    def add(self, told: dict[str, Any]) -> None:
        """Take over what the other lane told."""
        self.counts.update(told["counts"])
        self.failed += told["failed"]


def parsed(arguments: list[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="soak", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--minutes", type=float, default=20.0, help="how long units are begun (default: 20)")
    parser.add_argument("--seed", type=int, default=None, help="where all chance begins (default: by the clock)")
    parser.add_argument("--only", default="", metavar="UNIT", help="one unit alone, as chain-17, flips-3, machines-8")
    parser.add_argument("--units", type=int, default=0, help="at most so many units of each kind (default: no bound)")
    parser.add_argument("--lives", type=int, default=LIVES, help=f"lives of a chain (default: {LIVES})")
    parser.add_argument("--flips", type=int, default=2_000, help="faults of a unit of flips (default: 2000)")
    parser.add_argument("--examples", type=int, default=20, help="runs of a machine in a unit (default: 20)")
    parser.add_argument("--keep", default=str(KEPT), metavar="DIR", help="where counter-examples go (.nox/soak)")
    parser.add_argument("--no-servers", action="store_true", help="files alone: SQLite and JSON Lines")
    parser.add_argument("--in-memory", action="store_true", help=argparse.SUPPRESS)
    found = parser.parse_args(arguments)
    found.seed = int(time.time()) if found.seed is None else found.seed
    return found


def report(soak: Soak, seconds: float) -> None:
    """Print the counts of each kind, what must be none last."""
    print(f"seed {soak.given.seed}, {seconds / 60:.1f} minutes")
    for kind, count in sorted(soak.counts.items()):
        if kind not in MUST_BE_NONE:
            print(f"{count:>12,}  {kind}")
    for kind in MUST_BE_NONE:
        print(f"{soak.counts[kind]:>12,}  {kind}")
    print(
        f"{len(soak.failed):>12,}  units that failed{': ' if soak.failed else ''}{', '.join(soak.failed)}", flush=True
    )


def main(arguments: list[str]) -> int:
    """Run both lanes; 1 where a unit failed, or a count that must be none is not."""
    given = parsed(arguments)
    soak = Soak(given)
    if given.in_memory:
        soak.work_in_memory()
        print(soak.to_json())
        return 0
    start = time.monotonic()
    print(f"soak: --seed {given.seed} --minutes {given.minutes:g}", flush=True)
    command = [sys.executable, __file__, *arguments, "--seed", str(given.seed), "--in-memory"]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as other:
        try:
            soak.live_chains()
            told, _ = other.communicate()
        except BaseException:
            other.kill()
            raise
    if other.returncode:
        raise SystemExit("the lane in memory ended early: see above")
    soak.add(json.loads(told.splitlines()[-1]))
    report(soak, time.monotonic() - start)
    return int(bool(soak.failed) or any(soak.counts[kind] for kind in MUST_BE_NONE))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
