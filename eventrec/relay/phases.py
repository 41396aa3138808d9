"""How long a relay takes for what: five phases, as the reference system times them.

fetch     read from the bus what a stage has not processed     fetchUnprocessedEvents
process   get the state of its keys, and run it                processSessionEvents
commit    put what is ready where it is delivered from         processRegularQueueEvents
insert    the handler, batch by batch                          insertEvents
expire    keys whose time is over                              updatePendingSessions
"""

from __future__ import annotations

from contextlib import AbstractContextManager, ExitStack
from time import perf_counter
from typing import Final, Literal, TypeAlias, get_args

from eventrec.status import PhaseTime

Phase: TypeAlias = Literal["fetch", "process", "commit", "insert", "expire"]
PHASES: Final[tuple[Phase, ...]] = get_args(Phase)


class Phases:
    """What each phase took so far, in this process."""

    def __init__(self) -> None:
        self._times: dict[str, PhaseTime] = {phase: PhaseTime() for phase in PHASES}

    def timing(self, phase: Phase) -> AbstractContextManager[object]:
        """Around one time of it, from here on; one that fails counts too."""
        # What leaves a generator's context manager is changed there, which an error that is frozen refuses.
        around = ExitStack()
        around.callback(self._note, phase, perf_counter())
        return around

    def _note(self, phase: Phase, started: float) -> None:
        was = self._times[phase]
        self._times[phase] = PhaseTime(was.times + 1, was.seconds + perf_counter() - started)

    def times(self) -> dict[str, PhaseTime]:
        """By phase. From any thread."""
        return dict(self._times)
