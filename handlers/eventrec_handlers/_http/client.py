"""The client: one request, one answer, within bounds of time and size; what goes wrong is one of our errors."""

from __future__ import annotations

import re
import sys
import time
from contextlib import aclosing, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote

import anyio
import httpcore2

from eventrec import PauseError, TransientError
from eventrec_handlers._http.body import Body
from eventrec_handlers._http.connecting import pool_for
from eventrec_handlers._http.failures import FAILURES, meaning_of
from eventrec_handlers._http.meaning import SUCCESS, error_of
from eventrec_handlers._http.options import HTTPOptions
from eventrec_handlers._http.origin import PORTS, Origin, checked_target, redirected
from eventrec_handlers._thread import WorkThread

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

    import h11

    from eventrec import DeliveryError

MAX_REDIRECTS: Final = 5
DRAIN_SECONDS: Final = 2.0
"""How long a body is read that only explains, or that the caller does not need."""


_DEFAULTS: Final[Mapping[str, str]] = {"User-Agent": "eventrec", "Accept": "*/*", "Accept-Encoding": "gzip"}
_REPEATS_REQUEST: Final = frozenset({307, 308})
_OTHER_REDIRECTS: Final = frozenset({301, 302, 303})
_NAME: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_VALUE: Final = re.compile(r"[!-~]([ -~]*[!-~])?")


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer: `headers` by name in lower case, the last of several of one name; `body` decompressed."""

    status: int
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""

    @property
    def media_type(self) -> str:
        """The Content-Type in lower case without its parameters; "" where there is none."""
        return self.headers.get("content-type", "").partition(";")[0].strip().lower()


class HTTPClient:
    """Sends requests to `origin` and nowhere else, on asyncio and trio. Up to ten at once, over kept connections.

    `credentials` are headers that every request carries; their values are secret, like everything in `secrets` (a key
    in a body, a path): no error shows them. Nothing is remembered from one answer to the next, cookies neither.

    `now` is in seconds since the epoch.

    Raises:
        ValueError: A header cannot be one. Its value is not shown.
    """

    def __init__(
        self,
        origin: Origin,
        *,
        credentials: Mapping[str, str] | None = None,
        secrets: Collection[str] = (),
        options: HTTPOptions | None = None,
        now: Callable[[], float] = time.time,
    ) -> None:
        self.origin = origin
        self._options = HTTPOptions() if options is None else options
        self._credentials = checked_headers(credentials or {})
        self._secrets = _spellings(self._credentials.values(), [*secrets, *self._options.secrets])
        self._now = now
        self._thread = WorkThread("eventrec-http")
        self._pool: httpcore2.AsyncConnectionPool | None = None

    def __repr__(self) -> str:
        return f"<HTTPClient '{self.origin}' {'open' if self.is_open else 'closed'}>"

    @property
    def is_open(self) -> bool:
        """Whether it may send."""
        return self._pool is not None

    async def open(self) -> None:
        """Get ready; nothing is sent. Of a client that is open, in this loop or one that is gone, it begins again.

        Raises:
            PauseError: A file of certificates cannot be read, or the proxy's URL is not one.
        """
        await self.close()
        try:
            self._pool = await self._thread.run(partial(pool_for, self.origin, self._options))
        finally:
            self._thread.end()

    async def close(self) -> None:
        """Close all connections. It waits for nothing, and may be called again."""
        pool, self._pool = self._pool, None
        if pool is not None:
            with anyio.CancelScope(shield=True), suppress(Exception):  # what is left of a loop that is gone
                await pool.aclose()

    def redacted(self, text: str) -> str:
        """`text` with `***` for every secret: for errors that quote an answer."""
        for secret in self._secrets:
            text = text.replace(secret, "***")
        return text

    async def send(
        self,
        method: str,
        target: str,
        *,
        body: bytes = b"",
        headers: Mapping[str, str] | None = None,
        needs_body: bool = True,
        pauses: Collection[int] = (),
    ) -> Answer:
        """The answer to a request, with a status of 2xx. `target` is the path, perhaps with a query.

        `needs_body=False`: a 2xx counts whatever becomes of its body, which may be cut. `pauses` are statuses for which
        no record can be to blame.

        Raises:
            DeliveryError: As this package's docstring says.
            RuntimeError: It is not open.
            ValueError: `target` or a header cannot be one.
        """
        if self._pool is None:
            raise RuntimeError(f"{self!r} is not open")
        sent = {**_DEFAULTS, **checked_headers(headers or {}), **self._credentials}
        checked_target(target)
        handled = sys.exception()  # of the caller: no cause of what happens here
        try:
            with anyio.fail_after(self._options.timeout):
                for _ in range(MAX_REDIRECTS + 1):
                    request = self._request(method, target, body, sent)
                    try:
                        answer = await self._answer(self._pool, request, needs_body=needs_body)
                    except FAILURES as exc:
                        raise self._failure(exc, handled) from (exc if self.redacted(str(exc)) == str(exc) else None)
                    if answer.status not in _REPEATS_REQUEST:
                        return self._accepted(answer, pauses)
                    target = self._target_of(answer, target)
        except TimeoutError as exc:
            raise TransientError(f"{self.origin}: no answer within {self._options.timeout:g} s") from exc
        raise PauseError(f"{self.origin}: redirects without end")

    def _request(self, method: str, target: str, body: bytes, headers: Mapping[str, str]) -> httpcore2.Request:
        origin = self.origin
        port = None if origin.port == PORTS[origin.scheme] else origin.port
        return httpcore2.Request(
            method,
            httpcore2.URL(scheme=origin.scheme, host=origin.host, port=port, target=target),
            headers=[("Host", origin.authority), *headers.items(), ("Content-Length", str(len(body)))],
            content=body,
            extensions={"timeout": {"connect": self._options.connect_timeout}},
        )

    async def _answer(
        self, pool: httpcore2.AsyncConnectionPool, request: httpcore2.Request, *, needs_body: bool
    ) -> Answer:
        """The answer, whatever its status. What goes wrong comes out as it is."""
        response = await pool.handle_async_request(request)
        try:
            answer = await self._received(response, needs_body=needs_body)
            _refuse_reuse_after_more(response)
            return answer
        finally:
            with anyio.CancelScope(shield=True):
                await response.aclose()

    async def _received(self, response: httpcore2.Response, *, needs_body: bool) -> Answer:
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in response.headers}
        encoding, limit = headers.get("content-encoding", ""), self._options.max_answer
        if needs_body and response.status in SUCCESS:
            body = Body(encoding, limit=limit)
            await _read(response, body)
            if body.is_cut:
                raise PauseError(f"{self.origin}: the answer is longer than {limit:,} bytes")
        else:
            body = Body("", limit=limit)
            with anyio.move_on_after(DRAIN_SECONDS), suppress(*FAILURES):
                body = Body(encoding, limit=limit)
                await _read(response, body)
        return Answer(response.status, headers, bytes(body.content))

    def _failure(self, exc: Exception, handled: BaseException | None) -> DeliveryError:
        error, text = meaning_of(exc, handled)
        return error(self.redacted(f"{self.origin}: {text}"))

    def _accepted(self, answer: Answer, pauses: Collection[int]) -> Answer:
        body = "" if answer.status in SUCCESS else self.redacted(answer.body.decode(errors="replace"))
        subject = str(self.origin)
        error = error_of(answer.status, subject=subject, now=self._now(), headers=answer.headers, body=body)
        if error is None:
            return answer
        if answer.status in pauses:
            raise PauseError(str(error))
        if answer.status in _OTHER_REDIRECTS:
            raise PauseError(f"{error}: it redirects in a way that drops the body; give the URL it leads to")
        raise error

    def _target_of(self, answer: Answer, target: str) -> str:
        """Where a redirect leads on the same origin."""
        try:
            origin, target = redirected(self.origin, target, answer.headers.get("location", ""))
        except ValueError:
            raise PauseError(f"{self.origin}: HTTP {answer.status} leads nowhere") from None
        if origin != self.origin:
            place = self.redacted(str(origin))
            raise PauseError(
                f"{self.origin}: HTTP {answer.status} leads to {place}, which is not the place it was given"
            )
        return target


async def _read(response: httpcore2.Response, body: Body) -> None:
    async with aclosing(response.aiter_stream()) as pieces:
        async for piece in pieces:
            if not body.add(piece):
                return
    body.finish()


def checked_headers(headers: Mapping[str, str]) -> dict[str, str]:
    """`headers` as they are.

    Raises:
        ValueError: A name or a value cannot be one: they are printable ASCII. The value is not shown.
    """
    for name, value in headers.items():
        if _NAME.fullmatch(name) is None:
            raise ValueError(f"{name!r:.60} cannot be the name of a header")
        if _VALUE.fullmatch(value) is None:
            raise ValueError(f"the value of the header {name!r:.60} is not printable ASCII, or empty")
    return dict(headers)


def _spellings(values: Collection[str], secrets: Collection[str]) -> list[str]:
    """What to take out of a text, the longest first: percent-encoded too, and a header's value without its scheme."""
    found = {*values, *(value.partition(" ")[2] for value in values), *secrets}
    found |= {quote(each, safe="") for each in found}
    return sorted(filter(None, found), key=len, reverse=True)


def _refuse_reuse_after_more(response: httpcore2.Response) -> None:
    """Let the connection be closed where the server sent more than an answer.

    The library would take that for the answer to the next request, whatever becomes of it. It has no other way to say
    so; a test notices where it stops being one.
    """
    connection: Any = getattr(getattr(response.stream, "_stream", None), "_connection", None)
    state: h11.Connection | None = getattr(connection, "_h11_state", None)
    if state is not None and state.trailing_data[0]:
        state.send_failed()
