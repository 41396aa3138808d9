"""What every real server for tests has in common: one process of its own, started, ended, and never another's."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from abc import ABC, abstractmethod
from contextlib import suppress
from pathlib import Path
from random import SystemRandom
from typing import TYPE_CHECKING, Any, Final

import pytest

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import TracebackType
    from typing import Self

STARTING: Final = 30.0
"""Seconds that a server may take to answer, also while it recovers, and to end."""

_PORTS: Final = range(12_000, 32_000)
"""Below those that Linux, macOS and Windows give to a socket that asks for any."""

_TRIES: Final = 100


class ServerError(Exception):
    """A server cannot be started; the message ends with the end of its own log."""


def absent(server: str, remedy: str) -> None:
    """Skip the test because `server` is missing; in CI, fail it."""
    message = f"{server} is missing: {remedy}"
    if os.environ.get("CI", "").lower() in ("true", "1"):
        pytest.fail(message, pytrace=False)
    pytest.skip(message)


def free_port(host: str = "127.0.0.1") -> int:
    """A port on which no process listens at the moment.

    The system gives it to no other socket by itself, so it stays free until its server has begun, and while that is
    started again. It is drawn by the system: the chance of `random` is the same in every worker of a test run.

    Raises:
        ServerError: None is found.
    """
    draw = SystemRandom()
    for _ in range(_TRIES):
        port = draw.choice(_PORTS)
        with socket.socket() as probe, suppress(OSError):
            probe.bind((host, port))
            return port
    raise ServerError(f"no port of {host} from {_PORTS.start} to {_PORTS.stop - 1} is free")


class ServerProcess(ABC):
    """A server of one's own, until the end of a `with` block. Only the process that it started itself is ended.

    Attributes:
        host: Where it listens.
        port: Its port; 0 before the first start.
    """

    _process: subprocess.Popen[Any] | None = None

    def __init__(self) -> None:
        self.host = "127.0.0.1"
        self.port = 0

    def __repr__(self) -> str:
        return f"<{type(self).__name__} port={self.port} {'running' if self.is_running else 'stopped'}>"

    @property
    def is_running(self) -> bool:
        """Whether its process lives."""
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int | None:
        """Of its process; None: it does not run."""
        return None if self._process is None else self._process.pid

    @abstractmethod
    def start(self) -> Self:
        """Start it. On return it answers.

        Raises:
            ServerError: It does not.
        """

    @abstractmethod
    def stop(self) -> None:
        """End it; nothing of it is left."""

    def kill(self) -> None:
        """End it with SIGKILL: as a crash does, without a word to any client."""
        self._end(signal.SIGKILL)

    def restart(self) -> None:
        """Kill it and start it again."""
        self.kill()
        self.start()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    def _end(self, how: signal.Signals | None) -> None:
        """End the process by a signal, or, without one, by the end of what it reads; by SIGKILL where that fails."""
        process, self._process = self._process, None
        if process is None:
            return
        if how is not None:
            process.send_signal(how)
        elif process.stdin is not None:
            with suppress(BrokenPipeError):  # it has ended by itself
                process.stdin.close()
        try:
            process.wait(STARTING)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        self._let_go(process)

    def _let_go(self, process: subprocess.Popen[Any]) -> None:
        """Close what leads to a process that has ended."""
        for stream in (process.stdin, process.stdout):
            if stream is not None:
                stream.close()


class ServerWithDirectory(ServerProcess):
    """One with data and a log in a directory of its own, which live as long as the object.

    `kill()` and `start()` leave them and the port as they are, `stop()` or the end of the block removes them.
    """

    _name = ""
    _ends_by: signal.Signals = signal.SIGKILL
    """What `stop` ends it with."""

    _held: re.Pattern[str] = re.compile(r"(?!)")
    """Last words after which it is started again: what it needs is still held by a process that is dying."""

    def __init__(self) -> None:
        super().__init__()
        self._directory: Path | None = None

    def start(self) -> Self:
        """Start it, on the same port and data as before if there was a before. On return it answers.

        Raises:
            ServerError: It does not.
        """
        if self._directory is None:
            self._directory = self._made_directory()
        self.port = self.port or free_port(self.host)
        deadline = time.monotonic() + STARTING
        self._process = self._process if self.is_running else self._spawned(self._directory)
        while not self._answers():
            last_words = self.log()[-2_000:]
            if time.monotonic() > deadline or (not self.is_running and not self._held.search(last_words)):
                self.kill()
                raise ServerError(f"{self._name} does not answer\n{last_words}")
            if not self.is_running:
                self._process = self._spawned(self._directory)
            time.sleep(0.02)
        return self

    def stop(self) -> None:
        """End it, and remove its data."""
        self._end(self._ends_by)
        if self._directory is not None:
            shutil.rmtree(self._directory, ignore_errors=True)
            self._directory = None

    def log(self) -> str:
        """What the server has written to its log."""
        path = None if self._directory is None else self._directory / "log"
        return path.read_text(encoding="utf-8", errors="replace") if path is not None and path.exists() else ""

    def _made_directory(self) -> Path:
        return Path(tempfile.mkdtemp(prefix=f"eventrec-{self._name.lower()}-"))

    @abstractmethod
    def _spawned(self, directory: Path) -> subprocess.Popen[bytes]:
        """Its process, which has just begun."""

    @abstractmethod
    def _answers(self) -> bool:
        """Whether it can be asked."""


OWN_GROUP: Final = None if sys.platform == "win32" else 0
"""Ctrl-C on a terminal ends who has started a server, who then ends it: not the server first."""


class ServerWithPipes(ServerProcess):
    """One that is told what to do line by line, says a line to each, and ends when there is nothing more to read."""

    _process: subprocess.Popen[str] | None = None

    def stop(self) -> None:
        """End it; nothing of it is left."""
        self._end(None)

    def _begin(self, *command: str, stderr: int | None = None) -> subprocess.Popen[str]:
        """Its process, which has just begun."""
        self._process = subprocess.Popen(  # noqa: S603 - a server's
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
            encoding="utf-8",
            process_group=OWN_GROUP,
        )
        return self._process

    def _tell(self, line: str) -> str:
        """What it says to this.

        Raises:
            ServerError: It has ended.
        """
        process = self._process
        assert process is not None, "the server is not running"
        assert process.stdin is not None
        try:
            process.stdin.write(f"{line}\n")
            process.stdin.flush()
        except BrokenPipeError:
            raise ServerError(f"{self!r} has ended") from None
        return self._said()

    def _said(self) -> str:
        """Its next line.

        Raises:
            ServerError: It has ended.
        """
        process = self._process
        assert process is not None, "the server is not running"
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line:
            raise ServerError(f"{self!r} has ended")
        return line


def spawn(command: Sequence[str | Path], log: Path) -> subprocess.Popen[bytes]:
    """Begin a process that reads nothing, and whose words go to the end of `log`."""
    with log.open("ab") as out:
        return subprocess.Popen(  # noqa: S603 - a server's
            command, stdin=subprocess.DEVNULL, stdout=out, stderr=out, process_group=OWN_GROUP
        )
