"""What an HTTP answer means for delivery: status and Retry-After to our errors. Pure, whatever the client.

status                     what is raised
2xx                        nothing: the request was accepted
401, 402, 403, 407         PauseError: an operator has to act
408, 425, 429, 5xx         TransientError, after what Retry-After demands
413                        BatchTooLargeError
other 4xx                  PermanentError
1xx, 3xx, anything else    PauseError: the URL does not lead to the service (a client follows redirects by itself)
"""

from __future__ import annotations

import math
import re
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Final

from eventrec import BatchTooLargeError, PauseError, PermanentError, TransientError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from eventrec import DeliveryError

MAX_RETRY_AFTER: Final = 3_600.0
"""Seconds: the longest wait that a destination may demand. A clock that is wrong must not stop delivery for a day."""

MAX_QUOTED: Final = 200
"""Characters of an answer that an error quotes."""

SUCCESS: Final = range(200, 300)
_CLIENT_ERROR: Final = range(400, 500)
_SERVER_ERROR: Final = range(500, 600)
_PAUSE: Final = frozenset({401, 402, 403, 407})
_TRANSIENT: Final = frozenset({408, 425, 429})
_TOO_LARGE: Final = 413

_SECONDS: Final = re.compile(r"[0-9]{1,9}(\.[0-9]{1,9})?")
_ENDLESS: Final = re.compile(r"[0-9]+(\.[0-9]+)?")


def error_of(
    status: int, *, subject: str, now: float, headers: Mapping[str, str] | None = None, body: str | bytes = ""
) -> DeliveryError | None:
    """What an answer means; None: the request was accepted.

    `subject` names the destination, without a secret. `now` is in seconds since the epoch. The error quotes the
    beginning of `body`, what does not print left out.
    """
    if status in SUCCESS:
        return None
    words = quoted(body)
    said = f"{subject}: HTTP {status}{words and f': {words}'}"
    if status == _TOO_LARGE:
        return BatchTooLargeError(said)
    if status in _TRANSIENT or status in _SERVER_ERROR:
        return TransientError(said, retry_after=retry_after(_header(headers or {}, "retry-after"), now=now))
    if status in _PAUSE or status not in _CLIENT_ERROR:
        return PauseError(said)
    return PermanentError(said)


def quoted(body: str | bytes) -> str:
    """The beginning of `body` in one line, what does not print left out; "" where nothing does."""
    start = body[: MAX_QUOTED * 4]
    text = start.decode(errors="replace") if isinstance(start, bytes) else start
    words = " ".join("".join(char if char.isprintable() else " " for char in text).split())
    return words if len(words) <= MAX_QUOTED else f"{words[:MAX_QUOTED]}…"


def retry_after(value: str | None, *, now: float, limit: float = MAX_RETRY_AFTER) -> float | None:
    """The seconds that a Retry-After header demands, 0 to `limit`; None where there is none, or none that can be read.

    It is a number of seconds, or an HTTP date in any of its three forms (RFC 9110, 10.2.3 and 5.6.7); `now` is in
    seconds since the epoch.
    """
    text = (value or "").strip(" \t")
    if _SECONDS.fullmatch(text) is not None:
        return min(float(text), limit)
    if _ENDLESS.fullmatch(text) is not None:
        return limit
    try:
        date = parsedate_to_datetime(text)
        seconds = (date if date.tzinfo is not None else date.replace(tzinfo=UTC)).timestamp() - now
    except (ValueError, OverflowError, TypeError, IndexError):
        return None
    return min(max(seconds, 0.0), limit) if math.isfinite(seconds) else None


def _header(headers: Mapping[str, str], name: str) -> str | None:
    """The header, whatever the case of its name."""
    return next((value for key, value in headers.items() if key.lower() == name), None)
