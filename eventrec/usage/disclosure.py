"""What a user is told before anything is recorded about how they use a program."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

from eventrec.consent.variables import DO_NOT_TRACK
from eventrec.errors import HandlerURLError
from eventrec.registry import HandlerURL, resolve_url

if TYPE_CHECKING:
    from pathlib import Path

    from eventrec.handler import EventHandler


@dataclass(frozen=True, slots=True)
class Disclosure:
    """What is told. `str()` of it is a text for a terminal.

    Attributes:
        app: The application.
        destination: Where it is sent to, as a host.
        choices: The file with what the user chose.
        data: The directory of what is recorded and not sent.
        opt_out: The command that opts out.
    """

    app: str
    destination: str
    choices: Path
    data: Path
    opt_out: str

    def __str__(self) -> str:
        return (
            f"{self.app} records how it is used. This first time nothing of that is sent;\n"
            f"from its next start on it is sent to {self.destination}.\n"
            f"To opt out: {self.opt_out}\n"
            f"or {DO_NOT_TRACK}=1 in the environment. What is recorded and not sent lies in\n"
            f"{self.data}\n"
        )


def print_disclosure(disclosure: Disclosure) -> None:
    """Tell it on stderr.

    Raises:
        OSError: It cannot be written: then nothing is recorded.
    """
    if sys.stderr is None:
        raise OSError("there is no stderr")
    sys.stderr.write(str(disclosure))
    sys.stderr.flush()


def shown_destination(to: EventHandler | str) -> str:
    """The host that `to` is at, without what else its URL says; else the kind of handler."""
    if not isinstance(to, str):
        return type(to).__name__
    try:
        url = HandlerURL(resolve_url(to))
    except HandlerURLError:  # The recorder says what is wrong with it.
        return "its makers"
    return url.host or url.scheme
