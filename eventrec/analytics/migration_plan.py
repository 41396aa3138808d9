"""What a database lacks of a catalogue, as migrations: decided without a database, the same text whenever asked."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from eventrec.analytics.migration import Migration, Phase
from eventrec.analytics.migration_text import with_text

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from eventrec.analytics.migration import Statement
    from eventrec.analytics.migration_target import Declaration, Declarations, MigrationTarget, Steps

_KINDS: Final = {Phase.PRE: "tables", Phase.POST: "rollups"}
OWN: Final = "own "
"""How the keys of our own tables begin."""


def migrations_of(
    catalogue: Declarations, target: MigrationTarget, *, after: Sequence[Migration] = ()
) -> list[Migration]:
    """The migrations that make true what `catalogue` declares and those of `after` have not made: at most one a phase.

    Nothing is ever dropped because a catalogue does not declare it any more: see `left_over`.

    Raises:
        MigrationError: Something declared cannot be made from what there is.
    """
    known = declared_by(after)
    declarations = target.declared(catalogue)
    version = max((migration.version for migration in after), default=0) + 1
    made: list[Migration] = []
    for phase in Phase:
        changed = [each for each in declarations if each.phase is phase and known.get(each.key) != each.content]
        steps = [target.steps(each, known.get(each.key)) for each in changed]
        up = tuple(statement for each in steps for statement in each.up)
        if up:
            made.append(
                with_text(
                    Migration(
                        version=version + len(made),
                        name=_name(phase, changed, is_first=all(each.phase is not phase for each in after)),
                        phase=phase,
                        up=up,
                        down=_down(steps),
                        dialect=target.dialect,
                        declares=tuple((each.key, each.content) for each in changed),
                    )
                )
            )
    return made


def declared_by(migrations: Iterable[Migration]) -> Mapping[str, str]:
    """What `migrations`, one after the other, have made true: key to content."""
    return {key: content for migration in migrations for key, content in migration.declares}


def left_over(catalogue: Declarations, target: MigrationTarget, migrations: Iterable[Migration]) -> list[str]:
    """The keys of what `migrations` made and `catalogue` does not declare any more: it stays until it is dropped."""
    declared = {each.key for each in target.declared(catalogue)}
    return [key for key in declared_by(migrations) if key not in declared and not key.startswith(OWN)]


def _down(steps: Sequence[Steps]) -> tuple[Statement, ...] | None:
    undoing: list[Statement] = []
    for each in reversed(steps):
        if each.down is None:
            return None
        undoing += each.down
    return tuple(undoing)


def _name(phase: Phase, changed: Sequence[Declaration], *, is_first: bool) -> str:
    if is_first or len(changed) != 1:
        return _KINDS[phase]
    words = re.sub(r"[^a-z0-9]+", "_", changed[0].key.lower()).strip("_")
    return words[:60].strip("_") or _KINDS[phase]
