"""What the command `eventrec` is, before it has commands; and what several of them have in common."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from typing import Annotated, Final

from cyclopts import App, Parameter

STDIN: Final = "<stdin>"
"""What `-` is called once it is parsed: a parser takes it for the start of an option."""

Json = Annotated[bool, Parameter(negative="")]


def root() -> App:
    """`eventrec` without a command."""
    return App(
        name="eventrec",
        help="Record what happens in an application, and get it into a database.",
        version=_version,
        help_format="markdown",
    )


def _version() -> str:
    try:
        return version("eventrec")
    except PackageNotFoundError:
        return "not installed"
