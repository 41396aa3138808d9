"""Takes events as Segment's tracking API does, so that its clients need another host name alone.

    /v1/batch /v1/import                                    `{"batch":[…]}`
    /v1/track /v1/identify /v1/page /v1/screen /v1/group    one message
      /v1/alias

The answer is `{"success":true}`, as `foreign.py` says. The write key is a token, with the scope ingest: the user name
of Basic, or `writeKey` in the body; a bearer in the header counts too.
"""

from __future__ import annotations

import time
from base64 import b64decode
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from eventrec.ingest.segment import MESSAGES, SegmentReading, segment_body
from eventrec.server.bodies import body_of
from eventrec.server.ingest.foreign import hold, read_from, refuse_any, route_of
from eventrec.server.ingest.taking import take
from eventrec.server.refusals import json_response
from eventrec.server.routes import JSON, Route

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

    from eventrec.server.routes import Endpoint
    from eventrec.server.serving import Server

_TAKEN: Final = {"success": True}


async def _take(request: Request, server: Server, message: str | None) -> Response:
    """Take a batch, or one `message` of that type, all of which is written where the answer is 200."""
    now = time.time_ns()
    text = await body_of(request, server)
    options = server.options
    body = await read_from(
        len(text),
        partial(
            segment_body,
            text,
            is_batch=message is None,
            max_elements=options.max_elements,
            max_bytes=server.recorder.max_event_bytes,
            max_depth=options.max_json_depth,
        ),
        server,
    )
    server.access.check(request, "ingest", token=_user_of(request) or body.write_key)
    reading = SegmentReading(
        now=now,
        message=message,
        max_event_bytes=server.recorder.max_event_bytes,
        max_total_bytes=options.max_unpacked_bytes,
        max_depth=options.max_json_depth,
    )
    events = await read_from(len(text), partial(reading.events, body), server)
    hold(events, request, server)
    refuse_any(await take(server, events, route=route_of(request)), server)
    return json_response(_TAKEN)


def _user_of(request: Request) -> str | None:
    """The user name of Basic; None where there is none."""
    scheme, _, packed = request.headers.get("authorization", "").strip().partition(" ")
    if scheme.lower() != "basic":
        return None
    try:
        return b64decode(packed.strip(), validate=True).decode().partition(":")[0] or None
    except ValueError:
        return None


def _endpoint(message: str | None) -> Endpoint:
    async def endpoint(request: Request, server: Server) -> Response:
        return await _take(request, server, message)

    return endpoint


def _route(path: str, message: str | None, summary: str) -> Route:
    return Route(
        method="POST",
        path=path,
        endpoint=_endpoint(message),
        scope="ingest",
        is_checked_inside=True,
        summary=summary,
        tag="Segment",
        bodies={JSON: dict[str, Any], "text/plain": None},
        answers={JSON: dict[str, bool]},
        refusals=(422,),
    )


ROUTES: Final[tuple[Route, ...]] = (
    *(_route(f"/v1/{name}", None, "Take a batch as Segment does, for its clients.") for name in ("batch", "import")),
    *(_route(f"/v1/{name}", name, f"Take a message {name!r} as Segment does, for its clients.") for name in MESSAGES),
)
