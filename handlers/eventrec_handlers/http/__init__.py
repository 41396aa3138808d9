"""Delivers batches to an HTTP endpoint, as webhooks do: CloudEvents or lines of JSON, signed where a secret is given.

At least once: after an answer that was lost, the same records arrive again, each under the same id. A request of the
same records carries the same `Idempotency-Key`, so that an endpoint which keeps the keys of a while takes each once;
after a restart of the recorder a batch may be cut in another way, and then the ids alone tell.

The endpoint answers 2xx once it keeps what it was sent: all of it, or it answers something else; a server of ours may
say which elements it does not keep (`refused.py`). What other answers
mean stands in `_http/`: 413 splits the batch, 401 and 403 wait for an operator, 408, 425, 429 and 5xx are tried again,
not before Retry-After; of a batch that is refused with another 4xx the records at fault are found by bisecting it.
Where each record is a request of its own they go one after the other in the order of the log, and one that is refused
does not keep the others back. A call of `handle` then takes as many round trips as the batch has records: give such a
subscription a small `batch_rows`.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from eventrec import (
    Batch,
    BatchTooLargeError,
    EventHandler,
    HandlerURL,
    HandlerURLError,
    PartialError,
    PauseError,
    PermanentError,
    TransientError,
)
from eventrec_handlers._http.client import HTTPClient
from eventrec_handlers._http.credentials import credential_names, credentials_in, with_basic
from eventrec_handlers._http.options import OPTION_NAMES, HTTPOptions, secret_option
from eventrec_handlers._http.origin import place_of
from eventrec_handlers.http.formats import FORMATS, HTTPFormat, Message, messages_of
from eventrec_handlers.http.refused import raise_refused
from eventrec_handlers.http.signing import Signer, request_key

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from eventrec import DeliveryError

__all__ = ["HTTPFormat", "HTTPHandler", "HTTPOptions", "from_url"]

DEFAULT_FORMAT: Final[HTTPFormat] = "cloudevents-batch"
PARTS: Final = ("user", "password", "host", "port", "path")

_SECRET_LENGTH: Final = 12
"""Characters from which on a part of the path is taken for a secret: the URLs of webhooks have such."""


def from_url(url: str) -> HTTPHandler:
    """The handler for `https://user:password@host/path?option=value`, or `http://`.

    Options are `format`, `source`, `secret` (for signatures), `token` (sent as `Authorization: Bearer …`),
    `header.NAME=value`, `query` (the endpoint's own query, percent-encoded), and those of the connection: `timeout`,
    `connect_timeout`, `tls_ca`, `tls_cert`, `tls_key`, `tls_verify`, `proxy`. Secret, token, headers, query and proxy
    may be `env:NAME`, which takes the value from the environment.

    Raises:
        HandlerURLError: It is not a URL, an option is unknown, or a value is not allowed.
    """
    given = HandlerURL(url)
    own = ("format", "source", "secret", "query", *OPTION_NAMES, *credential_names(given))
    given.accept(*own, parts=PARTS)
    place, query = url.partition("?")[0], secret_option(given, "query")
    try:
        return HTTPHandler(
            place if query is None else f"{place}?{query}",
            format=given.choice("format", FORMATS, default=DEFAULT_FORMAT),
            source=given.text("source"),
            secret=secret_option(given, "secret"),
            headers=credentials_in(given),
            options=HTTPOptions.of(given),
        )
    except ValueError as exc:
        raise HandlerURLError(f"a {given.scheme} URL: {exc}") from None


class HTTPHandler(EventHandler):
    """Posts batches to `url`, at least once. Its query goes along as it stands; user and password are sent as Basic.

    `format` is how: see `formats.py`. `source` is that of the CloudEvents. With `secret` requests are signed: see
    `signing.py`. `headers` go with every request; their values are secret. `now` gives seconds since the epoch.

    Raises:
        ValueError: `url` is not one of http or https, or another argument is not allowed. No value is shown.
    """

    def __init__(
        self,
        url: str,
        *,
        format: HTTPFormat = DEFAULT_FORMAT,  # noqa: A002 - the option's name
        source: str | None = None,
        secret: str | None = None,
        headers: Mapping[str, str] | None = None,
        options: HTTPOptions | None = None,
        now: Callable[[], float] = time.time,
    ) -> None:
        if format not in FORMATS:
            raise ValueError(f"format must be one of {', '.join(FORMATS)}, got {format!r}")
        if source is not None and not source:
            raise ValueError("source must not be empty")
        origin, self._target = place_of(url)
        credentials, secrets = with_basic(headers or {}, url)
        self._format = format
        self._source = source
        self._signer = None if secret is None else Signer(secret)
        self._now = now
        self._client = HTTPClient(
            origin,
            credentials=credentials,
            secrets=[*secrets, *_secret_parts(self._target), *([] if secret is None else [secret])],
            options=options,
            now=now,
        )
        self._prepared: tuple[Batch, list[Message]] | None = None

    def __repr__(self) -> str:
        return f"<HTTPHandler '{self._client.origin}' {'open' if self._client.is_open else 'closed'}>"

    async def open(self) -> None:
        """Get ready; nothing is sent.

        Raises:
            PauseError: A file of certificates cannot be read, or the proxy's URL is not one.
        """
        await self._client.open()

    async def prepare(self, batch: Batch) -> None:
        self._prepared = (batch, await self._encoded(batch))

    async def handle(self, batch: Batch) -> None:
        prepared, self._prepared = self._prepared, None
        messages = prepared[1] if prepared is not None and prepared[0] is batch else await self._encoded(batch)
        if len(messages) == 1:
            await self._post(batch, messages[0])
        else:
            await self._post_each(batch, messages)

    async def close(self) -> None:
        self._prepared = None
        await self._client.close()

    async def _encoded(self, batch: Batch) -> list[Message]:
        return await messages_of(batch, format_=self._format, source=self._source)

    async def _post_each(self, batch: Batch, messages: list[Message]) -> None:
        """Post one after the other. What is refused for good is left behind; at anything else the rest waits.

        Raises:
            PartialError: Names what did not arrive.
        """
        failed: dict[int, DeliveryError] = {}
        for number, message in enumerate(messages):
            (offset,) = message.offsets
            if offset in failed:
                continue  # another row of that event was refused
            try:
                await self._post(batch, message)
            except (PermanentError, BatchTooLargeError) as exc:
                failed[offset] = exc
            except (TransientError, PauseError) as exc:
                if number == 0:
                    raise
                failed = {each.offsets[0]: exc for each in messages[number:]} | failed
                break
        if failed:
            raise PartialError(failed)

    async def _post(self, batch: Batch, message: Message) -> None:
        key = request_key(batch.log_id, batch.subscription, message.offsets, message.row)
        headers = {**message.headers, "Idempotency-Key": key}
        if self._signer is not None:
            headers |= self._signer.headers(key, message.body, now=self._now())
        answer = await self._client.send("POST", self._target, body=message.body, headers=headers, needs_body=False)
        raise_refused(answer, message, str(self._client.origin))


def _secret_parts(target: str) -> list[str]:
    path, _, query = target.partition("?")
    return [*(part for part in path.split("/") if len(part) >= _SECRET_LENGTH), *filter(None, [query])]
