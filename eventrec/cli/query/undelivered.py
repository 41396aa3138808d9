"""What an answer lacks because it waits in a log: counted in the files, beside the processes that write them."""

from __future__ import annotations

from contextlib import closing, suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from eventrec.cli.logs.directory import names_in, see_all
from eventrec.cli.logs.orphans import chosen_name
from eventrec.cli.query.showing import moment_text
from eventrec.cli.terminal import counted
from eventrec.errors import ContentError, LogError
from eventrec.log.disk import DiskStorage
from eventrec.log.reader import LogReader
from eventrec.records.content import ContentDecoder, LaterContentError, is_ours
from eventrec.records.entry import SHAPE, TIMESTAMP

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from uuid import UUID

    from eventrec.analytics import Answer, Question
    from eventrec.cli.logs.directory import SeenLog


@dataclass(frozen=True, slots=True)
class Undelivered:
    """Events of a rollup that wait in a log directory.

    Attributes:
        name: The subscription that they wait for.
        count: How many, at most: what was delivered since the log's checkpoints were saved is among them.
        oldest: When the oldest of them happened; None: there are none.
        unreadable: Logs of which it cannot be told here: of another user, or of a later eventrec.
    """

    name: str
    count: int
    oldest: int | None
    unreadable: int


def undelivered(directory: Path, url: str, name: str | None, question: Question) -> Undelivered:
    """What waits in `directory` for the subscription `name`, and is asked for by `question`. Blocking.

    By default the subscription is the one in the logs that a handler of `url` has by itself. Ask before the database:
    what is delivered meanwhile is then in both, and nothing is in neither. Conditions of the rollup are not looked at,
    but for its types, its table and the time that is asked for.

    Raises:
        CommandError: It is not a log directory, it cannot be read, or no subscription is the one.
    """
    logs = see_all(directory)
    chosen = chosen_name(url, name, names_in(logs))
    count, oldest = 0, None
    unreadable = {log.id for log in logs if log.state == "unknown" or log.error}
    for log in logs:
        for timestamp in _waiting(log, chosen, question, unreadable):
            count += 1
            oldest = timestamp if oldest is None else min(oldest, timestamp)
    return Undelivered(chosen, count, oldest, len(unreadable))


def with_waiting(answer: Answer, waiting: Undelivered, directory: Path) -> Answer:
    """`answer`, which also says what waits in `directory`: it is complete up to the oldest of these at most."""
    remarks = list(answer.remarks)
    complete_to = answer.complete_to
    if waiting.oldest is not None:
        what = counted(waiting.count, "event waits", "events wait")
        remarks.append(f"{what} in {directory} for {waiting.name!r}, the oldest of {moment_text(waiting.oldest)}")
        complete_to = None if complete_to is None else min(complete_to, waiting.oldest - 1)
    if waiting.unreadable:
        logs = counted(waiting.unreadable, "log")
        remarks.append(f"{logs} in {directory} cannot be read here, or not to its end: see eventrec status, log cat")
    pending = (answer.pending or 0) + waiting.count
    return replace(answer, complete_to=complete_to, pending=pending, remarks=tuple(remarks))


def _waiting(log: SeenLog, name: str, question: Question, unreadable: set[UUID]) -> Iterator[int]:
    """When the events of one log happened. Where a later eventrec is needed to tell, the log joins `unreadable`."""
    saved = log.checkpoints.get(name)
    start = log.first if saved is None else saved.progress.scanned
    decoder = ContentDecoder()
    with (
        suppress(OSError, LogError),  # What is wrong with a log, delivery and `eventrec log verify` say.
        closing(DiskStorage(log.path)) as storage,
        LogReader(storage, start, is_ours=lambda opening: is_ours(opening, log_id=log.id)) as reader,
    ):
        for commit in reader.commits():
            try:
                entries = decoder.decode(commit.content).entries
            except LaterContentError:
                unreadable.add(log.id)
                continue
            except ContentError:
                continue
            for offset, entry in enumerate(entries, commit.offset):
                if offset >= start and _is_asked(entry[SHAPE].type, entry[SHAPE].table, entry[TIMESTAMP], question):
                    yield entry[TIMESTAMP]


def _is_asked(kind: str, table: str, timestamp: int, question: Question) -> bool:
    plan = question.plan
    if table != plan.table or (plan.types is not None and kind not in plan.types):
        return False
    if question.start is None and question.end is None:
        return True
    bucket = plan.bucket.floor(timestamp)
    return (question.start is None or bucket >= question.start) and (question.end is None or bucket < question.end)
