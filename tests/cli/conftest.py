"""The real command, in processes of their own; and a destination that can be slow, down, or particular."""

import os
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Protocol

import anyio
import pytest

from eventrec import EventRecorder, PermanentError, TransientError
from eventrec.testing import assert_conserved
from eventrec.testing.scripted import FencedHandler, Numbered, ScriptedHandler, quickly, raising, refusing

COMMAND = [sys.executable, "-W", "error", "-m", "eventrec.cli"]

STAGED = '''
"""A handler on whose behaviour the tests decide: appends a JSON line for each record to a file."""

import base64
from pathlib import Path

import anyio

import eventrec


def from_url(url):
    given = eventrec.HandlerURL(url)
    given.accept("seconds", "until", "poison", "pause_after", parts=("path",))
    return Staged(Path(given.path), given)


class Staged(eventrec.EventHandler):
    def __init__(self, path, given):
        self.path = path
        self.seconds = given.seconds("seconds", default=0)
        self.until = given.text("until")
        self.poison = given.text("poison")
        self.left = given.integer("pause_after", default=1 << 60)

    async def handle(self, batch):
        if self.until is not None and not Path(self.until).exists():
            raise eventrec.TransientError("nobody answers")
        if self.left == 0:
            raise eventrec.PauseError("no rights")
        self.left -= 1
        if self.poison is not None:
            bad = {rec.offset: "it is poison" for rec in batch.records if self.poison.encode() in rec.payload}
            if bad:
                raise eventrec.PermanentError("poison", records=bad)
        await anyio.sleep(self.seconds)
        with self.path.open("ab") as file:
            file.write(b"".join(rec.payload + b"\\n" for rec in batch.records))
'''


class Run(Protocol):
    """Runs the command to its end."""

    def __call__(self, *arguments: str | Path, stdin: str | bytes = b"") -> subprocess.CompletedProcess[str]: ...


