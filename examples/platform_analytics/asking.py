"""How the platform's routes ask: questions to rollups for the time that a request names, and rows as they answer it."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final, TypeVar

from msgspec import Struct

from eventrec.analytics import Answer, Question, Rollup, plan_of
from eventrec.server import RefusedError, Server, completeness, json_response, moment_of

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

    from eventrec.analytics import RollupStore

R = TypeVar("R", bound=Struct)
Row = dict[str, Any]

EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
SECOND: Final = 1_000_000_000
DAY: Final = 86_400 * SECOND
PAGE: Final = 5_000


@dataclass
class Asking:
    """Questions that one request puts to the store, and what the answers say of themselves."""

    store: RollupStore
    now: int
    start: int
    end: int
    complete_to: int | None = None
    pending: int | None = None
    remarks: dict[str, None] = field(default_factory=dict)

    async def rows(
        self,
        rollup: type[Rollup],
        *,
        start: int | None,
        end: int | None,
        groups: tuple[str, ...] | None = None,
        enough: Callable[[list[Row]], bool] = lambda _: False,
    ) -> list[Row]:
        """Rows of the buckets that begin from `start` to `end`, the latest first, until there are `enough`."""
        question = Question(
            rollup, start=start, end=None if end is None else end + 1, groups=groups, limit=PAGE, newest_first=True
        )
        plan, rows = plan_of(rollup), list[Row]()
        while True:
            answer = await self.store.answer(question)
            self._note(answer)
            names = [column.name for column in answer.columns]
            for values in answer.rows:
                row: Row = dict(zip(names, values, strict=True))
                row[plan.bucket_name] = EPOCH + timedelta(seconds=row[plan.bucket_name] // SECOND)
                rows.append(row)
            if answer.cursor is None or enough(rows):
                return rows
            question = replace(question, cursor=answer.cursor)

    async def asked(self, rollup: type[Rollup], **more: Any) -> list[Row]:
        """Rows of the time that the request names."""
        return await self.rows(rollup, start=self.start, end=self.end, **more)

    def _note(self, answer: Answer) -> None:
        if answer.complete_to is not None:
            self.complete_to = min(answer.complete_to, self.complete_to or answer.complete_to)
        if answer.pending is not None:
            self.pending = max(answer.pending, self.pending or 0)
        self.remarks |= dict.fromkeys(answer.remarks)


Answering = Callable[[Asking, "Request"], Awaitable[Struct | list[Any]]]


def endpoint(answering: Answering, *, has_range: bool) -> Callable[[Request, Server], Awaitable[Response]]:
    """What answers a request with what `answering` gives for its time."""

    async def answer(request: Request, server: Server) -> Response:
        if server.pool is None:
            raise RefusedError(HTTPStatus.NOT_IMPLEMENTED, "the server was given nothing to read")
        now = present()
        start, end = now - 30 * DAY, now
        if has_range:
            start = moment(request, ("start_date", "startDate"), now=now, default=start)
            end = moment(request, ("end_date", "endDate"), now=now, default=end)
        found: list[Asking] = []

        async def ask(store: RollupStore) -> Struct | list[Any]:
            found.append(Asking(store, now, start, end))
            return await answering(found[-1], request)

        said = await server.pool.ask(ask)
        asking = found[-1]
        whole = Answer("platform", (), (), asking.complete_to, asking.pending, None, tuple(asking.remarks))
        return json_response(said, headers=completeness(whole))

    return answer


def present() -> int:
    """In nanoseconds since the epoch."""
    return time.time_ns()


def moment(request: Request, names: Sequence[str], *, now: int, default: int) -> int:
    """A time, under one of its two names.

    Raises:
        RefusedError: 400: it is not one, or said twice.
    """
    said = [(name, text) for name, text in request.query_params.multi_items() if name in names]
    if not said:
        return default
    name, text = said[0]
    if len(said) > 1:
        raise RefusedError(HTTPStatus.BAD_REQUEST, f"{name}: it may stand only once, under one of {', '.join(names)}")
    try:
        return moment_of(text, "UTC", now=now)
    except ValueError as exc:
        raise RefusedError(HTTPStatus.BAD_REQUEST, f"{name}: {exc}") from exc


def number(request: Request, name: str, *, default: int, high: int) -> int:
    text = request.query_params.get(name, str(default))
    if not (text.isascii() and text.isdigit() and len(text) < 10 and int(text) <= high):
        raise RefusedError(HTTPStatus.BAD_REQUEST, f"{name}: a whole number from 0 to {high}")
    return int(text)


def made(kind: type[R], rows: Sequence[Row], **more: Callable[[Row], Any]) -> list[R]:
    """Each row as a `kind`, which has of its columns those that it names; `more` are computed."""
    computed = {name: [compute(row) for row in rows] for name, compute in more.items()}
    names = [name for name in kind.__struct_fields__ if name not in more]
    return [
        kind(**{name: row[name] for name in names}, **{name: values[place] for name, values in computed.items()})
        for place, row in enumerate(rows)
    ]


def rate(part: int, others: int) -> float:
    return part / (part + others) if part + others else 0.0


def text_order(value: str | None) -> tuple[bool, str]:
    """As `COLLATE "C"` has it, and null last."""
    return value is None, value or ""
