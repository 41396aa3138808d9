"""Makes runs, or deletes them, in children that die before one system call after the other; tells how many there are.

    dying_runs.py DIRECTORY make|delete

Ends with an error where something of one stays in the directory for ever. A process of its own: it forks, and has one
thread.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from eventrec.log.log import Log
from eventrec.runs import leftovers
from eventrec.runs.directory import list_runs
from eventrec.runs.run import Run, new_run_id

CALLS = ("mkdir", "open", "close", "fstat", "stat", "fchmod", "chmod", "rename", "unlink", "rmdir", "fsync", "replace")


def is_killed(work: Callable[[], object], *, before_call: int) -> bool:
    """Whether a child that does `work` dies before that system call; False: it makes fewer."""
    child = os.fork()
    if not child:
        left = before_call

        def mortal(call: Callable[..., Any]) -> Callable[..., Any]:
            def called(*arguments: Any, **options: Any) -> Any:
                nonlocal left
                left -= 1
                if not left:
                    os._exit(9)
                return call(*arguments, **options)

            return called

        for name in CALLS:
            setattr(os, name, mortal(getattr(os, name)))
        work()
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9


def check_that_all_goes(directory: Path, step: int) -> None:
    """What is left there, if anything, is swept, or an orphan that can be retired."""
    leftovers.sweep(directory)
    for id_ in list_runs(directory):
        if (run := Run.adopt(directory, id_)) is not None:
            run.retire()
    left = list(directory.rglob("*"))
    if left:
        sys.exit(f"killed before call {step}: {left}")


def make(directory: Path) -> int:
    """Die while a run is made: before how many calls."""
    steps = 0
    while is_killed(lambda: Run.create(directory, new_run_id()), before_call=steps + 1):
        steps += 1
        check_that_all_goes(directory, steps)
    return steps


def delete(directory: Path) -> int:
    """Die while a run is deleted: before how many calls."""
    steps = 0
    while True:
        run = Run.create(directory, new_run_id())
        Log.create(run.storage).close()
        if not is_killed(run.retire, before_call=steps + 1):
            return steps
        run.release()
        steps += 1
        check_that_all_goes(directory, steps)


if __name__ == "__main__":
    leftovers.LEFTOVER_SECONDS = -1  # type: ignore[misc]
    steps = {"make": make, "delete": delete}[sys.argv[2]](Path(sys.argv[1]))
    sys.stdout.write(f"{steps}\n")
