"""`POST /events/batch`: events as the platform's client, CloudEvents, lines of JSON or plain objects bring them."""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final

from eventrec.errors import InvalidEventError
from eventrec.ingest.batch_body import BatchReading, BodyShapeError, Form, elements_in, events_of
from eventrec.ingest.cloud_events import PREFIX, members_of_headers
from eventrec.ingest.elements import BodyError, BodyTooLargeError
from eventrec.ingest.members import encode_members
from eventrec.ingest.received import LineError
from eventrec.intake.several import Turns
from eventrec.records.schema import check_name
from eventrec.server.bodies import body_of
from eventrec.server.ingest.taking import BatchAnswer, take
from eventrec.server.parameters import Parameters, refused
from eventrec.server.refusals import RefusedError
from eventrec.server.routes import JSON, Query, Route

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from starlette.requests import Request
    from starlette.responses import Response

    from eventrec.analytics import Catalogue
    from eventrec.ingest.received import Received
    from eventrec.server.serving import Server

PATH: Final = "/events/batch"

FORMS: Final[Mapping[str, Form]] = {
    JSON: "json",
    "application/x-ndjson": "ndjson",
    "application/ndjson": "ndjson",
    "application/jsonl": "ndjson",
    "application/cloudevents+json": "cloudevent",
    "application/cloudevents-batch+json": "cloudevents",
}
CHARSETS: Final = frozenset({"", "utf-8", "utf8", "us-ascii"})
KEY: Final = "idempotency-key"
MAX_KEY: Final = 255

QUERIES: Final = (
    Query(name="atomic", description="Take all or none. Default: false.", type=bool),
    Query(name="table", description="Where all of them go, whatever they say."),
)

SLICE: Final = 200
SLICE_BYTES: Final = 256 * 1024
"""What is read in one go, a millisecond or so."""


async def batch(request: Request, server: Server) -> Response:
    """Take the events of a request."""
    parameters = Parameters(request, QUERIES)
    reading, atomic = _reading(request, parameters, server), parameters.flag("atomic")
    body = await body_of(request, server)
    events: list[Received] = []
    if _is_binary(request):
        events += _of_binary(request, body, reading)
    else:
        turns = Turns()
        for first, elements in _slices(_elements(body, reading)):
            events += events_of(elements, reading, first=first)
            await turns.pause_if_due()
    del body
    return (await take(server, events, route=PATH, atomic=atomic)).response()


def _reading(request: Request, parameters: Parameters, server: Server) -> BatchReading:
    """How the request says that its body is to be read."""
    table = parameters.text("table")
    key = request.headers.get(KEY)
    if table is not None:
        try:
            check_name("a table", table)
        except InvalidEventError:
            raise refused("table", "it cannot be the name of one") from None
    if key is not None and not 0 < len(key) <= MAX_KEY:
        raise RefusedError(HTTPStatus.BAD_REQUEST, f"an Idempotency-Key has 1 to {MAX_KEY} characters")
    catalogue = server.catalogue
    return BatchReading(
        form="cloudevent" if _is_binary(request) else _form(request),
        table=table,
        max_event_bytes=server.recorder.max_event_bytes,
        max_elements=server.options.max_elements,
        max_depth=server.options.max_json_depth,
        tables={} if catalogue is None else _tables(catalogue),
        spellings={} if catalogue is None else catalogue.aliases,
        key=key,
    )


def _tables(catalogue: Catalogue) -> dict[str, str]:
    """Where the events of each type go, and of its other names."""
    tables = {event.type: event.table for event in catalogue.events}
    return tables | {name: tables[kind] for name, kind in catalogue.aliases.items() if kind in tables}


def _form(request: Request) -> Form:
    media_type, _, parameters = request.headers.get("content-type", "").partition(";")
    form = FORMS.get(media_type.strip().lower())
    if form is None:
        raise RefusedError(
            HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
            f"Content-Type is to be one of {', '.join(FORMS)}, or that of a CloudEvent",
        )
    for parameter in parameters.split(";"):
        name, _, value = parameter.partition("=")
        if name.strip().lower() == "charset" and value.strip().strip('"').lower() not in CHARSETS:
            raise RefusedError(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "JSON is UTF-8")
    return form


def _is_binary(request: Request) -> bool:
    """Whether it is a CloudEvent whose attributes are headers."""
    return f"{PREFIX}specversion" in request.headers and not request.headers.get("content-type", "").lower().startswith(
        "application/cloudevents"
    )


def _of_binary(request: Request, body: bytes, reading: BatchReading) -> Sequence[Received]:
    try:
        members = members_of_headers(((name.lower(), value) for name, value in request.headers.items()), body)
    except LineError as exc:
        return [exc]
    return events_of([encode_members(members)], reading)


def _elements(body: bytes, reading: BatchReading) -> Sequence[bytes]:
    try:
        return elements_in(body, reading)
    except BodyTooLargeError as exc:
        raise RefusedError(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, str(exc)) from exc
    except BodyShapeError as exc:
        raise RefusedError(HTTPStatus.UNPROCESSABLE_ENTITY, str(exc)) from exc
    except BodyError as exc:
        raise RefusedError(HTTPStatus.BAD_REQUEST, str(exc)) from exc


def _slices(elements: Sequence[bytes]) -> Iterator[tuple[int, Sequence[bytes]]]:
    """`elements` in parts that are read in one go, each with the index of its first."""
    start = size = 0
    for index, element in enumerate(elements):
        size += len(element)
        if index - start + 1 == SLICE or size >= SLICE_BYTES or index + 1 == len(elements):
            yield start, elements[start : index + 1]
            start, size = index + 1, 0


BODIES: Final[Mapping[str, Any]] = {name: list[dict[str, Any]] if name == JSON else None for name in FORMS}

BATCH: Final = (
    Route(
        method="POST",
        path=PATH,
        endpoint=batch,
        scope="ingest",
        summary="Take events, and answer once they are written.",
        description=(
            "An array of the platform's envelopes, of CloudEvents, of lines that eventrec wrote, or of other objects; "
            "one such object; or one on each line. What has just the members of a line of eventrec's (id, type, table, "
            "timestamp, payload; perhaps context and columns) is taken as one or refused. An element that cannot be "
            "taken is told by its index, and the rest is taken."
        ),
        tag="ingest",
        parameters=QUERIES,
        bodies=BODIES,
        answers={JSON: BatchAnswer},
        refusals=(408, 413, 415, 422),
    ),
)
"""Its route."""
