"""A table as a node has it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

WINDOW: Final = "non_replicated_deduplication_window"
REPLICATED_WINDOW: Final = "replicated_deduplication_window"
BLOCK_NUMBERS: Final = "enable_block_number_column"
BLOCK_OFFSETS: Final = "enable_block_offset_column"
"""Settings of a table: how many blocks it knows by their tokens; and whether a row knows, also once
parts are merged, in which block it came, and where there."""


@dataclass(slots=True)
class TableState:
    """A table as a node has it.

    Attributes:
        engine: Its engine, without arguments.
        made_as: Engine, keys and settings, as it would be made.
        columns: Name to type.
        computed: Columns that it fills by itself.
        views: Views that are fed with what is inserted: database and name.
        looked_at: When these were asked for, in seconds of a clock.
    """

    engine: str
    made_as: str
    columns: dict[str, str]
    computed: frozenset[str]
    views: tuple[tuple[str, str], ...] = ()
    looked_at: float = 0.0

    @property
    def is_shared(self) -> bool:
        """Whether other nodes know the tokens that this one has seen."""
        return self.engine.startswith(("Replicated", "Shared", "Distributed"))

    def keeps_tokens(self, *, blocks: int) -> bool:
        """Whether it knows a batch that comes again after so many blocks of others."""
        if not self.engine.endswith("MergeTree"):
            return self.engine == "Distributed"
        if self.engine.startswith(("Replicated", "Shared")):
            window = _setting(self.made_as, REPLICATED_WINDOW)
            return window is None or window >= blocks  # the server's default is enough
        return (_setting(self.made_as, WINDOW) or 0) >= blocks


def _setting(made_as: str, name: str) -> int | None:
    found = re.search(rf"\b{name} = (\d+)", made_as)
    return None if found is None else int(found[1])
