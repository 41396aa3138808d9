"""Producers, relays, Redis and ClickHouse, killed in any order: each event arrives once, and each session is right."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any
from uuid import UUID

import msgspec
import pytest

from eventrec.sessions.kept import DeviceState, decode_state
from eventrec.testing.clickhouse_http import ClickHouseServer, need_clickhouse
from eventrec.testing.profiles import last_rows, moment_of
from eventrec.testing.redis import RedisServer, installed
from eventrec.testing.sessions import ExpectedSession, VisitEvent, brute_force, collapsed

pytestmark = [pytest.mark.handlers, pytest.mark.xdist_group("killed relays")]

PRODUCER = Path(__file__).with_name("visits_producer.py")
RELAYS = ("relay0", "relay1")
SYNCED = {"appendfsync": "always"}
"""With any other word a server that is killed may have answered what it had not given to the system yet."""

OURS = "type IN ('screen_view', 'add_to_cart')"


class Processes:
    """Commands that are started again whenever they are killed, until they end by themselves."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._running: dict[str, tuple[Sequence[str], subprocess.Popen[bytes]]] = {}
        self.kills: Counter[str] = Counter()

    def start(self, name: str, *command: str) -> None:
        environment = {key: value for key, value in os.environ.items() if not key.startswith("EVENTREC_")}
        with (self._directory / f"{name}.out").open("ab") as out:
            process = subprocess.Popen(
                [sys.executable, *command],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                cwd=self._directory,
                env=environment,
            )
        self._running[name] = (command, process)

    def kill(self, name: str) -> None:
        command, process = self._running[name]
        if process.poll() is None:
            process.kill()
            process.wait()
            self.kills[name.rstrip("0123456789")] += 1
            self.start(name, *command)

    def pause(self, name: str, seconds: float) -> None:
        """Let it stand still for so long: what it holds may be another's by then."""
        process = self._running[name][1]
        if process.poll() is None:
            process.send_signal(signal.SIGSTOP)
            time.sleep(seconds)
            process.send_signal(signal.SIGCONT)
            self.kills["paused"] += 1

    def is_running(self, name: str) -> bool:
        return self._running[name][1].poll() is None

    def wait(self, name: str, timeout: float) -> None:
        code = self._running[name][1].wait(timeout)
        assert code == 0, (self._directory / f"{name}.out").read_text()[-3_000:]

    def end(self, name: str) -> None:
        """As an operator ends it: SIGTERM."""
        self._running[name][1].terminate()
        self.wait(name, 60)

    def end_all(self) -> None:
        for _, process in self._running.values():
            if process.poll() is None:
                process.kill()
            process.wait()


@pytest.fixture
def processes(tmp_path: Path) -> Iterator[Processes]:
    made = Processes(tmp_path)
    yield made
    made.end_all()


@pytest.fixture
def servers() -> Iterator[tuple[RedisServer, ClickHouseServer]]:
    need_clickhouse()
    with (
        RedisServer(installed("valkey"), persists=True, settings=SYNCED) as redis,
        ClickHouseServer(keeps=True) as clickhouse,
    ):
        yield redis, clickhouse


def until(is_true: Callable[[], bool], seconds: float, what: str, missing: Callable[[], object]) -> None:
    deadline = time.monotonic() + seconds
    while not is_true():
        assert time.monotonic() < deadline, f"{what}: not within {seconds} s; missing are {missing()}"
        time.sleep(0.2)


