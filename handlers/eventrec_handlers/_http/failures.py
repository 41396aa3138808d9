"""What it means that no answer came: an error of the system or of the library to one of ours, and to words."""

from __future__ import annotations

import os
import socket
import ssl
from typing import TYPE_CHECKING, Final

import anyio
import httpcore2

from eventrec import PauseError, PermanentError, TransientError
from eventrec_handlers._http.body import BodyError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from eventrec import DeliveryError

FAILURES: Final = (
    httpcore2.TimeoutException,
    httpcore2.NetworkError,
    httpcore2.ProtocolError,
    httpcore2.ProxyError,
    httpcore2.UnsupportedProtocol,
    anyio.BrokenResourceError,
    anyio.ClosedResourceError,
    anyio.EndOfStream,
    OSError,  # errors of TLS in mid-stream among them
    EOFError,
    BodyError,
)
"""Whatever may be raised where a request is sent and its answer read."""


def meaning_of(exc: Exception, handled: BaseException | None) -> tuple[type[DeliveryError], str]:
    """Which error `exc`, one of `FAILURES`, is for a handler, and what it says; `handled` was the caller's before."""
    causes = _chain(exc, handled)
    text = _text_of(causes)
    is_untrusted = any(isinstance(each, ssl.SSLCertVerificationError) for each in causes)
    if is_untrusted or (isinstance(exc, httpcore2.ProxyError) and str(exc).startswith(_PROXY_REFUSES)):
        return PauseError, text
    if isinstance(exc, (httpcore2.LocalProtocolError, httpcore2.UnsupportedProtocol)):
        return PermanentError, text
    return TransientError, text


def _chain(exc: BaseException, handled: BaseException | None) -> list[BaseException]:
    """`exc` and what caused it, the first of several causes; not what was `handled` before."""
    found = [exc]
    while len(found) < _DEEPEST:
        cause = found[-1].__cause__ or found[-1].__context__
        if isinstance(found[-1], BaseExceptionGroup):
            cause = found[-1].exceptions[0]
        if cause is None or cause is handled or cause in found:
            break
        found.append(cause)
    return found


def _text_of(causes: Sequence[BaseException]) -> str:
    """What happened, in the system's words where it has some."""
    for each in reversed(causes):
        if isinstance(each, OSError) and each.strerror:
            if each.errno is None or isinstance(each, (ssl.SSLError, socket.gaierror)):
                return each.strerror
            return os.strerror(each.errno)  # asyncio says of a refused connection only which one it was
    return str(causes[0]) or _PLAIN.get(type(causes[0]), type(causes[0]).__name__)


_DEEPEST: Final = 10
_PROXY_REFUSES: Final = ("401", "402", "403", "407", "Invalid username", "Requested")
"""How the texts begin by which the library says that a proxy wants other credentials, or refuses to connect."""
_PLAIN: Final[Mapping[type[BaseException], str]] = {
    httpcore2.ConnectTimeout: "no connection in time",
    httpcore2.ReadError: "the connection broke off",
    httpcore2.WriteError: "the connection broke off",
}
