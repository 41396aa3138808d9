"""By which command an operator ends a pause."""

from __future__ import annotations

from typing import TYPE_CHECKING

from eventrec.runs.holds import CHANGED, ends_by_operator

if TYPE_CHECKING:
    from pathlib import Path


def how_to_end(state: str, directory: Path, name: str) -> str:
    """What an operator does about the subscription `name` of `directory` in such a state; empty for another one."""
    if state.startswith(CHANGED):
        return f"eventrec resume {directory} {name} --from earliest, or --from latest"
    return f"mend that, then: eventrec resume {directory} {name}" if ends_by_operator(state) else ""
