"""Delivers to PostHog: each record an event of its batch endpoint.

Which kind of event a record becomes, whose it is and in which session, is said in `events.py`; how a request looks, in
`requests.py`; what an answer means, in `answers.py`.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final, Literal

from eventrec import EventHandler, HandlerURL, HandlerURLError
from eventrec_handlers._http.client import HTTPClient
from eventrec_handlers._http.options import OPTION_NAMES, HTTPOptions
from eventrec_handlers._http.origin import checked_target, origin_of
from eventrec_handlers.posthog.answers import taken
from eventrec_handlers.posthog.events import Persons
from eventrec_handlers.posthog.requests import ENDPOINTS, Encoded, Envelope, encoded

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from eventrec import Batch
    from eventrec_handlers.posthog.requests import Historical, Protocol

__all__ = ["HTTPOptions", "PostHogHandler", "from_url"]

DEFAULT_HOST: Final = "us.i.posthog.com"

_NOT_A_RECORDS_FAULT: Final = frozenset({404, 405, 406, 410, 415})
"""Statuses of a host that is not PostHog, or of an endpoint that it does not have."""

_OPTIONS: Final = (
    *("tls", "protocol", "endpoint", "gzip", "historical_migration", "distinct_id", "distinct_id_field"),
    *OPTION_NAMES,
)


def from_url(url: str) -> PostHogHandler:
    """The handler for `posthog://KEY@host:port?option=value`; over TLS unless `tls=false`.

    The host is that of the region, us.i.posthog.com or eu.i.posthog.com, or your own. Options are the keyword arguments
    of `PostHogHandler`, and those of connections: timeouts, certificates, the proxy.

    Raises:
        HandlerURLError: There is no key, or an option is unknown or has a value that is not allowed.
    """
    given = HandlerURL(url)
    given.accept(*_OPTIONS, parts=("user", "host", "port"))
    historical: dict[str, Historical] = {"auto": "auto", "true": True, "false": False}
    protocols: tuple[Protocol, ...] = ("v0", "v1")
    try:
        return PostHogHandler(
            given.user or "",
            host=given.host or DEFAULT_HOST,
            port=given.port,
            tls=given.boolean("tls", default=True),
            protocol=given.choice("protocol", protocols, default="v0"),
            endpoint=given.text("endpoint"),
            gzip=given.boolean("gzip", default=True),
            historical_migration=historical[given.choice("historical_migration", tuple(historical), default="auto")],
            distinct_id=given.text("distinct_id"),
            distinct_id_field=given.text("distinct_id_field", default="distinct_id") or "",
            http=HTTPOptions.of(given),
        )
    except ValueError as exc:
        raise HandlerURLError(f"a posthog URL: {exc}") from None


class PostHogHandler(EventHandler):
    """Sends batches to the PostHog project of `key`, at least once; every event carries a `uuid` that stays the same.

    PostHog drops an event whose `uuid`, name, person and day it has seen before, by and by: a query that is made at
    once may count a repeat twice. It has no transaction, and keeps no checkpoint.

    Args:
        key: The project's key, `phc_…`. No error and no log line shows it.
        host: Where PostHog is.
        port: None: that of the scheme.
        tls: False: plain HTTP, for a server of your own.
        protocol: "v0" sends to `/batch/`, which every PostHog has, and which takes a batch as a whole or not at all.
            "v1" sends to `/i/v1/analytics/events`, which has a verdict for each event.
        endpoint: The path of the endpoint, where a proxy has it elsewhere.
        gzip: Whether requests are compressed.
        historical_migration: Whether PostHog is to treat the events as an import of old ones. "auto": batches whose
            events are all at least 48 hours old, as those of a long outage or of a replay.
        distinct_id: Whose events those are that do not say so.
        distinct_id_field: The field of the context that says so.
        http: How to connect.
        now: The time, in seconds since the epoch.

    Raises:
        ValueError: One of them is not allowed.
    """

    def __init__(
        self,
        key: str,
        *,
        host: str = DEFAULT_HOST,
        port: int | None = None,
        tls: bool = True,
        protocol: Literal["v0", "v1"] = "v0",
        endpoint: str | None = None,
        gzip: bool = True,
        historical_migration: Literal["auto"] | bool = "auto",
        distinct_id: str | None = None,
        distinct_id_field: str = "distinct_id",
        http: HTTPOptions | None = None,
        now: Callable[[], float] = time.time,
    ) -> None:
        if not key or not key.isascii() or not key.isprintable() or " " in key:
            raise ValueError("the project's key is missing, or is not one")
        if distinct_id == "" or not distinct_id_field:
            raise ValueError("a distinct id and its field are not empty")
        self._persons = Persons(field=distinct_id_field, default=distinct_id)
        self._envelope = Envelope(protocol=protocol, key=key, gzip=gzip, historical=historical_migration)
        self._target = checked_target(ENDPOINTS[protocol] if endpoint is None else endpoint)
        self._now = now
        self._remark: str | None = None
        self._prepared: Encoded | None = None
        self._token, self._attempt = "", 0
        """Of the batch that was sent last."""
        self._client = HTTPClient(
            origin_of("https" if tls else "http", host, port),
            credentials={"Authorization": f"Bearer {key}"} if protocol == "v1" else {},
            secrets=(key,),
            options=http,
            now=now,
        )

    def __repr__(self) -> str:
        return f"<PostHogHandler {self._client.origin}{self._target}>"

    @property
    def remarks(self) -> Sequence[str]:
        return () if self._remark is None else (self._remark,)

    async def open(self) -> None:
        """Connects at the first batch: PostHog has nothing that may be asked with a project's key."""
        await self._client.open()

    async def prepare(self, batch: Batch) -> None:
        self._prepared = None
        self._prepared = await self._encoded(batch)

    async def handle(self, batch: Batch) -> None:
        prepared, self._prepared = self._prepared, None
        if prepared is None or prepared.batch is not batch:
            prepared = await self._encoded(batch)
        self._attempt = self._attempt + 1 if batch.token == self._token else 1
        self._token = batch.token
        request = prepared.request(now=self._now(), attempt=self._attempt)
        answer = await self._client.send(
            "POST", self._target, body=request.body, headers=request.headers, pauses=_NOT_A_RECORDS_FAULT
        )
        subject = str(self._client.origin)
        self._remark = taken(answer, request, subject=subject, now=self._now(), redacted=self._client.redacted)

    async def close(self) -> None:
        self._prepared = None
        await self._client.close()

    async def _encoded(self, batch: Batch) -> Encoded:
        return await encoded(batch, self._envelope, self._persons, now=self._now())
