"""What a 2xx of PostHog's says about the events that were sent: whether each of them was taken.

v0: a batch is taken as a whole

    204, or `{"status": 1}` (or "Ok")            taken
    a `quota_limited` that is not empty          PauseError: the project's quota is used up, and events were dropped;
                                                 but for what is limited beside events, as recordings
    an error inside, or another status           TransientError, with what it says
    anything else: HTML, nothing, half of it     TransientError: some other server answered, or a proxy in between

v1: `{"results": {uuid: {"result": …, "details": …}}}`

    ok, warning                        taken; a warning is among the handler's remarks
    drop                               PermanentError, with the details; but for a quota that is used up:
    drop, `billing_limit_exceeded`     PauseError where that is all that went wrong, else TransientError
    retry, another word, no verdict    TransientError, after what Retry-After demands
    not such an object                 TransientError for all of them
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import msgspec

from eventrec import DeliveryError, PartialError, PauseError, PermanentError, TransientError
from eventrec_handlers._http.meaning import quoted, retry_after

if TYPE_CHECKING:
    from collections.abc import Callable

    from eventrec_handlers._http.client import Answer
    from eventrec_handlers.posthog.requests import Request

_NO_CONTENT: Final = 204
_TAKEN: Final = frozenset({"ok", "warning"})
_BILLING: Final = "billing_limit_exceeded"
_BESIDE_EVENTS: Final = frozenset({"recordings", "feature_flags", "feature_flag_requests", "rows_synced", "surveys"})
_STATUS: Final = (1, "Ok", "ok")
_ERRORS: Final = ("error_description", "detail", "error", "errors", "code")

_decode: Final = msgspec.json.Decoder(dict[str, Any]).decode


def taken(
    answer: Answer, request: Request, *, subject: str, now: float, redacted: Callable[[str], str] = str
) -> str | None:
    """Return where every event was taken; with a sentence where PostHog warned of some.

    `subject` names the destination, `now` is in seconds since the epoch, and `redacted` takes secrets out of what is
    quoted.

    Raises:
        DeliveryError: As the table says.
    """
    said = _said(answer)
    if request.protocol == "v0":
        _whole(answer, said, subject, redacted)
        return None
    results = None if said is None else said.get("results")
    if not isinstance(results, dict):
        raise TransientError(f"{subject}: {_unexpected(answer, redacted)}")
    wait = retry_after(answer.headers.get("retry-after"), now=now)
    return _each(results, request, subject, wait, redacted)


def _said(answer: Answer) -> dict[str, Any] | None:
    """The JSON object that the answer is; None where it is something else."""
    try:
        return _decode(answer.body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def _whole(answer: Answer, said: dict[str, Any] | None, subject: str, redacted: Callable[[str], str]) -> None:
    if answer.status == _NO_CONTENT and not answer.body:
        return
    if said is None:
        raise TransientError(f"{subject}: {_unexpected(answer, redacted)}")
    limited = said.get("quota_limited") or said.get("quotaLimited") or ()
    beside = isinstance(limited, list) and all(isinstance(each, str) and each in _BESIDE_EVENTS for each in limited)
    if limited and not beside:
        raise PauseError(f"{subject}: the project's quota is used up, events are dropped: {_quoted(limited, redacted)}")
    error = next((said[name] for name in _ERRORS if said.get(name)), None)
    status = said.get("status")
    if error is not None or isinstance(status, bool) or status not in _STATUS:
        raise TransientError(f"{subject}: HTTP {answer.status}, and yet an error: {_quoted(error or said, redacted)}")


def _each(
    results: dict[str, Any], request: Request, subject: str, wait: float | None, redacted: Callable[[str], str]
) -> str | None:
    errors: dict[int, DeliveryError] = {}
    warnings: set[str] = set()
    over_quota: set[int] = set()
    for uuid, offset in request.uuids:
        verdict = results.get(uuid)
        word, details = (verdict.get("result"), verdict.get("details")) if isinstance(verdict, dict) else (None, None)
        if isinstance(word, str) and word in _TAKEN:
            if word == "warning":
                warnings.add(_quoted(details or word, redacted))
            continue
        said = f"{subject}: {_quoted(word or 'no verdict', redacted)}"
        said = f"{said}: {_quoted(details, redacted)}" if details else said
        if word == "drop" and details == _BILLING:
            over_quota.add(offset)
        if word == "drop" and details != _BILLING:
            if not isinstance(errors.get(offset), TransientError):
                errors[offset] = PermanentError(said)
        else:
            errors[offset] = TransientError(said, retry_after=wait)
    if errors and errors.keys() == over_quota:
        raise PauseError(f"{subject}: the project's quota is used up: {len(errors)} records are dropped")
    if errors:
        raise PartialError(errors)
    return f"PostHog took events with a warning: {quoted(', '.join(sorted(warnings)))}" if warnings else None


def _unexpected(answer: Answer, redacted: Callable[[str], str]) -> str:
    what = _quoted(answer.media_type, redacted) or "no media type"
    body = _quoted(answer.body.decode(errors="replace"), redacted) or "nothing"
    return f"HTTP {answer.status}, but not an answer of PostHog's ({what}): {body}"


def _quoted(value: object, redacted: Callable[[str], str]) -> str:
    return quoted(redacted(value if isinstance(value, str) else repr(value)))
