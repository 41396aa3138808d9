"""`GET /rollups`, and `GET /rollups/{name}`: what a rollup of the catalogue tells, page by page."""

from __future__ import annotations

import base64
import binascii
import dataclasses
from datetime import UTC, datetime
from functools import partial
from hashlib import blake2b
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final, cast

import msgspec
from starlette.responses import Response

from eventrec.analytics import Question
from eventrec.ingest.moments import FIRST, LAST, SECOND
from eventrec.records.times import nanoseconds as nanoseconds_of
from eventrec.runtime.backend import in_thread
from eventrec.server.parameters import Parameters, refused
from eventrec.server.reading.answering import (
    CSV_TYPE,
    MEDIA_TYPES,
    RollupAnswer,
    body_of,
    completeness,
    has_arrow,
    tag_of,
)
from eventrec.server.reading.describing import RollupList, described
from eventrec.server.reading.negotiating import form_of
from eventrec.server.refusals import RefusedError, json_response
from eventrec.server.routes import JSON, Query, Route

if TYPE_CHECKING:
    from collections.abc import Mapping

    from starlette.requests import Request

    from eventrec.analytics import Answer, RollupPlan
    from eventrec.server.options import ServerOptions
    from eventrec.server.reading.answering import Form
    from eventrec.server.reading.pool import Pool
    from eventrec.server.serving import Server

_FIRST_BUCKET: Final = nanoseconds_of(datetime(2, 1, 1, tzinfo=UTC))
_LAST_BUCKET: Final = nanoseconds_of(datetime(9998, 1, 1, tzinfo=UTC))
FEW_ROWS: Final = 1_000
"""Rows that are written at once; for more of them the loop has time for others."""

_FORMS: Final = "a moment as RFC 3339 has it, a date, `now`, or a span before now such as `-7d` or `-1h30m`"
PARAMETERS: Final = (
    Query(name="name", description="The rollup, by its name.", place="path"),
    Query(name="from", description=f"Buckets that begin then or later: {_FORMS}. Default: the first there is."),
    Query(name="to", description="Buckets that begin before; written as `from`. Default: the last there is."),
    Query(
        name="zone",
        description="The zone that buckets are written in, and of a time that names none. Default: the rollup's.",
    ),
    Query(
        name="group",
        description="By which of its groups, once for each; the others are added up. Empty: by none. Default: by all.",
        is_repeated=True,
    ),
    Query(name="limit", description="At most so many rows; more are told by a cursor.", type=int),
    Query(name="cursor", description="Goes on after an answer to the same question."),
    Query(name="newest_first", description="From the latest bucket to the earliest.", type=bool),
    Query(name="empty", description="Also buckets without events; needs `from`. `to` is `now` by default.", type=bool),
    Query(name="format", description="json, csv or arrow. Default: what the header Accept prefers."),
    Query(name="raw", description="In CSV, leave texts that a spreadsheet would compute as they are.", type=bool),
)

_decode_cursor: Final = msgspec.json.Decoder(tuple[str, int | None, int | None, str]).decode


async def list_rollups(request: Request, server: Server) -> Response:
    """What rollups there are."""
    Parameters(request, ())
    catalogue = server.catalogue
    return json_response(RollupList([] if catalogue is None else [described(each) for each in catalogue.rollups]))


async def tell_rollup(request: Request, server: Server) -> Response:
    """What one tells."""
    pool = cast("Pool", server.pool)
    plan = _plan(pool, request.path_params["name"])
    said = Parameters(request, PARAMETERS)
    form = await _form(request, said)
    asked = await _asked(said, plan, server.options)
    try:
        answer = await pool.ask(lambda store: store.answer(asked.question))
    except ValueError as exc:
        raise RefusedError(HTTPStatus.BAD_REQUEST, str(exc)) from exc
    cursor = None if answer.cursor is None else asked.cursor_text(answer.cursor)
    return await _response(request, answer, asked, form, cursor=cursor, is_raw=said.flag("raw"))


@dataclasses.dataclass(frozen=True, slots=True)
class _Asked:
    """What a request asks, and by what its cursors are known to be of it."""

    question: Question
    zone: str
    fingerprint: str

    def cursor_text(self, cursor: str) -> str:
        """The cursor of an answer: with the range, which may be relative to now, as it was for the first page."""
        found = (self.fingerprint, self.question.start, self.question.end, cursor)
        return base64.urlsafe_b64encode(msgspec.json.encode(found)).decode().rstrip("=")


async def _asked(said: Parameters, plan: RollupPlan, options: ServerOptions) -> _Asked:
    zone = await said.zone("zone", default=plan.bucket.zone)
    start, end = said.moment("from", zone), said.moment("to", zone)
    groups, is_empty = said.texts("group"), said.flag("empty")
    newest_first = said.flag("newest_first")
    limit = said.whole("limit", default=min(options.default_rows, options.max_rows), high=options.max_rows)
    if is_empty and start is None:
        raise refused("empty", "it needs from")
    if is_empty and end is None:
        end = said.now
    told = (plan.name, plan.fingerprint, groups, newest_first, is_empty, zone, said.text("from"), said.text("to"))
    fingerprint = blake2b(msgspec.json.encode(told), digest_size=9).hexdigest()
    cursor = said.text("cursor")
    if cursor is not None:
        start, end, cursor = _opened(cursor, fingerprint)
    _check_range(plan, start, end, options, is_empty=is_empty)
    try:
        question = Question(
            plan,
            start=start,
            end=end,
            groups=groups,
            limit=limit,
            cursor=cursor,
            empty_buckets=is_empty,
            newest_first=newest_first,
        )
        after = question.after()
    except ValueError as exc:
        raise refused("cursor" if cursor is not None else "group", str(exc)) from exc
    if after is not None and not _FIRST_BUCKET <= after[0] <= _LAST_BUCKET:
        raise refused("cursor", "it was not given by an answer")
    return _Asked(question, zone, fingerprint)


