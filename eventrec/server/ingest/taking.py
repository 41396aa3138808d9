"""Takes the events of a request, waits until they are as safe as 200 says, and makes the answer.

in parts      what is more than half of what the intake holds, but with `atomic`: each part once the one before is safe
written       with a log: `ingest_until` holds for all that were taken
delivered     without one: to every destination
refused       by index, the rest is taken; with `atomic` none is, and the request is refused
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final

import anyio
import msgspec

from eventrec.durations import duration_seconds
from eventrec.errors import (
    BatchRefusedError,
    DurableTimeoutError,
    EncodeError,
    EventrecError,
    LogClosedError,
    LogError,
    LogFullError,
    RecorderStateError,
)
from eventrec.events.event import ReceivedEvent
from eventrec.ingest.received import LineError
from eventrec.intake.several import SLICE, Turns
from eventrec.records.entry import entry_size
from eventrec.runtime.decoding import decodable
from eventrec.server.refusals import MAX_ERRORS, ElementError, RefusedError, json_response, wait_header
from eventrec.server.serving import shared_state

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from starlette.responses import Response

    from eventrec.events.event import ReceivedJson
    from eventrec.ingest.received import Received
    from eventrec.server.serving import Server

REJECTED: Final = "Eventrec-Rejected"
"""The header that says how many elements were not taken, where others were."""


@decodable
class BatchAnswer(msgspec.Struct, frozen=True, omit_defaults=True):
    """What is answered to a request that brought events.

    Attributes:
        received: How many were taken.
        rejected: How many were not.
        errors: Of the first of these, why.
    """

    received: int
    rejected: int = 0
    errors: Sequence[ElementError] = ()


@dataclass(frozen=True, slots=True)
class Taken:
    """What became of the events of a request: `received` were taken, and `errors` says why the others were not."""

    received: int
    errors: Sequence[ElementError] = ()

    def response(self) -> Response:
        """The answer to a client that reads JSON."""
        answer = BatchAnswer(self.received, len(self.errors), tuple(self.errors[:MAX_ERRORS]))
        return json_response(answer, headers={REJECTED: str(len(self.errors))} if self.errors else None)


async def take(server: Server, events: Sequence[Received], *, route: str, atomic: bool = False) -> Taken:
    """Take what can be taken of `events`, which came by `route`, and return once it is as safe as 200 says.

    Raises:
        RefusedError: 422 where all were refused, or with `atomic` one; 413 with `atomic` where the intake never has
            room for all; 429 where it has no room for any; 503 where the log cannot be written, the recorder takes
            nothing any more, or what was taken is not safe yet.
    """
    try:
        taken = await _taken(server, events, atomic=atomic)
    except RefusedError as exc:
        server.measures.count_events(route, refused=exc.rejected)
        raise
    server.measures.count_events(route, taken=taken.received, refused=len(taken.errors))
    return taken


async def _taken(server: Server, events: Sequence[Received], *, atomic: bool) -> Taken:
    errors = {
        index: ElementError(index, event.without_values)
        for index, event in enumerate(events)
        if isinstance(event, LineError)
    }
    if server.recorder.is_switched_off:
        raise later(server, HTTPStatus.SERVICE_UNAVAILABLE, "the recorder of this server is switched off")
    if atomic and errors:
        raise _refused(server, errors, len(events))
    indices = [index for index, event in enumerate(events) if not isinstance(event, LineError)]
    given = [event for event in events if not isinstance(event, LineError)]
    outcomes: list[object] = []
    ends = anyio.current_time() + duration_seconds(server.options.ingest_timeout)
    try:
        for part in [given] if atomic else _parts(given, *server.recorder.intake_bounds):
            seconds = max(0.0, ends - anyio.current_time())
            outcomes += await (_write if server.recorder.has_log else _deliver)(
                server, part, atomic=atomic, seconds=seconds
            )
    except BatchRefusedError as exc:
        if exc.never_fits:
            said = f"{len(events):,} events are more than the intake of this server ever holds: send fewer at once"
            raise RefusedError(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, said, rejected=len(events)) from exc
        refused = {indices[at]: _element_error(indices[at], error) for at, error in exc.errors.items()}
        raise _refused(server, refused, len(events)) from exc
    errors |= {
        index: _element_error(index, outcome)
        for index, outcome in zip(indices, outcomes, strict=True)
        if isinstance(outcome, EventrecError)
    }
    if errors and len(errors) == len(events):
        raise _refused(server, errors, len(events))
    return Taken(len(events) - len(errors), [errors[index] for index in sorted(errors)])


def _parts(
    events: Sequence[ReceivedEvent | ReceivedJson], max_events: int | None, max_bytes: int
) -> Iterator[Sequence[ReceivedEvent | ReceivedJson]]:
    """`events` in parts that take half of the intake at most: all at once, some would be refused however often sent.

    The other half is for other requests. An event that is larger is a part by itself.
    """
    most, room = max(1, (max_events or 1 << 62) // 2), max_bytes // 2
    start = size = 0
    for index, event in enumerate(events):
        bytes_ = entry_size(event.payload, event.context if isinstance(event, ReceivedEvent) else None)
        if index > start and (index - start == most or size + bytes_ > room):
            yield events[start:index]
            start, size = index, 0
        size += bytes_
    yield events[start:]


async def _write(server: Server, events: Sequence[Any], *, atomic: bool, seconds: float) -> Sequence[object]:
    """Have `events` in the log, as safe as `ingest_until` says; what became of each."""
    options = server.options
    try:
        return await server.recorder.record_all_durable(
            events, atomic=atomic, until=options.ingest_until, timeout=seconds
        )
    except DurableTimeoutError as exc:
        patience = duration_seconds(options.ingest_timeout)
        raise later(
            server,
            HTTPStatus.SERVICE_UNAVAILABLE,
            f"the events were not {options.ingest_until} within {patience:g} s: send them again under the same ids",
        ) from exc
    except (LogClosedError, RecorderStateError) as exc:
        raise later(server, HTTPStatus.SERVICE_UNAVAILABLE, "the server is closing") from exc
    except LogError as exc:
        raise later(
            server,
            HTTPStatus.SERVICE_UNAVAILABLE,
            "the log cannot be written: send the events again later under the same ids",
        ) from exc


async def _deliver(server: Server, events: Sequence[Any], *, atomic: bool, seconds: float) -> Sequence[object]:
    """Have `events` delivered to every destination; what became of each."""
    outcomes: list[object] = []
    if atomic:
        outcomes += server.recorder.record_each(events, atomic=True)
    else:
        turns = Turns()
        for start in range(0, len(events), SLICE):
            outcomes += server.recorder.record_each(events[start : start + SLICE])
            await turns.pause_if_due()
    if True not in outcomes:
        return outcomes
    answer = await shared_state(server).rounds.wait(server.recorder, seconds=seconds)
    if answer is True:
        return outcomes
    if answer is False:
        said = "the events are taken, and not delivered yet: send them again under the same ids"
    else:
        said = f"not every event was delivered ({answer}): send them again under the same ids"
    raise later(server, HTTPStatus.SERVICE_UNAVAILABLE, said)


def _element_error(index: int, error: EventrecError) -> ElementError:
    """Why an element was not taken, without its values."""
    match error:
        case LogFullError():
            return ElementError(index, "the server takes no more for now: its intake is full", retry=True)
        case RecorderStateError():
            return ElementError(index, "the server takes nothing any more: it closes", retry=True)
        case EncodeError():
            return ElementError(index, "it is too large, or a value in it cannot be recorded")
        case _:
            return ElementError(index, "it is not a valid event: a name, a time, or what it says of its columns")


def _refused(server: Server, errors: Mapping[int, ElementError], count: int) -> RefusedError:
    """None was taken. What may be taken later is to be sent again."""
    listed = [errors[index] for index in sorted(errors)]
    if all(error.retry for error in listed):
        is_closing = server.recorder.status().state != "open"
        status = HTTPStatus.SERVICE_UNAVAILABLE if is_closing else HTTPStatus.TOO_MANY_REQUESTS
        return later(server, status, listed[0].error, errors=listed)
    said = f"{len(listed):,} of {count:,} events cannot be taken"
    return RefusedError(HTTPStatus.UNPROCESSABLE_ENTITY, f"{said}, so that none was", errors=listed)


def later(server: Server, status: HTTPStatus, detail: str, *, errors: Sequence[ElementError] = ()) -> RefusedError:
    """The refusal of what a client is to send again, after as long as the server's option says."""
    return RefusedError(
        status, detail, headers=wait_header(duration_seconds(server.options.retry_after)), errors=errors
    )
