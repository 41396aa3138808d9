"""How far a subscription is, in two numbers, and what became of what lies behind it."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(slots=True)
class Progress:
    """`acknowledged` is the destination's next offset; below `scanned`, which is never less, everything is settled.

    They differ after a filtered range, a dead letter or a forfeit, of which the destination learns with the next batch.
    The counters obey `scanned - start + rewound == delivered + filtered + dead + dropped` between two moves.
    """

    start: int
    acknowledged: int
    scanned: int
    delivered: int = 0
    filtered: int = 0
    dead: int = 0
    dropped: dict[str, int] = field(default_factory=dict)
    replayed: int = 0
    rewound: int = 0

    def drop(self, reason: str, count: int) -> None:
        """`count` records are lost for `reason`."""
        if count:
            self.dropped[reason] = self.dropped.get(reason, 0) + count
