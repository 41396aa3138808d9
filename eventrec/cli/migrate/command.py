"""`migrate`: which database, which catalogue, which files; and what is said of what was done."""

from __future__ import annotations

import os
import re
from difflib import get_close_matches
from pathlib import Path  # cyclopts reads annotations
from typing import TYPE_CHECKING, Final, Literal

import anyio

from eventrec.analytics import (
    MAX_VERSION,
    MigrationFileError,
    MigrationRunner,
    Phase,
    migrations_of,
    read_migrations,
    write_migrations,
)
from eventrec.analytics.loading import PROJECT, is_catalogue_named, project_setting
from eventrec.cli.declared import load_declared
from eventrec.cli.exit_codes import CommandError, ExitCode
from eventrec.cli.root import Json  # noqa: TC001 - cyclopts reads annotations
from eventrec.cli.terminal import Terminal, counted
from eventrec.errors import CatalogueError, DeliveryError, MigrationError, RollbackNotSupportedError
from eventrec.registry import migration_target_from_url

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from eventrec.analytics import Migration, MigrationStatus, MigrationTarget, Pending

VARIABLES: Final = ("DATABASE_URL", "PLATFORM_DATABASE_URL")
COMMANDS: Final = ("all", "pre", "post", "status", "dry-run", "rollback", "files")
USAGE: Final = (
    "usage: eventrec migrate [all | pre | post | status | dry-run | rollback [VERSION] | files DIR]"
    " [--to URL] [--catalogue MODULE:OBJECT] [--files DIR]"
)
_PHASES: Final = {"all": None, "pre": Phase.PRE, "post": Phase.POST}
_DRIVER: Final = re.compile(r"(postgres|postgresql|timescale|sqlite)\+\w+(?=://)", re.IGNORECASE)
"""How a URL begins that also says a driver, as SQLAlchemy's do: `postgresql+asyncpg://`."""


def migrate(
    command: str = "all",
    argument: str | None = None,
    /,
    *,
    to: str | None = None,
    catalogue: str | None = None,
    files: Path | None = None,
    unsure: Literal["ran", "again"] | None = None,
    json: Json = False,
) -> int:
    """Bring a database to what the catalogue of an application declares: tables, indexes, policies, rollups.

    ```text
    all                  apply all that is pending (default)
    pre, post            only what comes before, or after, a deployment
    status               what is applied, and what is pending
    dry-run              print the SQL of what is pending; change nothing
    rollback [VERSION]   undo the newest migration, or all from VERSION on
    files DIR            write what is pending as files for a review; the database is not asked
    ```

    It may be killed at any time, and be run by several processes at once: the next run goes on where one ended. Give
    it a direct connection to PostgreSQL, not one through a pooler.

    For example:

    ```sh
    eventrec migrate all --to postgresql://localhost/shop --catalogue shop.events:catalogue
    ```

    Args:
        command: What to do.
        argument: The VERSION of a rollback, or the DIR of files.
        to: The database's URL; else DATABASE_URL, else PLATFORM_DATABASE_URL.
        catalogue: Where the catalogue is, module:object; else EVENTREC_CATALOGUE, else `catalogue` in `[tool.eventrec]`
            of pyproject.toml.
        files: A directory of migrations that were reviewed: these are applied. Else `migrations` in `[tool.eventrec]`.
        unsure: Where a process was killed in the middle of a statement that must not run twice, in a database without
            transactions: you have looked, and it `ran`, or it is to run `again`. `status` names the statement.
        json: Print JSON for a machine instead.
    """
    terminal = Terminal()
    if command not in COMMANDS or (argument is not None and command not in {"rollback", "files"}):
        terminal.say(USAGE)
        terminal.say(f"eventrec: {_what_is_wrong(command, argument)}", style="red")
        return ExitCode.INCOMPLETE
    work = _Work(terminal, json=json, to=to, catalogue=catalogue, files=files, unsure=unsure)
    try:
        return anyio.run(work.run, command, argument)
    except MigrationFileError as exc:
        raise CommandError(str(exc), ExitCode.FILE) from exc
    except RollbackNotSupportedError as exc:
        raise CommandError(str(exc), ExitCode.INCOMPLETE) from exc
    except (MigrationError, DeliveryError) as exc:
        raise CommandError(str(exc), ExitCode.DESTINATION) from exc


def _what_is_wrong(command: str, argument: str | None) -> str:
    """In one sentence, which shows no URL: it may hold a password."""
    to_fix = ": a database is named with --to." if "://" in f"{command} {argument}" else "."
    if command in COMMANDS:
        return f"{command} takes no argument{to_fix}"
    if "://" in command:
        return f"Unknown command{to_fix}"
    close = get_close_matches(command, COMMANDS, n=1)
    return f'Unknown command "{command}".' + (f' Did you mean "{close[0]}"?' if close else "")


