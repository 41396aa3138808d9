"""All commands, and the options of those that are short."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final

import anyio
from cyclopts import Parameter

from eventrec.cli.analytics.analytics import analytics
from eventrec.cli.catalogue.catalogue import catalogue
from eventrec.cli.demo.demo import Demo
from eventrec.cli.demo.serving import check_server
from eventrec.cli.doctor.doctor import doctor
from eventrec.cli.exit_codes import CommandError, ExitCode
from eventrec.cli.logs import log as logs
from eventrec.cli.logs.dead import dead
from eventrec.cli.logs.deliver import deliver
from eventrec.cli.logs.drain import drain
from eventrec.cli.logs.maintenance import compress, forget
from eventrec.cli.logs.mirror import mirror
from eventrec.cli.logs.resume import resume
from eventrec.cli.logs.serve import forget_mirror, serve
from eventrec.cli.logs.status import status
from eventrec.cli.migrate.command import migrate
from eventrec.cli.new_handler import new_handler
from eventrec.cli.query.query import query
from eventrec.cli.record.command import record
from eventrec.cli.refresh.refresh import refresh
from eventrec.cli.relay.bus import bus
from eventrec.cli.relay.relay import relay
from eventrec.cli.root import Json, root
from eventrec.cli.serve.serve import serve as serve_http
from eventrec.cli.serve.token import token
from eventrec.cli.tail import tail as tail_events
from eventrec.cli.terminal import Terminal

app: Final = root()


@app.command
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


@app.command
def tail(
    url: Annotated[str, Parameter(help="The destination's URL, for example sqlite:///events.db.")],
    /,
    *,
    last: Annotated[int, Parameter(name=["--last", "-n"])] = 10,
    follow: Annotated[bool, Parameter(name=["--follow", "-f"], negative="")] = False,
    kind: Annotated[str | None, Parameter(name="--type")] = None,
    json: Json = False,
) -> None:
    """Show the newest events of a destination.

    For example:

    ```sh
    eventrec tail sqlite:///events.db -n 20 --type order_placed --follow
    ```

    Args:
        last: How many.
        follow: Then show new ones as they arrive, until Ctrl-C.
        kind: Only events of this type.
        json: Print JSON for a machine instead: one object a line.
    """
    if last < 0:
        raise CommandError("-n is not negative", ExitCode.USAGE)
    anyio.run(lambda: tail_events(url, last=last, follow=follow, kind=kind, json=json, terminal=Terminal()))


app.command(record)
app.command(new_handler)
app.command(drain)
app.command(deliver)
app.command(relay)
app.command(bus)
logs.log.command(forget)
logs.log.command(compress)
logs.log.command(serve)
logs.log.command(mirror)
logs.log.command(forget_mirror)
app.command(logs.log)
app.command(status)
app.command(serve_http)
app.command(token)
app.command(refresh)
app.command(query)
app.command(resume)
app.command(dead)
app.command(migrate)
app.command(doctor)
app.command(catalogue)
app.command(analytics)
