"""Pauses that only an operator ends, as checkpoints and the status tell of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable

    from eventrec.runs.survey import SeenLog

DESTINATION_CHANGED: Final = "destination changed"
"""Why a subscription pauses where another destination answers than before."""

OVER_HALF_REFUSED: Final = "over half of the last"
"""How it begins why one pauses of whose records too many were refused for good."""

CHANGED: Final = f"paused: {DESTINATION_CHANGED}"
_REFUSED: Final = f"paused: {OVER_HALF_REFUSED}"


def ends_by_operator(state: str) -> bool:
    """Whether waiting is in vain in this state of a subscription."""
    return state.startswith((CHANGED, _REFUSED))


def held_in(logs: Iterable[SeenLog]) -> dict[str, str]:
    """The subscriptions that were in such a state when a checkpoint in one of `logs` was saved, and in which.

    Where they differ from log to log, the one that takes more to end.
    """
    found: dict[str, str] = {}
    for log in logs:
        for name, checkpoint in log.checkpoints.items():
            is_waiting = ends_by_operator(checkpoint.state) and (log.is_held or log.pending(name) > 0)
            if is_waiting and found.get(name) != CHANGED:
                found[name] = checkpoint.state
    return found
