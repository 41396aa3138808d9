"""`GET /events/follow`: events as they arrive, as server-sent events.

    retry: 2000                            once: how long to wait before coming again, in milliseconds
    data: {…}                              an event, as JSON
    id: …                                  with the last event of those that arrived together: goes on after it
    event: unreadable, data: {"detail"}    the destination cannot be read for now; `readable`: it can again
    : still here                           nothing has arrived for a while
    event: end                             the server ends, or the client was too slow: it may come again

A client that was cut off sends the last id as `Last-Event-ID`, as `EventSource` does, or as `cursor`: no event is left
out, and a few may come twice. https://html.spec.whatwg.org/multipage/server-sent-events.html
"""

from __future__ import annotations

from contextlib import aclosing
from functools import partial
from http import HTTPStatus
from typing import TYPE_CHECKING, Final, cast

import anyio
from starlette.responses import Response

from eventrec.runtime.logging import get_logger
from eventrec.runtime.texts import encoded_json
from eventrec.server.parameters import Parameters, refused
from eventrec.server.reading.cursors import cursor_of, cursor_text
from eventrec.server.reading.events import TABLE, TYPE, newest_of
from eventrec.server.reading.followers import PAGE
from eventrec.server.reading.negotiating import form_of
from eventrec.server.reading.tails import page_after
from eventrec.server.refusals import RefusedError
from eventrec.server.routes import Query, Route

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.types import Receive, Scope, Send

    from eventrec.reading import EventPage
    from eventrec.server.reading.followers import Arrived, TailFollower
    from eventrec.server.reading.pool import Pool
    from eventrec.server.reading.tails import Key, Tails
    from eventrec.server.serving import Server

_logger = get_logger("eventrec.server")

STREAM: Final = "text/event-stream"

HEARTBEAT: Final = 15.0
"""Seconds after which a stream without events says that it is still there: proxies end what is silent."""

SEND_SECONDS: Final = 30.0
"""How long a client may take nothing before it is dropped."""

RETRY: Final = b"retry: 2000\n\n"

PARAMETERS: Final = (
    TYPE,
    TABLE,
    Query(name="last", description="Begin with so many of the newest events. Default: none.", type=int),
    Query(name="cursor", description="Go on after this id. The header Last-Event-ID counts more."),
)


async def follow_events(request: Request, server: Server) -> Response:
    """Events as they arrive."""
    pool = cast("Pool", server.pool)
    said = Parameters(request, PARAMETERS)
    form_of(None, request.headers.get("accept"), {"stream": STREAM})
    types = said.texts("type")
    key: Key = tuple(sorted(types)) if types else None
    last = said.whole("last", default=0, low=0, high=PAGE)
    text = request.headers.get("last-event-id") or said.text("cursor")
    pool.tails.check_room()
    if text is None:
        table = said.text("table")
        page = await pool.read(lambda reader: newest_of(reader, limit=last, types=key, table=table))
    else:
        try:
            cursor = cursor_of(text)
        except ValueError as exc:
            raise refused("cursor", str(exc)) from exc
        page = await pool.read(lambda reader: page_after(reader, cursor, key))
    return EventStream(pool.tails, page, key, table=said.text("table"))


class EventStream(Response):
    """A stream of what arrives, beginning with `page`."""

    media_type = STREAM

    def __init__(self, tails: Tails, page: EventPage, types: Key, *, table: str | None) -> None:
        super().__init__(headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        self._tails = tails
        self._page = page
        self._types = types
        self._table = table

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Stream until the client is gone, or too slow, or the server ends."""
        try:
            follower = self._tails.enter(self._table, self._page.cursor)
        except RefusedError as exc:
            await exc.response()(scope, receive, send)
            return
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(partial(_watch, receive, tasks.cancel_scope))
                start = {"type": "http.response.start", "status": int(HTTPStatus.OK), "headers": self.raw_headers}
                await send(start)
                is_taken = await self._send_events(send, follower)
                if follower.is_slow or not is_taken:
                    _logger.info("a client that follows was too slow, and is dropped")
                if is_taken and await _sent(send, b"event: end\ndata: {}\n\n"):
                    await send({"type": "http.response.body", "body": b"", "more_body": False})
                tasks.cancel_scope.cancel()
        finally:
            self._tails.leave(follower)

    async def _send_events(self, send: Send, follower: TailFollower) -> bool:
        """Whether the client has taken all that was for it until it was dropped."""
        if not await _sent(send, RETRY + _chunk(follower.read(self._page))):
            return False
        async with aclosing(self._tails.follow(follower, self._types, heartbeat=HEARTBEAT)) as found:
            async for arrived in found:
                if not await _sent(send, _chunk(arrived)):
                    return False
        return True


async def _watch(receive: Receive, scope: anyio.CancelScope) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    scope.cancel()


async def _sent(send: Send, body: bytes) -> bool:
    """Whether the client takes it within its time."""
    with anyio.move_on_after(SEND_SECONDS) as sending:
        await send({"type": "http.response.body", "body": body, "more_body": True})
    return not sending.cancelled_caught


def _chunk(arrived: Arrived | None) -> bytes:
    """What is sent of `arrived`; None: nothing has."""
    if arrived is None:
        return b": still here\n\n"
    if arrived.outage is not None:
        kind = b"unreadable" if arrived.outage else b"readable"
        detail = encoded_json({"detail": arrived.outage} if arrived.outage else {})
        return b"event: %b\ndata: %b\n\n" % (kind, detail)
    lines = [b"data: %b\n" % event.json for event in arrived.events] or [b""]
    if arrived.cursor is not None:
        lines[-1] = b"id: %b\n%b" % (cursor_text(arrived.cursor).encode(), lines[-1])
    return b"\n".join([*lines, b""])


FOLLOWING: Final[tuple[Route, ...]] = (
    Route(
        method="GET",
        path="/events/follow",
        endpoint=follow_events,
        scope="read",
        summary="Events as they arrive",
        description=(
            "Server-sent events: `data` is an event, `id` goes on after it, sent again as `Last-Event-ID`. A browser's"
            " EventSource cannot send a token: read the stream of `fetch`, with the header Authorization."
        ),
        tag="reading",
        parameters=PARAMETERS,
        answers={STREAM: None},
        refusals=(406, 501, 504),
    ),
)
