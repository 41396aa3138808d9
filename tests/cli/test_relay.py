"""`relay` and `bus` on a bus in this process's memory."""

from __future__ import annotations

import json
import os
import re
import signal
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import anyio
import httpcore2
import pytest

from eventrec.bus import Held, MemoryBus, MemoryStore, Output, Step
from eventrec.cli import main
from eventrec.relaying import OUR_BUSES
from eventrec.testing.relays import ABOVE, STORES, numbered

URL = "inprocess:tested"


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[MemoryStore]:
    monkeypatch.setitem(OUR_BUSES, "inprocess", "eventrec.testing.relays:named_bus")
    monkeypatch.chdir(tmp_path)
    STORES["tested"] = MemoryStore()
    yield STORES["tested"]
    STORES.clear()


def rows(path: str = "e.db") -> int:
    try:
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as database:
            return int(database.execute("SELECT count(*) FROM events").fetchone()[0])
    except sqlite3.OperationalError:
        return 0


def interrupt_once(count: int) -> threading.Thread:
    """End the command by SIGTERM once that many rows are there, and it listens."""

    def run() -> None:
        until = time.monotonic() + 30
        while time.monotonic() < until and (rows() < count or signal.getsignal(signal.SIGTERM) is signal.SIG_DFL):
            time.sleep(0.02)
        if signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
            os.kill(os.getpid(), signal.SIGTERM)

    thread = threading.Thread(target=run)
    thread.start()
    return thread


