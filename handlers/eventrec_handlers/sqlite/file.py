"""The file: connecting, waiting for locks, what its errors mean, and the tables in it."""

from __future__ import annotations

import os
import sqlite3
import stat
import time
from contextlib import closing, contextmanager
from dataclasses import dataclass
from itertools import chain, count
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar
from urllib.parse import quote

from eventrec import PauseError, PermanentError, TransientError
from eventrec_handlers._sql import fold_ascii, quoted
from eventrec_handlers._thread import check_cancelled
from eventrec_handlers.sqlite.columns import REQUIRED

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from eventrec_handlers._sql import TablePlan

T = TypeVar("T")

RESERVED: Final = ("sqlite_", "eventrec_")
"""What no table of an event may start with."""

MAX_COLUMNS: Final = 2_000
"""SQLite's own bound on the columns of a table."""

WAIT_SLICE: Final = 0.05
"""Seconds that SQLite itself waits for a lock: between two such slices a cancellation is noticed."""

_MiB: Final = 1 << 20


# -- connecting -------------------------------------------------------------------------------------------------------


def connect(path: Path, busy_timeout: float) -> sqlite3.Connection:
    """A connection for writing, used by one thread at a time; the file is made if there is none.

    Raises:
        sqlite3.Error: See `meaning`.
        PauseError: The file system has no shared memory for WAL, or what stands there is not a file, or is read-only.
    """
    check_kind(path)
    _check_rights(path)
    connection = sqlite3.connect(
        path, timeout=min(WAIT_SLICE, busy_timeout), isolation_level=None, check_same_thread=False
    )
    connection.text_factory = lenient_text
    try:
        # The change into WAL needs a lock for which SQLite does not always wait by itself.
        (mode,) = retry_while_locked(lambda: connection.execute("PRAGMA journal_mode = WAL").fetchone(), busy_timeout)
        _check_mode(path, mode)
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA fullfsync = ON")  # macOS; elsewhere it changes nothing
        connection.execute(f"PRAGMA journal_size_limit = {64 * _MiB}")
    except BaseException:
        connection.close()
        raise
    return connection


def connect_by_uri(
    path: Path, parameters: str, busy_timeout: float, *, check_same_thread: bool = True
) -> sqlite3.Connection:
    """A connection for reading; `parameters` are those of SQLite's URI."""
    uri = f"file:{quote(os.fsencode(path))}?{parameters}"
    connection = sqlite3.connect(
        uri, uri=True, timeout=busy_timeout, isolation_level=None, check_same_thread=check_same_thread
    )
    connection.text_factory = lenient_text
    return connection


def lenient_text(raw: bytes) -> str:
    """A text as a connection of ours gives it: other programs store bytes, and give names, that are not UTF-8."""
    return raw.decode(errors="replace")


def check_kind(path: Path) -> None:
    """Check what stands at `path`, before SQLite leaves files of its own beside a device, or waits for a pipe.

    Raises:
        PauseError: It is neither a file nor a directory.
    """
    try:
        mode = path.stat().st_mode
    except OSError:
        return  # there is none, or SQLite will say what is wrong
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise PauseError(f"{path} is not a file: it is a device, a pipe or a socket")


def true_path(path: Path) -> str:
    """The file to which links lead: SQLite keeps its own files beside that."""
    return os.path.realpath(path)


def _check_rights(path: Path) -> None:
    """Check that the file may be written, if there is one, before SQLite makes files beside it.

    They get its rights, and keep them: once it may be written again, no program could, for their sake.

    Raises:
        PauseError: It may only be read.
    """
    try:
        is_file = stat.S_ISREG(path.stat().st_mode)
    except OSError:
        return  # there is none, or SQLite will say what is wrong
    if is_file and _is_read_only(path):
        raise PauseError(f"{path}: it may not be written")


def _is_read_only(path: Path) -> bool:
    """Whether what stands there may not be written by this user."""
    by_whom = os.access in os.supports_effective_ids
    may_write = os.access(path, os.W_OK, effective_ids=by_whom)
    return not may_write and os.access(path, os.F_OK, effective_ids=by_whom)


def is_at_rest(path: Path) -> bool:
    """Whether the file is one of WAL mode that no process has open: to join would make files beside it.

    SQLite is asked, which cannot read such a file without locks. To look into it ourselves would do harm: whatever
    closes a file ends all locks that its process holds on it, and the next process to come and go deletes the WAL under
    those that write (https://www.sqlite.org/howtocorrupt.html, 2.2).
    """
    if os.path.exists(f"{true_path(path)}-wal"):  # noqa: PTH110 - that of Path raises where it may not look
        return False
    uri = f"file:{quote(os.fsencode(path))}?mode=ro&nolock=1"
    try:
        with closing(sqlite3.connect(uri, uri=True, isolation_level=None)) as connection:
            connection.execute("PRAGMA user_version").fetchone()
    except sqlite3.Error as exc:
        return _code(exc) == sqlite3.SQLITE_CANTOPEN
    return False