@dataclass
class Scene:
    """Producers of `chunks` each, two relays, and their servers.

    A session ends after `idle` seconds, within which a device's next event is with the relay.
    """

    directory: Path
    processes: Processes
    redis: RedisServer
    clickhouse: ClickHouseServer
    producer: Any
    producers: int
    chunks: int
    idle: int
    every: float = 0.05
    """Seconds from one chunk of a producer to the next."""
    shards: int = 1

    @property
    def names(self) -> list[str]:
        return [f"producer{number}" for number in range(self.producers)]

    @property
    def url(self) -> str:
        """For producers; relays find out of how many shards the buffer is."""
        return self.redis.url(stream="web", shards=self.shards, shard_by="device_id")

    def start(self) -> None:
        for name in self.names:
            where = (str(self.directory / f"{name}.notes"), str(self.directory / name), self.url)
            times = (str(time.time()), str(self.every))
            self.processes.start(name, str(PRODUCER), *where, name, str(self.chunks), *times)
        for name in RELAYS:
            ends = (
                "--from",
                self.redis.url(stream="web"),
                "--to",
                self.clickhouse.url(),
                "--log",
                str(self.directory / name),
            )
            stage = ("--stage", f"sessions?idle={self.idle}s", "--stage", "profiles", "--lease", "2s")
            self.processes.start(name, "-m", "eventrec.cli", "relay", *ends, *stage)

    def is_producing(self) -> bool:
        return any(map(self.processes.is_running, self.names))

    def kill(self, chance: Random) -> None:
        """One of them, by chance; servers and processes are started again."""
        match chance.choices(("producer", "relay", "pause", "redis", "clickhouse"), (5, 5, 1, 1, 1))[0]:
            case "producer":
                self.processes.kill(chance.choice(self.names))
            case "relay":
                self.processes.kill(chance.choice(RELAYS))
            case "pause":
                self.processes.pause(chance.choice(RELAYS), 3.0)
            case "redis":
                self.redis.restart()
                self.processes.kills["redis"] += 1
            case _:
                self.clickhouse.kill()
                time.sleep(chance.uniform(0, 0.5))
                self.clickhouse.start()
                self.processes.kills["clickhouse"] += 1

    def end(self) -> None:
        """Until all that was recorded is in ClickHouse, and all sessions have ended."""
        for name in self.names:
            self.processes.wait(name, 600)
            drained = ("-m", "eventrec.cli", "drain", str(self.directory / name), "--to", self.url)
            self.processes.start(f"drain-{name}", *drained)
            self.processes.wait(f"drain-{name}", 120)
        confirmed = len(self.events("d"))

        def all_ended() -> bool:
            assert all(map(self.processes.is_running, RELAYS))
            if self.clickhouse.query("EXISTS TABLE events") == [[0]]:
                return False
            counts = f"countIf({OURS}), countIf(type = 'session_start'), countIf(type = 'session_end')"
            ((there, starts, ends),) = self.clickhouse.query(f"SELECT {counts} FROM events")
            return int(there) >= confirmed and int(starts) == int(ends)

        until(all_ended, 300 + self.idle, "all events and the end of all sessions in ClickHouse", self.missing)
        for name in RELAYS:
            self.processes.end(name)

    def events(self, mark: str) -> dict[bytes, VisitEvent]:
        """Those of chunks that producers have begun ("b"), or know to be written ("d"), by their ids, in order."""
        return {
            self.producer.event_id(event): event
            for name in self.names
            for line in (self.directory / f"{name}.notes").read_text().splitlines()
            if line[:1] == mark
            for event in self.producer.visits(name, int(line[2:]))
        }

    def ids(self) -> list[bytes]:
        """Of our events in ClickHouse."""
        rows = self.clickhouse.query(f"SELECT toString(id) FROM events WHERE {OURS}")
        return [UUID(id_).bytes for (id_,) in rows]

    def missing(self) -> Counter[str]:
        """How many events of which chunk were written and are not there."""
        there = set(self.ids())
        return Counter(e.id.rpartition("-")[0] for id_, e in self.events("d").items() if id_ not in there)

    def stored(self, kind: str) -> list[tuple[int, dict[str, Any]]]:
        """Time in milliseconds and payload."""
        rows = self.clickhouse.query(
            f"SELECT toUnixTimestamp64Nano(timestamp), payload FROM events WHERE type = '{kind}'"
        )
        return [(int(at) // 1_000_000, msgspec.json.decode(payload)) for at, payload in rows]

    def check(self) -> None:
        """Compare what is in ClickHouse with what was recorded, and with the sessions that this comes to."""
        self.check_open()
        known = self.events("b")
        ids = self.ids()
        there = set(ids)
        assert len(ids) == len(there), "doubled"
        assert self.missing() == Counter()
        assert there - known.keys() == set()
        expected = brute_force(event for id_, event in known.items() if id_ in there)
        assert sorted(
            (each["device_id"], at, each["duration"], each["path"], each["properties"]["__bounce"])
            for at, each in self.stored("session_end")
        ) == sorted(
            (each.device, each.ended_event, each.duration, each.exit_path, str(each.is_bounce).lower())
            for each in expected
        )
        assert sorted((each["device_id"], at) for at, each in self.stored("session_start")) == sorted(
            (each.device, each.started) for each in expected
        )
        rows = self.clickhouse.query("SELECT payload FROM sessions")
        left = collapsed(msgspec.json.decode(payload) for (payload,) in rows)
        assert sorted(
            (row["device_id"], row["duration"], row["screen_view_count"], row["event_count"]) for row in left.values()
        ) == sorted((each.device, each.duration, each.screen_view_count, each.event_count) for each in expected)
        self.check_profiles([event for id_, event in known.items() if id_ in there], expected)

    def check_open(self) -> None:
        """What is counted of open sessions is what lies in Redis, at whatever moment that is looked at."""
        for key in self.redis.execute("KEYS", "*:stage:sessions:state"):
            flat = self.redis.execute("HGETALL", key)
            state = dict(zip(flat[::2], flat[1::2], strict=True))
            counted = dict(word.split("=") for word in state.pop(b"\xff").decode().split())
            kept = [decode_state(name.decode(), value) for name, value in state.items()]
            devices = [each for each in kept if isinstance(each, DeviceState)]
            assert int(counted.get("open_sessions", 0)) == sum(1 + (each.late is not None) for each in devices)

    def check_profiles(self, events: Sequence[VisitEvent], sessions: Sequence[ExpectedSession]) -> None:
        """Of each device there is one, created by its first event, and last seen at the end of its last session."""
        rows = [msgspec.json.decode(payload) for (payload,) in self.clickhouse.query("SELECT payload FROM profiles")]
        assert len({(row["id"], row["version"]) for row in rows}) == len(rows), "doubled"
        last = last_rows(sorted(rows, key=lambda row: int(row["version"])))
        created: dict[str, int] = {}
        for event in events:
            created.setdefault(event.device, event.at)
        seen: dict[str, int] = {}
        for each in sessions:
            seen[each.device] = max(seen.get(each.device, each.ended_at), each.ended_at)
        assert {row["id"]: moment_of(row, "created_at") for row in last.values()} == created
        assert {row["id"]: moment_of(row) for row in last.values()} == seen


@pytest.mark.slow
def test_events_and_sessions_are_exact_whatever_is_killed(
    tmp_path: Path,
    processes: Processes,
    servers: tuple[RedisServer, ClickHouseServer],
    load_module: Callable[[Path], Any],
) -> None:
    scene = Scene(tmp_path, processes, *servers, load_module(PRODUCER), producers=2, chunks=20, idle=5)
    chance = Random(1)

    scene.start()
    for _ in range(8):
        time.sleep(chance.uniform(0.1, 0.6))
        scene.kill(chance)
        scene.check_open()
    scene.end()

    scene.check()


@pytest.mark.faults
@pytest.mark.timeout(3_600)
def test_a_million_events_and_their_sessions_are_exact_after_minutes_of_kills(
    tmp_path: Path,
    processes: Processes,
    servers: tuple[RedisServer, ClickHouseServer],
    load_module: Callable[[Path], Any],
) -> None:
    number = int(os.environ.get("EVENTREC_TEST_EVENTS", "1000000"))
    seconds = float(os.environ.get("EVENTREC_TEST_SECONDS", "300"))
    chance = Random(int(os.environ.get("EVENTREC_TEST_SEED", "1")))
    chunks = number // 8 // 200
    scene = Scene(
        tmp_path, processes, *servers, load_module(PRODUCER), 8, chunks, idle=60, every=seconds / chunks, shards=2
    )

    scene.start()
    until_then = time.monotonic() + seconds
    while time.monotonic() < until_then:
        assert scene.is_producing()
        time.sleep(chance.uniform(0.3, 2.0))  # else no relay would live until it has a lease
        scene.kill(chance)
        scene.check_open()
    scene.end()

    scene.check()
    sys.stdout.write(f"{number:,} events; {dict(processes.kills)}\n")
    assert sum(processes.kills.values()) > seconds / 10
