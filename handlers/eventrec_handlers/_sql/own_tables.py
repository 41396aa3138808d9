"""Which of our own tables, beside the two that every destination has, the layouts of a catalogue need."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING

from eventrec import ID
from eventrec_handlers._sql.kept_layouts import LAYOUTS
from eventrec_handlers._sql.seen import SEEN

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from eventrec import Layout


def needed_for_layouts(layouts: Sequence[Layout]) -> list[str]:
    """`eventrec_layouts`, where there is a layout; `eventrec_seen`, where one has no column for the id."""
    lacks_id = any(layout.column_of(ID) is None for layout in layouts)
    return [*[LAYOUTS] * bool(layouts), *[SEEN] * lacks_id]


def version_of(statements: Iterable[str]) -> str:
    """What a migration declares of tables that `statements` make: other statements are another version of them."""
    made_by = hashlib.sha256("\n".join(statements).encode()).hexdigest()
    return json.dumps({"made_by": made_by[:16]}, separators=(",", ":"))
