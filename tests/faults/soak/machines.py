"""The state machines of the suite, run with seeds of the soak: the log, its mirror, delivery, and dead letters."""

from __future__ import annotations

import importlib.util
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final
from unittest.mock import patch

from hypothesis import HealthCheck, seed, settings
from hypothesis.stateful import RuleBasedStateMachine, run_state_machine_as_test

from eventrec.testing.storage import FaultyStorage

TESTS: Final = Path(__file__).parents[2]
MACHINES: Final = {
    "log": ("log/test_model.py", "LogAgainstList", 60),
    "mirror": ("log/test_stream_model.py", "MirrorAgainstSource", 60),
    "delivery": ("delivery/test_model.py", "Delivery", 40),
    "letters": ("delivery/test_replay_model.py", "Replays", 20),
}
"""Where each stands, its class, and how many steps a run has at most."""


def load(name: str) -> type[RuleBasedStateMachine]:
    """The class of that machine. Its module is a test's, which no package has."""
    path, class_name, _ = MACHINES[name]
    spec = importlib.util.spec_from_file_location(f"soak_{name}", TESTS / path)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    found: type[RuleBasedStateMachine] = getattr(module, class_name)
    return found


class Machines:
    """All of them, loaded once."""

    def __init__(self) -> None:
        self._machines: dict[str, Any] = {name: load(name) for name in MACHINES}

    def run(self, number: int, counts: Counter[str], *, examples: int) -> None:
        """So many runs of each, from the seed `number`; what fails says how to get there.

        Raises:
            AssertionError: A machine found what must not be; hypothesis's words for it come with it.
        """
        with counted(counts):
            for name, machine in self._machines.items():
                before = machine.steps
                try:
                    run_state_machine_as_test(
                        seed(number)(machine),
                        settings=settings(
                            max_examples=examples,
                            stateful_step_count=MACHINES[name][2],
                            deadline=None,
                            database=None,
                            print_blob=True,
                            suppress_health_check=list(HealthCheck),
                        ),
                    )
                finally:
                    counts["steps of state machines"] += machine.steps - before
                    counts[f"steps of the machine of {name}"] += machine.steps - before


@contextmanager
def counted(counts: Counter[str]) -> Iterator[None]:
    """Count the power cuts and the kills of simulated disks."""
    crash, kill = FaultyStorage.crash, FaultyStorage.kill

    def counted_crash(storage: FaultyStorage, *, keep: float = 0.5) -> FaultyStorage:
        counts["simulated power cuts"] += 1
        return crash(storage, keep=keep)

    def counted_kill(storage: FaultyStorage) -> FaultyStorage:
        counts["simulated kills"] += 1
        return kill(storage)

    with patch.object(FaultyStorage, "crash", counted_crash), patch.object(FaultyStorage, "kill", counted_kill):
        yield
