"""The records that destinations refused for good: listed, shown, and delivered after all."""

from __future__ import annotations

from datetime import UTC, datetime
from http import HTTPStatus
from typing import TYPE_CHECKING, Annotated, Any, Final
from uuid import UUID

import msgspec

from eventrec.delivery.letters.kept import unreadable_logs
from eventrec.delivery.letters.shown import shown_letter
from eventrec.records.entry import SHAPE, SIZE
from eventrec.runs.directory import DEAD
from eventrec.runtime.decoding import decodable
from eventrec.server.operations.letters import look, waiting
from eventrec.server.operations.replaying import REPLAY
from eventrec.server.parameters import Parameters, refused
from eventrec.server.refusals import RefusedError, json_response
from eventrec.server.routes import JSON, Query, Route

if TYPE_CHECKING:
    from pathlib import Path

    from starlette.requests import Request
    from starlette.responses import Response

    from eventrec.delivery.letters.kept import KeptLetter
    from eventrec.server.serving import Server

DEFAULT_LETTERS: Final = 100
MAX_LETTERS: Final = 1_000
_MAX_DIGITS: Final = 19


@decodable
class DeadLetterSummary(msgspec.Struct, frozen=True):
    """A dead letter, without its record.

    Attributes:
        id: What it is shown by.
        subscription: Whose it is.
        type: The type of its record.
        table: The table of its record.
        reason: Why it was refused.
        time: When, RFC 3339.
        handler: What refused it.
        log: The id of the record's log.
        offset: The record's number there.
        bytes: How large its record is.
    """

    id: str
    subscription: str
    type: str
    table: str
    reason: str
    time: str
    handler: str
    log: str
    offset: int
    bytes: int


@decodable
class DeadLetterList(msgspec.Struct, frozen=True):
    """The dead letters that wait, oldest first.

    Attributes:
        letters: Those of this page.
        waiting: How many there are of those asked for, in all pages.
        cursor: What the next page is asked by; null: there is none.
        unreadable: Logs of dead letters that cannot be read whole, by their id: why. There may be more letters in them.
    """

    letters: list[DeadLetterSummary]
    waiting: int
    cursor: str | None
    unreadable: dict[str, str]


async def _list(request: Request, server: Server) -> Response:
    parameters = Parameters(request, _QUERIES)
    subscription, kind, cursor = map(parameters.text, ("subscription", "type", "cursor"))
    after = None if cursor is None else _place_of(cursor)
    if cursor is not None and after is None:
        raise refused("cursor", "it is not one that this server gave")
    limit = parameters.whole("limit", default=DEFAULT_LETTERS, high=MAX_LETTERS)

    def page(directory: Path) -> DeadLetterList:
        letters: list[DeadLetterSummary] = []
        count, has_more = 0, False
        for kept in waiting(directory):
            letter = kept.letter
            if subscription not in (None, letter.subscription) or kind not in (None, letter.entry[SHAPE].type):
                continue
            count += 1
            if after is not None and (kept.run, kept.number) <= after:
                continue
            if len(letters) < limit:
                letters.append(_told(kept))
            else:
                has_more = True
        unreadable = {str(id_): why for id_, why in unreadable_logs(directory / DEAD).items()}
        return DeadLetterList(letters, count, letters[-1].id if has_more else None, unreadable)

    return json_response(await look(server, page))


async def _show(request: Request, server: Server) -> Response:
    place = _place_of(request.path_params["letter"])
    kept = None if place is None else await look(server, lambda directory: _found(directory, *place))
    if kept is None:
        raise RefusedError(HTTPStatus.NOT_FOUND, "no such dead letter waits")
    return json_response({"id": _id_of(kept), **shown_letter(kept)})


def _found(directory: Path, run: UUID, number: int) -> KeptLetter | None:
    return next((each for each in waiting(directory) if (each.run, each.number) == (run, number)), None)


def _told(kept: KeptLetter) -> DeadLetterSummary:
    letter = kept.letter
    shape = letter.entry[SHAPE]
    return DeadLetterSummary(
        id=_id_of(kept),
        subscription=letter.subscription,
        type=shape.type,
        table=shape.table,
        reason=letter.reason,
        time=datetime.fromtimestamp(letter.seconds, UTC).isoformat(),
        handler=letter.handler,
        log=str(letter.log_id),
        offset=letter.offset,
        bytes=letter.entry[SIZE],
    )


def _id_of(kept: KeptLetter) -> str:
    return f"{kept.run}.{kept.number}"


def _place_of(id_: str) -> tuple[UUID, int] | None:
    """Where the letter of this id is kept; None: it is not such an id."""
    run, _, number = id_.partition(".")
    try:
        found = UUID(run)
    except ValueError:
        return None
    is_id = str(found) == run and number.isascii() and number.isdigit() and len(number) <= _MAX_DIGITS
    return (found, int(number)) if is_id else None


_QUERIES: Final = (
    Query(name="subscription", description="Those of this subscription alone."),
    Query(name="type", description="Those of records of this type alone."),
    Query(
        name="limit",
        description=f"At most so many, {DEFAULT_LETTERS} without it.",
        type=Annotated[int, msgspec.Meta(ge=1, le=MAX_LETTERS)],
    ),
    Query(name="cursor", description="Those behind a page before, by the cursor it gave."),
)

DEAD_LETTERS: Final = (
    Route(
        method="GET",
        path="/dead",
        endpoint=_list,
        scope="read",
        summary="The dead letters that wait, oldest first",
        tag="dead letters",
        parameters=_QUERIES,
        answers={JSON: DeadLetterList},
        refusals=(404,),
    ),
    Route(
        method="GET",
        path="/dead/{letter}",
        endpoint=_show,
        scope="read",
        summary="One dead letter with its record",
        tag="dead letters",
        parameters=(Query(name="letter", description="Its id, as the list tells it.", place="path"),),
        answers={JSON: dict[str, Any]},
        refusals=(404,),
    ),
    REPLAY,
)
