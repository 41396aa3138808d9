"""`GET /events`: what is stored, by time or the newest, page by page."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final, Literal, cast

import msgspec
from starlette.responses import Response

from eventrec.runtime.backend import in_thread
from eventrec.runtime.decoding import decodable
from eventrec.server.parameters import Parameters, refused
from eventrec.server.reading.answering import header_text
from eventrec.server.reading.cursors import cursor_of, cursor_text
from eventrec.server.reading.negotiating import form_of
from eventrec.server.reading.stored import EventAnswer, encoded_event
from eventrec.server.refusals import json_response
from eventrec.server.routes import JSON, Query, Route

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection, Mapping

    from starlette.requests import Request

    from eventrec.reading import EventPage, EventReader, StoredEvent
    from eventrec.server.reading.pool import Pool
    from eventrec.server.serving import Server

NDJSON: Final = "application/x-ndjson"
MEDIA_TYPES: Final[Mapping[Literal["json", "ndjson"], str]] = {"json": JSON, "ndjson": NDJSON}

CHUNK: Final = 1_000
"""Events that one question asks for: between two of them an answer that is large enough ends."""

MAX_LOOKED_AT: Final = 50_000
"""Events that a page looks at, be they of another table than is asked for: after that it ends, with a cursor."""

MAX_BYTES: Final = 32 * 2**20
"""Bytes of events after which a page ends, be it shorter than its limit."""

TYPE: Final = Query(name="type", description="Only events of this type; once for each.", is_repeated=True)
TABLE: Final = Query(name="table", description="Only events of this table.")
PARAMETERS: Final = (
    TYPE,
    TABLE,
    Query(name="from", description="Events that happened then or later, written as for rollups. Default: the first."),
    Query(name="to", description="Events that happened before. Default: the last."),
    Query(name="zone", description="The zone of a time that names none. Default: UTC."),
    Query(
        name="order",
        description="`time` (default), or `newest`: of the last 1,000 to arrive in all tables, the latest first.",
    ),
    Query(name="limit", description="At most so many events; more are told by a cursor.", type=int),
    Query(name="cursor", description="Goes on after an answer to the same question; with `order=time`."),
    Query(name="format", description="json or ndjson. Default: what the header Accept prefers."),
)


@decodable
class EventsAnswer(msgspec.Struct):
    """Events, and how to go on.

    Attributes:
        events: In the order that was asked for.
        cursor: Asks for those that follow; null: there are none. A page may be shorter than its limit and have one.
        follow: A cursor for `/events/follow`: what arrives after these; null where they are not the newest.
        passed_over: Rows that are not events, and tables that cannot be read: why, and how many.
    """

    events: list[EventAnswer]
    cursor: str | None
    follow: str | None
    passed_over: dict[str, int]


async def list_events(request: Request, server: Server) -> Response:
    """What is stored."""
    pool = cast("Pool", server.pool)
    options = server.options
    said = Parameters(request, PARAMETERS)
    form = form_of(said.choice("format", MEDIA_TYPES), request.headers.get("accept"), MEDIA_TYPES)
    is_newest = said.choice("order", ("time", "newest")) == "newest"
    # Between the parts of a page by time is looked at how large it has become; the newest are one part.
    most = min(options.max_rows, CHUNK) if is_newest else options.max_rows
    limit = said.whole("limit", default=min(options.default_rows, most), high=most)
    wanted = _Wanted(limit, said.text("table"), said.texts("type") or None)
    if is_newest:
        for name in ("from", "to", "cursor"):
            if said.text(name) is not None:
                raise refused(name, "it goes with order=time")
        page = await pool.read(_newest(wanted))
    else:
        zone = await said.zone("zone", default="UTC")
        start, end = said.moment("from", zone), said.moment("to", zone)
        if start is not None and end is not None and start > end:
            raise refused("from", "it is after to")
        page = await pool.read(_range(wanted, start, end, _cursor(said)))
    headers = {"Cache-Control": "no-store"}
    if page.cursor is not None:
        headers["Eventrec-Cursor"] = page.cursor
    if form == "ndjson":
        if page.passed_over:
            headers["Eventrec-Passed-Over"] = header_text(page.passed_over)
        return Response(b"".join(each + b"\n" for each in page.events), headers=headers, media_type=NDJSON)
    events = cast("list[EventAnswer]", [msgspec.Raw(each) for each in page.events])
    return json_response(EventsAnswer(events, page.cursor, page.follow, page.passed_over), headers=headers)


@dataclass(frozen=True, slots=True)
class _Wanted:
    limit: int
    table: str | None
    types: tuple[str, ...] | None

    def of(self, events: tuple[StoredEvent, ...]) -> list[StoredEvent]:
        return [event for event in events if self.table in {None, event.table}]


@dataclass(slots=True)
class _Page:
    """Events as JSON, and what is told of them."""

    events: list[bytes] = field(default_factory=list)
    cursor: str | None = None
    follow: str | None = None
    passed_over: dict[str, int] = field(default_factory=dict)
    size: int = 0

    def add(self, page: EventPage, events: list[StoredEvent]) -> None:
        encoded = [encoded_event(event) for event in events]
        self.events += encoded
        self.size += sum(map(len, encoded))
        for why, rows in page.foreign.items():
            self.passed_over[why] = self.passed_over.get(why, 0) + rows


def _newest(wanted: _Wanted) -> Callable[[EventReader], Awaitable[_Page]]:
    async def read(reader: EventReader) -> _Page:
        found = _Page()
        page = await newest_of(reader, limit=wanted.limit, types=wanted.types, table=wanted.table)
        await in_thread(found.add, page, wanted.of(page.events)[::-1])
        found.follow = cursor_text(page.cursor)
        return found

    return read


async def newest_of(reader: EventReader, *, limit: int, types: Collection[str] | None, table: str | None) -> EventPage:
    """The newest events of `table`, at most `limit`; of any, where it is None.

    A reader does not choose by table: so the newest `CHUNK` of all tables are looked at, at most.
    """
    asked = limit
    while True:
        page = await reader.latest(limit=asked, types=types)
        kept = page.events if table is None else tuple(event for event in page.events if event.table == table)
        if len(kept) >= limit or len(page.events) < asked or asked >= CHUNK:
            return replace(page, events=kept[max(0, len(kept) - limit) :])
        asked = min(10 * asked, CHUNK)


def _range(
    wanted: _Wanted, start: int | None, end: int | None, cursor: str | None
) -> Callable[[EventReader], Awaitable[_Page]]:
    async def read(reader: EventReader) -> _Page:
        found, at, is_more, looked_at = _Page(), cursor, True, 0
        while is_more and len(found.events) < wanted.limit and found.size < MAX_BYTES and looked_at < MAX_LOOKED_AT:
            asked = min(CHUNK, wanted.limit - len(found.events))
            try:
                page = await reader.range(start, end, limit=asked, types=wanted.types, cursor=at)
            except ValueError as exc:
                raise refused("cursor", "it was not given by an answer") from exc
            await in_thread(found.add, page, wanted.of(page.events))
            at, is_more = page.cursor, len(page.events) == asked
            looked_at += len(page.events)
        found.cursor = cursor_text(at) if is_more and at is not None else None
        return found

    return read


def _cursor(said: Parameters) -> str | None:
    text = said.text("cursor")
    try:
        return None if text is None else cursor_of(text)
    except ValueError as exc:
        raise refused("cursor", str(exc)) from exc


_ANSWERS: Final[Mapping[str, Any]] = {JSON: EventsAnswer, NDJSON: None}

EVENTS: Final[tuple[Route, ...]] = (
    Route(
        method="GET",
        path="/events",
        endpoint=list_events,
        scope="read",
        summary="Events that are stored",
        description="By their time, a page at once; or the newest, as they arrived.",
        tag="reading",
        parameters=PARAMETERS,
        answers=_ANSWERS,
        refusals=(406, 501, 504),
    ),
)
