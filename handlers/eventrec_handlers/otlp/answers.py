"""What a receiver of OTLP says in a 2xx: that all is well, or how many records it refused. Not which ones."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

import msgspec

from eventrec_handlers.otlp.wire import WireError, fields

if TYPE_CHECKING:
    from eventrec_handlers._http.client import Answer


class Partial(NamedTuple):
    """`rejected` log records were refused, for a reason that `message` gives. Of 0, the message is a warning."""

    rejected: int = 0
    message: str = ""


class ForeignAnswerError(Exception):
    """The answer is not one of OTLP's."""


class _PartialSuccess(msgspec.Struct, rename="camel"):
    rejected_log_records: int | str = 0
    error_message: str = ""


class _Response(msgspec.Struct, rename="camel"):
    partial_success: _PartialSuccess | None = None


_response: Final = msgspec.json.Decoder(_Response)


def partial_of(answer: Answer) -> Partial:
    """What `answer` says was refused. An empty one is all of a success that Protocol Buffers have to say.

    Raises:
        ForeignAnswerError: It is neither of OTLP's two encodings, or not what it says it is.
    """
    if not answer.body:
        return Partial()
    try:
        match answer.media_type:
            case "application/x-protobuf" | "application/protobuf":
                return _of_protobuf(answer.body)
            case "application/json":
                return _of_json(answer.body)
    except (WireError, UnicodeDecodeError, msgspec.MsgspecError, ValueError, RecursionError) as exc:
        raise ForeignAnswerError(f"its answer cannot be read: {exc}") from exc
    raise ForeignAnswerError(f"its answer is of the type {answer.media_type!r:.60}, which is not one of OTLP's")


def _of_protobuf(body: bytes) -> Partial:
    rejected, message = 0, ""
    for number, value in fields(body):
        if number != 1:
            continue
        if not isinstance(value, bytes):
            raise WireError("partial_success is not a message")
        for inner, held in fields(value):
            if inner == 1 and isinstance(held, int):
                rejected = held
            elif inner == 2 and isinstance(held, bytes):  # noqa: PLR2004 - the number of error_message
                message = held.decode()
    return Partial(rejected if rejected < 1 << 63 else 0, message)


def _of_json(body: bytes) -> Partial:
    said = _response.decode(body).partial_success or _PartialSuccess()
    return Partial(max(int(said.rejected_log_records), 0), said.error_message)
