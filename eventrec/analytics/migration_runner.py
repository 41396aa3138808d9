"""Applies migrations and undoes them, one statement after the other: killed anywhere, the next run goes on there.

A migration is recorded when it begins, with its text, and each statement is noted in its own transaction. What was
begun is ended as it began, whatever the catalogue says by then.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal, TypeAlias

from eventrec.analytics.migration import Migration, Phase
from eventrec.analytics.migration_files import MigrationFileError
from eventrec.analytics.migration_plan import OWN, declared_by, left_over, migrations_of
from eventrec.analytics.migration_target import Declaration, MigrationRecord
from eventrec.errors import DeliveryError, MigrationError, RollbackNotSupportedError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable, Sequence
    from collections.abc import Set as AbstractSet

    from eventrec.analytics.migration_target import Declarations, MigrationTarget

Tell: TypeAlias = "Callable[[str], object]"
"""Is given a sentence for the operator: what is waited for, what differs."""


@dataclass(frozen=True, slots=True)
class Pending:
    """A migration that has not run, or not to its end: `done` of its statements have."""

    migration: Migration
    done: int = 0
    is_recorded: bool = False


@dataclass(frozen=True, slots=True)
class MigrationStatus:
    """How far a database is.

    Attributes:
        applied: What has run.
        pending: What has not, or not to its end.
        undone: The migration whose rollback was begun and not ended; None: none.
        remarks: What an operator should know, a sentence each.
    """

    applied: tuple[MigrationRecord, ...]
    pending: tuple[Pending, ...]
    undone: MigrationRecord | None = None
    remarks: tuple[str, ...] = field(default=())


class MigrationRunner:
    """Migrates `target`, which is open: to what `files` say, where they are given, else to what `catalogue` declares.

    With both, `files` are applied, and that they differ from `catalogue` is a remark. With neither, what was begun is
    ended, and what was applied can be undone. `tell` is given sentences,
    `on_applied` each migration as its last statement has run.
    """

    def __init__(
        self,
        target: MigrationTarget,
        *,
        catalogue: Declarations | None = None,
        files: Sequence[Migration] | None = None,
        tell: Tell = str,
        on_applied: Callable[[Migration], object] = str,
    ) -> None:
        self._target = target
        self._catalogue = catalogue
        self._files = files
        self._tell = tell
        self._on_applied = on_applied

    async def status(self) -> MigrationStatus:
        """How far the database is. Changes nothing.

        Raises:
            MigrationError: What the database says was applied is not what the files say.
        """
        records = await self._target.records()
        status = self._status(records)
        known = set(declared_by(record.migration for record in records))
        remarks = list(status.remarks)
        earlier = None if records else await self._target.earlier()
        if earlier is not None and earlier.remark is not None:
            remarks.append(earlier.remark)
        unsure = await self._target.unsure()
        if unsure is not None:
            remarks.append(unsure)
        for each in status.pending:
            if not each.is_recorded:
                remarks += [said async for _, said in self._standing(each.migration, known)]
        return replace(status, remarks=tuple(remarks))

    async def run(
        self, phase: Phase | None = None, *, unsure: Literal["ran", "again"] | None = None
    ) -> list[Migration]:
        """Apply what is pending, only of `phase` if given; what was applied. Other processes are waited for.

        `unsure` says what became of a statement of which it is not known whether it ran: see `MigrationTarget.unsure`.

        Raises:
            MigrationError: A statement failed: which, and why; what is before it is done. Or, as `status`.
        """
        applied: list[Migration] = []
        async with self._target.lock(lambda: self._tell("another process migrates this database: waiting for it")):
            if unsure is not None:
                await self._target.settle_unsure(unsure)
            records = await self._target.records()
            status = self._status(records)
            self._refuse_out_of_order(status, phase)
            wanted = [each for each in status.pending if phase is None or each.migration.phase is phase]
            known = set(declared_by(record.migration for record in records))
            earlier = await self._earlier() if wanted and not records else ()
            if wanted:
                await self._target.prepare()
            for each in wanted:
                await self._apply(each, known, earlier=earlier)
                earlier = ()
                known |= dict(each.migration.declares).keys()
                applied.append(each.migration)
                self._on_applied(each.migration)
        return applied

    async def rollback(
        self, version: int | None = None, *, unsure: Literal["ran", "again"] | None = None
    ) -> list[Migration]:
        """Undo the newest migration, or all from `version` on, the newest first; what was undone. `unsure` as in `run`.

        Raises:
            RollbackNotSupportedError: One of them cannot be undone; nothing was.
            MigrationError: As `run`.
        """
        undone: list[Migration] = []
        async with self._target.lock(lambda: self._tell("another process migrates this database: waiting for it")):
            if unsure is not None:
                await self._target.settle_unsure(unsure)
            records = sorted(await self._target.records(), key=lambda record: record.version, reverse=True)
            wanted = records[:1] if version is None else [each for each in records if each.version >= version]
            if version is not None and version not in {each.version for each in records}:
                raise MigrationError(f"migration {version} is not applied: there is nothing to undo")
            for record in wanted:
                _refuse_unless_undoable(record)
            if wanted:
                await self._target.prepare()
            for record in wanted:
                await self._undo(record)
                undone.append(record.migration)
        return undone

    # -- what is pending ----------------------------------------------------------------------------------------------

    def _status(self, records: Sequence[MigrationRecord]) -> MigrationStatus:
        applied = tuple(record for record in records if record.is_applied and not record.undone)
        undone = next((record for record in records if record.undone), None)
        applied_so_far = [record.migration for record in records if record.is_applied]
        if self._files is not None:
            self._compare(records, self._files)
            planned = list(self._files)
        else:
            planned = self._made(applied_so_far)
        begun = {record.version: record for record in records if not record.is_applied and not record.undone}
        pending = [_going_on(record, planned) for record in begun.values()]
        if self._files is None and begun:
            planned = self._made([*applied_so_far, *(each.migration for each in pending)])
        known = {record.version for record in records}
        pending += [Pending(each) for each in planned if each.version not in known]
        pending.sort(key=lambda each: each.migration.version)
        return MigrationStatus(applied, tuple(pending), undone, tuple(self._remarks(records)))

    def _made(self, after: Sequence[Migration]) -> list[Migration]:
        return [] if self._catalogue is None else migrations_of(self._catalogue, self._target, after=after)

    def _remarks(self, records: Sequence[MigrationRecord]) -> Iterable[str]:
        if self._catalogue is None:
            return
        history = self._files if self._files is not None else [record.migration for record in records]
        if self._files is not None:
            for each in self._made(history):
                things = ", ".join(key for key, _ in each.declares)
                yield f"no file makes what the catalogue declares ({things}): see `eventrec migrate files`"
        for key in left_over(self._catalogue, self._target, history):
            yield f"the catalogue does not declare {key} any more: it is left as it is"

    def _compare(self, records: Sequence[MigrationRecord], files: Sequence[Migration]) -> None:
        by_version = {each.version: each for each in files}
        for record in records:
            file = by_version.get(record.version)
            if file is None:
                raise MigrationFileError(
                    f"the database has migration {record.version} ({record.name!r}), and there is no file of it"
                )
            if file.checksum != record.checksum and not _goes_on(record, file):
                raise MigrationFileError(
                    f"{file.file_name} was changed after it was {'applied' if record.is_applied else 'begun'}:"
                    f" its checksum was {record.checksum[:12]}, and is {file.checksum[:12]}"
                )

    @staticmethod
    def _refuse_out_of_order(status: MigrationStatus, phase: Phase | None) -> None:
        if status.undone is not None:
            undone = status.undone
            raise MigrationError(
                f"the rollback of migration {undone.version} ({undone.name}) was begun and not ended:"
                " run `eventrec migrate rollback` first"
            )
        if phase is Phase.POST:
            post = [each.migration.version for each in status.pending if each.migration.phase is Phase.POST]
            before = [each for each in status.pending if each.migration.phase is Phase.PRE]
            late = [each.migration for each in before if post and each.migration.version < max(post)]
            if late:
                raise MigrationError(f"migration {late[0]} comes before it: run `eventrec migrate pre` first")

    # -- doing it -----------------------------------------------------------------------------------------------------

    async def _earlier(self) -> tuple[str, ...]:
        """What other programs have migrated before our first migration: keys; it is told."""
        found = await self._target.earlier()
        if found is not None and found.remark is not None:
            self._tell(found.remark)
        return () if found is None else found.keys

    async def _apply(self, pending: Pending, known: AbstractSet[str], *, earlier: Sequence[str] = ()) -> None:
        """`known` are the keys of what migrations before it have declared, `earlier` those of other programs."""
        migration = pending.migration
        if not pending.is_recorded:
            adopted = [] if pending.done else [*earlier, *await self._adopted(migration, known)]
            await self._target.begin(migration, adopted)
        for number in range(pending.done, len(migration.up)):
            try:
                await self._target.apply(migration, number)
            except (MigrationError, DeliveryError) as exc:
                raise MigrationError(
                    f"migration {migration}: statement {number + 1} of {len(migration.up)} failed, and the next run"
                    f" goes on with it: {exc}"
                ) from exc

    async def _adopted(self, migration: Migration, known: AbstractSet[str]) -> list[str]:
        """The keys of what `migration` declares first and is there already; how it differs is told."""
        adopted: dict[str, None] = {}
        async for key, said in self._standing(migration, known):
            adopted[key] = None
            self._tell(said)
        return list(adopted)

    async def _standing(self, migration: Migration, known: AbstractSet[str]) -> AsyncIterator[tuple[str, str]]:
        """What `migration` declares first and is there already: its key, and a sentence about it; one or more."""
        declared = [(key, content) for key, content in migration.declares if key not in known]
        found = await self._target.found([Declaration(key, migration.phase, content) for key, content in declared])
        for key, differences in found.items():
            yield key, f"{key} is there already: it is adopted as it is"
            for difference in differences:
                yield key, f"{key} differs from what is declared: {difference}"

    async def _undo(self, record: MigrationRecord) -> None:
        migration = record.migration
        down = migration.down or ()
        for number in range(record.undone, max(1, len(down))):
            try:
                await self._target.undo(migration, number)
            except (MigrationError, DeliveryError) as exc:
                raise MigrationError(
                    f"rollback of migration {migration}: statement {number + 1} of {len(down)} failed, and the next"
                    f" rollback goes on with it: {exc}"
                ) from exc


def _going_on(record: MigrationRecord, planned: Sequence[Migration]) -> Pending:
    """How `record`, which was begun, is ended: as it began, or as it is written by now where that begins alike."""
    for each in planned:
        if each.version == record.version and each.checksum != record.checksum and _goes_on(record, each):
            return Pending(each, record.done)
    return Pending(record.migration, record.done, is_recorded=True)


def _goes_on(record: MigrationRecord, migration: Migration) -> bool:
    """Whether `migration` is another way to end what `record` says was begun: a statement that failed was mended."""
    begun = record.migration
    return (
        not record.is_applied
        and not record.undone
        and migration.phase is begun.phase
        and record.done < len(migration.up)
        and migration.up[: record.done] == begun.up[: record.done]
    )


def _refuse_unless_undoable(record: MigrationRecord) -> None:
    if record.migration.down is None:
        raise RollbackNotSupportedError(record.version, "it has no way back")
    adopted = [key for key in record.adopted if not key.startswith(OWN)]
    if adopted:
        raise RollbackNotSupportedError(record.version, f"it adopted {', '.join(adopted)}, and made none of it")