def _opened(text: str, fingerprint: str) -> tuple[int | None, int | None, str]:
    """The range and the cursor that `text` holds, of a question with this fingerprint."""
    try:
        of, start, end, cursor = _decode_cursor(
            base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
        )
    except (binascii.Error, ValueError, RecursionError) as exc:
        raise refused("cursor", "it was not given by an answer") from exc
    if of != fingerprint:
        raise refused("cursor", "it is of another question: say everything else as before")
    if not all(at is None or FIRST <= at <= LAST for at in (start, end)):
        raise refused("cursor", "it was not given by an answer")
    return start, end, cursor


def _check_range(
    plan: RollupPlan, start: int | None, end: int | None, options: ServerOptions, *, is_empty: bool
) -> None:
    if start is None or end is None:
        return
    if start > end:
        raise refused("from", "it is after to")
    longest = cast("float", options.max_range)
    if end - start > longest * SECOND:
        raise refused("from", f"at most {longest / 86_400:g} days before to")
    if is_empty and (end - start) // plan.bucket.step > options.max_rows:
        raise refused("empty", f"over {options.max_rows} buckets: ask for less time")


def _plan(pool: Pool, name: str) -> RollupPlan:
    plan = pool.plans.get(name)
    if plan is None:
        there = f"there are {', '.join(pool.plans)}" if pool.plans else "there are none: the server has no catalogue"
        raise RefusedError(HTTPStatus.NOT_FOUND, f"there is no rollup {name[:60]!a}; {there}")
    return plan


async def _form(request: Request, said: Parameters) -> Form:
    chosen, accept = said.choice("format", MEDIA_TYPES), request.headers.get("accept")
    offered: dict[Form, str] = dict(MEDIA_TYPES)
    is_wanted = chosen == "arrow" or MEDIA_TYPES["arrow"] in (accept or "").lower()
    if is_wanted and not await in_thread(has_arrow):
        if chosen == "arrow":
            raise RefusedError(
                HTTPStatus.NOT_ACCEPTABLE, "Arrow needs pyarrow where the server runs: pip install 'eventrec[arrow]'"
            )
        del offered["arrow"]
    return form_of(chosen, accept, offered)


async def _response(
    request: Request, answer: Answer, asked: _Asked, form: Form, *, cursor: str | None, is_raw: bool
) -> Response:
    write = partial(
        body_of, answer, form, bucket=asked.question.plan.bucket, zone=asked.zone, cursor=cursor, is_raw=is_raw
    )
    is_short = len(answer.rows) <= FEW_ROWS and form != "arrow"
    body = write() if is_short else await in_thread(write)
    headers = completeness(answer, cursor)
    tag = tag_of(body, form, *headers.values())
    headers |= {"ETag": tag, "Cache-Control": "private, no-cache", "Vary": "Accept, Authorization"}
    if _is_known(request.headers.get("if-none-match"), tag):
        return Response(status_code=HTTPStatus.NOT_MODIFIED, headers=headers)
    if form != "json":
        headers["Content-Disposition"] = f'attachment; filename="{_file_name(answer.rollup)}.{form}"'
    return Response(body, headers=headers, media_type=CSV_TYPE if form == "csv" else MEDIA_TYPES[form])


def _is_known(said: str | None, tag: str) -> bool:
    """Whether `If-None-Match` names the answer; RFC 9110, 13.1.2."""
    return said is not None and (
        said.strip() == "*" or tag in (each.strip().removeprefix("W/") for each in said.split(","))
    )


def _file_name(rollup: str) -> str:
    return "".join(char if char.isascii() and (char.isalnum() or char in "-_.") else "_" for char in rollup)[:100]


_ANSWERS: Final[Mapping[str, Any]] = {JSON: RollupAnswer, MEDIA_TYPES["csv"]: None, MEDIA_TYPES["arrow"]: None}
_REFUSALS: Final = (404, 406, 501, 504)

ROLLUPS: Final[tuple[Route, ...]] = (
    Route(
        method="GET",
        path="/rollups",
        endpoint=list_rollups,
        scope="read",
        summary="The rollups that can be asked for",
        description="Each with its columns, how it parts time, and what it counts.",
        tag="reading",
        answers={JSON: RollupList},
    ),
    Route(
        method="GET",
        path="/rollups/{name}",
        endpoint=tell_rollup,
        scope="read",
        summary="What a rollup tells",
        description=(
            "Rows by bucket, then by groups. The answer is whole, also where nothing has refreshed the rollup, and says"
            " how far it is complete; CSV and Arrow say it in headers `Eventrec-Complete-To`, `Eventrec-Pending`,"
            " `Eventrec-Cursor` and `Eventrec-Remarks`. With `If-None-Match` an answer that has not changed is 304."
        ),
        tag="reading",
        parameters=PARAMETERS,
        answers=_ANSWERS,
        refusals=_REFUSALS,
    ),
)
