"""What PostgreSQL's errors mean for delivery, and which record one is about.

    SQLSTATE                                    means
    08, 25, 40, 53, 55, 57, connection errors   transient; 25006 (read only): with new connections
    28, 3D000, 3F000, 42501, TLS not accepted   pause: an operator must act
    22, 23, 54 while rows are written           permanent: a record's fault
    42P01, 42703, 42704, 42804, 0A000,
    22P03, 08P01                                another program changed the tables: look again, then transient
    anything while tables are made              transient, unless it means pause: never a record's fault
    the rest                                    unknown: left as it is

No error that leaves this handler has frames of the driver's connecting code, where a password is a local variable.
"""

from __future__ import annotations

import asyncio
import gc
import re
import ssl
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

import asyncpg

from eventrec import DeliveryError, PauseError, PermanentError, TransientError

if TYPE_CHECKING:
    from collections.abc import Iterator

READ_ONLY: Final = "25006"

_TRANSIENT: Final = ("08", "25", "40", "53", "55", "57")
_PAUSE_CLASSES: Final = ("28",)
_PAUSE: Final = frozenset({"3D000", "3F000", "42501"})
_PERMANENT: Final = ("22", "23", "54")
_STALE: Final = frozenset({"08P01", "0A000", "22P03", "42703", "42704", "42804", "42P01"})


def state(exc: BaseException) -> str:
    """The SQLSTATE of an error of the server, or the empty text."""
    return str(getattr(exc, "sqlstate", None) or "")


def is_stale(exc: BaseException) -> bool:
    """Whether it says that a table is not what we took it for.

    22P03 and 08P01, a field too long or too short, are two of them: the fields fit the types that the table had.
    """
    return state(exc) in _STALE


def is_permanent(exc: BaseException) -> bool:
    """Whether it is about what was to be written."""
    return state(exc).startswith(_PERMANENT) and not is_stale(exc)


def meaning(exc: Exception, where: str, *, makes_tables: bool = False) -> Exception:
    """What `exc` means for delivery: one of our errors, or `exc` itself where that is not known."""
    said = f"{where}: {brief(exc)}"
    if isinstance(exc, asyncpg.PostgresError):
        code = state(exc)
        if code.startswith(_PAUSE_CLASSES) or code in _PAUSE:
            return PauseError(said)
        if makes_tables or code.startswith(_TRANSIENT) or code in _STALE:
            return TransientError(said)
        return PermanentError(said) if is_permanent(exc) else exc
    if isinstance(exc, (ssl.SSLCertVerificationError, asyncpg.exceptions.ClientConfigurationError)):
        return PauseError(said)
    # The last one: a server's last words on an idle connection leave the driver in a state of which it complains.
    if isinstance(exc, (OSError, TimeoutError, EOFError, asyncpg.InterfaceError, asyncpg.InternalClientError)):
        return TransientError(said)
    return exc


def brief(exc: BaseException) -> str:
    """What an error says, without the parts in which PostgreSQL quotes the row."""
    if isinstance(exc, asyncpg.PostgresError):
        return f"{getattr(exc, 'message', None) or type(exc).__name__} ({state(exc)})"
    if isinstance(exc, TimeoutError):
        return "no answer in time"
    return str(exc) or type(exc).__name__


@contextmanager
def errors_translated(where: str, *, makes_tables: bool = False) -> Iterator[None]:
    """Raise what the driver's errors mean."""
    try:
        yield
    except DeliveryError:
        raise
    except Exception as exc:
        meant = meaning(exc, where, makes_tables=makes_tables)
        if meant is exc:
            raise
        raise meant from without_frames(exc)


def without_frames(exc: Exception) -> Exception:
    """`exc` and what led to it, each without its traceback: no error report shows the local variables of a driver."""
    seen: set[int] = set()
    rest: list[BaseException | None] = [exc]
    while rest:
        one = rest.pop()
        if one is not None and id(one) not in seen:
            seen.add(id(one))
            one.__traceback__ = None
            rest += [one.__cause__, one.__context__]
    return exc


def consume_errors(connection: asyncpg.Connection) -> None:
    """Look at what becomes of the operation that `connection` is given up in.

    A COPY that the driver refuses to begin, because the server's last words have come in just before, leaves a future
    that nothing refers to by name; asyncio would complain about it later, in the application's logging.
    """
    for held in gc.get_referents(getattr(connection, "_protocol", None)):
        if isinstance(held, asyncio.Future):
            held.add_done_callback(lambda future: future.cancelled() or future.exception())


def line_of(exc: BaseException, table: str) -> int | None:
    """The row, counted from 1, that a COPY into `table` stumbled over; None where the server does not say for sure.

    While a column is read, and for a constraint, it is that row. Else it may be another one of the rows that the server
    writes together, as for a row that is too large (54000).
    """
    context = getattr(exc, "context", None) or ""
    # `COPY events, line 3, column a`, in the language of the server: the order is the same in most.
    found = re.search(rf"(?:^|\n)COPY {re.escape(table)}, [^\W\d]+ (\d+)(, [^\W\d]+ )?", context)
    if found is None or not (found[2] or state(exc).startswith("23")):
        return None
    return int(found[1])
