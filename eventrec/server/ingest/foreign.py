"""What the endpoints for clients of others share: reading off the loop, and answering for a batch as a whole.

Such a client knows one answer for all that it sent. So what can be taken of a request is taken; and where something was
not, the answer says so for the whole of it:

    all are written          200
    some never can be        400, with an error for each, by its index, 422 where none can: the client gives the batch
                             up, and says so
    some could not be now    429 or 503 with Retry-After: the client sends all of them again, later

In the last two cases the others are written all the same. A client that sends them again doubles nothing, since they
have ids.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING, Final, TypeVar

from eventrec.ingest.elements import BodyError, BodyTooLargeError
from eventrec.ingest.received import LineError
from eventrec.records.entry import entry_size
from eventrec.runtime.backend import in_thread
from eventrec.server.guards import ROUTE
from eventrec.server.ingest.taking import later
from eventrec.server.refusals import RefusedError
from eventrec.server.serving import shared_state

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from starlette.requests import Request

    from eventrec.events.event import ReceivedEvent
    from eventrec.server.ingest.taking import Taken
    from eventrec.server.serving import Server

T = TypeVar("T")

_SMALL: Final = 1 << 16
"""Bytes that are read on the loop: that takes less than giving them to a thread."""


async def read_from(size: int, work: Callable[[], T], server: Server) -> T:
    """What `work` makes of `size` bytes, in a thread where they are many.

    Raises:
        RefusedError: 413 or 400: the body as a whole cannot be read.
    """
    try:
        return work() if size <= _SMALL else await in_thread(work, limiter=shared_state(server).unpackers)
    except BodyTooLargeError as exc:
        raise RefusedError(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, str(exc)) from exc
    except BodyError as exc:
        raise RefusedError(HTTPStatus.BAD_REQUEST, str(exc)) from exc


def hold(events: Sequence[ReceivedEvent | LineError], request: Request, server: Server) -> None:
    """Count what `events` take among the bodies in memory, until the request is answered: it may be more than the body.

    Raises:
        RefusedError: 503 with Retry-After where it is not free.
    """
    sizes = (entry_size(each.payload, each.context) for each in events if not isinstance(each, LineError))
    shared_state(server).memory.lease(request.scope).add(sum(sizes))


def route_of(request: Request) -> str:
    """The path of the route that answers, for the measures."""
    return str(request.scope[ROUTE])


def refuse_any(taken: Taken, server: Server) -> None:
    """Return where nothing was refused.

    Raises:
        RefusedError: As the table says.
    """
    errors = taken.errors
    if not errors:
        return
    refuse_for_now(taken, server)
    said = f"{len(errors):,} of {taken.received + len(errors):,} events are refused, the others are recorded"
    raise RefusedError(HTTPStatus.BAD_REQUEST, said, errors=errors)


def refuse_for_now(taken: Taken, server: Server) -> None:
    """Return where nothing was refused that may be taken later.

    Raises:
        RefusedError: 503 with Retry-After.
    """
    if any(error.retry for error in taken.errors):
        said = "not all events could be taken now: send all of them again under the same ids"
        raise later(server, HTTPStatus.SERVICE_UNAVAILABLE, said, errors=taken.errors)
