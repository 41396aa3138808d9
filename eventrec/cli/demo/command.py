"""The command `demo`: its options, and what they may be."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import anyio
from cyclopts import Parameter

from eventrec.cli.demo.demo import Demo
from eventrec.cli.demo.serving import check_server
from eventrec.cli.exit_codes import CommandError, ExitCode
from eventrec.cli.root import Json  # noqa: TC001 - cyclopts reads annotations
from eventrec.cli.terminal import Terminal


def demo(
    *,
    directory: Annotated[Path, Parameter(name="--dir")] = Path("eventrec-demo"),
    events: int = 20_000,
    seconds: float = 5.0,
    serve: Annotated[bool, Parameter(negative="")] = False,
    json: Json = False,
) -> int:
    """Watch the events of a small shop being recorded, batched and stored in SQLite, with a SIGKILL halfway.

    The process that records the first half is killed; the next process delivers what the first one left in its log,
    and records the other half. Then the command prints the account of the recorder, and for each type how many events
    the shop made and how many the database holds. The exit code is 0 only if they are equal.

    For example:

    ```sh
    eventrec demo --events 50000 --serve
    ```

    Args:
        directory: Where the database goes: each run makes a new directory inside this one.
        events: How many events the shop makes.
        seconds: How long it takes to make them.
        serve: Then show all of it in a browser, on this machine, and go on with the shop until Ctrl-C.
        json: Print JSON for a machine instead.
    """
    if events < 0 or not 0 <= seconds <= 3_600:  # noqa: PLR2004 - an hour is long enough for a demo
        raise CommandError("--events is not negative, and --seconds is 0 to 3600", ExitCode.USAGE)
    if serve:
        check_server()
    terminal = Terminal()
    made = Demo(directory, events=events, seconds=seconds, terminal=terminal, is_served=serve)
    with terminal.showing_logging():
        return anyio.run(made.run_and_tell, json)
