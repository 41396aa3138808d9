"""`drain`: deliver what a log directory still holds, and nothing else."""

from __future__ import annotations

from pathlib import Path  # noqa: TC003 - cyclopts reads annotations
from typing import TYPE_CHECKING

import anyio
import anyio.to_thread

from eventrec.cli.directory import existing
from eventrec.cli.exit_codes import CommandError, ExitCode
from eventrec.cli.terminal import Terminal
from eventrec.errors import LogError
from eventrec.log.runs import is_locked, list_runs
from eventrec.recorder import EventRecorder

if TYPE_CHECKING:
    from uuid import UUID

_LOOKS_EVERY = 0.1


def drain(directory: Path, /, *, to: str, name: str | None = None, timeout: float | None = None) -> int:
    """Deliver what a log directory still holds: every log in it that no process holds. The exit code is 0 if all went.

    For example:

    ```sh
    eventrec drain var/events --to sqlite:///events.db
    ```

    Args:
        directory: A log directory.
        to: The destination's URL; env:NAME takes it from the environment.
        name: The subscription's name, where it is not the URL's scheme.
        timeout: Seconds after which it gives up; the exit code is then 1.
    """
    existing(directory)
    terminal = Terminal()
    with terminal.showing_logging():
        return anyio.run(_drain, directory, to, terminal, name, timeout)


async def _drain(directory: Path, to: str, terminal: Terminal, name: str | None, seconds: float | None) -> int:
    recorder = EventRecorder(log=directory)
    recorder.register(to, name=name)
    orphans = await anyio.to_thread.run_sync(_orphans, directory)
    left = set(orphans)
    try:
        async with recorder:
            with anyio.move_on_after(seconds):
                while left:
                    await anyio.sleep(_LOOKS_EVERY)
                    left &= await anyio.to_thread.run_sync(lambda: set(list_runs(directory)))
                    held = [part.state for log in recorder.status().adopted.values() for part in log.values()]
                    if any(state.startswith("paused") for state in held):
                        raise CommandError(f"the destination takes no more, {held[0]}", ExitCode.DESTINATION)
    except LogError as exc:
        raise CommandError(str(exc), ExitCode.FILE) from exc
    terminal.show(f"{len(orphans) - len(left):,} of {len(orphans):,} logs delivered")
    return ExitCode.INCOMPLETE if left else ExitCode.OK


def _orphans(directory: Path) -> set[UUID]:
    return {id_ for id_ in list_runs(directory) if not is_locked(directory, id_)}
