"""`analytics enable | disable | status | details | clear | email | config`: a user's say, for one application."""

from __future__ import annotations

import sys
from typing import Annotated

from cyclopts import App, Parameter

from eventrec.cli.exit_codes import CommandError, ExitCode
from eventrec.cli.terminal import Terminal
from eventrec.errors import OptionsError
from eventrec.usage.commands import UsageCommands

analytics = App(name="analytics", help="Say whether an application may record how you use it.")

Application = Annotated[str, Parameter(name="--app", help="The application, as it calls itself.")]
Json = Annotated[bool, Parameter(negative="", help="Print JSON for a machine instead.")]


@analytics.command
def enable(*, app: Application) -> int:
    """Opt in: from its next start on the application may record how you use it.

    For example:

    ```sh
    eventrec analytics enable --app my-app
    ```
    """
    return _commands(app).enable()


@analytics.command
def disable(*, app: Application) -> int:
    """Opt out: from its next start on the application records nothing, and sends nothing of what it has recorded.

    For example:

    ```sh
    eventrec analytics disable --app my-app
    ```
    """
    return _commands(app).disable()


@analytics.command
def status(*, app: Application, json: Json = False) -> int:
    """Whether the application records how you use it, and if not, why.

    For example:

    ```sh
    eventrec analytics status --app my-app
    ```
    """
    commands = _commands(app)
    if not json:
        return commands.status()
    Terminal().show_json({"app": commands.app, "state": commands.state})
    return ExitCode.OK


@analytics.command
def details(*, app: Application) -> int:
    """What the application keeps of you, and where.

    For example:

    ```sh
    eventrec analytics details --app my-app
    ```
    """
    return _commands(app).details()


@analytics.command
def clear(*, app: Application) -> int:
    """Delete your choice, and what was recorded and not sent. Asks before each; only the answer y deletes.

    Sessions of processes that run are left alone and named; the exit code is then 5.

    For example:

    ```sh
    eventrec analytics clear --app my-app
    ```
    """
    return _commands(app).clear()


@analytics.command
def email(
    address: Annotated[str, Parameter(help="Your email address; an empty one takes it back.")], /, *, app: Application
) -> int:
    """Let the application know your email address: those who make it may ask you about what they see.

    For example:

    ```sh
    eventrec analytics email ada@example.org --app my-app
    ```
    """
    return _commands(app).email(address)


@analytics.command
def config(*, app: Application) -> int:
    """Your choice as JSON, with the paths of its file and of the data; null where you have made none.

    For example:

    ```sh
    eventrec analytics config --app my-app
    ```
    """
    return _commands(app).config()


def _commands(app: str) -> UsageCommands:
    terminal = Terminal()

    def ask(question: str) -> str:
        terminal.say(question)
        return "" if sys.stdin is None else sys.stdin.readline().removesuffix("\n")

    try:
        return UsageCommands(
            app, command=f"eventrec analytics --app {app}", say=terminal.say, show=terminal.show, ask=ask
        )
    except OptionsError as exc:
        raise CommandError(str(exc), ExitCode.USAGE) from exc
