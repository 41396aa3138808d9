"""Programs and servers as processes of their own, and what is in the log and the database once they are gone."""

import os
import re
import signal
import sqlite3
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import pytest

from eventrec import EventRecorder, EventRecorderOptions
from eventrec.log.disk import DiskStorage
from eventrec.log.reader import LogReader
from eventrec.records.content import ContentDecoder
from eventrec.records.entry import PAYLOAD
from eventrec.runs.directory import list_runs
from eventrec.testing import assert_conserved
from eventrec.testing.server_process import free_port

BIN = Path(sys.executable).parent
GUIDES = Path(__file__).parents[2] / "docs" / "guides"
PAGES = [GUIDES / "servers.md", GUIDES / "lambda.md"]


def blocks(language: str) -> dict[str, str]:
    """The fenced blocks of the pages about servers, by the file name that their first line says."""
    block = rf"^```{language}\n[#;] (\S+)\n(.*?)^```$"
    text = "\n".join(page.read_text("utf-8") for page in PAGES)
    return dict(re.findall(block, text, flags=re.DOTALL | re.MULTILINE))


@dataclass
class Site:
    """A directory with a log and a database, where programs run."""

    directory: Path
    started: "list[subprocess.Popen[str]]" = field(default_factory=list)

    @property
    def log(self) -> Path:
        return self.directory / "var" / "events"

    @property
    def url(self) -> str:
        return f"sqlite:///{self.directory / 'events.db'}"

    def write_page(self) -> None:
        """Every file that the pages about servers show."""
        for language in ("python", "ini"):
            for name, content in blocks(language).items():
                (self.directory / name).write_text(content, "utf-8")

    @property
    def environment(self) -> dict[str, str]:
        # What a user's shell has, without this run's own settings.
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST", "EVENTREC"))}
        return {**kept, "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}", "LOG": str(self.log), "URL": self.url}

    def start(self, *command: str | Path, **settings: Any) -> subprocess.Popen[str]:
        """In a process group of its own, so that it can be ended with all it started."""
        process = subprocess.Popen(
            list(map(str, command)),
            cwd=self.directory,
            env={**self.environment, **settings},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self.started.append(process)
        return process

    def run(self, program: str, *arguments: str, code: int = 0, seconds: float = 120, **settings: Any) -> str:
        """Run a program of Python's to its end, warnings being errors; what it said."""
        (self.directory / "program.py").write_text(program, "utf-8")
        process = self.start(sys.executable, "-X", "faulthandler", "-W", "error", "program.py", *arguments, **settings)
        said = finished(process, seconds)
        assert process.returncode == code, said
        return said

    def logged(self) -> list[int]:
        """The numbers of all events in the log, in no order."""
        found: list[int] = []
        for run in list_runs(self.log):
            with LogReader(DiskStorage(self.log / str(run))) as reader:
                for commit in reader.commits():
                    found += [number(entry[PAYLOAD]) for entry in ContentDecoder().decode(commit.content).entries]
        return found

    def stored(self) -> list[int]:
        """The numbers of all events in the database, once each row is a record of its own."""
        if not (self.directory / "events.db").exists():
            return []
        with closing(sqlite3.connect(self.directory / "events.db")) as database:
            if not database.execute("SELECT 1 FROM sqlite_master WHERE name = 'events'").fetchall():
                return []
            rows = database.execute("SELECT id, payload FROM events").fetchall()
        assert len({id_ for id_, _ in rows}) == len(rows)
        return sorted(number(payload.encode()) for _, payload in rows)

    def drain(self, seconds: float = 120) -> list[int]:
        """Deliver what is left, as the next run does; then nothing is left, and `stored`."""
        anyio.run(self._drain, seconds)
        assert list(self.log.iterdir()) == []
        return self.stored()

    async def _drain(self, seconds: float) -> None:
        async with EventRecorder(self.url, log=self.log, options=EventRecorderOptions(flush_interval=0.05)) as recorder:
            with anyio.fail_after(seconds):
                while len(await anyio.to_thread.run_sync(os.listdir, self.log)) > 1:  # noqa: ASYNC110 - a disk changes it
                    await anyio.sleep(0.02)
        assert_conserved(recorder.status(), offered=0)


def number(payload: bytes) -> int:
    return int(re.sub(rb"\D", b"", payload))


def finished(process: subprocess.Popen[str], seconds: float) -> str:
    """What it said, once it ended by itself within `seconds`; else it is killed with all it started."""
    try:
        return process.communicate(timeout=seconds)[0]
    except subprocess.TimeoutExpired:
        end(process)
        pytest.fail(f"still running after {seconds} s: {process.communicate()[0]}")


def end(process: subprocess.Popen[str]) -> None:
    """Kill it with all it started."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


class Server:
    """A server on a free port of 127.0.0.1, answering."""

    def __init__(self, site: Site, *command: str | Path, **settings: Any) -> None:
        self.port = free_port()
        self.process = site.start(*(str(part).replace("PORT", str(self.port)) for part in command), **settings)
        self._wait_until_it_answers()

    def _wait_until_it_answers(self) -> None:
        deadline = time.monotonic() + 120
        while True:
            try:
                self.ask("/ready")
            except OSError:
                if self.process.poll() is not None or time.monotonic() > deadline:
                    end(self.process)
                    pytest.fail(self.process.communicate()[0])
                time.sleep(0.05)
            else:
                return

    def ask(self, path: str) -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=60) as answer:
            return str(answer.read().decode())

    def order(self, number: int) -> int:
        """Have it record the event `number`; the process that did."""
        return int(self.ask(f"/orders/{number}"))

    def terminate(self, seconds: float = 120) -> str:
        """SIGTERM, and what it said."""
        self.process.send_signal(signal.SIGTERM)
        return finished(self.process, seconds)


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    site = Site(tmp_path)
    yield site
    for process in site.started:
        end(process)
        process.communicate()


@pytest.fixture
def serve(site: Site) -> Callable[..., Server]:
    """Starts a server with the files of the page."""
    site.write_page()
    return partial(Server, site)


@pytest.fixture
def serve_own(site: Site) -> Callable[..., Server]:
    """Starts a server with the files that a test has written."""
    return partial(Server, site)


@pytest.fixture
def await_end() -> Callable[[subprocess.Popen[str], float], str]:
    """What a process said, once it ended by itself within some seconds."""
    return finished