class Started:
    """The command while it runs. Its stderr is collected line by line."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.process = process
        self.errors: list[str] = []
        self._said = threading.Condition()
        self._is_over = False
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()

    def write(self, text: str) -> None:
        """Give it more to read."""
        assert self.process.stdin is not None
        self.process.stdin.write(text.encode())
        self.process.stdin.flush()

    def wait_for_error(self, words: str) -> None:
        """Wait until a line on stderr holds `words`."""
        with self._said:
            self._said.wait_for(lambda: self._is_over or any(words in line for line in self.errors), timeout=120)
        assert any(words in line for line in self.errors), self.errors

    def interrupt(self, number: signal.Signals = signal.SIGINT) -> None:
        """Ctrl-C."""
        self.process.send_signal(number)

    def end(self) -> tuple[int, str]:
        """Wait for its end: exit code and stdout."""
        assert self.process.stdout is not None
        out = self.process.stdout.read().decode()
        code = self.process.wait(120)
        self._thread.join(20)
        return code, out

    def _listen(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            with self._said:
                self.errors.append(line.decode())
                self._said.notify_all()
        with self._said:
            self._is_over = True
            self._said.notify_all()


class Start(Protocol):
    """Starts the command, with pipes to it."""

    def __call__(self, *arguments: str | Path) -> Started: ...


class Main(Protocol):
    """Runs the command in this process."""

    def __call__(self, *arguments: str | Path) -> tuple[int, str, str]: ...


@pytest.fixture(scope="session")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """An environment in which the scheme `staged` is installed."""
    site = tmp_path_factory.mktemp("site")
    (site / "staged.py").write_text(STAGED, encoding="utf-8")
    dist = site / "staged-1.dist-info"
    dist.mkdir()
    (dist / "METADATA").write_text("Metadata-Version: 2.1\nName: staged\nVersion: 1\n", encoding="utf-8")
    (dist / "entry_points.txt").write_text("[eventrec.handlers]\nstaged = staged:from_url\n", encoding="utf-8")
    path = os.pathsep.join([str(site), *filter(None, [os.environ.get("PYTHONPATH")])])
    # Some hundred starts: whatever is set here, each shall not compile everything again.
    return {**os.environ, "PYTHONDONTWRITEBYTECODE": "", "PYTHONPATH": path, "COLUMNS": "200", "TZ": "UTC"}


@pytest.fixture
def eventrec(environment: dict[str, str], tmp_path: Path) -> Run:
    """The command, run in `tmp_path`."""

    def run(*arguments: str | Path, stdin: str | bytes = b"") -> subprocess.CompletedProcess[str]:
        given = stdin.encode() if isinstance(stdin, str) else stdin
        done = subprocess.run(
            [*COMMAND, *map(str, arguments)],
            input=given,
            capture_output=True,
            cwd=tmp_path,
            env=environment,
            timeout=200,
            check=False,
        )
        return subprocess.CompletedProcess(done.args, done.returncode, done.stdout.decode(), done.stderr.decode())

    return run


@pytest.fixture
def start(environment: dict[str, str], tmp_path: Path) -> Iterator[Start]:
    """The command, started in `tmp_path`; killed at the end of the test if it still runs."""
    started: list[subprocess.Popen[bytes]] = []

    def run(*arguments: str | Path) -> Started:
        process = subprocess.Popen(
            [*COMMAND, *map(str, arguments)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=tmp_path,
            env=environment,
        )
        started.append(process)
        return Started(process)

    yield run
    for process in started:
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout, process.stderr):
            if pipe is not None:
                with suppress(BrokenPipeError):
                    pipe.close()


@pytest.fixture
def on_terminal(environment: dict[str, str], tmp_path: Path) -> Callable[..., tuple[int, str]]:
    """The command with stdout and stderr on a terminal: exit code, and everything it wrote there."""
    pty = pytest.importorskip("pty")

    def run(*arguments: str | Path) -> tuple[int, str]:
        ours, theirs = pty.openpty()
        try:
            process = subprocess.Popen(
                [*COMMAND, *map(str, arguments)],
                stdin=subprocess.DEVNULL,
                stdout=theirs,
                stderr=theirs,
                cwd=tmp_path,
                env={**environment, "TERM": "xterm"},
            )
        finally:
            os.close(theirs)
        written = b""
        try:
            while chunk := os.read(ours, 65_536):
                written += chunk
        except OSError:
            pass  # Linux's word for the end of a terminal.
        os.close(ours)
        return process.wait(120), written.decode()

    return run


class Leave(Protocol):
    """Leaves an orphan in `directory` with the events `start` to `stop`, which no subscription of `names` got.

    Those of `delivered` got them all.
    """

    def __call__(
        self, directory: Path, start: int, stop: int, *names: str, delivered: tuple[str, ...] = ()
    ) -> None: ...


@pytest.fixture
def leave() -> Leave:
    def run(directory: Path, start: int, stop: int, *names: str, delivered: tuple[str, ...] = ()) -> None:
        async def record() -> None:
            # One take, and so one commit, also where the machine is busy between two records.
            recorder = EventRecorder(log=directory, options=quickly(write_interval=0.3 if delivered else 10))
            for name in names:
                down = ScriptedHandler(always=raising(TransientError("nobody answers")))
                recorder.register(ScriptedHandler() if name in delivered else down, name=name)
            await recorder.open()
            events = [Numbered(n) for n in range(start, stop)]
            switched = sys.getswitchinterval()
            sys.setswitchinterval(60)
            try:
                recorder.record_many(events)
            finally:
                sys.setswitchinterval(switched)
            while True:
                parts = recorder.status().subscriptions
                if all(parts[name].scanned == stop - start for name in delivered):
                    break
                await anyio.sleep(0.005)
            await recorder.close(0)

        anyio.run(record)

    return run


@pytest.fixture
def main(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Main:
    """The command in this process, in `tmp_path`: exit code, stdout, stderr."""
    from eventrec import cli  # noqa: PLC0415 - the other tests need it in processes of its own only

    monkeypatch.chdir(tmp_path)

    def run(*arguments: str | Path) -> tuple[int, str, str]:
        code = cli.main([str(argument) for argument in arguments])
        return code, *capsys.readouterr()

    return run


def lines(text: str) -> str:
    """A block of lines, without its indent."""
    return textwrap.dedent(text).lstrip("\n")


@pytest.fixture
def dead_log(tmp_path: Path) -> Path:
    """A log directory with letters about records 3 and 5, of the subscription `sqlite`."""

    async def leave() -> None:
        handler = FencedHandler(always=refusing({3, 5}, lambda: PermanentError("out of range")))
        recorder = EventRecorder(log=tmp_path / "log", options=quickly(batch_rows=4))
        recorder.register(handler, name="sqlite")
        async with recorder:
            with recorder.context(user="u"):
                recorder.record_many(Numbered(n, kind="even" if n % 2 == 0 else "odd") for n in range(10))
            assert await recorder.flush(timeout=60)
        assert_conserved(recorder.status(), offered=10)

    anyio.run(leave)
    return tmp_path / "log"
