"""A PostHog for tests, in threads of this process: takes events as its endpoints do, and keeps them.

    with FakePostHog() as posthog:
        async with EventRecorder(posthog.url()) as recorder: …
        assert [event["event"] for event in posthog.events] == ["app_started"]

It takes `/batch/`, a batch as a whole or not at all, and `/i/v1/analytics/events`, with a verdict for each event. Like
PostHog it refuses another key with 401, an event without a name or a distinct id and a number that no double holds with
400, a body that is too large with 413; an event whose uuid is not one it takes and drops. What else an answer can be is
staged by `answer_with`.
"""

from __future__ import annotations

import gzip
import json
import math
import re
import threading
import zlib
from collections import deque
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, Final, Self, TypeAlias
from urllib.parse import urlencode

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from types import TracebackType

V0: Final = "/batch/"
V1: Final = "/i/v1/analytics/events"

_UUID: Final = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[1-8][0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Taken:
    """A request: header names in lower case, `body` as it was decoded, `size` in bytes as they came."""

    path: str
    headers: Mapping[str, str]
    body: Any
    size: int


@dataclass(frozen=True, slots=True)
class Said:
    """An answer. A `body` that is not bytes is sent as JSON."""

    status: int
    body: Any = b""
    headers: tuple[tuple[str, str], ...] = ()


Staged: TypeAlias = "Said | bytes | Callable[[BaseHTTPRequestHandler], None]"
"""An answer; bytes that are sent as they are before the connection is closed; or what writes to the connection."""


class FakePostHog:
    """Listens on a free port of 127.0.0.1. `events` are those taken, in order; `requests` all that came."""

    def __init__(self, *, key: str = "phc_test", max_bytes: int = 20 << 20) -> None:
        self.key = key
        self.max_bytes = max_bytes
        self.events: list[dict[str, Any]] = []
        self.dropped: list[dict[str, Any]] = []
        self.requests: list[Taken] = []
        self.is_forbidden = False
        self.verdict: Callable[[dict[str, Any]], Mapping[str, str]] = lambda _: {"result": "ok"}
        """What v1 says of an event; taken are those with "ok" and "warning"."""
        self._staged: deque[Staged] = deque()
        self._arrived = threading.Condition()
        self._server = _Server(("127.0.0.1", 0), _Exchange)
        self._server.posthog = self
        self.host, self.port = "127.0.0.1", int(self._server.server_address[1])
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.005,), daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def url(self, **options: str) -> str:
        """What a handler for it is made from."""
        return f"posthog://{self.key}@{self.host}:{self.port}?{urlencode({'tls': 'false', **options})}"

    def answer_with(self, *answers: Staged) -> None:
        """Answer the next requests so, one after the other, and take nothing of them."""
        self._staged.extend(answers)

    def answer_normally(self) -> None:
        """Forget the answers that were staged and not given yet."""
        self._staged.clear()

    def wait_for_requests(self, count: int, *, timeout: float = 120.0) -> None:
        """Wait until so many requests came.

        Raises:
            AssertionError: They did not within `timeout` seconds.
        """
        self._wait_for(lambda: len(self.requests), count, "requests", timeout)

    def wait_for_events(self, count: int, *, timeout: float = 120.0) -> None:
        """Wait until so many events were taken.

        Raises:
            AssertionError: They were not within `timeout` seconds.
        """
        self._wait_for(lambda: len(self.events), count, "events", timeout)

    def _wait_for(self, came: Callable[[], int], count: int, what: str, timeout: float) -> None:
        with self._arrived:
            self._arrived.wait_for(lambda: came() >= count, timeout)
            assert came() >= count, f"{came()} of {count} {what} came"

    def close(self) -> None:
        """Stop listening."""
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def answer(self, path: str, headers: Mapping[str, str], sent: bytes) -> Staged:
        """What to answer; events are kept before it is sent."""
        body, fault = _decoded(headers.get("content-encoding"), sent)
        with self._arrived:
            self.requests.append(Taken(path, headers, body, len(sent)))
            try:
                if self._staged:
                    return self._staged.popleft()
                if fault is not None:
                    return Said(400, fault)
                if len(sent) > self.max_bytes:
                    return Said(413, "too large")
                return self._judged(path, headers, body)
            finally:
                self._arrived.notify_all()

    def _judged(self, path: str, headers: Mapping[str, str], body: Any) -> Said:
        if path not in {V0, "/batch", V1}:
            return Said(404, b"<h1>Not Found</h1>")
        key = headers.get("authorization", "").removeprefix("Bearer ") if path == V1 else body.get("api_key")
        if self.is_forbidden or key != self.key:
            return Said(401, "API key is not valid: not_found")
        return self._each(body["batch"]) if path == V1 else self._whole(body["batch"])

    def _whole(self, events: list[dict[str, Any]]) -> Said:
        for event in events:
            if not event.get("event") or not event.get("distinct_id"):
                return Said(400, "event submitted without a name or a distinct_id")
        for event in events:
            is_valid = _UUID.fullmatch(str(event.get("uuid"))) is not None
            (self.events if is_valid else self.dropped).append(event)
        return Said(200, {"status": 1})

    def _each(self, events: list[dict[str, Any]]) -> Said:
        uuids = [event["uuid"] for event in events]
        if len(set(uuids)) != len(uuids):
            return Said(400, {"error": "duplicate_event_uuid"})
        results = {event["uuid"]: self.verdict(event) for event in events}
        for event in events:
            is_taken = results[event["uuid"]].get("result") in {"ok", "warning"}
            (self.events if is_taken else self.dropped).append(event)
        again = any(result.get("result") == "retry" for result in results.values())
        return Said(200, {"results": results}, (("Retry-After", "1"),) if again else ())


def _decoded(encoding: str | None, sent: bytes) -> tuple[Any, str | None]:
    """The JSON that was sent, or what is wrong with it."""
    try:
        text = gzip.decompress(sent) if encoding == "gzip" else sent
        return json.loads(text, parse_float=_finite), None
    except (ValueError, EOFError, OSError, zlib.error, RecursionError) as exc:
        return None, f"failed to parse request: {exc}"


def _finite(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise ValueError("number out of range")
    return value


class _Server(ThreadingHTTPServer):
    posthog: FakePostHog
    daemon_threads = True
    request_queue_size = 64

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that is gone."""


class _Exchange(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Server

    def do_POST(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        sent = self.rfile.read(length)
        if len(sent) < length:
            self.close_connection = True
            return
        headers = {name.lower(): value for name, value in self.headers.items()}
        answer = self.server.posthog.answer(self.path, headers, sent)
        if isinstance(answer, Said):
            body = answer.body if isinstance(answer.body, bytes) else json.dumps(answer.body).encode()
            self.send_response(answer.status)
            given = {"Content-Type": "application/json", "Content-Length": str(len(body)), **dict(answer.headers)}
            for name, value in given.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)
        elif isinstance(answer, bytes):
            self.wfile.write(answer)
            self.close_connection = True
        else:
            answer(self)
            self.close_connection = True

    def log_message(self, *_: object) -> None:
        """Nothing is logged."""
