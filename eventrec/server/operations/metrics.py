"""The recorder's account and the server's own measures, as Prometheus scrapes them."""

from __future__ import annotations

from itertools import accumulate
from typing import TYPE_CHECKING, Final

from starlette.responses import Response

from eventrec.bridges.measures import MEASURES, measured
from eventrec.server.measures import BOUNDS
from eventrec.server.operations.text_format import CONTENT_TYPE, Family, Sample, text_of
from eventrec.server.routes import Route
from eventrec.server.serving import shared_state

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Iterator

    from starlette.requests import Request

    from eventrec.server.measures import ServerMeasures
    from eventrec.server.serving import Server
    from eventrec.status import Status

PREFIX: Final = "eventrec"


async def _metrics(_request: Request, server: Server) -> Response:
    families = [*recorder_families(server.recorder.status()), *_server_families(server)]
    return Response(text_of(families), headers={"Content-Type": CONTENT_TYPE})


def recorder_families(status: Status) -> Iterator[Family]:
    """As `eventrec.bridges.prometheus` names them."""
    samples: dict[str, list[Sample]] = {measure.name: [] for measure in MEASURES}
    for measure, labels, value in measured(status):
        samples[measure.name].append(Sample({name: labels[name] for name in measure.labels}, value))
    for measure in MEASURES:
        suffix = "_total" if measure.kind == "counter" else ""
        yield Family(f"{PREFIX}_{measure.name}{suffix}", measure.kind, measure.description, samples[measure.name])


def _server_families(server: Server) -> Iterator[Family]:
    measures = server.measures
    yield Family(
        f"{PREFIX}_server_requests_total",
        "counter",
        "Requests that were answered; 499: the client did not wait.",
        [
            Sample({"route": route, "method": method, "status": str(status)}, count)
            for (route, method, status), count in measures.requests.items()
        ],
    )
    yield Family(f"{PREFIX}_server_request_seconds", "histogram", "How long requests took.", list(_histogram(measures)))
    yield _by_route("received_bytes", "Bytes of bodies that have come, as they were sent.", measures.bytes_in)
    yield _by_route("sent_bytes", "Bytes of bodies that were sent.", measures.bytes_out)
    yield _by_route("events_taken", "Events that were taken.", measures.taken)
    yield _by_route("events_refused", "Events that were not taken.", measures.refused)
    yield Family(
        f"{PREFIX}_server_connections_refused_total",
        "counter",
        "Connections that were cut off, by reason.",
        [Sample({"reason": reason}, count) for reason, count in measures.cut_off.items()],
    )
    yield Family(
        f"{PREFIX}_server_requests_in_progress",
        "gauge",
        "Requests that are being answered.",
        [Sample({}, measures.in_progress)],
    )
    yield Family(
        f"{PREFIX}_server_body_memory_bytes",
        "gauge",
        "Bytes that the bodies of requests take in memory.",
        [Sample({}, shared_state(server).memory.taken)],
    )


def _by_route(name: str, help_text: str, counts: Counter[str]) -> Family:
    samples = [Sample({"route": route}, count) for route, count in counts.items()]
    return Family(f"{PREFIX}_server_{name}_total", "counter", help_text, samples)


def _histogram(measures: ServerMeasures) -> Iterator[Sample]:
    for route, counts in measures.seconds.items():
        sums = list(accumulate(counts))
        bounds = [*map(str, BOUNDS), "+Inf"]
        for bound, below in zip(bounds, sums, strict=True):
            yield Sample({"route": route, "le": bound}, below, "_bucket")
        yield Sample({"route": route}, measures.seconds_sum[route], "_sum")
        yield Sample({"route": route}, sums[-1], "_count")


METRICS: Final = (
    Route(
        method="GET",
        path="/metrics",
        endpoint=_metrics,
        scope="read",
        summary="The account of the recorder, and what the server did, for Prometheus",
        tag="operations",
        answers={"text/plain": None},
    ),
)
