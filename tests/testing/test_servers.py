from __future__ import annotations

from pathlib import Path

import pytest

from eventrec.testing import servers
from eventrec.testing.redis import Kind, RedisServer, installed
from eventrec.testing.servers import THROW_AWAY, home_of


@pytest.fixture
def memory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """What is taken for memory: a folder that has room."""
    monkeypatch.setattr(servers, "_MEMORY", tmp_path)
    monkeypatch.setattr(servers, "_ROOM", 1)
    return tmp_path


def test_data_that_are_not_synced_are_kept_in_memory(memory: Path) -> None:
    assert home_of(THROW_AWAY) == memory


def test_data_that_are_synced_are_kept_where_temporary_files_are(memory: Path) -> None:
    assert home_of({}) is None
    assert home_of({**THROW_AWAY, "fsync": "on"}) is None


def test_without_room_in_memory_they_are_kept_where_temporary_files_are(
    memory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(servers, "_ROOM", 2**63)
    assert home_of(THROW_AWAY) is None

    monkeypatch.setattr(servers, "_ROOM", 1)
    monkeypatch.setattr(servers, "_MEMORY", memory / "absent")
    assert home_of(THROW_AWAY) is None


@pytest.mark.handlers
@pytest.mark.parametrize("kind", ["valkey", "redis"])
def test_a_redis_that_has_much_to_load_answers_when_it_is_started(kind: Kind) -> None:
    slow = {"key-load-delay": "200"}  # microseconds for each of 3,000 keys; it answers others after 1,024 of them
    with RedisServer(installed(kind), persists=True, settings=slow) as server:
        server.execute("EVAL", "for i = 1, 3000 do redis.call('SET', i, 'kept') end", 0)

        server.restart()

        assert server.execute("GET", "3000") == b"kept"
