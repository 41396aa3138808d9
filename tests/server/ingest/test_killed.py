"""SIGKILL of servers and senders: what was answered 200, or was written where it was recorded, is stored once."""

from __future__ import annotations

import http.client
import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from uuid import UUID

import pytest

from eventrec.testing.server_process import free_port

PATIENCE = 120.0
"""Seconds that anything may take here, on a busy machine."""

SERVER = """
import socket, sys
import anyio
from eventrec import EventRecorder, EventRecorderOptions
from eventrec.server import ServerOptions, application
from eventrec.server.web_server import WebServer

port, url, log = sys.argv[1:]
options = EventRecorderOptions(batch_rows=200, flush_interval=0.02, segment_bytes=100_000)
app = application(EventRecorder(url, log=log, options=options))
listening = socket.create_server(("127.0.0.1", int(port)))
started = lambda: print("ready", flush=True)
anyio.run(WebServer(app, [listening], ServerOptions(), grace=1.0, on_started=started).run)
"""

SENDER = """
import sys
import anyio
from eventrec import Backoff, EventRecorder, EventRecorderOptions
from eventrec.testing.scripted import Numbered

url, log, number = sys.argv[1:]
options = EventRecorderOptions(
    batch_rows=100, flush_interval=0.02, segment_bytes=20_000, retry=Backoff(first=0.05, factor=1, max=0.05)
)

async def main(number):
    async with EventRecorder(url, log=log, options=options) as recorder:
        while True:
            await recorder.record_all_durable([Numbered(number + n) for n in range(20)], until="written")
            print(number, flush=True)
            number += 20
            await anyio.sleep(0.01)

anyio.run(main, int(number))
"""


class Process:
    """A Python program that is killed and begun again."""

    def __init__(self, program: str, *arguments: str) -> None:
        self._command = [sys.executable, "-c", program, *arguments]
        self._running: subprocess.Popen[str] | None = None

    def start(self, *more: str) -> subprocess.Popen[str]:
        self._running = subprocess.Popen(
            [*self._command, *more], stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONWARNINGS": "error"}
        )
        return self._running

    def said(self) -> str:
        """The next line of what it prints."""
        assert self._running is not None
        assert self._running.stdout is not None
        line = self._running.stdout.readline()
        assert line, "it ended"
        return line

    def kill(self) -> str:
        """Kill it; what it had printed and was not read."""
        if self._running is None:
            return ""
        self._running.send_signal(signal.SIGKILL)
        assert self._running.stdout is not None
        rest = self._running.stdout.read()
        self._running.stdout.close()
        self._running.wait()
        self._running = None
        return rest


@contextmanager
def killed_at_last(*processes: Process) -> Iterator[None]:
    try:
        yield
    finally:
        for process in processes:
            process.kill()


def command(*arguments: str) -> None:
    subprocess.run([sys.executable, "-m", "eventrec", *arguments], check=True, timeout=PATIENCE, capture_output=True)


def stored(database: Path, table: str = "events") -> list[tuple[str, str]]:
    """Id and payload of all rows."""
    with closing(sqlite3.connect(database)) as connection:
        return [(str(UUID(str(id_))), text) for id_, text in connection.execute(f"SELECT id, payload FROM {table}")]


class Client(threading.Thread):
    """Sends batches of envelopes with ids, each until it is answered; keeps which were answered 200."""

    def __init__(self, port: int, seed: int) -> None:
        super().__init__(daemon=True)
        self._port = port
        self._rng = random.Random(seed)
        self.is_done = threading.Event()
        self.sent: set[str] = set()
        self.answered: set[str] = set()
        self.unexpected: list[tuple[int, bytes]] = []

    def run(self) -> None:
        connection = None
        while not self.is_done.is_set():
            ids = [str(UUID(int=self._rng.getrandbits(128))) for _ in range(50)]
            self.sent.update(ids)
            body = json.dumps(
                [{"timestamp": "2026-01-31T10:00:00Z", "event": {"type": "killed"}, "id": id_} for id_ in ids]
            )
            while not self.is_done.is_set():
                try:
                    if connection is None:
                        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=PATIENCE)
                    connection.request("POST", "/events/batch", body, {"Content-Type": "application/json"})
                    answer = connection.getresponse()
                    said = answer.read()
                except (OSError, http.client.HTTPException):
                    if connection is not None:
                        connection.close()
                    connection = None
                    self.is_done.wait(0.01)
                    continue
                if answer.status == 200:
                    self.answered.update(ids)
                elif answer.status not in {429, 503}:
                    self.unexpected.append((answer.status, said))
                if answer.status == 200:
                    break
        if connection is not None:
            connection.close()


