"""Dead letters and their replay, on real files, against a model destination: killed anywhere, and each letter once."""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
from collections import Counter, deque
from collections.abc import Callable
from pathlib import Path
from typing import Final
from uuid import UUID

import anyio
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from eventrec.delivery.letters.dead_letters import DeadLetter
from eventrec.delivery.letters.kept import KeptLetter, kept_letters, purge, sweep_letters
from eventrec.delivery.letters.log import LetterLog
from eventrec.delivery.replay import replay
from eventrec.errors import FencedError, PermanentError, TransientError
from eventrec.handler import DestinationCheckpoints, EventHandler
from eventrec.options import DeliverySettings, RetrySettings
from eventrec.records.batch import Batch
from eventrec.records.entry import OVERHEAD_BYTES
from eventrec.records.ids import Ids
from eventrec.records.schema import Shape
from eventrec.runs.directory import list_runs
from eventrec.runtime.backend import take_no_thread
from eventrec.testing.clock import VirtualTimeLoop

EXAMPLES: Final = max(10, int(os.environ.get("EVENTREC_TEST_EXAMPLES", "300")) // 6)
LOG: Final = UUID(int=7)
SHAPES: Final = {kind: Shape("events", kind) for kind in "ab"}
SETTINGS: Final = DeliverySettings(
    batch_rows=3,
    batch_bytes=1 << 20,
    flush_interval=0.05,
    ticks=False,
    retry=RetrySettings(first=0.5, factor=2, max=8, full_jitter=False, attempts=None),
    hold_unmapped=False,
)
NAMES = st.sampled_from("st")


class Destination(EventHandler, DestinationCheckpoints):
    """Keeps its checkpoints with the ids of its rows. After `steps` halves of requests its client dies: `on_death`."""

    def __init__(self) -> None:
        self.rows: list[str] = []
        self.next: dict[tuple[UUID, str], int] = {}
        self.refused: set[str] = set()
        self.faults: deque[str] = deque()
        self.steps: int | None = None
        self.on_death: Callable[[], None] = lambda: None

    @property
    def checkpoints(self) -> Destination:
        return self

    async def step(self) -> None:
        await anyio.sleep(0.01)
        if self.steps is not None:
            self.steps -= 1
            if not self.steps:
                self.on_death()
            if self.steps <= 0:
                await anyio.sleep_forever()

    async def destination_id(self) -> str:
        await self.step()
        return "destination"

    async def resume(self, log_id: UUID, subscription: str, start: int) -> int:
        await self.step()
        answer = self.next.setdefault((log_id, subscription), start)
        await self.step()
        return answer

    async def retire(self, log_id: UUID, subscription: str, end: int) -> None:
        await self.step()
        self.next[log_id, subscription] = end
        await self.step()

    async def handle(self, batch: Batch) -> None:
        fault = self.faults.popleft() if self.faults else ""
        await self.step()
        if fault == "before":
            raise TransientError("cut")
        ids = [record.id for record in batch.records]
        if self.refused & set(ids):
            raise PermanentError("22P02")
        key = batch.log_id, batch.subscription
        if self.next[key] != batch.start:
            raise FencedError("moved")
        self.next[key] = batch.end
        self.rows += ids
        await self.step()
        if fault == "after":
            raise TransientError("cut")


class Replays(RuleBasedStateMachine):
    """One directory of letters; processes that write and replay them come and go."""

    steps = 0

    @initialize()
    def begin(self) -> None:
        self.loop = VirtualTimeLoop()
        self.loop.run_until_complete(self.be_alone())
        self.home = Path(tempfile.mkdtemp())
        self.directory = self.home / "0"
        self.destination = Destination()
        self.runs = 0
        self.serial = 0
        self.letters = self.new_process()
        self.lettered: dict[str, str] = {}
        """Subscription, by id of a record that was set aside."""
        self.purged: set[str] = set()

    async def be_alone(self) -> None:
        """On virtual time no test waits for threads."""
        take_no_thread()

    def new_process(self) -> LetterLog:
        self.runs += 1
        id_ = UUID(int=self.runs << 80 | 0x7 << 76 | 0x2 << 62)
        return LetterLog(self.directory, lambda: id_, max_bytes=1 << 30)

    def id_of(self, offset: int) -> str:
        return Ids(LOG).as_text(offset, 0, None)

    @rule(name=NAMES, kind=st.sampled_from("ab"), count=st.integers(1, 5), bad=st.sets(st.integers(0, 4)))
    def set_aside(self, name: str, kind: str, count: int, bad: set[int]) -> None:
        """Some records of a log, of which those in `bad` will be refused again."""
        offsets = range(self.serial, self.serial + count)
        self.serial += count
        self.lettered |= {self.id_of(offset): name for offset in offsets}
        self.destination.refused |= {self.id_of(offset) for offset in offsets if offset - offsets[0] in bad}
        self.loop.run_until_complete(self.letters.write([self.letter(offset, name, kind) for offset in offsets]))

    def letter(self, offset: int, name: str, kind: str) -> DeadLetter:
        return DeadLetter(
            log_id=LOG,
            offset=offset,
            subscription=name,
            handler="Destination",
            reason="never",
            seconds=1.0,
            entry=(SHAPES[kind], offset, b"{}", None, None, None, 2 + OVERHEAD_BYTES),
        )

    @rule()
    def set_aside_again(self) -> None:
        """Another process was refused the same records before a replay had them: the last letter of each waits."""
        self.letters.close()
        self.letters = self.new_process()
        waiting = [
            kept.letter
            for kept in self.kept()
            if kept.is_waiting and self.id_of(kept.letter.offset) not in self.destination.rows
        ][:3]
        if waiting:
            self.loop.run_until_complete(self.letters.write(waiting))

    @rule()
    def restart(self) -> None:
        self.letters.close()
        self.letters = self.new_process()

    @rule(faults=st.lists(st.sampled_from(["before", "after", ""]), max_size=4))
    def fail(self, faults: list[str]) -> None:
        self.destination.faults.extend(faults)

    @rule(count=st.integers(0, 9))
    def mend(self, count: int) -> None:
        """The destination takes some of what it refused."""
        for id_ in sorted(self.destination.refused)[:count]:
            self.destination.refused.discard(id_)

    @rule(name=NAMES)
    def replay(self, name: str) -> None:
        done = self.loop.run_until_complete(
            replay(self.directory, self.destination, name=name, settings=SETTINGS, letters=self.letters)
        )
        assert done.is_done

    @rule(name=NAMES, steps=st.integers(1, 14))
    def replay_until_killed(self, name: str, steps: int) -> None:
        """What is on the disk at that moment is all that is left."""
        left = self.home / str(int(self.directory.name) + 1)
        died = anyio.Event()

        def die() -> None:
            if self.directory.is_dir():
                shutil.copytree(self.directory, left)
            died.set()

        self.destination.steps, self.destination.on_death = steps, die
        self.loop.run_until_complete(self.replay_until(died, name))
        self.destination.steps = None
        self.restart()
        if left.is_dir():
            self.directory = left
            self.restart()

    async def replay_until(self, died: anyio.Event, name: str) -> None:
        async def watch() -> None:
            await died.wait()
            tasks.cancel_scope.cancel()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(watch)
            await replay(self.directory, self.destination, name=name, settings=SETTINGS, letters=self.letters)
            tasks.cancel_scope.cancel()

    @rule(name=NAMES, back=st.integers(0, 3))
    def give_up(self, name: str, back: int) -> None:
        for run in list_runs(self.directory):
            mine = [kept for kept in self.kept() if kept.run == run and kept.letter.subscription == name]
            if mine:
                below = max(0, mine[-1].number + 1 - back)
                self.purged |= {
                    self.id_of(kept.letter.offset) for kept in mine if kept.is_waiting and kept.number < below
                }
                purge(self.directory, run, name, below=below)

    @rule()
    def sweep(self) -> None:
        sweep_letters(self.directory)

    def kept(self) -> list[KeptLetter]:
        return list(kept_letters(self.directory))

    @precondition(lambda self: hasattr(self, "loop"))
    @invariant()
    def each_letter_waits_was_delivered_or_was_given_up(self) -> None:
        type(self).steps += 1
        waiting = Counter(self.id_of(kept.letter.offset) for kept in self.kept() if kept.is_waiting)
        delivered = Counter(self.destination.rows)
        assert not waiting or max(waiting.values()) == 1
        assert not delivered or max(delivered.values()) == 1
        assert set(self.lettered) == set(waiting) | set(delivered) | self.purged
        assert not self.purged & set(waiting)

    def teardown(self) -> None:
        if hasattr(self, "loop"):
            try:
                self.replay_all()
            finally:
                self.letters.close()
                self.loop.close()
                shutil.rmtree(self.home)

    def replay_all(self) -> None:
        """The destination takes everything: no letter is left, and no log of letters."""
        self.destination.refused.clear()
        self.destination.faults.clear()
        for name in "st":
            self.replay(name)
        self.each_letter_waits_was_delivered_or_was_given_up()
        # A replay that was killed may have delivered what was given up afterwards.
        assert set(self.destination.rows) | self.purged == set(self.lettered)
        self.letters.close()
        sweep_letters(self.directory)
        assert not self.directory.exists()


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_each_letter_is_delivered_once_or_waits(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL + 1, logger="eventrec")

    run_state_machine_as_test(
        Replays,
        settings=settings(
            max_examples=EXAMPLES,
            stateful_step_count=20,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )

    assert Replays.steps > EXAMPLES