def _check_mode(path: Path, mode: str) -> None:
    if mode != "wal":
        raise PauseError(f"{path}: WAL is not possible here, the journal mode stays {mode!r}")


def retry_while_locked(attempt: Callable[[], T], seconds: float) -> T:
    """What `attempt` gives, tried again for `seconds` while the file is locked; the caller's cancellation ends it."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            return attempt()
        except sqlite3.OperationalError as exc:
            if _code(exc) not in _LOCKED or time.monotonic() >= deadline:
                raise
        check_cancelled()
        time.sleep(0.001)


# -- errors -----------------------------------------------------------------------------------------------------------

_LOCKED: Final = frozenset({sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED})
_TRANSIENT: Final = _LOCKED | {
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_INTERRUPT,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_PROTOCOL,
    sqlite3.SQLITE_SCHEMA,
}
_PAUSE: Final = frozenset(
    {
        sqlite3.SQLITE_AUTH,
        sqlite3.SQLITE_CANTOPEN,
        sqlite3.SQLITE_CORRUPT,
        sqlite3.SQLITE_NOTADB,
        sqlite3.SQLITE_PERM,
        sqlite3.SQLITE_READONLY,
    }
)
_PERMANENT: Final = frozenset({sqlite3.SQLITE_CONSTRAINT, sqlite3.SQLITE_MISMATCH, sqlite3.SQLITE_TOOBIG})
_HARMLESS: Final = _LOCKED | _PERMANENT | {sqlite3.SQLITE_FULL, sqlite3.SQLITE_INTERRUPT}


def meaning(error: sqlite3.Error, path: Path) -> Exception:
    """What `error` means for delivery: one of our errors, or `error` itself where that is not known."""
    code, said = _code(error), f"{path}: {error}"
    if code in {sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_IOERR}:
        try:
            why = _in_the_way(path, is_open_refused=code == sqlite3.SQLITE_CANTOPEN)
        except OSError as exc:  # its directory, or one above it, may not be entered
            why = f"{path}: unable to open database file: {exc.strerror}"
        if why is not None:
            return PauseError(why)
    if code in {sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN} and (beside := _read_only_beside(path)) is not None:
        return PauseError(f"{path}: {beside}")
    if code in _TRANSIENT or is_about_schema(error):
        return TransientError(said)
    if _is_about_functions(error) or code in _PAUSE:
        return PauseError(said)
    if code in _PERMANENT:
        return PermanentError(said)
    return error


def _in_the_way(path: Path, *, is_open_refused: bool) -> str | None:
    """What keeps the file from being opened, where the file system tells.

    Raises:
        OSError: It may not be looked at.
    """
    if path.is_dir():
        return f"{path}: unable to open database file: it is a directory"
    if not is_open_refused:
        return None
    if not path.parent.is_dir():
        return f"{path}: there is no directory {path.parent}"
    if path.exists():
        return None
    why = "there is no such file"
    if not os.access(path.parent, os.W_OK | os.X_OK):
        why = f"{why}, and {path.parent} may not be written"
    return f"{path}: unable to open database file: {why}"


def _read_only_beside(path: Path) -> str | None:
    """What beside the file may not be written, so that the file cannot be either."""
    true = Path(true_path(path))
    index = true.with_name(f"{true.name}-shm")
    if _is_read_only(index):
        return f"{index} may not be written"
    return f"{true.parent} may not be written, and SQLite needs files beside it" if _is_read_only(true.parent) else None


@contextmanager
def errors_translated(path: Path) -> Iterator[None]:
    """Raise what SQLite's errors mean."""
    try:
        yield
    except sqlite3.Error as exc:
        meant = meaning(exc, path)
        if meant is exc:
            raise
        raise meant from exc
    except UnicodeDecodeError as exc:  # of an error of SQLite, which names what is not UTF-8
        raise PauseError(f"{path}: {exc.object.decode(errors='backslashreplace')}") from exc


def keeps_connection_usable(exc: sqlite3.Error) -> bool:
    """Whether a connection is as good as before `exc`. Else a new one finds out what has become of the file."""
    return _code(exc) in _HARMLESS


def is_about_schema(exc: sqlite3.Error) -> bool:
    """Whether a table or column is gone: ours of the checkpoints, or one that a trigger needs."""
    phrases = ("no such table", "no such column", "has no column named")
    return _code(exc) == sqlite3.SQLITE_ERROR and any(phrase in str(exc) for phrase in phrases)


def is_about_rows(exc: sqlite3.Error) -> bool:
    """Whether rows may be at fault: a constraint, a trigger, or what the table computes of them."""
    if is_about_schema(exc) or _is_about_functions(exc):
        return False
    return _code(exc) == sqlite3.SQLITE_ERROR or _code(exc) in _PERMANENT


def _is_about_functions(exc: sqlite3.Error) -> bool:
    """Whether the schema needs what only another program has: its functions, its modules, its order of texts."""
    phrases = ("no such function", "unknown function", "no such module", "no such collation", "unsafe use of")
    return _code(exc) == sqlite3.SQLITE_ERROR and any(phrase in str(exc) for phrase in phrases)


