"""`doctor`: what may be wrong with an installation, a log directory, a destination; one line each, and what to do."""

from __future__ import annotations

from pathlib import Path  # noqa: TC003 - cyclopts reads annotations
from typing import TYPE_CHECKING, Annotated, Final

import anyio
from cyclopts import Parameter

from eventrec.cli.doctor.directory import look_at_directory
from eventrec.cli.doctor.findings import Finding, Level, ok, problem
from eventrec.cli.doctor.logs import look_at_logs, newest_log
from eventrec.cli.doctor.python import look_at_checksum, look_at_clocks, look_at_environment, look_at_python
from eventrec.cli.exit_codes import CommandError, ExitCode
from eventrec.cli.logs.log_directory import check_log_directory, refuse_url
from eventrec.cli.terminal import Terminal
from eventrec.errors import DeliveryError, HandlerURLError, PauseError
from eventrec.registry import handler_from_url, resolve_url, scheme_of
from eventrec.runtime.logging import described, text_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from eventrec.handler import EventHandler

_PATIENCE: Final = 10.0
_STYLES: Final = {Level.OK: "", Level.WARNING: "yellow", Level.PROBLEM: "red"}


def doctor(
    directory: Path | None = None,
    /,
    *,
    to: str | None = None,
    json: Annotated[bool, Parameter(negative="")] = False,
) -> int:
    """Check what may be in the way of recording and delivering: one line for each finding, with what to do about it.

    Of a log directory it checks rights, file system, locks, the time a sync takes, room, and each log in it to the
    byte; it writes two small files there for a moment. A destination is opened and closed, as a recorder does: that may
    make the file or the tables it keeps its own state in. The exit code is 0 only where there is no problem.

    For example:

    ```sh
    eventrec doctor var/events --to sqlite:///events.db
    ```

    Args:
        directory: A log directory, which need not be there yet.
        to: The destination's URL; env:NAME takes it from the environment.
        json: Print JSON for a machine instead: one object.
    """
    terminal = Terminal()
    findings = []
    for finding in _findings(directory, to):
        findings.append(finding)
        if not json:
            terminal.show(str(finding), style=_STYLES[finding.level])
    worst = max((finding.level for finding in findings), key=list(Level).index)
    if json:
        terminal.show_json({"worst": str(worst), "findings": [finding.to_dict() for finding in findings]})
    return ExitCode.INCOMPLETE if worst is Level.PROBLEM else ExitCode.OK


def _findings(directory: Path | None, to: str | None) -> Iterator[Finding]:
    yield from look_at_python()
    yield look_at_environment()
    yield look_at_checksum()
    yield look_at_clocks(newest_log=None if directory is None else newest_log(directory))
    if directory is not None:
        yield from _of_log_directory(directory)
    if to is not None:
        yield look_at_destination(to)


def _of_log_directory(directory: Path) -> Iterator[Finding]:
    """Writes into it only where it is one, or is not there yet."""
    try:
        refuse_url(directory)
        is_there = directory.exists()
        if is_there:
            check_log_directory(directory)
    except (CommandError, OSError) as exc:
        yield problem("directory", str(exc), "name the log directory, or run as the user who may read it")
        return
    yield from look_at_directory(directory)
    if is_there:
        yield from look_at_logs(directory)


def look_at_destination(url: str) -> Finding:
    """Whether the handler that `url` asks for can be made, opened and closed."""
    try:
        scheme, handler = scheme_of(resolve_url(url)), handler_from_url(url)
    except HandlerURLError as exc:
        return problem("destination", str(exc), "correct the URL, or install what it needs")
    return anyio.run(_opened, scheme, handler)


async def _opened(scheme: str, handler: EventHandler) -> Finding:
    try:
        with anyio.fail_after(_PATIENCE):
            try:
                started = anyio.current_time()
                await handler.open()
                seconds = anyio.current_time() - started
            finally:
                await handler.close()
    except TimeoutError:
        return problem("destination", f"{scheme}: no answer within {_PATIENCE:.0f} s", "see whether it can be reached")
    except PauseError as exc:
        return problem("destination", f"{scheme}: {text_of(exc)}", "mend that: delivery waits for it")
    except DeliveryError as exc:
        return problem("destination", f"{scheme}: {text_of(exc)}", "see that it runs, and who may use it")
    except Exception as exc:  # noqa: BLE001 - foreign code
        return problem("destination", f"{scheme}: {described(exc)}", "see that it runs, and who may use it")
    return ok("destination", f"{scheme}: opened in {seconds * 1e3:,.0f} ms, and closed")
