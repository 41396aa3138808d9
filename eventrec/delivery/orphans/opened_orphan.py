"""A log of another run, opened for delivery: what its bytes and its checkpoints say, and what they do not."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final

from eventrec.errors import LogError
from eventrec.log.log import Log
from eventrec.log.segment import list_odd_segments, list_segments, segment_name
from eventrec.records.content import ContentDecoder, is_ours
from eventrec.runs.checkpoint import CheckpointFiles, Saved
from eventrec.runs.followers import Followers
from eventrec.runs.survey import knows

if TYPE_CHECKING:
    from collections.abc import Iterable

    from eventrec.delivery.delivered_log import DeliveredLog
    from eventrec.runs.run import Run

MAX_OFFSET: Final = (1 << 48) - 1
"""What the id of a row has room for."""


@dataclass(frozen=True, slots=True)
class OpenedOrphan:
    """An adopted log, or one that is followed, and what was known of it.

    Attributes:
        log: Synced, if it is adopted.
        first: The first record that it has.
        saved: Its checkpoints, and the names of the files that are not any more.
        known: Of the subscriptions asked for, those that are not new in this directory: nothing of theirs is skipped.
    """

    log: DeliveredLog
    first: int
    saved: Saved
    known: frozenset[str]


def open_orphan(run: Run, latest: Iterable[str] = ()) -> OpenedOrphan:
    """Open the log of an adopted run. Blocking. `latest` are the subscriptions that begin with what comes, if new.

    A checkpoint past the log's end was delivered before a power cut: the end is raised to it. So it is to the end of
    what a torn tail was to hold: that is lost, and counted.

    Raises:
        OSError: The disk refused.
        LogError: It cannot be opened, or it or a checkpoint is of a version that we cannot read, or is forbidden to us.
    """
    if odd := list_odd_segments(run.storage):
        # It is not followed; and what it held is not known, so nothing here is over.
        raise LogError(f"{segment_name(odd[0])} is not a file")
    saved = CheckpointFiles(run.storage).look(says_forbidden=False)
    check_saved(saved)
    at_least = max((each.progress.scanned for each in saved.checkpoints.values()), default=0)
    _check_offset(max([at_least, *list_segments(run.storage)]))
    of_this = partial(is_ours, log_id=run.id)
    log = Log.open(run.storage, is_ours=of_this, at_least=at_least, counts_tail=True)
    try:
        _check_offset(log.appended)
        with log.reader(is_ours=of_this) as reader:
            for commit in reader.read(max_bytes=1):
                ContentDecoder().decode(commit.content)
        known = frozenset(name for name in latest if _is_known(name, saved, run))
    except BaseException:
        log.close()
        raise
    return OpenedOrphan(log, log.first, saved, known)


def check_saved(saved: Saved) -> None:
    """Raise LogError where a checkpoint is of a version that we cannot read, or one that this user may not read.

    What is damaged is lost, and its subscription starts again. What is only forbidden says where it is, to its owner.
    """
    if saved.forbidden:
        raise LogError(f"checkpoints that this user may not read: {', '.join(sorted(saved.forbidden))}; chown them")
    if saved.newer:
        raise LogError(f"checkpoints of a newer version: {', '.join(sorted(saved.newer))}")


def _check_offset(offset: int) -> None:
    if offset > MAX_OFFSET:
        raise LogError(f"it goes on at record {offset}: an id has room for {MAX_OFFSET}")


def _is_known(name: str, saved: Saved, run: Run) -> bool:
    if name in saved.checkpoints:
        return False  # It is where its checkpoint says.
    return not saved.is_new(name) or knows(run.directory, name, before=run.id) or _is_followed(name, run)


def _is_followed(name: str, run: Run) -> bool:
    """Whether that log began after live logs were followed for the subscription: all of it is what comes."""
    since = Followers(run.directory).since(name)
    return since is not None and since <= run.id