def kill_server_under_ingest(directory: Path, kills: int, seed: int) -> None:
    rng = random.Random(seed)
    port, database, log = free_port(), directory / "events.db", directory / "log"
    server = Process(SERVER, str(port), f"sqlite:///{database}?unique_ids=true", str(log))
    clients = [Client(port, seed + n) for n in range(2)]
    with killed_at_last(server):
        for client in clients:
            client.start()
        for _ in range(kills):
            server.start()
            assert server.said() == "ready\n"
            before = len(clients[0].answered)
            while len(clients[0].answered) < before + 50:
                assert not clients[0].is_done.wait(0.005)
            clients[0].is_done.wait(rng.uniform(0, 0.1))
            server.kill()
        for client in clients:
            client.is_done.set()
        for client in clients:
            client.join(PATIENCE)

    command("drain", str(log), "--to", f"sqlite:///{database}?unique_ids=true")
    times = Counter(id_ for id_, _ in stored(database))
    answered, sent = (set().union(*sets) for sets in ((c.answered for c in clients), (c.sent for c in clients)))
    assert [client.unexpected for client in clients] == [[], []]
    assert answered - times.keys() == set()
    assert times.keys() - sent == set()
    assert set(times.values()) == {1}
    assert len(answered) >= kills * 50


def kill_server_and_sender(directory: Path, kills: int, seed: int) -> None:
    rng = random.Random(seed)
    port, database = free_port(), directory / "events.db"
    url = f"http://127.0.0.1:{port}/events/batch?timeout=5"
    here, there = directory / "here", directory / "there"
    server = Process(SERVER, str(port), f"sqlite:///{database}?unique_ids=true", str(there))
    sender = Process(SENDER, url, str(here))
    written, next_number = set[int](), 0
    pause = threading.Event()
    with killed_at_last(server, sender):
        server.start()
        assert server.said() == "ready\n"
        for kill in range(kills):
            sender.start(str(next_number))
            said = [int(sender.said())]
            pause.wait(rng.uniform(0, 0.2))
            if not kill or rng.random() < 0.6:
                server.kill()
                pause.wait(rng.uniform(0, 0.1))
                server.start()
                assert server.said() == "ready\n"
            said += [int(line) for line in sender.kill().splitlines()]
            written.update(number + n for number in said for n in range(20))
            next_number = max(said) + 40  # the last ones may have been written, and not printed
        command("drain", str(here), "--to", url)
        server.kill()

    command("drain", str(there), "--to", f"sqlite:///{database}?unique_ids=true")
    rows = stored(database)
    times = Counter(json.loads(payload)["number"] for _, payload in rows)
    assert written - times.keys() == set()
    assert set(times.values()) == {1}
    assert len({id_ for id_, _ in rows}) == len(rows)
    assert all(number < next_number for number in times)
    with suppress(FileNotFoundError):
        assert list(here.glob("0*")) == []  # nothing of a run is left


def test_what_was_answered_200_is_stored_once_though_the_server_is_killed(tmp_path: Path) -> None:
    kill_server_under_ingest(tmp_path, 1, seed=1)


@pytest.mark.slow
def test_a_log_that_is_shipped_to_a_server_is_stored_once_though_both_are_killed(tmp_path: Path) -> None:
    kill_server_and_sender(tmp_path, 1, seed=2)


@pytest.mark.faults
@pytest.mark.timeout(3_000)
def test_a_hundred_kills_of_the_server(tmp_path: Path) -> None:
    kill_server_under_ingest(tmp_path, 100, seed=3)


@pytest.mark.faults
@pytest.mark.timeout(3_000)
def test_a_hundred_kills_of_senders_and_of_the_server(tmp_path: Path) -> None:
    kill_server_and_sender(tmp_path, 100, seed=4)
