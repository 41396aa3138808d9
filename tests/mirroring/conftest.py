"""A log directory that is served on 127.0.0.1, its mirror, and what tells whether the two are alike."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import UUID

import anyio
import pytest
from anyio.to_thread import run_sync as in_thread

from eventrec.log.log import Log, LogOptions
from eventrec.log.segment import HEADER_SIZE
from eventrec.mirroring.addresses import Address
from eventrec.mirroring.mirror import Mirror
from eventrec.mirroring.server import MirrorServer
from eventrec.runs.checkpoint import Checkpoint, CheckpointFiles, Progress
from eventrec.runs.mirrors import Acknowledged, Mirrors
from eventrec.runs.run import Run, new_run_id

HEARTBEAT = 2.0
"""Seconds: silence for three of them ends a connection; on busy machines only where it should."""


@dataclass
class Source:
    """A log that a test writes; blocking."""

    directory: Path
    segment_bytes: int = 20_000
    run: Run = field(init=False)
    log: Log = field(init=False)

    def __post_init__(self) -> None:
        self.run = Run.create(self.directory, new_run_id())
        self.log = Log.create(self.run.storage, LogOptions(segment_bytes=self.segment_bytes))

    def write(self, commits: int, size: int = 600) -> int:
        """The record after the last one, three in each commit."""
        for number in range(self.log.appended, self.log.appended + 3 * commits, 3):
            self.log.append_encoded((b"%020d" % number) * (size // 20), 3)
            self.log.write()
        return self.log.written

    def save(self, scanned: int, name: str = "s") -> None:
        """A checkpoint."""
        progress = Progress(0, scanned, scanned, delivered=scanned)
        files = CheckpointFiles(self.run.storage)
        files.save(Checkpoint(subscription=name, progress=progress), sync=True)
        files.sync_names()

    def end(self) -> None:
        self.log.close()
        self.run.release()


def content_of(directory: Path) -> dict[str, bytes]:
    """The files of all logs in `directory` that a mirror has to have alike, by their paths."""
    found = {}
    for path in sorted(directory.rglob("*")):
        of_log = path.name.endswith((".stdb.log", ".stdb.ofs")) or path.parent.name == "checkpoints"
        if of_log and path.is_file() and not path.name.endswith(".tmp"):
            content = path.read_bytes()
            if len(content) > HEADER_SIZE or not path.name.endswith(".stdb.log"):
                found[str(path.relative_to(directory))] = content
    return found


def acknowledged(directory: Path, id_: UUID, name: str = "standby") -> int:
    """Up to where the mirror has that log, as the source has noted it."""
    return noted(directory, id_, name).next_offset


def noted(directory: Path, id_: UUID, name: str = "standby") -> Acknowledged:
    """What the source has noted of the mirror and that log."""
    return Mirrors(directory).of_log(id_).get(name, Acknowledged(log=id_))


async def until(condition: Callable[[], object], seconds: float = 120) -> None:
    """Return once `condition`, which may look at files, holds; it does not where one is moved under it."""

    def holds() -> object:
        try:
            return condition()
        except FileNotFoundError:
            return False

    with anyio.fail_after(seconds):
        while not await in_thread(holds):  # noqa: ASYNC110 - other tasks, threads and processes change it
            await anyio.sleep(0.01)


@asynccontextmanager
async def serving(directory: Path, port: int = 0, **options: Any) -> AsyncIterator[SimpleNamespace]:
    """A server of `directory`, and the port it listens on."""
    server = MirrorServer(directory, **{"heartbeat": HEARTBEAT, **options})
    listening, found = anyio.Event(), SimpleNamespace(server=server, port=0, address=None)

    def note(on: int) -> None:
        found.port, found.address = on, Address("127.0.0.1", on)
        listening.set()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(lambda: server.serve(Address("127.0.0.1", port), on_listening=note))
        await listening.wait()
        yield found
        tasks.cancel_scope.cancel()


@asynccontextmanager
async def mirroring(address: Address, directory: Path, **options: Any) -> AsyncIterator[Mirror]:
    """A mirror of what is served at `address`."""
    mirror = Mirror(address, directory, **{"name": "standby", "heartbeat": HEARTBEAT, "first_pause": 0.02, **options})
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(mirror.run)
        yield mirror
        tasks.cancel_scope.cancel()


@dataclass(frozen=True)
class Kit:
    """What tests of mirroring need, as one fixture: test modules cannot import each other."""

    source: Callable[..., Source] = Source
    content_of: Callable[[Path], dict[str, bytes]] = content_of
    acknowledged: Callable[..., int] = acknowledged
    noted: Callable[..., Acknowledged] = noted
    until: Callable[..., Any] = until
    serving: Callable[..., AbstractAsyncContextManager[SimpleNamespace]] = serving
    mirroring: Callable[..., AbstractAsyncContextManager[Mirror]] = mirroring

    def are_alike(self, source: Path, mirror: Path) -> bool:
        return content_of(source) == content_of(mirror)


@pytest.fixture(scope="session")
def kit() -> Kit:
    return Kit()
