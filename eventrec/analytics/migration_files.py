"""A directory of migrations, `0001_pre_tables.sql` and so on: read as a whole, and what is new is added."""

from __future__ import annotations

import os
import re
import stat
from typing import TYPE_CHECKING, Final

from eventrec.analytics.migration_text import parsed
from eventrec.errors import MigrationError

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from eventrec.analytics.migration import Migration

MAX_BYTES: Final = 16 << 20
"""A file of more is not one of migrations."""

_NAMED: Final = re.compile(r"([0-9]{4,7})_(pre|post)_([a-z0-9_]+)\.sql")
_BOM: Final = b"\xef\xbb\xbf"


class MigrationFileError(MigrationError):
    """A file is not what a file of migrations may be; the message names it, in one line."""


def read_migrations(directory: Path, *, dialect: str | None = None) -> list[Migration]:
    """The migrations of `directory`, by version; what does not end with `.sql` is not looked at.

    `dialect`: the one that all must be for.

    Raises:
        MigrationFileError: The directory or a file cannot be read, is not what it says it is, is for another dialect,
            or a version is missing or there twice.
    """
    try:
        names = sorted(name for name in os.listdir(directory) if name.endswith(".sql"))  # noqa: PTH208 - names as given
    except OSError as exc:
        raise MigrationFileError(f"{directory}: {exc.strerror}") from exc
    found = [_read(directory / name) for name in names]
    found.sort(key=lambda migration: migration.version)
    for at, migration in enumerate(found, start=1):
        where = directory / migration.file_name
        if migration.version < at:
            raise MigrationFileError(f"{where}: version {migration.version} is there twice")
        if migration.version > at:
            raise MigrationFileError(f"{directory}: version {at} is missing: {migration.file_name} follows the gap")
        if dialect is not None and migration.dialect != dialect:
            raise MigrationFileError(f"{where}: it is for {migration.dialect[:40] or 'no dialect'}, not for {dialect}")
    return found


def _read(path: Path) -> Migration:
    named = _NAMED.fullmatch(path.name)
    if named is None:
        raise MigrationFileError(f"{path}: a migration is named like 0001_pre_tables.sql")
    content = _bytes(path)
    if content.startswith(_BOM):
        raise MigrationFileError(f"{path}: it begins with a byte order mark")
    try:
        migration = parsed(content.decode())
    except UnicodeDecodeError as exc:
        raise MigrationFileError(f"{path}: it is not UTF-8 at byte {exc.start}") from exc
    except MigrationError as exc:
        raise MigrationFileError(f"{path}: {exc}") from exc
    if migration.file_name != path.name:
        raise MigrationFileError(f"{path}: inside it says that it is {migration.file_name}")
    return migration


def _bytes(path: Path) -> bytes:
    """Its content; what is not a file is not waited for."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise MigrationFileError(f"{path}: it is not a file")
            with os.fdopen(descriptor, "rb", closefd=False) as file:
                content = file.read(MAX_BYTES + 1)
        finally:
            os.close(descriptor)
    except OSError as exc:
        raise MigrationFileError(f"{path}: {exc.strerror}") from exc
    if len(content) > MAX_BYTES:
        raise MigrationFileError(f"{path}: it has more than {MAX_BYTES:,} bytes")
    return content


def write_migrations(directory: Path, migrations: Iterable[Migration]) -> list[Path]:
    """Write a file for each of `migrations` that is not there, durably; their paths. The directory is made if need be.

    A process that is killed meanwhile leaves whole files, the first of them.

    Raises:
        MigrationFileError: It cannot be written, or another file has its name.
    """
    written = []
    try:
        directory.mkdir(parents=True, exist_ok=True)
        for migration in migrations:
            path = directory / migration.file_name
            _write(path, migration.text.encode())
            written.append(path)
    except FileExistsError as exc:
        raise MigrationFileError(f"{exc.filename2 or exc.filename or directory}: it is there already") from exc
    except OSError as exc:
        raise MigrationFileError(f"{exc.filename or directory}: {exc.strerror}") from exc
    return written


def _write(path: Path, content: bytes) -> None:
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with beside.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.link(beside, path)  # which, unlike a change of name, replaces nothing
    finally:
        beside.unlink(missing_ok=True)
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