def is_permanent(exc: sqlite3.Error) -> bool:
    """Whether a constraint, a trigger or a limit refuses what was to be written."""
    return _code(exc) in _PERMANENT


def is_about_statement(exc: sqlite3.Error) -> bool:
    """Whether what was asked for cannot be had, of a file that is sound: a module or function is missing, say."""
    return _code(exc) == sqlite3.SQLITE_ERROR


def is_about_table(exc: sqlite3.Error) -> bool:
    """Whether, met while one table is read, it may be about that table alone, of a file that is sound."""
    is_virtual = getattr(exc, "sqlite_errorcode", 0) == sqlite3.SQLITE_CORRUPT_VTAB
    return is_about_statement(exc) or is_virtual or _code(exc) == sqlite3.SQLITE_TOOBIG


def _code(exc: sqlite3.Error) -> int:
    """SQLite's primary result code; 0 where the error is Python's own."""
    code: int = getattr(exc, "sqlite_errorcode", 0)
    return code & 0xFF


# -- tables -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Table:
    """What the schema holds under a name: a "table", "view" or "index", or nothing; and a table's columns.

    `columns` are name to declared type; None: a table of this name does not exist. `computed` are those of them that
    take no value; `is_strict`: the table is STRICT, and knows few types. `unnameable` are columns whose name is not
    UTF-8, with escapes: no statement of ours can name one, and they are not among the others.
    """

    kind: str | None
    columns: dict[str, str] | None
    computed: frozenset[str] = frozenset()
    is_strict: bool = False
    unnameable: tuple[str, ...] = ()


def read_table(connection: sqlite3.Connection, name: str) -> Table:
    """What stands under `name`, whose A to Z may have either case."""
    found = connection.execute(
        "SELECT type FROM sqlite_master WHERE name = ? COLLATE NOCASE AND type <> 'trigger'", (name,)
    ).fetchone()
    if found is None:
        return Table(None, None)
    raw = _raw_columns(connection, name)
    columns = list(_named(raw))
    # An older SQLite has neither this pragma nor such tables.
    listed = connection.execute(f"PRAGMA main.table_list({quoted(name)})").fetchall()
    return Table(
        found[0],
        {column: declared for column, declared, _ in columns},
        frozenset(column for column, _, is_computed in columns if is_computed),
        is_strict=any(row[5] for row in listed),
        unnameable=tuple(column.decode(errors="backslashreplace") for column, _, _ in raw if not _is_utf8(column)),
    )


def table_columns(connection: sqlite3.Connection, table: str) -> Iterator[tuple[str, str, bool]]:
    """The columns of a table: name, declared type, and whether it is computed: it takes no value.

    Those whose name is not UTF-8 are left out.
    """
    return _named(_raw_columns(connection, table))


def _named(columns: list[tuple[bytes, bytes, bool]]) -> Iterator[tuple[str, str, bool]]:
    for name, declared, is_computed in columns:
        if _is_utf8(name):
            yield name.decode(), lenient_text(declared), is_computed


def _raw_columns(connection: sqlite3.Connection, table: str) -> list[tuple[bytes, bytes, bool]]:
    as_text, connection.text_factory = connection.text_factory, bytes
    try:
        # Not the function of this name: an event's table may be called pragma_table_xinfo, and hide it.
        rows = connection.execute(f"PRAGMA table_xinfo({quoted(table)})").fetchall()
    finally:
        connection.text_factory = as_text
    return [(row[1], row[2], row[6] in _GENERATED) for row in rows]


def _is_utf8(name: bytes) -> bool:
    try:
        name.decode()
    except UnicodeDecodeError:
        return False
    return True


_GENERATED: Final = (2, 3)
"""How PRAGMA table_xinfo marks generated columns, virtual and stored."""


def is_reserved(table: str) -> bool:
    """Whether the name belongs to SQLite or to us."""
    return fold_ascii(table).startswith(RESERVED)


def statements(connection: sqlite3.Connection, table: str, plan: TablePlan) -> Iterator[str]:
    """The statements that do what `plan` asks for; in a transaction."""
    name = quoted(table)
    if plan.create is not None:
        columns = ", ".join(
            f"{quoted(column)} {declared}{' NOT NULL' * (column in REQUIRED)}" for column, declared in plan.create
        )
        yield f"CREATE TABLE {name} ({columns})"
        index = free_name(connection, f"eventrec_{table}_type_timestamp")
        yield f"CREATE INDEX {quoted(index)} ON {name} (type, timestamp DESC)"
    for column, declared in plan.add:
        yield f"ALTER TABLE {name} ADD COLUMN {quoted(column)} {declared}"


def free_name(connection: sqlite3.Connection, name: str) -> str:
    """`name`, with a number behind it where it is taken: a renamed table keeps its index under the old name."""
    candidates = chain([name], (f"{name}_{number}" for number in count(2)))
    return next(candidate for candidate in candidates if read_table(connection, candidate).kind is None)
