"""The steps of an event's life, from the log's name to the log's end, at each of which a process can be told to die."""

from __future__ import annotations

import asyncio
import functools
import inspect
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Final

import asyncpg

from eventrec.delivery.letters import log as letter_log
from eventrec.delivery.sources.log import LogSource
from eventrec.log import segment
from eventrec.log.disk import DiskStorage
from eventrec.log.log import Log
from eventrec.runs import leftovers, run_folder
from eventrec.runs import run as run_room
from eventrec.runs.checkpoint import CHECKPOINTS, CheckpointFiles
from eventrec.runs.directory import LOCK
from eventrec.runs.own_log import OwnLog
from eventrec_handlers.jsonl import JsonlHandler
from eventrec_handlers.jsonl.disk import Disk
from eventrec_handlers.jsonl.subscription_directory import SubscriptionDirectory
from eventrec_handlers.postgres import PostgresHandler
from eventrec_handlers.postgres.store import Store
from eventrec_handlers.sqlite import SqliteHandler
from eventrec_handlers.sqlite.store import Store as SqliteStore

STEPS: Final = (
    "before the log has its name",
    "before fetching",
    "fetched",
    "before sending",
    "before the commit",
    "commit under way",
    "committed",
    "sent",
    "before the letter",
    "letter written",
    "letter synced",
    "before the checkpoint is replaced",
    "checkpoint replaced",
    "before the checkpoint's name is synced",
    "checkpoint synced",
    "segment unlinked",
    "before stamping",
    "stamped",
    "renamed to gone",
    "half deleted",
    "deleted",
)
"""In the order of an event's life, its log's end included."""


class Steps:
    """Kills this process when the step `mortal` is passed for the `nth` time."""

    def __init__(self, mortal: str | None, nth: int) -> None:
        self._mortal = mortal
        self._left = nth

    def passed(self, name: str) -> None:
        if name == self._mortal:
            self._left -= 1
            if not self._left:
                os.kill(os.getpid(), signal.SIGKILL)

    def around(
        self, owner: Any, function: str, before: str, after: str, *, when: Callable[..., bool] = lambda *_: True
    ) -> None:
        """Make `function` pass the steps `before` and `after` (empty: none), where `when` says so of its arguments."""
        original = getattr(owner, function)

        @contextmanager
        def steps(*args: Any) -> Iterator[None]:
            is_one = when(*args)
            if is_one:
                self.passed(before)
            yield
            if is_one:
                self.passed(after)

        @functools.wraps(original)
        def wrapped(*args: Any, **options: Any) -> Any:
            with steps(*args):
                return original(*args, **options)

        @functools.wraps(original)
        async def awaited(*args: Any, **options: Any) -> Any:
            with steps(*args):
                return await original(*args, **options)

        setattr(owner, function, awaited if inspect.iscoroutinefunction(original) else wrapped)


def name_steps(steps: Steps) -> None:
    """Put every step of `STEPS` where it is passed."""
    steps.around(LogSource, "read", "before fetching", "fetched")
    for handler in (SqliteHandler, PostgresHandler, JsonlHandler):
        steps.around(handler, "handle", "before sending", "sent")
        steps.around(handler, "retire", "before stamping", "stamped")
    # The next thing that SQLite is told is COMMIT; and it was told.
    steps.around(SqliteStore, "_acknowledge", "", "before the commit")
    steps.around(SqliteHandler, "_store", "", "committed")
    # What a line of JSON counts by is the sidecar, which is replaced once the lines are synced.
    steps.around(Disk, "write", "", "before the commit")
    steps.around(SubscriptionDirectory, "append", "", "committed")
    _name_steps_of_postgres(steps)
    _name_steps_of_letters(steps)

    def is_checkpoint(storage: DiskStorage, *_: object) -> bool:
        return storage.directory.name == CHECKPOINTS

    def is_retired(_: object, __: str, ___: object, target: str) -> bool:
        return target.startswith("gone-")

    steps.around(DiskStorage, "replace", "before the checkpoint is replaced", "checkpoint replaced", when=is_checkpoint)
    steps.around(CheckpointFiles, "sync_names", "before the checkpoint's name is synced", "checkpoint synced")
    steps.around(segment, "delete_segment", "", "segment unlinked")
    steps.around(DiskStorage, "move_folder", "", "renamed to gone", when=is_retired)
    steps.around(
        DiskStorage, "move_folder", "before the log has its name", "", when=lambda *given: not is_retired(*given)
    )
    _name_steps_of_deleting(steps)


def _name_steps_of_postgres(steps: Steps) -> None:
    in_batch: ContextVar[bool] = ContextVar("in_batch", default=False)
    write, execute = Store._write, asyncpg.Connection.execute

    async def written(*args: Any, **options: Any) -> bool:
        token = in_batch.set(True)
        try:
            return await write(*args, **options)
        finally:
            in_batch.reset(token)

    async def executed(connection: asyncpg.Connection, query: str, *args: Any, **options: Any) -> Any:
        if query != "COMMIT" or not in_batch.get():
            return await execute(connection, query, *args, **options)
        steps.passed("before the commit")
        # The loop comes to this when the word is sent, and its answer waited for.
        asyncio.get_running_loop().call_soon(steps.passed, "commit under way")
        answer = await execute(connection, query, *args, **options)
        steps.passed("committed")
        return answer

    Store._write = written  # type: ignore[method-assign]
    asyncpg.Connection.execute = executed


def _name_steps_of_letters(steps: Steps) -> None:
    of_letters: set[int] = set()

    class NotedLog(OwnLog):
        def look(self) -> bool:
            is_moved = super().look()
            of_letters.add(id(self.log))
            steps.passed("before the letter")
            return is_moved

    letter_log.OwnLog = NotedLog  # type: ignore[attr-defined]
    steps.around(Log, "sync", "letter written", "letter synced", when=lambda log: id(log) in of_letters)


def _name_steps_of_deleting(steps: Steps) -> None:
    delete = run_folder.delete_folder

    def deleted(base: DiskStorage, name: str, storage: DiskStorage) -> None:
        files = sorted(file for file in storage.list() if file != LOCK)
        for file in files[: (len(files) + 1) // 2]:
            storage.delete(file)
        steps.passed("half deleted")
        delete(base, name, storage)
        steps.passed("deleted")

    run_room.delete_folder = leftovers.delete_folder = deleted  # type: ignore[attr-defined]
