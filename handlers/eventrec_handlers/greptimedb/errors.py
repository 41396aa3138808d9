"""What an answer of GreptimeDB, or of gRPC, means for delivery.

    status code of GreptimeDB                   means
    0                                           the rows are there
    7000–7006 credentials and rights,           pause: an operator must act
    4004 no such database, 1009 suspended
    1003, 1005, 1007, 1008, 4000, 4007–4010,    transient
    5000, 5001, 6000, 6001
    1001, 1004, 2000, 3000–3001, 4001–4003,     permanent: what was sent is at fault; 1004 is also a type conflict
    4005, 4006
    any other (1000 unknown, 1002 unexpected)   unknown: `UnknownStatusError`, which the worker retries, then bisects

A hint of the server to retry makes any code but those of a pause transient, one not to retry makes a transient one
permanent.

    status of gRPC, without a code of GreptimeDB      means
    UNAVAILABLE, CANCELLED, DEADLINE_EXCEEDED,        transient
    ABORTED, INTERNAL, UNKNOWN, DATA_LOSS,
    RESOURCE_EXHAUSTED
    the last one or OUT_OF_RANGE for its size       too large: the batch is split; not where that was under 64 KiB
    UNAUTHENTICATED, PERMISSION_DENIED,               pause; so does TLS that the two ends cannot agree on
    UNIMPLEMENTED (the port is another program's)
    INVALID_ARGUMENT, NOT_FOUND, ALREADY_EXISTS,      permanent
    FAILED_PRECONDITION, OUT_OF_RANGE

An answer that is not the protocol's is transient: it says nothing about the rows.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

import grpc

from eventrec import BatchTooLargeError, PauseError, PermanentError, TransientError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

CODE_HEADER: Final = "x-greptime-err-code"
MESSAGE_HEADER: Final = "x-greptime-err-msg"
HINT_HEADER: Final = "x-greptime-err-retry-hint"

NEVER_TOO_LARGE: Final = 64 << 10
"""Bytes of a request that every server takes."""

_OF_THE_ANSWER: Final = "CLIENT: "
"""How gRPC begins where the message that is too large came in here."""

MAX_QUOTED: Final = 300
"""Characters of the server's message that an error quotes."""

_NAMES: Final[Mapping[int, str]] = {
    1000: "unknown",
    1001: "unsupported",
    1002: "unexpected",
    1003: "internal",
    1004: "invalid arguments",
    1005: "cancelled",
    1006: "illegal state",
    1007: "external",
    1008: "deadline exceeded",
    1009: "suspended",
    4000: "table already exists",
    4001: "table not found",
    4002: "column not found",
    4004: "database not found",
    4007: "region is read-only",
    4008: "region is not ready",
    4009: "region is busy",
    4010: "table is unavailable",
    5000: "storage is unavailable",
    5001: "request is outdated",
    6000: "resources are exhausted",
    6001: "rate is limited",
}
_PAUSE: Final = frozenset({1009, 4004, *range(7000, 7100)})
_TRANSIENT: Final = frozenset({1003, 1005, 1007, 1008, 4000, 4007, 4008, 4009, 4010, 5000, 5001, 6000, 6001})
_PERMANENT: Final = frozenset({1001, 1004, 2000, 3000, 3001, 4001, 4002, 4003, 4005, 4006})

_RETRY: Final = frozenset({"1", "true", "yes", "retry", "retryable"})
_NO_RETRY: Final = frozenset(
    {"0", "false", "no", "noretry", "notretryable", "nonretryable", "unretryable"},
)

_PAUSE_STATUS: Final = frozenset(
    {grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.UNIMPLEMENTED}
)
_PERMANENT_STATUS: Final = frozenset(
    {
        grpc.StatusCode.INVALID_ARGUMENT,
        grpc.StatusCode.NOT_FOUND,
        grpc.StatusCode.ALREADY_EXISTS,
        grpc.StatusCode.FAILED_PRECONDITION,
        grpc.StatusCode.OUT_OF_RANGE,
    }
)
_SIZE_STATUS: Final = frozenset({grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.OUT_OF_RANGE})
_TOO_LARGE: Final = re.compile(
    r"larger than max|message (?:length )?(?:is )?too (?:large|long)|exceeds? .*max", re.IGNORECASE
)
_REFUSED_TLS: Final = re.compile(
    r"CERTIFICATE_VERIFY_FAILED|not in peer certificate|WRONG_VERSION_NUMBER|alert handshake failure|bad certificate"
    r"|certificate required|unknown ca",
    re.IGNORECASE,
)


class UnknownStatusError(Exception):
    """GreptimeDB says how it went in a way that tells neither an outage from a bad record.

    The worker takes it for an error without a name: it tries again, then looks for a record that fails alone.

    Attributes:
        code: The status code.
    """

    def __init__(self, message: str, *, code: int) -> None:
        super().__init__(message)
        self.code = code


def meaning_of_status(code: int, message: str, *, where: str, hint: str | None = None) -> Exception:
    """What a status code of GreptimeDB other than 0 means. `hint` is what the server says about trying again."""
    said = f"{where}: {_NAMES.get(code, 'status')} ({code}){_quoted(message)}"
    if code in _PAUSE:
        return PauseError(said)
    advice = re.sub(r"[\s_-]", "", hint or "").lower()
    if advice in _RETRY:
        return TransientError(said)
    if code in _PERMANENT or (code in _TRANSIENT and advice in _NO_RETRY):
        return PermanentError(said)
    return TransientError(said) if code in _TRANSIENT else UnknownStatusError(said, code=code)


def meaning_of_call(
    status: grpc.StatusCode, details: str, metadata: Mapping[str, str], *, where: str, request_bytes: int
) -> Exception:
    """What it means that a call ended with `status`; `metadata` is what came with it.

    A complaint about a size may also be gRPC's here, about the answer; that says nothing about the rows.
    """
    code = metadata.get(CODE_HEADER, "")
    if re.fullmatch(r"[0-9]{1,9}", code) and int(code):
        message = metadata.get(MESSAGE_HEADER) or details
        return meaning_of_status(int(code), message, where=where, hint=metadata.get(HINT_HEADER))
    said = f"{where}: {status.name}{_quoted(details)}"
    if status in _SIZE_STATUS and _TOO_LARGE.search(details):
        is_about_the_request = request_bytes > NEVER_TOO_LARGE and _OF_THE_ANSWER not in details
        return BatchTooLargeError(said) if is_about_the_request else TransientError(said)
    if status in _PAUSE_STATUS or _REFUSED_TLS.search(details):
        return PauseError(said)
    if status in _PERMANENT_STATUS:
        return PermanentError(said)
    return TransientError(said)


def is_of_the_database(metadata: Mapping[str, str]) -> bool:
    """Whether an error comes from GreptimeDB itself, not from what lies between."""
    return CODE_HEADER in metadata


def texts(*metadata: Iterable[tuple[str, str | bytes]] | None) -> dict[str, str]:
    """Headers and trailers by name, as text; of several with one name the last."""
    return {
        name: value.decode(errors="replace") if isinstance(value, bytes) else value
        for part in metadata
        for name, value in part or ()
    }


def _quoted(message: str) -> str:
    words = " ".join("".join(char if char.isprintable() else " " for char in message[: MAX_QUOTED * 4]).split())
    if not words:
        return ""
    return f": {words}" if len(words) <= MAX_QUOTED else f": {words[:MAX_QUOTED]}…"
