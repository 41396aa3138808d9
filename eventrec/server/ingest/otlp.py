"""Takes log records of OpenTelemetry: OTLP over HTTP, in Protocol Buffers or JSON.

    all records are written          200, an ExportLogsServiceResponse that is empty
    some never can be                200, with `partial_success`: how many, and why the first; the others are written
    some could not be now            429 or 503 with Retry-After: the client sends all of them again, under the same ids
    the request cannot be read       400, 413, 415
    no token, or not the scope       401, 403

Answers and errors are in the encoding of the request; an error is a `google.rpc.Status`. A client sends again what was
answered 429, 502, 503 or 504, and nothing else: so a body that takes too long to arrive is answered 503.
"""

from __future__ import annotations

from functools import partial
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final, Protocol, cast

import msgspec
from starlette.responses import Response

from eventrec.ingest import otlp_json, otlp_protobuf
from eventrec.ingest.otlp_logs import LogReading
from eventrec.runtime.decoding import decodable
from eventrec.server.bodies import body_of, media_type_of
from eventrec.server.ingest.foreign import hold, read_from, refuse_for_now
from eventrec.server.ingest.taking import later, take
from eventrec.server.refusals import RefusedError
from eventrec.server.routes import JSON, Route

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from starlette.requests import Request

    from eventrec.events.event import ReceivedEvent
    from eventrec.ingest.otlp_logs import Found
    from eventrec.ingest.received import LineError
    from eventrec.server.refusals import ElementError
    from eventrec.server.serving import Server

PATH: Final = "/v1/logs"
PROTOBUF: Final = otlp_protobuf.MEDIA_TYPE


class _Encoding(Protocol):
    """A module that reads and writes one of the two encodings."""

    MEDIA_TYPE: str

    def log_records(self, body: bytes, *, limit: int, max_bytes: int = ...) -> list[Found]: ...

    def success(self, rejected: int, message: str) -> bytes: ...

    def status(self, code: int, message: str) -> bytes: ...


_PROTOBUF: Final = cast("_Encoding", otlp_protobuf)
_JSON: Final = cast("_Encoding", otlp_json)
_ENCODINGS: Final[Mapping[str, _Encoding]] = {PROTOBUF: _PROTOBUF, "application/protobuf": _PROTOBUF, JSON: _JSON}

_CODES: Final[Mapping[int, int]] = {
    HTTPStatus.BAD_REQUEST: 3,
    HTTPStatus.UNAUTHORIZED: 16,
    HTTPStatus.FORBIDDEN: 7,
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE: 8,
    HTTPStatus.UNSUPPORTED_MEDIA_TYPE: 3,
    HTTPStatus.TOO_MANY_REQUESTS: 8,
    HTTPStatus.SERVICE_UNAVAILABLE: 14,
}
"""The code of gRPC that says the same; else it is 13, internal."""


@decodable
class RpcStatus(msgspec.Struct, frozen=True):
    """What an error is answered with: a `google.rpc.Status`.

    Attributes:
        code: The code of gRPC.
        message: What is wrong.
    """

    code: int
    message: str


async def logs(request: Request, server: Server) -> Response:
    """Take log records."""
    encoding = _ENCODINGS.get(media_type_of(request))
    if encoding is None:
        said = f"a request of OTLP is of the type {PROTOBUF} or {JSON}"
        return _refusal(RefusedError(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, said), _JSON)
    try:
        server.access.check(request, "ingest")
        body = await body_of(request, server)
        events = await read_from(len(body), partial(_events, encoding, body, server), server)
        hold(events, request, server)
        rejected, message = await _rejected(server, events)
    except RefusedError as exc:
        return _refusal(_to_be_sent_again(exc, server), encoding)
    return Response(encoding.success(rejected, message), headers=_NO_STORE, media_type=encoding.MEDIA_TYPE)


async def _rejected(server: Server, events: Sequence[ReceivedEvent | LineError]) -> tuple[int, str]:
    """How many records never can be taken, and why the first; the others are written on return.

    Raises:
        RefusedError: Some were not, and can be later.
    """
    try:
        taken = await take(server, events, route=PATH)
    except RefusedError as exc:
        if exc.status != HTTPStatus.UNPROCESSABLE_ENTITY:
            raise
        return len(events), _first(exc.errors)
    refuse_for_now(taken, server)
    return len(taken.errors), _first(taken.errors)


def _first(errors: Sequence[ElementError]) -> str:
    first = min(errors, key=lambda each: each.index, default=None)
    return "" if first is None else f"record {first.index}: {first.error}"


def _events(encoding: _Encoding, body: bytes, server: Server) -> Sequence[ReceivedEvent | LineError]:
    options = server.options
    longest = server.recorder.max_event_bytes
    reading = LogReading(
        max_event_bytes=longest, max_total_bytes=options.max_unpacked_bytes, max_depth=options.max_json_depth
    )
    return reading.events(body, encoding.log_records(body, limit=options.max_elements, max_bytes=longest))


def _to_be_sent_again(refused: RefusedError, server: Server) -> RefusedError:
    """`refused`, where a client sends again what has such a status; a body that came too slowly has another one."""
    if refused.status != HTTPStatus.REQUEST_TIMEOUT:
        return refused
    slow = later(server, HTTPStatus.SERVICE_UNAVAILABLE, refused.detail)
    slow.headers.update(refused.headers)
    return slow


def _refusal(refused: RefusedError, encoding: _Encoding) -> Response:
    content = encoding.status(_CODES.get(refused.status, 13), refused.detail)
    return Response(content, int(refused.status), {**_NO_STORE, **refused.headers}, encoding.MEDIA_TYPE)


_NO_STORE: Final = {"Cache-Control": "no-store"}

ROUTES: Final[tuple[Route, ...]] = (
    Route(
        method="POST",
        path=PATH,
        endpoint=logs,
        scope="ingest",
        is_checked_inside=True,
        summary="Take log records of OpenTelemetry.",
        tag="OpenTelemetry",
        bodies={PROTOBUF: None, JSON: dict[str, Any]},
        answers={PROTOBUF: None, JSON: dict[str, dict[str, str]]},
        other_answers=dict.fromkeys(sorted(_CODES), RpcStatus),
    ),
)
