"""Instructions, by callgrind: what a change makes slower shows here, however busy the machine is."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

from measured import Row, Way

WORK: Final = Path(__file__).with_name("counted_work.py")
PEERS: Final = ("deque.append + msgspec.json", "a model's own to_json")
_DUMP: Final = re.compile(r"^desc: Trigger: dump part_(\d+)_([12])$", re.MULTILINE)
_TOTAL: Final = re.compile(r"^totals: (\d+)$", re.MULTILINE)


def instructions() -> Row:
    """How many instructions each piece of `counted_work.py` takes; left out, and said, where valgrind is missing."""
    row = Row(
        name="instructions",
        what="instructions of our process, counted by callgrind",
        unit="instructions",
        better="lower",
        note="A number of this Python on this processor's instruction set: compare it with one of the same, before and"
        " after a change. It says nothing of caches, disks or waiting.",
    )
    if not (shutil.which("valgrind") and shutil.which("callgrind_control")):
        row.left_out.append("everything: valgrind is not installed (apt install valgrind)")
        return row
    with tempfile.TemporaryDirectory() as directory:
        command = [
            "valgrind",
            "--tool=callgrind",
            "--instr-atstart=no",
            f"--callgrind-out-file={directory}/out",
            sys.executable,
            str(WORK),
        ]
        environment = {**os.environ, "PYTHONHASHSEED": "0", "PYTHONPATH": os.pathsep.join(sys.path)}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            row.left_out.append(f"everything: valgrind ended with {done.returncode}: {done.stderr[-300:]}")
            return row
        totals: dict[tuple[int, int], int] = {}
        for path in Path(directory).glob("out.*"):
            said = path.read_text(encoding="utf-8", errors="replace")
            if (dump := _DUMP.search(said)) and (total := _TOTAL.search(said)):
                totals[int(dump[1]), int(dump[2])] = int(total[1])
    for line in done.stdout.splitlines():
        number, times, name = line.split(" ", 2)
        once, twice = totals[int(number), 1], totals[int(number), 2]
        row.ways.append(Way(name, [(twice - once) / int(times)], name not in PEERS))
    row.ask("record() of a dict / base", "record() of a dict", PEERS[0], at_most=2.2, aim="the aim in time")
    row.ask("record() of an EventModel / to_json", "record() of an EventModel", PEERS[1], at_most=1.5)
    return row
