"""With a log a handler is shared by the own log and orphans: what it throws still ends in its own subscription."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from uuid import UUID

import anyio
import anyio.to_thread
import pytest

from eventrec import Backoff, Batch, EventRecorder, PermanentError, TransientError
from eventrec.runs.directory import list_runs
from eventrec.testing import assert_conserved
from eventrec.testing.scripted import FencedHandler, Numbered, ScriptedHandler, quickly, raising

THROWN: Mapping[str, Callable[[], BaseException]] = {
    "generator exit": GeneratorExit,
    "system exit": lambda: SystemExit(1),
    "base exception group": lambda: BaseExceptionGroup("several", [SystemExit(1), ValueError("a")]),
    "stop async iteration": StopAsyncIteration,
    "lone surrogate": lambda: PermanentError("no such file: \udcff.txt"),
}


class Broken(FencedHandler):
    """Throws three times, at each of its methods in turn."""

    def __init__(self, method: str, throw: Callable[[], BaseException]) -> None:
        super().__init__()
        self.method = method
        self.throw = throw
        self.left = 3

    def _maybe(self, method: str) -> None:
        if method == self.method and self.left:
            self.left -= 1
            raise self.throw()

    async def open(self) -> None:
        self._maybe("open")

    async def handle(self, batch: Batch) -> None:
        self._maybe("handle")
        if self.method == "close" and self.left:
            raise ValueError("so it is closed")
        await super().handle(batch)

    async def close(self) -> None:
        self._maybe("close")

    async def resume(self, log_id: UUID, subscription: str, start: int) -> int:
        self._maybe("resume")
        return await super().resume(log_id, subscription, start)

    async def retire(self, log_id: UUID, subscription: str, end: int) -> None:
        self._maybe("retire")
        await super().retire(log_id, subscription, end)


CASES = [(method, thrown) for method in ("open", "handle", "close", "resume") for thrown in THROWN]


@pytest.mark.parametrize(("method", "thrown"), [*CASES, ("retire", "generator exit")])
async def test_what_a_shared_handler_throws_harms_neither_orphans_nor_neighbours(
    tmp_path: Path, method: str, thrown: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL + 1, logger="eventrec")
    options = quickly(flush_interval=0.01, close_timeout=2, retry=Backoff(first=0.01, max=0.05, jitter="none"))
    first = EventRecorder(log=tmp_path, options=options)
    first.register(ScriptedHandler(always=raising(TransientError("down"))), name="broken")
    async with first:
        first.record_many(Numbered(n) for n in range(5))
        await first.close(timeout=0.05)
    broken, good = Broken(method, THROWN[thrown]), ScriptedHandler()
    recorder = EventRecorder(log=tmp_path, options=options)
    recorder.register(broken, name="broken")
    recorder.register(good, name="good", start="latest")

    async with recorder:
        recorder.record_many(Numbered(n) for n in range(5, 10))
        with anyio.fail_after(40):
            # Where the log cannot be stamped, it may be let go for a while, or stamped and gone by now.
            while not (method == "retire" and len(broken.delivered) >= 10) and not await is_settled(recorder, tmp_path):  # noqa: ASYNC110
                await anyio.sleep(0.01)
        status = recorder.status()
        assert (status.state, status.defect) == ("open", None)

    assert good.delivered == list(range(5, 10))
    refused = 10 if isinstance(THROWN[thrown](), PermanentError) and method == "handle" else 0
    assert sorted(set(broken.delivered)) == sorted(broken.delivered)
    assert len(broken.delivered) >= 10 - refused
    assert_conserved(recorder.status())


async def is_settled(recorder: EventRecorder, directory: Path) -> bool:
    """Whether the own log is settled in both subscriptions, and the orphan gone."""
    status = recorder.status()
    orphans = [part for log in status.adopted.values() for part in log.values()]
    if sum(part.delivered + part.dead for part in status.subscriptions.values()) < 10:
        return False
    return not orphans and len(await anyio.to_thread.run_sync(list_runs, directory)) == 1
