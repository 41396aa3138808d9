"""`eventrec tail`: the newest events of a destination, then new ones as they arrive.

Those that arrived together are shown by their own time: a batch is stored type by type.
"""

from __future__ import annotations

import json as json_module
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any, Final

import anyio
import msgspec
from cyclopts import Parameter
from rich.text import Text

from eventrec.cli.exit_codes import CommandError, ExitCode
from eventrec.cli.root import Json  # noqa: TC001 - cyclopts reads annotations
from eventrec.cli.terminal import Terminal, safe
from eventrec.errors import DeliveryError
from eventrec.registry import reader_from_url

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from eventrec.reading import EventPage, EventReader, StoredEvent

POLL_SECONDS: Final = 0.25
MAX_POLL_SECONDS: Final = 5.0
"""The longest pause: while the destination cannot be read, or where each look takes long."""

PAGE: Final = 1_000
"""Events asked for at once while a destination is followed."""


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
    anyio.run(lambda: show_tail(url, last=last, follow=follow, kind=kind, json=json, terminal=Terminal()))


async def show_tail(url: str, *, last: int, follow: bool, kind: str | None, json: bool, terminal: Terminal) -> None:
    """Show the `last` newest events of the destination, only those of type `kind` if given; `follow`: until cancelled.

    Raises:
        HandlerURLError: The URL is wrong, or its handler has no reader.
        CommandError: The destination cannot be read. While it is followed, that is said, and it is tried again.
    """
    screen = _Screen(terminal, json=json)
    if kind is not None and not _is_text(kind):
        raise CommandError(f"--type {kind!r} is not valid Unicode", ExitCode.USAGE)
    types = None if kind is None else (kind,)
    try:
        async with reader_from_url(url) as reader:
            page = await reader.latest(limit=last, types=types)
            screen.show(page)
            if not page.events and last:
                screen.say_nothing(kind)
            if follow:
                await _follow(reader, page.cursor, types, screen)
    except DeliveryError as exc:
        raise CommandError(str(exc), ExitCode.DESTINATION) from exc


def _is_text(given: str) -> bool:
    """Whether it is more than bytes that could not be decoded."""
    try:
        given.encode()
    except UnicodeEncodeError:
        return False
    return True


async def _follow(reader: EventReader, cursor: str, types: Collection[str] | None, screen: _Screen) -> None:
    """Show what arrives, until cancelled; an outage is said when it starts and when it ends."""
    pause = POLL_SECONDS
    while True:
        began = anyio.current_time()
        try:
            page = await reader.follow(cursor, limit=PAGE, types=types)
        except DeliveryError as exc:
            screen.say_outage(exc)
            pause = min(pause * 2, MAX_POLL_SECONDS)
        else:
            screen.say_readable()
            screen.show(page)
            cursor = page.cursor
            # Where a look takes long, thousands of files say, most of the time is left to the writers.
            pause = max(POLL_SECONDS, 4 * (anyio.current_time() - began)) if len(page.events) < PAGE else 0
        await anyio.sleep(min(pause, MAX_POLL_SECONDS))
        pause = max(pause, POLL_SECONDS)


class _Screen:
    """Events as lines on stdout; what else there is to say on stderr, once."""

    def __init__(self, terminal: Terminal, *, json: bool) -> None:
        self._terminal = terminal
        self._show = _show_json if json else _show_line
        self._said: set[str] = set()
        self._is_readable = True

    def show(self, page: EventPage) -> None:
        """Show the events of `page`; say what was passed over, each reason once."""
        for event in page.events:
            self._show(event, self._terminal)
        for why, rows in page.foreign.items():
            if why not in self._said:
                self._said.add(why)
                passed_over = "1 row that is not an event" if rows == 1 else f"{rows} rows that are not events"
                self._terminal.say(f"eventrec: passed over {passed_over}: {why}", style="yellow")

    def say_nothing(self, kind: str | None) -> None:
        """Say that there is no event, only of type `kind` if given: the URL, or the type, may be the wrong one."""
        of_type = "" if kind is None else f" of type {kind!r}"
        can_be = "can be read" if self._said else "is stored"
        self._terminal.say(f"eventrec: no event{of_type} {can_be} there", style="yellow")

    def say_outage(self, exc: DeliveryError) -> None:
        """Say that the destination cannot be read, unless it was said already."""
        if self._is_readable:
            self._is_readable = False
            self._terminal.say(f"eventrec: {exc}; trying again", style="yellow")

    def say_readable(self) -> None:
        """Say that the destination can be read again, where it was said that it cannot."""
        if not self._is_readable:
            self._is_readable = True
            self._terminal.say("eventrec: the destination can be read again", style="yellow")


def _show_line(event: StoredEvent, terminal: Terminal) -> None:
    columns = "".join(f" {safe(name)}={safe(str(value))}" for name, value in event.columns.items() if value is not None)
    terminal.out.print(
        Text.assemble(
            (_local(event.timestamp), "dim"),
            "  ",
            (safe(event.type), "bold cyan"),
            f"  {safe(event.table)}{columns} {safe(event.payload)}",
            f" {safe(event.context)}" if event.context is not None else "",
        ),
        soft_wrap=True,
    )


def _show_json(event: StoredEvent, terminal: Terminal) -> None:
    document: dict[str, Any] = {
        "table": event.table,
        "id": event.id,
        "type": event.type,
        "timestamp": event.timestamp,
        "payload": _json_or_text(event.payload),
    }
    if event.context is not None:
        document["context"] = _json_or_text(event.context)
    if event.columns:
        document["columns"] = _columns(event.columns)
    terminal.show_json(document)


def _columns(columns: Mapping[str, Any]) -> dict[str, Any]:
    """Columns as JSON can say them; as a text what it cannot: a value of a driver's own class."""
    said = {}
    for name, value in columns.items():
        try:
            said[name] = msgspec.Raw(msgspec.json.encode(value))
        except (TypeError, ValueError, OverflowError, RecursionError):
            said[name] = msgspec.Raw(msgspec.json.encode(str(value).encode(errors="replace").decode()))
    return said


def _json_or_text(stored: str) -> msgspec.Raw | str:
    """What is stored, as the JSON that it is; as a text where another program wrote something else."""
    raw = stored.encode(errors="replace")
    try:
        json_module.loads(raw, parse_constant=_refuse, parse_int=str, parse_float=str)
    except (ValueError, RecursionError):
        return raw.decode()
    return msgspec.Raw(raw)


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not a JSON value")


def _local(timestamp: int) -> str:
    """ISO 8601 with milliseconds, in the operator's time zone."""
    seconds, rest = divmod(timestamp, 1_000_000_000)
    try:
        when = datetime.fromtimestamp(seconds, UTC).astimezone()
    except (OverflowError, ValueError, OSError):
        return f"{timestamp} ns"
    return when.replace(microsecond=rest // 1_000).isoformat(timespec="milliseconds")
