"""An HTTP request as an event, whatever framework serves it."""

from __future__ import annotations

from typing import ClassVar, Final
from uuid import uuid4

from eventrec.events.event import EventStruct

_LONGEST_ID: Final = 128


class RequestServed(EventStruct):
    """One HTTP request, from its arrival to the end of its response.

    `path` comes without the query, which may hold what must not be kept; `route` is the template that matched, where
    the framework says so. `status` is None where no response began. `response_bytes` is None where the framework does
    not know how long a streamed response became. `error` is the class of what the application raised, "cancelled"
    where the request was.
    """

    type: ClassVar[str] = "http_request"

    method: str
    path: str
    route: str | None
    status: int | None
    milliseconds: float
    response_bytes: int | None
    error: str | None = None


def request_id(header: str | None) -> str:
    """The id that a request came with, or a new one where there is none, or one that is too long to be kept."""
    return header if header and len(header) <= _LONGEST_ID else str(uuid4())


def error_name(exc: BaseException | None) -> str | None:
    """What `RequestServed.error` says of `exc`."""
    if exc is None:
        return None
    return type(exc).__name__ if isinstance(exc, Exception) else "cancelled"
