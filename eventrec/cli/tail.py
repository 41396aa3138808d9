"""`eventrec tail`: the newest events of a destination, then new ones as they arrive.

Those that arrived together are shown by their own time: a batch is stored type by type.

It asks the handler, which has to have the method `tail`; see `Tailing`.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final, Protocol, runtime_checkable

import anyio
import msgspec
from rich.text import Text

from eventrec.cli.exit_codes import CommandError, ExitCode
from eventrec.cli.terminal import safe
from eventrec.errors import DeliveryError, TransientError
from eventrec.registry import handler_from_url, resolve_url, scheme_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from eventrec.cli.terminal import Terminal

POLL_SECONDS: Final = 0.25
PAGE: Final = 1_000
"""Events asked for at once: as many as a batch has, so that the newest are among them."""

MAX_LOOKED_AT: Final = 100_000
"""The newest events among which those of one type are looked for."""


class StoredEvent(Protocol):
    """One row as it is stored."""

    @property
    def table(self) -> str:
        """Where it is stored."""

    @property
    def id(self) -> str:
        """The id of its row."""

    @property
    def type(self) -> str:
        """What kind of thing happened."""

    @property
    def timestamp(self) -> int:
        """When: nanoseconds since the epoch, UTC."""

    @property
    def payload(self) -> str:
        """JSON, unless somebody else wrote it."""

    @property
    def context(self) -> str | None:
        """JSON, where there is any."""

    @property
    def columns(self) -> Mapping[str, Any]:
        """The extra ones by name."""


class Tail(Protocol):
    """What was found, and how to go on."""

    @property
    def events(self) -> Sequence[StoredEvent]:
        """The older ones first."""

    @property
    def cursor(self) -> Any:
        """What asks for those that follow."""


@runtime_checkable
class Tailing(Protocol):
    """A handler that can tell what it has stored. It need not be open."""

    async def tail(self, *, after: Any, limit: int) -> Tail:
        """Without `after` the newest events, at most `limit`; with a cursor at most `limit` of those stored since.

        Raises:
            DeliveryError: The destination cannot be read; a TransientError where it may be later.
        """


async def tail(url: str, *, last: int, follow: bool, kind: str | None, json: bool, terminal: Terminal) -> None:
    """Show the `last` newest events of the destination, only those of type `kind` if given; `follow`: until cancelled.

    Raises:
        HandlerURLError: The URL is wrong.
        CommandError: The handler cannot tell what it has stored, or the destination cannot be read.
    """
    handler = handler_from_url(url)
    if not isinstance(handler, Tailing):
        raise CommandError(
            f"the handler for {scheme_of(resolve_url(url))!r} cannot tell what it has stored: it has no method `tail`",
            ExitCode.DESTINATION,
        )
    show = _show_json if json else _show_line
    try:
        found, cursor = await _newest(handler, last, kind)
        for event in found:
            show(event, terminal)
        while follow:
            try:
                page = await handler.tail(after=cursor, limit=PAGE)
            except TransientError:
                await anyio.sleep(POLL_SECONDS)
                continue
            cursor = page.cursor
            for event in _by_time(page.events, kind):
                show(event, terminal)
            if len(page.events) < PAGE:
                await anyio.sleep(POLL_SECONDS)
    except DeliveryError as exc:
        raise CommandError(str(exc), ExitCode.DESTINATION) from exc


async def _newest(handler: Tailing, last: int, kind: str | None) -> tuple[Sequence[StoredEvent], Any]:
    """The newest events of one type, looked for further and further back, and the cursor after them."""
    limit = last + PAGE
    while True:
        page = await handler.tail(after=None, limit=limit)
        found = _by_time(page.events, kind)
        if len(found) >= last or len(page.events) < limit or limit >= MAX_LOOKED_AT:
            return found[max(0, len(found) - last) :], page.cursor
        limit = min(MAX_LOOKED_AT, limit * 10)


def _by_time(events: Sequence[StoredEvent], kind: str | None) -> list[StoredEvent]:
    return sorted((event for event in events if kind in (None, event.type)), key=lambda event: event.timestamp)


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
        document["columns"] = dict(event.columns)
    terminal.show_json(document)


def _json_or_text(stored: str) -> msgspec.Raw | str:
    """What is stored, as the JSON that it is; as a text where somebody else wrote something else."""
    raw = stored.encode(errors="replace")
    try:
        msgspec.json.decode(raw, type=msgspec.Raw)
    except (msgspec.DecodeError, RecursionError):
        return stored
    return msgspec.Raw(raw)


def _local(timestamp: int) -> str:
    """ISO 8601 with milliseconds, in the zone of whoever looks."""
    seconds, rest = divmod(timestamp, 1_000_000_000)
    try:
        when = datetime.fromtimestamp(seconds, UTC).astimezone()
    except (OverflowError, ValueError, OSError):
        return f"{timestamp} ns"
    return when.replace(microsecond=rest // 1_000).isoformat(timespec="milliseconds")
