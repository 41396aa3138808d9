"""`token new | list | revoke`: the tokens in a file that `eventrec serve` reads."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from cyclopts import App, Parameter

from eventrec.cli.exit_codes import CommandError, ExitCode
from eventrec.cli.root import Json  # noqa: TC001 - cyclopts reads annotations
from eventrec.cli.serve.extra import needing_server
from eventrec.cli.terminal import Terminal
from eventrec.durations import duration_seconds
from eventrec.errors import OptionsError

token: Final = App(name="token", help="Make, list or revoke the tokens that clients of the server have.")

File = Annotated[Path, Parameter(help="A file of tokens.")]


@token.command
def new(
    file: File,
    /,
    *,
    name: str,
    scope: Annotated[list[Literal["ingest", "read", "admin"]], Parameter(negative="")],
    expires: str | None = None,
) -> int:
    """Make a token, print it, and add its hash to the file. The token itself is kept nowhere: note it now.

    A scope holds no other one: a token for everything has all three. A server that runs takes it a second later.

    For example:

    ```sh
    eventrec token new tokens.toml --name checkout --scope ingest --expires 365d
    ```

    Args:
        file: A file of tokens; it is made where it is not there yet, for this user alone.
        name: What it is called: in the log of requests, and to revoke it.
        scope: What it may do, once for each. ingest: send events. read: all that is stored, status and metrics. admin:
            replay dead letters, resume.
        expires: When it stops to count: "90d" from now, or a date or time in UTC. Default: never.
    """
    with needing_server():
        from eventrec.server.token_file import new_token, revoke_token  # noqa: PLC0415 - see there
        from eventrec.server.tokens import check_token_name  # noqa: PLC0415 - likewise
    terminal, now = Terminal(), datetime.now(UTC).replace(microsecond=0)
    try:
        check_token_name(name)
        ends = None if expires is None else _end(expires, now)
    except ValueError as exc:
        raise CommandError(str(exc), ExitCode.USAGE) from exc
    text = new_token(file, name, scope, created=now, expires=ends)
    try:
        terminal.show(text)
    except BaseException:  # Nobody has seen it.
        revoke_token(file, name)
        raise
    until = "" if ends is None else f", until {ends.isoformat()}"
    terminal.say(f"eventrec: {name} may {', '.join(dict.fromkeys(scope))}{until}; the token is shown this once")
    return ExitCode.OK


@token.command(name="list")
def list_(file: File, /, *, json: Json = False) -> int:
    """Show the tokens of a file: their names, scopes and times. What they are cannot be shown.

    For example:

    ```sh
    eventrec token list tokens.toml
    ```

    Args:
        file: A file of tokens.
        json: Print JSON for a machine instead: one object a token.
    """
    with needing_server():
        from eventrec.server.tokens import TokenFileError, read_token_file  # noqa: PLC0415 - see there
    terminal, now = Terminal(), datetime.now(UTC)
    try:
        tokens, _ = read_token_file(file)
    except TokenFileError as exc:
        raise CommandError(f"{file}: {exc}", ExitCode.FILE) from exc
    for each in tokens:
        told: dict[str, Any] = {
            "name": each.name,
            "scopes": sorted(each.scopes),
            "created": each.created.isoformat(),
            "expires": None if each.expires is None else each.expires.isoformat(),
            "is_expired": each.is_expired(now),
        }
        if json:
            terminal.show_json(told)
            continue
        ends = "" if each.expires is None else f", {'expired' if told['is_expired'] else 'until'} {told['expires']}"
        terminal.show(f"{each.name}: {', '.join(told['scopes'])}, since {told['created']}{ends}")
    if not tokens and not json:
        terminal.show("no tokens")
    return ExitCode.OK


@token.command
def revoke(file: File, name: Annotated[str, Parameter(help="The token's name.")], /) -> int:
    """Take a token away: a server that runs refuses it a second later.

    For example:

    ```sh
    eventrec token revoke tokens.toml checkout
    ```

    Args:
        file: A file of tokens.
        name: The token's name, as the list shows it.
    """
    with needing_server():
        from eventrec.server.token_file import revoke_token  # noqa: PLC0415 - see there
    revoke_token(file, name)
    Terminal().show(f"{name}: revoked")
    return ExitCode.OK


def _end(text: str, now: datetime) -> datetime:
    """The time that `text` says, after `now`; ValueError where it says none."""
    try:
        end = now + timedelta(seconds=duration_seconds(text))
    except (OptionsError, OverflowError):
        try:
            end = datetime.fromisoformat(text.strip())
        except ValueError:
            raise ValueError(f"--expires: {text!r} is neither a time, nor a duration such as 90d") from None
        end = (end if end.tzinfo is not None else end.replace(tzinfo=UTC)).astimezone(UTC)
    if end <= now:
        raise ValueError(f"--expires: {text!r} is not after now")
    return end.replace(microsecond=0)