def test_relay_delivers_through_its_stage_until_a_signal_comes(
    store: MemoryStore, capsys: pytest.CaptureFixture[str]
) -> None:
    store.append(numbered(0, 100))
    stage = "eventrec.testing.relays:Doubling"

    ender = interrupt_once(200)
    code = main(["relay", "--from", URL, "--to", "sqlite:///e.db", "--stage", stage, "--lease", "1s", "--json"])
    ender.join()

    told = capsys.readouterr()
    assert code == 0
    assert json.loads(told.out)["subscriptions"]["sqlite"]["delivered"] == 200
    assert "relaying to sqlite, until Ctrl-C or SIGTERM" in told.err
    with closing(sqlite3.connect("e.db")) as database:
        found = {json.loads(payload)["number"] for (payload,) in database.execute("SELECT payload FROM events")}
    assert found == {*range(100), *range(ABOVE, ABOVE + 100)}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--from", "nothing://x", "--to", "sqlite:///e.db"], "no bus for the scheme 'nothing'"),
        (["--from", "env:NONE_SUCH", "--to", "sqlite:///e.db"], "'NONE_SUCH'"),
        (["--from", URL, "--to", "nothing://x"], "no handler for the scheme 'nothing'"),
        (["--from", URL, "--to", "sqlite:///e.db", "--stage", "none"], "no stage 'none'"),
        (["--from", URL, "--to", "sqlite:///e.db", "--lease", "long"], "long"),
        (["--from", URL, "--to", "sqlite:///e.db", "--to", "sqlite:///f.db"], "--name is needed"),
        (["--from", URL], "--to"),
    ],
)
def test_relay_that_cannot_be_says_so_in_one_line(
    store: MemoryStore, capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    code = main(["relay", *arguments])

    lines = capsys.readouterr().err.strip().splitlines()
    assert code in {2, 3}
    assert said in " ".join(lines)
    assert not Path("eventrec-relay").exists()


@pytest.mark.parametrize(
    ("to", "said"),
    [
        ("redis://u:p@127.0.0.1:1/0?stream=a&max_records=5", "--to is where --from is"),
        ("redis://127.0.0.1:1/0?stream=b", "'never'"),
        ("redis://127.0.0.1:2/0?stream=a", "'never'"),
    ],
)
def test_relay_does_not_deliver_to_where_it_reads(
    store: MemoryStore, capsys: pytest.CaptureFixture[str], to: str, said: str
) -> None:
    code = main(["relay", "--from", "redis://127.0.0.1:1/0?stream=a", "--to", to, "--lease", "never"])

    assert code == 2
    assert said in capsys.readouterr().err


def test_bus_status_shows_what_is_there_and_who_serves_it(
    store: MemoryStore, capsys: pytest.CaptureFixture[str]
) -> None:
    anyio.run(_filled, store)

    assert main(["bus", "status", URL, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert main(["bus", "status", URL]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert main(["status", URL, "--json"]) == 0
    assert [shard["name"] for shard in json.loads(capsys.readouterr().out)["shards"]] == ["memory", "memory/doubling"]
    assert main(["status", URL]) == 0
    assert capsys.readouterr().out.splitlines() == lines

    shard, outlet = told["shards"]
    assert (shard["name"], outlet["name"]) == ("memory", "memory/doubling")
    assert shard["subscriptions"]["sqlite"]["pending"] == 10
    assert shard["subscriptions"]["stage:doubling"] == {"pending": 6, "holder": "host:1", "lease_seconds": 600.0} | {
        "lease_seconds": shard["subscriptions"]["stage:doubling"]["lease_seconds"]
    }
    assert lines[0] == "memory: 10 records in 1 log"
    assert "  sqlite: pending 10, no relay serves it" in lines
    assert "  stage:doubling: pending 6, served by host:1" in lines
    assert lines[-1] == "  no subscription yet: everything is kept"


async def _filled(store: MemoryStore) -> None:
    log_id = store.append(numbered(0, 10))
    async with MemoryBus(store) as bus:
        (shard,) = await bus.shards()
        lease = await shard.acquire("stage:doubling", "host:1", seconds=600.0)
        other = await shard.acquire("sqlite", "host:2", seconds=600.0)
        assert lease is not None
        assert other is not None
        await shard.release(other)
        await shard.commit(lease, Step(Output(entries=numbered(0, 3)), log_id, 0, 4))


def test_forgotten_subscription_is_kept_for_no_more(store: MemoryStore, capsys: pytest.CaptureFixture[str]) -> None:
    anyio.run(_filled, store)

    assert main(["bus", "forget", URL, "sqlite", "--yes", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"forgotten": "sqlite", "shards": ["memory"]}
    assert main(["bus", "forget", URL, "sqlite", "--yes"]) == 2
    assert "no shard knows a subscription 'sqlite'" in capsys.readouterr().err
    (log,) = store.shards[0].held.logs.values()
    assert log.oldest == 4


def test_bus_out_of_reach_is_said_in_one_line(store: MemoryStore, capsys: pytest.CaptureFixture[str]) -> None:
    store.is_reachable = False

    assert main(["bus", "status", URL]) == 3
    assert capsys.readouterr().err.splitlines() == ["eventrec: the bus: the bus is out of reach"]


def listening_on(capsys: pytest.CaptureFixture[str], said: list[str]) -> str:
    """The address that the command has said; what it has said so far is added to `said`."""
    until = time.monotonic() + 30
    while time.monotonic() < until:
        said.append(capsys.readouterr().err)
        found = re.search(r"listening on (http://\S+?)(,|\s)", "".join(said))
        if found is not None:
            return found[1]
        time.sleep(0.02)
    raise AssertionError("".join(said))


def test_relay_that_serves_tells_its_parts_and_takes_no_events(
    store: MemoryStore, capsys: pytest.CaptureFixture[str]
) -> None:
    store.append(numbered(0, 100))
    said: list[str] = []
    answers: dict[str, httpcore2.Response] = {}

    def look() -> None:
        try:
            url = listening_on(capsys, said)
            until = time.monotonic() + 30
            with httpcore2.ConnectionPool() as pool:
                while time.monotonic() < until and rows() < 200:
                    time.sleep(0.02)
                for method, path in (
                    ("GET", "/health/ready"),
                    ("GET", "/status"),
                    ("GET", "/metrics"),
                    ("GET", "/"),
                    ("GET", "/events?limit=1"),
                    ("POST", "/events"),
                ):
                    answers[path] = pool.request(method, url + path, headers={"Host": "127.0.0.1"})
        finally:
            os.kill(os.getpid(), signal.SIGTERM)

    looker = threading.Thread(target=look)
    looker.start()
    code = main(
        [
            *("relay", "--from", URL, "--to", "sqlite:///e.db", "--stage", "eventrec.testing.relays:Doubling"),
            *("--serve", "127.0.0.1:0", "--json"),
        ]
    )
    looker.join()

    told = capsys.readouterr()
    said.append(told.err)
    assert code == 0, "".join(said)
    assert json.loads(told.out)["subscriptions"]["sqlite"]["delivered"] == 200
    assert {path: answer.status for path, answer in answers.items()} == {
        "/health/ready": 200,
        "/status": 200,
        "/metrics": 200,
        "/": 200,
        "/events?limit=1": 200,
        "/events": 405,
    }
    parts = json.loads(answers["/status"].content)["status"]["relay"]
    assert [(part["kind"], part["name"]) for part in parts] == [
        ("stage", "stage:doubling"),
        ("subscription", "sqlite"),
    ]
    assert all(part["holder"] and part["lease_seconds"] > 0 and part["since"] > 0 for part in parts)
    assert "for this machine alone" in "".join(said)
    assert b"eventrec_relay_leases_lost_total" in answers["/metrics"].content
    assert not any(held.holder for shard in bus_shards(store) for held in shard), "every lease was given back"


def bus_shards(store: MemoryStore) -> list[list[Held]]:
    async def look() -> list[list[Held]]:
        async with MemoryBus(store) as bus:
            return [list(await shard.subscriptions()) for shard in await bus.shards()]

    return anyio.run(look)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--serve", "0.0.0.0:0"], "other machines reach this address: give --tokens FILE"),
        (["--serve", "nowhere"], "--serve: "),
        (["--tokens", "tokens.toml"], "--tokens is for --serve"),
    ],
)
def test_what_cannot_be_served_is_said_before_anything_is_delivered(
    store: MemoryStore, capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    store.append(numbered(0, 5))

    code = main(["relay", "--from", URL, "--to", "sqlite:///e.db", *arguments])

    assert code == 2
    assert said in capsys.readouterr().err
    assert rows() == 0
