"""`resume`: let a paused subscription go on, in whatever processes deliver it."""

from __future__ import annotations

import time
from pathlib import Path  # noqa: TC003 - cyclopts reads annotations
from typing import Annotated, Literal

from cyclopts import Parameter

from eventrec.cli.exit_codes import CommandError, ExitCode
from eventrec.cli.logs.directory import see_again
from eventrec.cli.logs.letters import known_names, refuse_unknown, waiting_letters
from eventrec.cli.terminal import Terminal
from eventrec.runs.holds import CHANGED, held_in
from eventrec.runs.requests import OperatorRequest, save_request


def resume(
    directory: Path,
    name: str,
    /,
    *,
    start: Annotated[Literal["earliest", "latest"] | None, Parameter(name="--from")] = None,
) -> int:
    """Let a paused subscription go on at once: after a bad deploy, new credentials, or another destination.

    The processes that deliver from the log directory do so within seconds, or the next one when it starts.

    For example:

    ```sh
    eventrec resume var/events postgres --from latest
    ```

    Args:
        directory: A log directory.
        name: The subscription.
        start: Where another destination answers than before: "earliest" sends it all that is kept, "latest" what was
            not delivered to the one before. There it is needed: else the exit code is 2, and nothing is asked.
    """
    refuse_unknown(directory, name, known_names(directory, waiting_letters(directory)))
    if start is None and held_in(see_again(directory)).get(name) == CHANGED:
        raise CommandError(
            f"{name} is paused, since another destination answers than before: --from earliest sends it all that is "
            "kept, --from latest what was not delivered to the one before; where that one answers again, it goes on by "
            "itself",
            ExitCode.USAGE,
        )
    save_request(directory, OperatorRequest(subscription=name, asked=time.time(), start=start))
    Terminal().show(f"{name} will go on")
    return ExitCode.OK
