"""What a failure of ClickHouse, or of the way to it, means for delivery.

    what failed                                          kind
    the connection: refused, no route, no such host,     down: another node, this one left out for a while
    no answer to connecting
    a connection that broke, no answer in time, 5xx      transient, and whether the rows are there is not known
    without a code
    159, 209, 210, 241, 242, 252, 319, 425, 999 …        transient: loads, limits, parts, Keeper
    192–195, 497, 516, 81, 164, 472 …                    pause: an operator must act; so does TLS that does not work
    16, 47, 48, 53, 60 …                                 schema: tables are not what they were
    6, 27, 117, 321, 349, 469 …                      data: what was sent is at fault
    any other code                                       unknown: what it concerns is found by trying

202 (too many queries) is transient, and the one that is tried again in place. A failure "while pushing to view" is a
pause: the rows may be in the table by then, so they must never be divided and sent again under another token.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

import aiohttp
from clickhouse_connect.driver.exceptions import ClickHouseError, DataError, OperationalError, ProgrammingError

from eventrec import BatchTooLargeError, PauseError, TransientError

if TYPE_CHECKING:
    from collections.abc import Iterator

Kind: TypeAlias = Literal["down", "transient", "pause", "schema", "data", "unknown", "too_large"]

TOO_MANY_QUERIES: Final = 202
UNKNOWN_TABLE: Final = 60
TOO_MANY_PARTS: Final = 252
TOO_MUCH_AT_ONCE: Final = frozenset({159, 160, 209, 241})
"""Time, its estimate, a socket's time, memory."""

MAX_QUOTED: Final = 400
"""Characters of the server's message that an error quotes."""

TRANSIENT: Final = frozenset(
    {
        *(3, 23, 24, 74, 75, 159, 160, 198, 201, TOO_MANY_QUERIES, 203, 209, 210, 225, 236, 241, 242, 243, 244),
        *(TOO_MANY_PARTS, 279, 285, 286, 289, 319, 341, 369, 373, 394, 415, 416, 425, 439, 473, 499, 517, 529, 571),
        *(173, 254, 700, 722, 745, 999, 1_000),
    }
)
PAUSE: Final = frozenset({81, 115, 164, 192, 193, 194, 195, 291, 344, 446, 452, 472, 497, 511, 512, 516, 701})
SCHEMA: Final = frozenset({8, 10, 16, 20, 44, 47, 48, 53, UNKNOWN_TABLE, 122, 218})
DATA: Final = frozenset({*(6, 26, 27, 33, 36, 38, 41, 69, 70, 72, 117, 131, 190, 321, 349, 376, 407, 469, 675, 691)})
"""Codes by what they mean: https://github.com/ClickHouse/ClickHouse/blob/master/src/Common/ErrorCodes.cpp."""

_NEVER_SENT: Final[tuple[type[Exception], ...]] = (
    aiohttp.ClientConnectorError,
    getattr(aiohttp, "ConnectionTimeoutError", aiohttp.ClientConnectorError),  # since aiohttp 3.10
)
_VIEW: Final = re.compile(r"while pushing to view (\S+)", re.IGNORECASE)
_PARTITIONS: Final = re.compile("partitions for single INSERT", re.IGNORECASE)
_CODE: Final = re.compile(r"\bCode: (\d+)")
_STATUS: Final = re.compile(r"(?:HTTP status|response code) (\d{3})")
_ROW: Final = re.compile(r"\bat row (\d+)")
_WRAPPED: Final = re.compile(
    r"Received ClickHouse exception, code: \d+, server response: (.*?)(?: \(for url \S+\))?", re.DOTALL
)
"""What the client says around the server's words: the code again, and a URL that errors begin with already."""

_REFUSED: Final = frozenset({401, 403, 404, 407})
_TOO_LARGE: Final = 413


class Failure(Exception):  # noqa: N818 - one thing, told apart by its kind
    """One call of one node has failed.

    Attributes:
        kind: What it means.
        code: ClickHouse's own, or None.
        is_uncertain: Whether the rows may be there, or come to be there.
        row: The row of an insert that the server names, from 0 on, or None.
        is_of_node: Whether it says more of the node, or of what stands before it, than of ClickHouse.
        is_slow: Whether it took too long, or too much memory: less at once may go through.
    """

    def __init__(
        self,
        kind: Kind,
        message: str,
        *,
        code: int | None = None,
        is_uncertain: bool = False,
        row: int | None = None,
        is_of_node: bool = False,
        is_slow: bool = False,
    ) -> None:
        super().__init__(message)
        self.kind = kind
        self.code = code
        self.is_uncertain = is_uncertain
        self.row = row
        self.is_of_node = is_of_node
        self.is_slow = is_slow or code in TOO_MUCH_AT_ONCE

    def as_delivery_error(self) -> Exception:
        """What a handler raises for it, where nothing more can be found out."""
        match self.kind:
            case "pause":
                return PauseError(str(self))
            case "too_large":
                return BatchTooLargeError(str(self))
            case "unknown":
                return UnknownCodeError(str(self), code=self.code or 0)
            case _:
                return TransientError(str(self))


class UnknownCodeError(Exception):
    """ClickHouse answers with a code that tells neither an outage from a bad record, for every record alike.

    Attributes:
        code: The code.
    """

    def __init__(self, message: str, *, code: int) -> None:
        super().__init__(message)
        self.code = code


