"""What Redis's errors mean for delivery: this module alone knows the driver's.

    cut, refused, no answer in time, no master    transient; the next call connects again
    LOADING, BUSY, TRYAGAIN, CLUSTERDOWN,
    MASTERDOWN, MOVED, ASK, NOREPLICAS, OOM       transient
    READONLY                                      transient, with new connections: it was the master
    NOAUTH, WRONGPASS, NOPERM, an ACL in a script pause: an operator must act
    WRONGTYPE, EVENTREC (ours)                    pause: what is at our keys is not ours; nothing was changed
    NOPROTO, unknown command, certificates        pause: not a server that we can use
    any other answer                              transient: it is never a record's fault

A call that failed may have been carried out all the same. To repeat an append is safe: it is compared with its origin.
"""

from __future__ import annotations

import re
import ssl
from typing import TYPE_CHECKING, Final

from redis import exceptions as driver

from eventrec import DeliveryError, PauseError, TransientError

if TYPE_CHECKING:
    from collections.abc import Iterator

_PAUSE: Final = ("NOAUTH", "WRONGPASS", "NOPERM", "WRONGTYPE", "EVENTREC", "NOPROTO", "CROSSSLOT")
_PAUSE_WORDS: Final = re.compile(
    r"unknown command|ACL failure|no permissions|has no permission|without any password configured|invalid password"
    r"|DB index is out of range|invalid DB index|SELECT is not allowed|wrong number of arguments for 'auth'"
    r"|equal or smaller than the target stream|cluster support disabled|unknown redis command",
    re.IGNORECASE,
)
_SCRIPT_TAIL: Final = re.compile(r",? script: ?[0-9a-f]*,? ?on @\S+$")


def is_missing_script(exc: BaseException) -> bool:
    """Whether the server does not know the script by its digest."""
    return isinstance(exc, driver.NoScriptError)


def needs_new_connections(exc: BaseException) -> bool:
    """Whether what we are connected to is not what we want to be connected to."""
    return isinstance(exc, (driver.ReadOnlyError, driver.MasterDownError))


def meaning(exc: Exception, where: str) -> Exception:
    """What `exc` means for delivery: one of our errors, or `exc` itself where the driver did not raise it."""
    if isinstance(exc, DeliveryError):
        return exc
    said = f"{where}: {brief(exc)}"
    if _is_refused_tls(exc) or isinstance(exc, (driver.AuthenticationError, driver.AuthorizationError)):
        return PauseError(said)
    if isinstance(exc, driver.ResponseError):
        is_refused = _code(exc) in _PAUSE or _PAUSE_WORDS.search(str(exc)) is not None
        return PauseError(said) if is_refused or isinstance(exc, driver.NoPermissionError) else TransientError(said)
    if isinstance(exc, driver.RedisClusterException) and _PAUSE_WORDS.search(" ".join(map(str, _led_to(exc)))):
        return PauseError(said)
    if isinstance(exc, (driver.RedisError, driver.RedisClusterException, OSError, TimeoutError, EOFError)):
        return TransientError(said)
    return exc


def brief(exc: BaseException) -> str:
    """What an error says, in one line."""
    if isinstance(exc, (TimeoutError, driver.TimeoutError)):
        return "no answer in time"
    if type(exc) is driver.ClusterError and str(exc).startswith("TTL"):  # the driver's word for it
        return "redirected too often: a slot is being moved"
    said = " ".join(_SCRIPT_TAIL.sub("", str(exc)).split())
    code = getattr(exc, "status_code", None)
    if code and code != "ERR" and not said.startswith(code):
        said = f"{code} {said}"
    return said.removeprefix("EVENTREC ").removeprefix("ERR ") or type(exc).__name__


def _code(exc: driver.ResponseError) -> str:
    """The first word of an answer, which says of what kind it is."""
    return str(getattr(exc, "status_code", None) or str(exc).partition(" ")[0])


def _is_refused_tls(exc: BaseException) -> bool:
    """Whether the two ends cannot agree on TLS; a connection that was cut in the middle of it is not that."""
    cut = (ssl.SSLEOFError, ssl.SSLSyscallError, ssl.SSLZeroReturnError)
    return any(isinstance(one, ssl.SSLError) and not isinstance(one, cut) for one in _led_to(exc))


def _led_to(exc: BaseException) -> Iterator[BaseException]:
    """`exc`, and what it comes from."""
    seen: set[int] = set()
    one: BaseException | None = exc
    while one is not None and id(one) not in seen:
        seen.add(id(one))
        yield one
        one = one.__cause__ or one.__context__
