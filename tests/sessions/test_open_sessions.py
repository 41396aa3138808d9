"""How many sessions are open is counted as they open and end: the same as a look at all that is kept."""

from __future__ import annotations

import random
from typing import Any

import pytest

from eventrec.sessions import ReferenceSessions, Sessions, SessionStage
from eventrec.sessions.kept import DeviceState, decode_state
from eventrec.testing.sessions import VisitEvent, entry_of
from eventrec.testing.stages import StageRun

T = 1_760_000_000_000
MINUTE = 60_000


def looked_through(run: StageRun, policy: Any) -> int:
    """Device by device, or view by view."""
    if isinstance(policy, ReferenceSessions):
        return len(run.state)
    states = [decode_state(key, kept) for key, kept in run.state.items()]
    return sum(1 + (state.late is not None) for state in states if isinstance(state, DeviceState))


@pytest.mark.parametrize(
    "policy", [Sessions(), Sessions(late="pass"), ReferenceSessions()], ids=["own", "pass", "held"]
)
@pytest.mark.parametrize("seed", range(3))
def test_open_sessions_are_counted_exactly(policy: Any, seed: int) -> None:
    chance = random.Random(seed)
    run = StageRun(SessionStage(policy))
    most = 0

    for turn in range(40):
        events = [
            VisitEvent(
                id=f"{turn}-{i}",
                at=T + turn * 5 * MINUTE + chance.randrange(-120, 60) * MINUTE,
                project=chance.choice(["shop", "blog", ""]),
                device=chance.choice(["", *"abcdef"]),
                type=chance.choice(["screen_view", "click", "session_end"]),
                profile=chance.choice(["", "ann"]),
            )
            for i in range(chance.randrange(8))
        ]
        run.feed([entry_of(event, session_id=f"s{event.device}") for event in events])
        assert run.tallies["open_sessions"] == looked_through(run, policy)
        most = max(most, run.tallies["open_sessions"])
        run.wait(chance.choice([0.0, 300.0, 1_900.0]))
        assert run.tallies["open_sessions"] == looked_through(run, policy)
    run.wait(3_600.0)

    assert most > 2
    assert run.tallies["open_sessions"] == len(run.state) == 0
