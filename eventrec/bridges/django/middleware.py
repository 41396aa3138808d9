"""Every request of a Django project as an event, and its id in the context of what is recorded meanwhile."""

from __future__ import annotations

import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

from asgiref.sync import iscoroutinefunction, markcoroutinefunction

from eventrec.bridges.django import recorder
from eventrec.bridges.requests import RequestServed, error_name, request_id

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, Mapping

    from django.http import HttpRequest
    from django.http.response import HttpResponseBase

_RAISED: Final = "_eventrec_raised"


class RecordRequests:
    """Middleware, for WSGI and ASGI: records a `RequestServed` for each request that `wants` says yes to.

    Whatever views record meanwhile carries `request_id` in its context, as the request's event does: the value of the
    header X-Request-ID, or a new one. Put it first, so that it sees what other middleware does. A subclass may say more
    (`fields_of`, `wants`). The event of a streamed response is recorded when it begins.
    """

    sync_capable = True
    async_capable = True

    def __init__(self, get_response: Callable[[HttpRequest], Any]) -> None:
        self._get_response = get_response
        self._is_async = iscoroutinefunction(get_response)
        if self._is_async:
            markcoroutinefunction(self)

    def wants(self, request: HttpRequest) -> bool:
        """Whether `request` becomes an event; its context is there either way."""
        del request
        return True

    def fields_of(self, request: HttpRequest) -> Mapping[str, object]:
        """What is in the context of all that is recorded during `request`: JSON values by their names."""
        return {"request_id": request_id(request.headers.get("x-request-id"))}

    def process_exception(self, request: HttpRequest, exception: Exception) -> None:
        """Remember what a view raised: Django makes a response of it before it gets here."""
        vars(request)[_RAISED] = exception

    def __call__(self, request: HttpRequest) -> HttpResponseBase | Awaitable[HttpResponseBase]:
        """Serve."""
        if self._is_async:
            return self._serve_async(request)
        with self._observed(request) as observed:
            response: HttpResponseBase = self._get_response(request)
            observed.response = response
            return response

    async def _serve_async(self, request: HttpRequest) -> HttpResponseBase:
        with self._observed(request) as observed:
            response: HttpResponseBase = await self._get_response(request)
            observed.response = response
            return response

    @contextmanager
    def _observed(self, request: HttpRequest) -> Iterator[_Observed]:
        """The context of `request`, whose event is recorded at the end."""
        to, start, observed = recorder(), time.perf_counter(), _Observed()
        with to.context(**self.fields_of(request)):
            error: BaseException | None = None
            try:
                yield observed
            except BaseException as exc:
                error = exc
                raise
            finally:
                if self.wants(request):
                    to.record(observed.event(request, start, error))


class _Observed:
    """What became of one request."""

    def __init__(self) -> None:
        self.response: HttpResponseBase | None = None

    def event(self, request: HttpRequest, start: float, error: BaseException | None) -> RequestServed:
        return RequestServed(
            method=str(request.method),
            path=request.path,
            route=getattr(request.resolver_match, "route", None),
            status=None if self.response is None else self.response.status_code,
            milliseconds=round((time.perf_counter() - start) * 1_000, 3),
            response_bytes=_length(self.response),
            error=error_name(error or vars(request).get(_RAISED)),
        )


def _length(response: HttpResponseBase | None) -> int | None:
    """How many bytes of a body `response` has; None: it is streamed."""
    if response is None:
        return 0
    content = None if response.streaming else getattr(response, "content", None)
    return None if content is None else len(content)
