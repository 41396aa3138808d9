"""Delivers batches to a receiver of OpenTelemetry's logs: OTLP over HTTP, as Protocol Buffers or JSON.

At least once: after an answer that was lost, the same records arrive again, each under the same `log.record.uid`. What
of an event goes where stands in `records.py`.

A receiver answers 2xx for a request that it took, perhaps with a number of records that it refused; it does not say
which, and the protocol forbids sending such a request again. So, where it refused

    all of them     they become dead letters, with its reason
    some of them    `partial="accept"`: the batch counts as delivered, as the protocol has it; how many were refused,
                    and the last reason, is a reason of `Status.health`, and one line of the logging
                    `partial="locate"`: the batch is bisected, against the protocol, until only those that are refused
                    alone are left, as dead letters; the others arrive several times, under the same id

408, 425, 429 and 5xx are tried again, not before Retry-After; 413 splits the batch; of a batch that is refused with 400
the records at fault are found by bisecting. 401 and 403 wait for an operator, and so does what no record can be to
blame for: 404, 405, 406, 410, 415, 501, or an answer that is not OTLP.
"""

from __future__ import annotations

import gzip
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as installed_version
from typing import TYPE_CHECKING, Final, Literal, TypeAlias, get_args
from urllib.parse import urlsplit

from eventrec import Batch, EventHandler, HandlerURL, HandlerURLError, PauseError, PermanentError, get_logger
from eventrec_handlers._http.client import HTTPClient
from eventrec_handlers._http.credentials import credential_names, credentials_in, with_basic
from eventrec_handlers._http.meaning import quoted
from eventrec_handlers._http.options import OPTION_NAMES, HTTPOptions
from eventrec_handlers._http.origin import origin_of, place_of
from eventrec_handlers._thread import WorkThread
from eventrec_handlers.otlp.answers import ForeignAnswerError, Partial, partial_of
from eventrec_handlers.otlp.encodings import Encoding, JsonEncoding, ProtobufEncoding
from eventrec_handlers.otlp.records import BODIES, OTLPBody, Request, Requests

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["HTTPOptions", "OTLPBody", "OTLPCompression", "OTLPEncoding", "OTLPHandler", "OnPartial", "from_url"]

OTLPEncoding: TypeAlias = Literal["protobuf", "json"]
OTLPCompression: TypeAlias = Literal["gzip", "none"]
OnPartial: TypeAlias = Literal["accept", "locate"]

PORT: Final = 4318
"""OTLP's own over HTTP."""

PATH: Final = "/v1/logs"
GZIP_LEVEL: Final = 3
NO_RECORDS_FAULT: Final = frozenset({404, 405, 406, 410, 415, 501})

_ENCODINGS: Final[Mapping[OTLPEncoding, Encoding]] = {"protobuf": ProtobufEncoding(), "json": JsonEncoding()}
_COMPRESSIONS: Final[tuple[OTLPCompression, ...]] = get_args(OTLPCompression)
_ON_PARTIAL: Final[tuple[OnPartial, ...]] = get_args(OnPartial)
_SECURE: Final = "otlp+https"
_logger = get_logger("eventrec.otlp")


def from_url(url: str) -> OTLPHandler:
    """The handler for `otlp://host`, port 4318, or `otlp+https://host`, port 443; `?tls=true` is TLS on either.

    The path is `/v1/logs`, unless the URL has one. Options are `tls`, `encoding`, `compression`, `body`, `partial`,
    `token` (sent as `Authorization: Bearer …`), `header.NAME=value`, and those of the connection: `timeout`,
    `connect_timeout`, `tls_ca`, `tls_cert`, `tls_key`, `tls_verify`, `proxy`. Token, headers and proxy may be
    `env:NAME`, which takes the value from the environment.

    Raises:
        HandlerURLError: It is not a URL, an option is unknown, or a value is not allowed.
    """
    given = HandlerURL(url)
    own = ("tls", "encoding", "compression", "body", "partial", *OPTION_NAMES, *credential_names(given))
    given.accept(*own, parts=("user", "password", "host", "port", "path"))
    is_secure = given.boolean("tls", default=given.scheme == _SECURE)
    if given.scheme == _SECURE and not is_secure:
        raise HandlerURLError(f"a {given.scheme} URL without TLS is otlp://")
    port = given.port if given.port is not None or given.scheme == _SECURE else PORT
    try:
        origin = origin_of("https" if is_secure else "http", given.host, port)
        split = urlsplit(url)
        userinfo = "".join(split.netloc.rpartition("@")[:2])
        return OTLPHandler(
            f"{origin.scheme}://{userinfo}{origin.authority}{split.path}",
            encoding=given.choice("encoding", tuple(_ENCODINGS), default="protobuf"),
            compression=given.choice("compression", _COMPRESSIONS, default="gzip"),
            body=given.choice("body", BODIES, default="map"),
            partial=given.choice("partial", _ON_PARTIAL, default="accept"),
            headers=credentials_in(given),
            options=HTTPOptions.of(given),
        )
    except ValueError as exc:
        raise HandlerURLError(f"a {given.scheme} URL: {exc}") from None