def failure_of(exc: BaseException, where: str, *, hides_values: bool = False) -> Failure:
    """What `exc`, which the client raised, means; `where` is how errors call the node.

    `hides_values`: it is of an insert, and its rows are not to be shown.
    """
    failure = _failure_of(exc, where)
    if hides_values and (failure.kind in {"data", "unknown"} or _VIEW.search(str(failure)) is not None):
        said = str(failure).removeprefix(where)
        failure.args = (f"{where}{without_values(said)}",)
    return failure


def broken_answer(answer: bytes, where: str) -> Failure:
    """What an answer means that is not the rows it should be: an error behind some of them, or half an answer."""
    said = answer[-4 * MAX_QUOTED :].decode(errors="replace")
    found = _CODE.search(said)
    if found is None:
        return Failure("transient", f"{where}: half an answer, or that of another server")
    return _of_code(int(found[1]), said[found.start() :], where)


def _failure_of(exc: BaseException, where: str) -> Failure:
    code = getattr(exc, "code", None) or _code(str(exc)) if isinstance(exc, ClickHouseError) else None
    if code is not None:
        return _of_code(int(code), str(exc), where)
    if isinstance(exc, TimeoutError):
        return Failure("transient", f"{where}: no answer in time", is_uncertain=True, is_slow=True)
    if isinstance(exc, (DataError, ProgrammingError)):
        return Failure("data" if isinstance(exc, DataError) else "pause", f"{where}: {shown(str(exc))}")
    if not isinstance(exc, (ClickHouseError, aiohttp.ClientError, OSError)):
        return Failure(
            "unknown", f"{where}: {type(exc).__name__}: {shown(str(exc))}"
        )  # a value that the client fails on
    if isinstance(exc, (OperationalError, aiohttp.ClientError, OSError)) and _STATUS.search(str(exc)) is None:
        return _of_network(exc, where)
    return _of_status(exc, where)


def _code(message: str) -> int | None:
    found = _CODE.search(message)
    return int(found[1]) if found is not None else None


def _of_code(code: int, message: str, where: str) -> Failure:
    said = f"{where}: {shown(message)}"
    view = _VIEW.search(message)
    if view is not None and code not in TRANSIENT:
        why = f"{where}: the view {view[1]:.200} has failed, and the table may have the rows"
        return Failure("pause", f"{why}: {shown(message)}", code=code)
    if code == TOO_MANY_PARTS and _PARTITIONS.search(message):
        return Failure("data", said, code=code)
    kind: Kind = next((kind for kind, codes in _BY_KIND if code in codes), "unknown")
    found = _ROW.search(message) if kind == "data" else None
    return Failure(
        kind,
        said,
        code=code,
        is_uncertain=kind == "transient" and code != TOO_MANY_QUERIES,
        row=None if found is None else int(found[1]) - 1,
    )


_BY_KIND: Final[tuple[tuple[Kind, frozenset[int]], ...]] = (
    ("transient", TRANSIENT),
    ("pause", PAUSE),
    ("schema", SCHEMA),
    ("data", DATA),
)


def _of_network(exc: BaseException, where: str) -> Failure:
    causes = list(_causes(exc))
    said = f"{where}: {shown(str(causes[-1]) or type(causes[-1]).__name__)}"
    if any(isinstance(cause, (aiohttp.ClientConnectorCertificateError, aiohttp.ClientSSLError)) for cause in causes):
        return Failure("pause", said)
    if any(isinstance(cause, _NEVER_SENT) for cause in causes):
        return Failure("down", said)
    return Failure("transient", said, is_uncertain=True)


def _causes(exc: BaseException | None) -> Iterator[BaseException]:
    while exc is not None:
        yield exc
        exc = exc.__cause__


def _of_status(exc: BaseException, where: str) -> Failure:
    """An answer without a code: of what lies between, or not of a ClickHouse."""
    said = f"{where}: {shown(str(exc))}"
    found = _STATUS.search(str(exc))
    status = int(found[1]) if found is not None else 0
    if status == _TOO_LARGE:
        return Failure("too_large", said)
    if status in _REFUSED:
        return Failure("pause", said, is_of_node=True)
    return Failure("transient", said, is_uncertain=True)


def without_values(message: str) -> str:
    """What a server or the client says of an insert, without the values of its rows."""
    words = _COLUMN_VALUES.sub("", message)
    return _VALUE.sub(lambda found: found["name"] or "…", words)


_COLUMN_VALUES: Final = re.compile(r"\s*Column values:.*?(?=\s\(\w+\)|$)", re.DOTALL)
_VALUE: Final = re.compile(
    r"""(?P<name>`(?:[^`\\]|\\.)*`)|'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*"|"""
    r"""(?<![\w.`-])(?<!Code: )(?<!code: )(?<!at row )-?\d[\w.+-]*""",
    re.DOTALL,
)
"""A text in quotes, or a number that is neither part of a name, nor a code, nor the number of a row."""


def shown(message: str) -> str:
    """`message` as a line of bounded length."""
    if (found := _WRAPPED.fullmatch(message)) is not None:
        message = found[1]
    words = " ".join("".join(char if char.isprintable() else " " for char in message[: MAX_QUOTED * 4]).split())
    return words if len(words) <= MAX_QUOTED else f"{words[:MAX_QUOTED]}…"
