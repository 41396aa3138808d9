"""What is known of one batch that is stored in chunks: what of it need not be sent again, and what must not be."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from eventrec_handlers.clickhouse.node import Node
    from eventrec_handlers.clickhouse.rows import Chunk


@dataclass(slots=True)
class Progress:
    """What is known of one batch.

    Attributes:
        stored: Keys of the chunks that are stored.
        divided: Chunks that were refused, and what they were divided into.
        bad: Records that the tables do not take: offset to reason.
        sent_to: Chunks of which a node, the only one that knows their tokens, may have the rows.
        may_be_stored: Whether rows may be there of which that is not known.
    """

    stored: set[str] = field(default_factory=set)
    divided: dict[str, list[Chunk]] = field(default_factory=dict)
    bad: dict[int, str] = field(default_factory=dict)
    sent_to: dict[str, Node] = field(default_factory=dict)
    may_be_stored: bool = False

    @property
    def is_clean(self) -> bool:
        """Whether nothing of the batch was stored, as far as this process knows."""
        return not self.stored and not self.may_be_stored

    def refuse(self, found: Mapping[int, str]) -> None:
        """Note that these records cannot be stored."""
        for offset, why in found.items():
            self.bad.setdefault(offset, why)

    def bad_rows(self, chunk: Chunk) -> frozenset[int]:
        """The rows of `chunk` whose records are bad."""
        if not self.bad:
            return frozenset()
        return frozenset(row for row in range(chunk.start, chunk.end) if chunk.part.offsets[row] in self.bad)