class OTLPHandler(EventHandler):
    """Delivers batches to the receiver at `url`, of http or https, at least once; its path is `/v1/logs` by default.

    User and password of `url` are sent as Basic. `body="json"` sends each payload as its JSON text, `"map"` as the
    value that it is, wherever OTLP can say it. `partial` is what happens where a receiver refuses a part of a batch:
    see above. `headers` go with every request; their values are secret.

    Raises:
        ValueError: `url` is not one of http or https, or another argument is not allowed. No value is shown.
    """

    def __init__(
        self,
        url: str,
        *,
        encoding: OTLPEncoding = "protobuf",
        compression: OTLPCompression = "gzip",
        body: OTLPBody = "map",
        partial: OnPartial = "accept",
        headers: Mapping[str, str] | None = None,
        options: HTTPOptions | None = None,
    ) -> None:
        _check("encoding", encoding, tuple(_ENCODINGS))
        _check("compression", compression, _COMPRESSIONS)
        _check("body", body, BODIES)
        _check("partial", partial, _ON_PARTIAL)
        origin, target = place_of(url)
        self._target = PATH if target == "/" else target
        self._is_compressed = compression == "gzip"
        self._encoding = _ENCODINGS[encoding]
        self._body = body
        self._requests: Requests | None = None
        self._on_partial = partial
        credentials, secrets = with_basic(headers or {}, url)
        self._client = HTTPClient(origin, credentials=credentials, secrets=secrets, options=options)
        self._thread = WorkThread("eventrec-otlp")
        self._prepared: tuple[Batch, Request] | None = None
        self._sent = 0
        self._rejected = 0
        self._reason = ""
        self._is_refusing = False

    def __repr__(self) -> str:
        return f"<OTLPHandler '{self._client.origin}' {'open' if self._client.is_open else 'closed'}>"

    @property
    def remarks(self) -> Sequence[str]:
        if not self._rejected:
            return ()
        counts = f"{self._rejected:,} of {self._sent:,} log records were refused"
        return [f"{self._client.origin}: {counts}, the protocol does not say which{self._reason}"]

    async def open(self) -> None:
        """Get ready; nothing is sent.

        Raises:
            PauseError: A file of certificates cannot be read, or the proxy's URL is not one.
        """
        if self._requests is None:
            version = await self._thread.run(_version)
            self._requests = Requests(self._encoding, body=self._body, version=version)
        await self._client.open()

    async def prepare(self, batch: Batch) -> None:
        self._prepared = (batch, await self._encoded(batch))

    async def handle(self, batch: Batch) -> None:
        prepared, self._prepared = self._prepared, None
        request = prepared[1] if prepared is not None and prepared[0] is batch else await self._encoded(batch)
        headers = {"Content-Type": self._encoding.media_type}
        if self._is_compressed:
            headers["Content-Encoding"] = "gzip"
        answer = await self._client.send(
            "POST", self._target, body=request.body, headers=headers, pauses=NO_RECORDS_FAULT
        )
        try:
            said = partial_of(answer)
        except ForeignAnswerError as exc:
            raise PauseError(f"{self._client.origin}: this is not a receiver of OTLP: {exc}") from exc
        self._judge(batch, request.size, said)

    async def close(self) -> None:
        self._prepared = None
        self._thread.end()
        await self._client.close()

    async def _encoded(self, batch: Batch) -> Request:
        if self._requests is None:
            raise RuntimeError(f"{self!r} is not open")
        request = await self._requests.request_of(batch)
        if not self._is_compressed:
            return request
        compressed = await self._thread.run(lambda: gzip.compress(request.body, GZIP_LEVEL, mtime=0))
        return request._replace(body=compressed)

    def _judge(self, batch: Batch, count: int, said: Partial) -> None:
        """Account for what was refused of `count` log records.

        Raises:
            PermanentError: All of them; or some of them, which are to be located.
        """
        words = quoted(self._client.redacted(said.message))
        reason = f": {words}" if words else ""
        if said.rejected >= count:
            why = f"{self._client.origin}: refused{reason}"
            raise PermanentError(why, records=dict.fromkeys(batch.offsets, why))
        if said.rejected and self._on_partial == "locate":
            raise PermanentError(f"{self._client.origin}: {said.rejected} of {count} log records were refused{reason}")
        self._sent += count
        if said.rejected:
            self._rejected += said.rejected
            self._reason = reason
        if bool(said.rejected) != self._is_refusing:
            self._is_refusing = bool(said.rejected)
            if self._is_refusing:
                _logger.warning(
                    "log records are refused, and not said which", destination=self._client.origin, reason=words
                )
            else:
                _logger.info("log records are taken again", destination=self._client.origin)


def _check(name: str, value: str, allowed: Sequence[str]) -> None:
    if value not in allowed:
        raise ValueError(f"{name} must be one of {', '.join(allowed)}, got {value!r:.60}")


def _version() -> str:
    try:
        return installed_version("eventrec")
    except PackageNotFoundError:  # stripped of its metadata
        return ""
