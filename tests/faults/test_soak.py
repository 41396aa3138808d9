"""The soak in short, and that it notices what it is there for. In full: `nox -s faults -- --minutes 20 --seed 1`."""

from __future__ import annotations

import random
import re
import sqlite3
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from importlib import import_module
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from eventrec.log.reader import LogReader
from eventrec.runs import files

SOAK = Path(__file__).with_name("soak")
FEW = ("--units", "1", "--lives", "4", "--flips", "150", "--examples", "2")

pytestmark = pytest.mark.slow


def soaked(keep: Path, *arguments: str) -> tuple[subprocess.CompletedProcess[str], dict[str, int]]:
    """What a short soak said, and its counts."""
    command = [sys.executable, str(SOAK / "soak.py"), "--keep", str(keep), *FEW, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    found = re.findall(r"^ *([0-9,]+)  ([^:\n]+)", done.stdout, re.MULTILINE)
    return done, {kind: int(count.replace(",", "")) for count, kind in found}


def test_a_short_soak_breaks_no_promise(tmp_path: Path) -> None:
    done, counts = soaked(tmp_path, "--seed", "3", "--no-servers")

    assert done.returncode == 0, done.stdout + done.stderr
    assert counts["lives"] >= 5  # how many of them are killed before they end is up to the machine: see below
    assert counts["flips and cuts of logs"] + counts["flips and cuts of small files"] >= 150
    assert counts["steps of state machines"] >= 100
    assert [counts[kind] for kind in ("written lost", "synced lost", "doubled", "units that failed")] == [0, 0, 0, 0]
    assert counts["rows in sqlite"] + counts["dead letters"] == counts["rows in jsonl"] > 0
    assert list(tmp_path.iterdir()) == []


@pytest.mark.handlers
def test_a_short_soak_with_servers_whose_connections_are_cut_breaks_no_promise(tmp_path: Path) -> None:
    done, counts = soaked(tmp_path, "--seed", "1", "--only", "chain-3")

    assert done.returncode == 0, done.stdout + done.stderr
    assert "left out" not in done.stdout
    assert counts["connections cut"] >= 1
    assert counts["rows in postgres"] >= 1
    assert counts["rows in redis"] >= 1


# -- that it notices


@pytest.fixture
def soak(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], Any]]:
    """Imports a module of the soak, which is a folder of scripts."""
    before = set(sys.modules)
    monkeypatch.syspath_prepend(str(SOAK))

    def load(name: str) -> ModuleType:
        return import_module(name)

    yield load
    for name in set(sys.modules) - before:
        if str(SOAK) in str(getattr(sys.modules[name], "__file__", None)):
            del sys.modules[name]


def test_a_life_is_killed_at_its_step_and_the_next_delivers_what_it_wrote(
    tmp_path: Path, soak: Callable[[str], Any]
) -> None:
    chains, destinations, counts = soak("chains"), soak("destinations"), Counter[str]()
    with destinations.Servers(wanted=False) as servers, chains.Mortals(tmp_path / "said") as mortals:
        chain = chains.Chain(tmp_path, random.Random(1), servers, (mortals, mortals), counts, lives=0)
        chain.live_one(chain.life(ends="flushed", step="before the commit", nth=1))
        chain.live_one(chain.life(events=0, ends="drained"))

    chain.check()
    assert counts["SIGKILLs at a step"] == 1
    assert counts["lives"] == 2


DEFECTS = {
    r"sqlite: told and missing: \[3\]": "DELETE FROM events WHERE json_extract(payload, '$.number') = 3",
    r"sqlite: holes: \[1, 3\]": "DELETE FROM events WHERE json_extract(payload, '$.number') = 1",
    r"sqlite: stored twice: \[2\]": "INSERT INTO events SELECT 'another', type, timestamp, payload, amount FROM events"
    " WHERE json_extract(payload, '$.number') = 2",
    r"sqlite: never recorded: \[900\]": "INSERT INTO events SELECT 'third', type, timestamp, '{\"number\":900}', amount"
    " FROM events LIMIT 1",
}


def test_a_chain_notices_what_is_lost_doubled_forged_and_changed(tmp_path: Path, soak: Callable[[str], Any]) -> None:
    chains, destinations = soak("chains"), soak("destinations")
    with destinations.Servers(wanted=False) as servers, chains.Mortals(tmp_path / "said") as mortals:
        chain = chains.Chain(tmp_path, random.Random(1), servers, (mortals, mortals), Counter(), lives=0)
        chain.live_one(chain.life(ends="drained"))
    chain.check()

    with closing(sqlite3.connect(tmp_path / "events.db")) as connection, connection:
        for statement in DEFECTS.values():
            assert connection.execute(statement).rowcount == 1
    theirs = tmp_path / "log" / "notes"
    theirs.write_bytes(b"theirs")
    chain.foreign[theirs] = b"as it was"

    with pytest.raises(AssertionError) as caught:
        chain.check()
    for said in (*DEFECTS, "changed: .*notes"):
        assert re.search(said, str(caught.value)), caught.value


def test_flips_notice_a_reader_that_believes_what_is_damaged(
    soak: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    flips = soak("flips")
    read = LogReader.read

    def forgetful(reader: LogReader, *, max_bytes: int = 1 << 20) -> list[Any]:
        return read(reader, max_bytes=max_bytes)[:-1]

    monkeypatch.setattr(LogReader, "read", forgetful)

    with pytest.raises(AssertionError, match="are lost, only"):
        flips.check_some(random.Random(1), Counter(), count=20)


def test_flips_notice_a_small_file_whose_damage_is_believed(
    soak: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    flips = soak("flips")
    monkeypatch.setattr(files, "google_crc32c", SimpleNamespace(value=lambda _: 0))

    with pytest.raises(AssertionError, match=r"a damaged .* is believed"):
        flips.check_some(random.Random(1), Counter(), count=400)