class _Work:
    """One run of the command."""

    def __init__(
        self,
        terminal: Terminal,
        *,
        json: bool,
        to: str | None,
        catalogue: str | None,
        files: Path | None,
        unsure: Literal["ran", "again"] | None,
    ) -> None:
        self._terminal = terminal
        self._json = json
        self._to = to
        self._catalogue = catalogue
        self._directory = files
        self._unsure = unsure

    async def run(self, command: str, argument: str | None) -> int:
        if command == "files":
            return self._write_files(argument)
        target = self._target()
        runner = self._runner(target, needs_any=command != "rollback")
        async with target:
            match command:
                case "status":
                    self._show_status(await runner.status())
                case "dry-run":
                    self._show_sql(await runner.status())
                case "rollback":
                    self._show_done("rolled_back", await runner.rollback(_version(argument), unsure=self._unsure))
                case _:
                    self._show_done("applied", await runner.run(_PHASES[command], unsure=self._unsure))
        return ExitCode.OK

    # -- what is given ------------------------------------------------------------------------------------------------

    def _target(self) -> MigrationTarget:
        url = self._to or next((f"env:{name}" for name in VARIABLES if os.environ.get(name)), None)
        if url is None:
            raise CommandError(f"no database is named: give --to URL, or set {' or '.join(VARIABLES)}", ExitCode.USAGE)
        held = os.environ.get(url.removeprefix("env:"), "") if url.startswith("env:") else url
        # Else a variable is resolved where its content is not shown.
        return migration_target_from_url(_DRIVER.sub(r"\1", held, count=1) if _DRIVER.match(held) else url)

    def _runner(self, target: MigrationTarget, *, needs_any: bool) -> MigrationRunner:
        directory = self._directory or _directory_of_project()
        files = None if directory is None else read_migrations(directory, dialect=target.dialect)
        is_named = is_catalogue_named(self._catalogue)
        declared = load_declared(self._catalogue) if is_named or (needs_any and files is None) else None
        return MigrationRunner(target, catalogue=declared, files=files, tell=self._tell, on_applied=self._note_applied)

    def _write_files(self, given: str | None) -> int:
        directory = Path(given) if given is not None else self._directory or _directory_of_project()
        if directory is None:
            raise CommandError("files goes with a directory: eventrec migrate files DIR", ExitCode.USAGE)
        target = self._target()
        declared = load_declared(self._catalogue)
        before = read_migrations(directory, dialect=target.dialect) if directory.exists() else []
        new = migrations_of(declared, target, after=before)
        written = write_migrations(directory, new)
        if self._json:
            self._terminal.show_json({"written": [str(path) for path in written]})
            return ExitCode.OK
        for path in written:
            self._terminal.show(str(path))
        if not written:
            self._terminal.show("nothing to write: the files make all that the catalogue declares")
        return ExitCode.OK

    # -- what is said -------------------------------------------------------------------------------------------------

    def _tell(self, sentence: str) -> None:
        self._terminal.say(f"eventrec: {sentence}", style="yellow")

    def _note_applied(self, migration: Migration) -> None:
        if not self._json:
            self._terminal.show(f"applied {migration}")

    def _show_done(self, what: str, migrations: Sequence[Migration]) -> None:
        if self._json:
            self._terminal.show_json({what: [_named(each) for each in migrations]})
        elif not migrations:
            self._terminal.show("nothing to do")
        elif what != "applied":
            for each in migrations:
                self._terminal.show(f"{what.replace('_', ' ')} {each}")

    def _show_status(self, status: MigrationStatus) -> None:
        applied = [f"{each.version:04d} {each.phase} {each.name}" for each in status.applied]
        for remark in status.remarks:
            self._tell(remark)
        if self._json:
            self._terminal.show_json(
                {
                    "applied": [
                        {"version": each.version, "phase": each.phase, "name": each.name, "adopted": list(each.adopted)}
                        for each in status.applied
                    ],
                    "pending": [{**_named(each.migration), "done": each.done} for each in status.pending],
                    "remarks": list(status.remarks),
                }
            )
            return
        self._terminal.show(f"Applied: {len(applied)}")
        for line in applied:
            self._terminal.show(f"  {line}")
        self._terminal.show(f"Pending: {len(status.pending)}")
        for each in status.pending:
            begun = f" ({each.done} of {counted(len(each.migration.up), 'statement')} done)" if each.done else ""
            self._terminal.show(f"  {each.migration}{begun}")

    def _show_sql(self, status: MigrationStatus) -> None:
        for remark in status.remarks:
            self._tell(remark)
        if self._json:
            self._terminal.show_json(
                {"pending": [{**_named(each.migration), "sql": list(_sql(each))} for each in status.pending]}
            )
            return
        if not status.pending:
            self._terminal.show("-- nothing to do")
        for each in status.pending:
            self._terminal.show(f"-- migration {each.migration}")
            for sql in _sql(each):
                for line in f"{sql};".split("\n"):
                    self._terminal.show(line)
                self._terminal.show()


def _sql(pending: Pending) -> Iterator[str]:
    return (statement.sql for statement in pending.migration.up[pending.done :])


def _named(migration: Migration) -> dict[str, object]:
    return {"version": migration.version, "phase": migration.phase.value, "name": migration.name}


def _version(argument: str | None) -> int | None:
    if argument is None:
        return None
    if not (argument.isascii() and argument.isdigit() and 0 < len(argument) <= len(str(MAX_VERSION))):
        raise CommandError(f"the VERSION of a rollback is the number of a migration, got {argument!r}", ExitCode.USAGE)
    return int(argument)


def _directory_of_project() -> Path | None:
    """The directory that `migrations` in `[tool.eventrec]` of pyproject.toml names, or None."""
    try:
        found = project_setting("migrations")
    except CatalogueError as exc:
        raise CommandError(str(exc), ExitCode.FILE) from exc
    if found is None:
        return None
    if not isinstance(found, str) or "\0" in found:
        raise CommandError(f"{PROJECT}: migrations in [tool.eventrec] is a text, a directory", ExitCode.FILE)
    return Path(found)
