"""What a user may look at and decide, as commands: `eventrec analytics`, or an application's own.

enable | disable    opt in, opt out
status              whether anything is recorded, and if not, why
details             what is kept, and where
clear               delete the choice, and what was not sent; asks before each, and only `y` deletes
email ADDR          let the application know an email address
config              the choice as JSON; `null` where there is none
"""

from __future__ import annotations

import json
import os
import sys
from typing import TYPE_CHECKING, Final

from eventrec.consent.choices import ChoicesFile
from eventrec.consent.decision import Decision, decide
from eventrec.consent.places import places_of
from eventrec.consent.variables import DO_NOT_TRACK
from eventrec.errors import ConsentError, OptionsError
from eventrec.usage.clearing import clear_sessions, sessions_in

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

OK: Final = 0
INCOMPLETE: Final = 1
USAGE: Final = 2
FILE: Final = 4
HELD: Final = 5
"""What commands end with: a part of the table in `eventrec.cli`."""

_MAX_ADDRESS: Final = 254
_WITHOUT_ARGUMENT: Final = ("enable", "disable", "status", "details", "clear", "config")


def run_analytics_command(
    app: str, arguments: Sequence[str], *, command: str | None = None, environment: Mapping[str, str] = os.environ
) -> int:
    """Run one of the commands above for `app`, as the application's own; its exit code.

        sys.exit(run_analytics_command("my-app", sys.argv[2:]))  # of: my-app analytics disable

    Results go to stdout, all else to stderr; `clear` asks on stdin. `command` is what the user has typed before the
    arguments, for the help (default: APP analytics). Exit codes: 0; 1: `clear` has left something; 2: usage; 4: a file
    cannot be read or written; 5: a session belongs to a process that runs.
    """
    said = command or f"{app} analytics"
    try:
        commands = UsageCommands(app, command=said, environment=environment, say=_say, show=_show, ask=_ask)
        return commands.run(arguments)
    except OptionsError as exc:
        code, message = USAGE, str(exc)
    except ConsentError as exc:
        code, message = FILE, str(exc)
    except OSError as exc:
        code, message = FILE, f"{exc.filename}: {exc.strerror}" if exc.filename else str(exc)
    _say(f"{said}: {message}")
    return code


