"""Runs a command, and makes one line on stderr and an exit code of what goes wrong."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, cast

from cyclopts import CycloptsError

from eventrec.cli.commands import COMMANDS, app_of
from eventrec.cli.exit_codes import CommandError, ExitCode
from eventrec.cli.root import STDIN
from eventrec.cli.starting import start
from eventrec.cli.streams import abandon_output, prepare_streams
from eventrec.cli.terminal import Terminal
from eventrec.cli.termination import Termination
from eventrec.errors import DeliveryError, EventrecError, HandlerURLError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cyclopts import App
    from rich.console import Console


def run(arguments: Sequence[str]) -> int:
    """Run one command; its exit code. Whatever is wrong becomes one line on stderr."""
    prepare_streams()
    with Termination() as termination:
        try:
            return _run([STDIN if argument == "-" else argument for argument in arguments])
        except KeyboardInterrupt:
            Terminal().say(f"eventrec: {'terminated' if termination.is_asked else 'interrupted'}")
            return ExitCode.TERMINATED if termination.is_asked else ExitCode.INTERRUPTED
        finally:
            abandon_output()


def _run(arguments: Sequence[str]) -> int:
    terminal = Terminal()
    try:
        command, bound, _ = _app(arguments).parse_args(
            arguments, console=_console(terminal), print_error=False, exit_on_error=False
        )
        return int(command(*bound.args, **bound.kwargs) or 0)
    except Exception as exc:
        message, code = _explained(exc)
        if message is None:
            raise
    if message:
        terminal.say(f"eventrec: {' '.join(message.replace(STDIN, '-').split())}", style="red")
    return code


def _explained(exc: BaseException) -> tuple[str | None, ExitCode]:
    """One line for the operator, and the exit code; None for an error that only a traceback explains."""
    message, code = str(exc), ExitCode.FILE
    match exc:
        case CycloptsError():
            message, code = f"{exc} (see eventrec --help)", ExitCode.USAGE
        case CommandError():
            code = exc.code
        case HandlerURLError() | DeliveryError():
            code = ExitCode.DESTINATION
        case EventrecError():
            pass
        case BrokenPipeError():
            message, code = "", ExitCode.BROKEN_PIPE
        case OSError():
            named = exc.filename if isinstance(exc.filename, str | os.PathLike) else None
            message = f"{named}: {exc.strerror}" if named else str(exc)
        case BaseExceptionGroup():
            # Of tasks that ran beside each other. Where one of them is a fault of ours, all are shown.
            explained = [_explained(each) for each in exc.exceptions]
            return (None, ExitCode.FILE) if any(each is None for each, _ in explained) else explained[0]
        case _:
            return None, ExitCode.FILE
    return message, ExitCode.MISSING if _lacks_package(exc) else code


def _lacks_package(exc: BaseException) -> bool:
    """Whether what is wrong comes from a package that is not installed: a driver, zstd."""
    cause: BaseException | None = exc
    while cause is not None and not isinstance(cause, ModuleNotFoundError):
        cause = cause.__cause__
    return cause is not None


def _app(arguments: Sequence[str]) -> App:
    """The command that is meant, where it is named, since the others would double its start; else all of them."""
    named = [name for name in arguments[:1] if name in COMMANDS]
    if named:
        app = app_of(named)
    else:
        from eventrec.cli.app import app  # noqa: PLC0415 - all of them
    if named != ["record"]:  # which imports more once it knows where to, and ends the start itself
        start.end()
    return app


def _console(terminal: Terminal) -> Console:
    """That of `terminal`, which is made only where help is asked for."""
    return cast("Console", _OnDemand(terminal))


class _OnDemand:
    def __init__(self, terminal: Terminal) -> None:
        self._terminal = terminal

    def __getattr__(self, name: str) -> Any:
        return getattr(self._terminal.out, name)
