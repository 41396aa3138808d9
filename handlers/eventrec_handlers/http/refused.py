"""Which elements of a request a server of ours did not take, though it took the others.

HTTP/1.1 200 OK
Eventrec-Rejected: 2

{"received": 998, "rejected": 2, "errors": [{"index": 3, "error": "…"}, {"index": 7, "error": "…", "retry": true}]}
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec

from eventrec import BatchTooLargeError, PartialError, PermanentError, TransientError

if TYPE_CHECKING:
    from eventrec import DeliveryError
    from eventrec_handlers._http.client import Answer
    from eventrec_handlers.http.formats import Message

HEADER: Final = "eventrec-rejected"
_LONGEST: Final = 200


class _Error(msgspec.Struct):
    index: int
    error: str
    retry: bool = False


class _Answer(msgspec.Struct):
    rejected: int
    errors: list[_Error]


_decode: Final = msgspec.json.Decoder(_Answer).decode


def raise_refused(answer: Answer, message: Message, origin: str) -> None:
    """Raise for what of `message` was not taken, by an answer of 2xx.

    Raises:
        PartialError: Names the records.
        BatchTooLargeError: There are more than it names, or they cannot be told: fewer at once can.
        TransientError: What it says cannot be read.
    """
    if HEADER not in answer.headers:
        return
    try:
        said = _decode(answer.body)
    except msgspec.MsgspecError as exc:
        raise TransientError(f"{origin}: it refused elements, and its answer cannot be read") from exc
    offsets = message.element_offsets
    if (
        len(said.errors) != said.rejected
        or not said.errors
        or not all(0 <= e.index < len(offsets) for e in said.errors)
    ):
        raise BatchTooLargeError(f"{origin}: it refused {said.rejected:,} elements, and does not name each")
    errors: dict[int, DeliveryError] = {}
    for error in said.errors:
        text = f"{origin}: {error.error[:_LONGEST]}"
        offset = offsets[error.index]
        if error.retry:
            errors.setdefault(offset, TransientError(text))
        else:
            errors[offset] = PermanentError(text)
    raise PartialError(errors)
