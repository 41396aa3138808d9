"""A client that tracks events and never waits, and a worker that stores them: what the platform's services embed.

    client, config = AnalyticsClient.new(batch_size=100, flush_interval_secs=10)
    worker = AnalyticsWorker(config, "postgresql://localhost/platform")
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(worker.run)
        client.track(TaskCreated(task_id=…, user_id=…, command="make"))
        …
        await client.close()  # and with it `run` ends

Both are a recorder of eventrec with the platform's options: bounded, counted, retried while the database is down, and
with `log=DIRECTORY` nothing is lost when the process is killed.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Self

import anyio

from eventrec import EventHandler, EventRecorder, EventRecorderOptions, ReceivedEvent, Status, handler_from_url
from layout import ANALYTICS_EVENTS

if TYPE_CHECKING:
    from pathlib import Path

    from events import PlatformEvent

MAX_WAITING: Final = 100_000
"""Events that wait for the database at most; what is beyond is refused, and counted in `status()`."""


CLOSE_SECONDS: Final = 5.0
"""How long `close` waits for a worker that has not begun yet."""


@dataclass(slots=True)
class WorkerConfig:
    """What a client hands to its worker."""

    recorder: EventRecorder
    has_worker: bool = False
    begun: anyio.Event = field(default_factory=anyio.Event)
    ended: anyio.Event = field(default_factory=anyio.Event)


class AnalyticsClient:
    """Tracks events: from any thread, without waiting, and without an error into the caller."""

    def __init__(self, config: WorkerConfig) -> None:
        self._config = config

    @classmethod
    def new(
        cls,
        batch_size: int = 100,
        flush_interval_secs: float = 10,
        *,
        log: str | Path | None = None,
        max_waiting: int = MAX_WAITING,
    ) -> tuple[Self, WorkerConfig]:
        """A client, and what its worker is made of. What is tracked before the worker runs waits for it."""
        options = EventRecorderOptions(
            batch_rows=batch_size,
            flush_interval=flush_interval_secs,
            queue_events=max_waiting,
            host=os.environ.get("HOSTNAME"),
            environment=os.environ.get("ENVIRONMENT"),
        )
        config = WorkerConfig(EventRecorder(log=log, options=options))
        return cls(config), config

    @classmethod
    def noop(cls) -> Self:
        """A client that takes nothing and sends nothing: for tests, and where no user is to be counted."""
        return cls(WorkerConfig(EventRecorder(options=EventRecorderOptions(enabled=False))))

    def track(self, event: PlatformEvent | ReceivedEvent) -> bool:
        """Whether `event` was taken; if not, `status()` counts it with the reason."""
        return self._config.recorder.record(event)

    def track_if(self, condition: bool, event: PlatformEvent) -> bool:  # noqa: FBT001 - as it is called
        """Track `event` if the condition is true."""
        return condition and self.track(event)

    def status(self) -> Status:
        """How many events were taken, stored, refused and lost."""
        return self._config.recorder.status()

    async def close(self, timeout: float | None = None) -> Status:  # noqa: ASYNC109 - as the recorder has it
        """Store what waits, for at most `timeout` seconds, and end the worker; one that is about to begin too."""
        try:
            if self._config.has_worker:
                with anyio.move_on_after(CLOSE_SECONDS if timeout is None else timeout):
                    await self._config.begun.wait()
            return await self._config.recorder.close(timeout)
        finally:
            self._config.ended.set()


class AnalyticsWorker:
    """Stores what its client tracks, by the platform's layout."""

    def __init__(self, config: WorkerConfig, destination: EventHandler | str) -> None:
        handler = handler_from_url(destination) if isinstance(destination, str) else destination
        handler.use_layouts({ANALYTICS_EVENTS.table: ANALYTICS_EVENTS})
        config.recorder.register(handler, name="analytics")
        config.has_worker = True
        self._config = config

    async def run(self) -> None:
        """Store events until the client is closed, or this task is cancelled: then what waits is stored first."""
        async with self._config.recorder:
            self._config.begun.set()
            await self._config.ended.wait()