class UsageCommands:
    """The commands for one application. `show` takes a line of a result, `say` one of the rest; `ask` gives an answer.

    Raises:
        OptionsError: `app` is not the name of an application.
        ConsentError: The user has no home directory.
    """

    def __init__(
        self,
        app: str,
        *,
        command: str,
        say: Callable[[str], object],
        show: Callable[[str], object],
        ask: Callable[[str], str],
        environment: Mapping[str, str] = os.environ,
    ) -> None:
        self.app = app
        self._places = places_of(app, environment)
        self._file = ChoicesFile(self._places.choices)
        self._command = command
        self._environment = environment
        self._say, self._show, self._ask = say, show, ask

    def run(self, arguments: Sequence[str]) -> int:
        """Run what `arguments` name; the exit code. Raises ConsentError, and OSError from `clear`."""
        match list(arguments):
            case [name] if name in _WITHOUT_ARGUMENT:
                verb: Callable[[], int] = getattr(self, name)
                return verb()
            case ["email", address]:
                return self.email(address)
            case ["--help" | "-h" | "help"]:
                self._show(f"Usage: {self._command} {'|'.join(_WITHOUT_ARGUMENT)}|email ADDR")
                self._show("")
                for line in (__doc__ or "").splitlines()[2:]:
                    self._show(line)
                return OK
            case _:
                self._say(f"Usage: {self._command} {'|'.join(_WITHOUT_ARGUMENT)}|email ADDR (--help)")
                return USAGE

    def enable(self) -> int:
        """Opt in. Raises ConsentError."""
        self._file.change(enabled=True)
        self._show(f"{self.app} may record how it is used, from its next start on")
        decision = self._decision()
        if not decision.is_on:
            self._show(f"but it does not: {decision.why_off}")
        return OK

    def disable(self) -> int:
        """Opt out. Raises ConsentError."""
        self._file.change(enabled=False)
        self._show(f"{self.app} does not record how it is used, from its next start on")
        count, size = sessions_in(self._places.data)
        if count:
            self._show(f"{_sessions(count, size)} stay, and are not sent: {self._command_for('clear')} deletes them")
        return OK

    def status(self) -> int:
        """Say whether anything is recorded."""
        self._show(f"{self.app}: {self.state}")
        return OK

    @property
    def state(self) -> str:
        """Whether anything is recorded, in words."""
        decision = self._decision()
        if not decision.is_on:
            return f"off: {decision.why_off}"
        return "not started yet: its first run sends nothing" if decision.is_first_run else "on"

    def details(self) -> int:
        """Say what is kept and where."""
        choices = self._decision().choices
        count, size = sessions_in(self._places.data)
        self._show(f"{self.app} records how it is used, for those who make it: {self.state}.")
        if choices is not None:
            self._show(f"It knows you as {choices.id}" + "".join(f", {n}: {v}" for n, v in choices.metadata.items()))
        self._show(f"Your choice: {self._places.choices}")
        self._show(f"Recorded and not sent: {_sessions(count, size)} in {self._places.data}")
        if count:
            self._show(f"To look at it: eventrec log cat {self._places.data}/SESSION")
            self._show(f"To delete it: {self._command_for('clear')}")
        self._show(f"To opt out: {self._command_for('disable')}, or {DO_NOT_TRACK}=1 in the environment")
        return OK

    def clear(self) -> int:
        """Delete the choice, and what was not sent, where the user says `y` to each. Raises ConsentError, OSError."""
        code = OK
        if self._is_there(self._places.choices) and self._agrees(
            f"Delete {self._places.choices}? Its next start is a first one again, an opt-out is forgotten"
        ):
            self._file.delete()
            self._show(f"deleted {self._places.choices}")
        count, size = sessions_in(self._places.data)
        if count and self._agrees(f"Delete {_sessions(count, size)} in {self._places.data}?"):
            cleared = clear_sessions(self._places.data)
            self._show(f"deleted {_sessions(cleared.deleted)}")
            for id_, why in cleared.left.items():
                self._say(f"{self._places.data / str(id_)}: {why}")
                code = INCOMPLETE
            for id_ in cleared.held:
                self._say(f"{self._places.data / str(id_)}: held by a process; end that first")
                code = HELD
        return code

    def email(self, address: str) -> int:
        """Let the application know an email address; an empty one takes it back. Raises ConsentError."""
        if address and ("@" not in address[1:-1] or not address.isprintable() or len(address) > _MAX_ADDRESS):
            self._say(f"not an email address: {address!r:.100}")
            return USAGE
        self._file.change(email=address or None)
        self._show(f"{self.app} knows your email address: {address}" if address else f"{self.app} has forgotten it")
        return OK

    def config(self) -> int:
        """Show the choice as JSON, with where it is and where the data are; `null`: there is none."""
        choices = self._file.load()
        places = {"config_file_path": str(self._places.choices), "data_dir_path": str(self._places.data)}
        document = None if choices is None else choices.to_dict() | places
        for line in json.dumps(document, indent=2).splitlines():
            self._show(line)
        return OK

    def _decision(self) -> Decision:
        return decide(self.app, lambda: self._places, self._environment, disclose=None)

    def _command_for(self, verb: str) -> str:
        name, _, rest = self._command.partition(" --app ")
        return f"{name} {verb} --app {rest}" if rest else f"{name} {verb}"

    def _is_there(self, path: Path) -> bool:
        return path.is_symlink() or path.exists()

    def _agrees(self, question: str) -> bool:
        return self._ask(f"{question} [y/N] ") == "y"


def _sessions(count: int, size: int | None = None) -> str:
    said = f"{count:,} session{'s' * (count != 1)}"
    return said if size is None else f"{said} ({size:,} bytes)"


def _safe(text: str) -> str:
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)


def _show(line: str) -> None:
    sys.stdout.write(_safe(line) + "\n")


def _say(line: str) -> None:
    if sys.stderr is not None:
        sys.stderr.write(_safe(line) + "\n")


def _ask(question: str) -> str:
    """One line from stdin, without its end; an empty one where there is none."""
    if sys.stderr is not None:
        sys.stderr.write(_safe(question))
        sys.stderr.flush()
    return "" if sys.stdin is None else sys.stdin.readline().removesuffix("\n").removesuffix("\r")
