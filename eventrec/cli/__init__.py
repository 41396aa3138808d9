"""The command `eventrec`, each of whose commands has an example in its `--help`.

    demo record tail new-handler            events, and where they go
    drain deliver status resume dead log    a log directory, and what waits in it
    relay bus                               a bus that many processes write, and what is taken from it
    serve token                             events over HTTP, and who may send and read them
    migrate refresh query                   a database, and what a catalogue declares
    doctor                                  whether all of it can work here
    catalogue                               what an application declares about its events
    analytics                               what a user says about being recorded

    exit code  it means
    0          all of it was done; of `deliver`, `relay`, `serve` and `refresh --every`, whose end is a signal: it ended
               in good order
    1          done, but lines were malformed, records were refused, a log has faults or is not delivered,
               the doctor found a problem, the demo's counts differ, or a change of a catalogue breaks something
    2          usage: unknown command or option, or a value that is not allowed
    3          the destination: its URL is wrong, it cannot be opened, or it will not take what is left
    4          a file, log or address named on the command line cannot be read, written or listened on
    5          a log that is to be changed is held by a process; the others are done
    6          it needs a package that is not installed; the error names the extra
    130        interrupted by Ctrl-C
    141        the reader of the output went away
    143        terminated

Errors are one line on stderr. What a machine may read goes to stdout, with `--json`.
"""

from __future__ import annotations

import sys
from importlib.util import find_spec
from typing import TYPE_CHECKING, Final

from eventrec.cli.exit_codes import ExitCode
from eventrec.cli.starting import start

if TYPE_CHECKING:
    from collections.abc import Sequence

_EXTRA: Final = frozenset({"cyclopts", "rich"})


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command that `arguments` (default: those of the process, which then is ours) ask for; its exit code."""
    if arguments is None:
        start.begin()
    missing = "rich" if find_spec("rich") is None else ""  # which is loaded where it is needed
    try:
        from eventrec.cli.running import run  # noqa: PLC0415 - what it needs may not be installed
    except ModuleNotFoundError as exc:
        missing = (exc.name or "").partition(".")[0]
        if missing not in _EXTRA:
            raise
    if missing:
        sys.stderr.write(f"eventrec: the command line needs {missing}: pip install 'eventrec[cli]'\n")
        return ExitCode.MISSING
    return run(sys.argv[1:] if arguments is None else arguments)
