"""Reads the body of a request in bounds: its bytes, what they unpack to, and how long they may take."""

from __future__ import annotations

import io
from http import HTTPStatus
from typing import TYPE_CHECKING, Final, TypeVar

import anyio
import msgspec

from eventrec.durations import duration_seconds
from eventrec.runtime.backend import in_thread
from eventrec.server.refusals import RefusedError
from eventrec.server.serving import shared_state
from eventrec.server.unpacking import Unpacking

if TYPE_CHECKING:
    from starlette.requests import Request

    from eventrec.server.memory import BodyLease
    from eventrec.server.serving import Server

_T = TypeVar("_T")

BYTES_IN: Final = "eventrec.bytes_in"
"""The key of an ASGI scope: how many bytes of the body have come."""

_PIECES_ON_LOOP: Final = 4
"""So much of a small body is unpacked at once: a quarter of a megabyte, in a millisecond. The rest in a thread."""

_SMALL: Final = 1 << 16


def media_type_of(request: Request) -> str:
    """What the body is said to be, in lower case, without parameters."""
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


async def body_of(request: Request, server: Server) -> bytes:
    """The body, unpacked as Content-Encoding says: gzip, deflate, zstd, or none.

    Until the request is answered it counts among the bodies that are held in memory.

    Raises:
        RefusedError: 413 where it is, or unpacks to, more than is allowed, or than all may take in memory; 415 for
            another encoding; 400 where it cannot be unpacked, or is not as long as it says; 408 where it takes too
            long; 503 with Retry-After where the bodies of other requests take all the memory.
    """
    coding = _coding(request)
    lease = shared_state(server).memory.lease(request.scope)
    with anyio.move_on_after(duration_seconds(server.options.body_timeout)) as limit:
        packed = await _read(request, server.options.max_body_bytes, lease)
    if limit.cancelled_caught:
        raise RefusedError(
            HTTPStatus.REQUEST_TIMEOUT, "the body takes too long to arrive", headers={"Connection": "close"}
        )
    return await unpacked(packed, coding, request, server) if coding else packed


async def unpacked(packed: bytes, coding: str, request: Request, server: Server) -> bytes:
    """What `packed`, of the body of `request`, is packed from; it counts among the bodies in its place.

    Raises:
        RefusedError: As `body_of`, where it cannot be unpacked.
    """
    lease = shared_state(server).memory.lease(request.scope)
    unpacking = Unpacking(coding, packed, room=server.options.max_unpacked_bytes, grown=lease.add)
    if not (len(packed) <= _SMALL and unpacking.run(pieces=_PIECES_ON_LOOP)):
        await in_thread(unpacking.run, limiter=shared_state(server).unpackers)
    found = unpacking.result()
    lease.set(len(found))
    return found


def _coding(request: Request) -> str:
    """How it is packed; "": it is not."""
    given = [part.strip().lower() for value in request.headers.getlist("content-encoding") for part in value.split(",")]
    named = [part for part in given if part and part != "identity"]
    if len(named) > 1:
        raise RefusedError(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "a body may be packed once, not several times")
    return named[0] if named else ""


async def _read(request: Request, bound: int, lease: BodyLease) -> bytes:
    """What arrives, which is `bound` bytes at most."""
    said = _length(request)
    if said is not None and said > bound:
        raise _too_large(bound)
    if said:
        lease.at_least(said)
    body, size, more = io.BytesIO(), 0, True
    while more:
        message = await request.receive()
        if message["type"] == "http.disconnect":
            raise RefusedError(HTTPStatus.BAD_REQUEST, "the body ends too early", headers={"Connection": "close"})
        piece, more = message.get("body", b""), message.get("more_body", False)
        size += len(piece)
        request.scope[BYTES_IN] = size
        if size > bound:
            raise _too_large(bound)
        lease.at_least(size)
        body.write(piece)
    if said is not None and size != said:
        raise RefusedError(HTTPStatus.BAD_REQUEST, "the body is not as long as Content-Length says")
    return body.getvalue()


def _length(request: Request) -> int | None:
    given = request.headers.getlist("content-length")
    if not given:
        return None
    text = given[0].strip()
    if len(set(given)) > 1 or not (text.isascii() and text.isdigit()) or len(text) > 19:  # noqa: PLR2004 - 64 bits
        raise RefusedError(HTTPStatus.BAD_REQUEST, "Content-Length is not a number", headers={"Connection": "close"})
    return int(text)


def _too_large(bound: int) -> RefusedError:
    return RefusedError(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"a body may have {bound:,} bytes at most")


async def json_of(request: Request, server: Server, kind: type[_T]) -> _T:
    """The body as `kind`, for routes that take one value of JSON.

    Raises:
        RefusedError: As `body_of`; 415 where it does not say that it is JSON, 400 where it is not, 422 where it is
            another value.
    """
    if media_type_of(request) != "application/json":
        raise RefusedError(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "the body is to be application/json")
    body = await body_of(request, server)
    try:
        return msgspec.json.decode(body, type=kind)
    except msgspec.ValidationError as exc:
        raise RefusedError(HTTPStatus.UNPROCESSABLE_ENTITY, str(exc)) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise RefusedError(HTTPStatus.BAD_REQUEST, "the body is not JSON") from None
