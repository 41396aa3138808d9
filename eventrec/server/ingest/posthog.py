"""Takes events as PostHog does, so that its clients need another host name alone; and answers what they ask beside.

    /batch/ /capture/ /e/ /i/v0/e/ /i/v0/ai/batch/    events, one or many: `{"status":1}`, as `foreign.py` says
    /i/v1/analytics/events                            events, with a verdict for each: `ok`, `drop`, `retry`
    /flags/ /decide/                                  which feature flags a person has: none

The project's key is a token, with the scope ingest; it stands in the body, in the query, or as a bearer in the header.
What else a client may ask for is not here (404): definitions of flags, remote configuration, recordings of sessions.
Clients take that as "none".
"""

from __future__ import annotations

import time
from functools import partial
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final

import msgspec

from eventrec.ingest.client_clock import moment
from eventrec.ingest.posthog_batch import PostHogReading
from eventrec.ingest.posthog_body import FORM, UnreadCompressionError, is_gzip, posthog_body, unwrapped
from eventrec.server.bodies import body_of, media_type_of, unpacked
from eventrec.server.ingest.foreign import hold, read_from, refuse_any, route_of
from eventrec.server.ingest.taking import Taken, take
from eventrec.server.refusals import ElementError, RefusedError, json_response
from eventrec.server.routes import JSON, Query, Route

if TYPE_CHECKING:
    from collections.abc import Sequence

    from starlette.requests import Request
    from starlette.responses import Response

    from eventrec.events.event import ReceivedEvent
    from eventrec.ingest.posthog_body import PostHogBody
    from eventrec.ingest.received import LineError
    from eventrec.server.serving import Server

_TAKEN: Final = {"status": 1}
_NO_FLAGS: Final[dict[str, Any]] = {
    "flags": {},
    "featureFlags": {},
    "featureFlagPayloads": {},
    "errorsWhileComputingFlags": False,
    "requestId": None,
    "config": {"enable_collect_everything": False},
    "supportedCompression": ["gzip", "gzip-js", "base64"],
    "sessionRecording": False,
    "surveys": False,
    "toolbarParams": {},
    "isAuthenticated": False,
    "siteApps": [],
}
"""What an answer of `/decide` and of `/flags` in any version says where nothing is switched on."""


class _Uuid(msgspec.Struct):
    uuid: str = ""


_uuid: Final = msgspec.json.Decoder(_Uuid).decode


async def capture(request: Request, server: Server) -> Response:
    """Take events, all of which are written where the answer is 200."""
    now = time.time_ns()
    body = await _read(request, server)
    server.access.check(request, "ingest", token=body.key)
    refuse_any(await take(server, await _events(body, request, server, now=now), route=route_of(request)), server)
    return json_response(_TAKEN)


async def capture_v1(request: Request, server: Server) -> Response:
    """Take events, with a verdict for each."""
    now = time.time_ns()
    body = await _read(request, server)
    sent_at = moment(msgspec.Raw(msgspec.json.encode(request.headers.get("posthog-request-timestamp"))))
    events = await _events(body, request, server, now=now, sent_at=sent_at)
    try:
        taken = await take(server, events, route=route_of(request))
    except RefusedError as exc:
        if exc.status != HTTPStatus.UNPROCESSABLE_ENTITY:
            raise
        taken = Taken(0, [ElementError(index, exc.detail) for index in range(len(events))])
    verdicts = {each.index: ("retry" if each.retry else "drop", each.error) for each in taken.errors}
    results: dict[str, dict[str, str]] = {}
    for index, element in enumerate(body.elements):
        uuid = _uuid_of(element)
        result, details = verdicts.get(index, ("ok", ""))
        # Of two of one uuid that are not both taken, the worse is what the client must know.
        if uuid and (uuid not in results or result != "ok"):
            results[uuid] = {"result": result, **({"details": details} if details else {})}
    return json_response({"results": results})


async def flags(request: Request, server: Server) -> Response:
    """Answer that no feature flag is on."""
    body = await _read(request, server)
    server.access.check(request, "ingest", token=body.key)
    return json_response(_NO_FLAGS)


async def _read(request: Request, server: Server) -> PostHogBody:
    query = dict(request.query_params)
    text = await _gunzipped(await body_of(request, server), request, server)
    unwrap = partial(unwrapped, text, query=query, media_type=media_type_of(request))
    try:
        text = await _gunzipped(await read_from(len(text), unwrap, server), request, server)
    except UnreadCompressionError as exc:
        raise RefusedError(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, str(exc)) from exc
    read = partial(posthog_body, text, query=query, max_elements=server.options.max_elements)
    return await read_from(len(text), read, server)


async def _gunzipped(text: bytes, request: Request, server: Server) -> bytes:
    return await unpacked(text, "gzip", request, server) if is_gzip(text) else text


async def _events(
    body: PostHogBody, request: Request, server: Server, *, now: int, sent_at: int | None = None
) -> Sequence[ReceivedEvent | LineError]:
    reading = PostHogReading(
        now=now,
        sent_at=body.sent_at if sent_at is None else sent_at,
        key=body.key,
        max_event_bytes=server.recorder.max_event_bytes,
        max_depth=server.options.max_json_depth,
    )
    events = await read_from(sum(map(len, body.elements)), partial(reading.events, body.elements), server)
    hold(events, request, server)
    return events


def _uuid_of(element: bytes) -> str:
    try:
        return _uuid(element).uuid
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return ""


_QUERY: Final = (
    Query(name="api_key", description="The project's key, where the body has none."),
    Query(name="compression", description="gzip, gzip-js, base64; without it, what the body begins with says it."),
    Query(name="_", description="When it was sent, in milliseconds since the epoch, where the body does not say it."),
)
_BODIES: Final = {JSON: dict[str, Any] | list[dict[str, Any]], "text/plain": None, FORM: None}
_EVENTS: Final = ("/batch", "/capture", "/e", "/i/v0/e", "/i/v0/ai/batch")
_FLAGS: Final = ("/flags", "/decide")

ROUTES: Final[tuple[Route, ...]] = (
    *(
        Route(
            method="POST",
            path=path,
            endpoint=capture,
            scope="ingest",
            is_checked_inside=True,
            summary="Take events as PostHog does, for its clients.",
            tag="PostHog",
            parameters=_QUERY,
            bodies=_BODIES,
            answers={JSON: dict[str, int]},
            refusals=(422,),
        )
        for name in _EVENTS
        for path in (name, f"{name}/")
    ),
    Route(
        method="POST",
        path="/i/v1/analytics/events",
        endpoint=capture_v1,
        scope="ingest",
        summary="Take events as PostHog's second protocol does, with a verdict for each.",
        tag="PostHog",
        bodies={JSON: dict[str, Any]},
        answers={JSON: dict[str, dict[str, dict[str, str]]]},
    ),
    *(
        Route(
            method="POST",
            path=path,
            endpoint=flags,
            scope="ingest",
            is_checked_inside=True,
            summary="Answer PostHog's clients that no feature flag is on.",
            tag="PostHog",
            parameters=_QUERY[:2],
            bodies=_BODIES,
            answers={JSON: dict[str, Any]},
        )
        for name in _FLAGS
        for path in (name, f"{name}/")
    ),
)
