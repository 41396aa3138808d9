"""ClickHouse itself, from the wheel `chdb-core`; a database for each test."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest

ENGINE = Path(__file__).with_name("engine.py")
_numbers = count(1)


class Engine:
    """A running engine."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def query(self, sql: str) -> list[list[Any]]:
        """The rows that a statement gives."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(sql) + "\n")
        self._process.stdin.flush()
        answer = json.loads(self._process.stdout.readline())
        if "error" in answer:
            raise AssertionError(f"{answer['error']}\n{sql:.2000}")
        return answer["rows"]  # type: ignore[no-any-return]


@pytest.fixture(scope="session")
def engine() -> Iterator[Engine]:
    if importlib.util.find_spec("chdb") is None:
        if os.environ.get("CI") == "true":
            pytest.fail("chdb-core is not installed: pip install 'eventrec[dev]'")
        pytest.skip("chdb-core, which is ClickHouse's engine, is not installed")
    with subprocess.Popen(
        [sys.executable, ENGINE], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, encoding="utf-8"
    ) as process:
        yield Engine(process)
        assert process.stdin is not None
        process.stdin.close()
        process.wait(20)


@pytest.fixture
def query(engine: Engine) -> Iterator[Callable[[str], list[list[Any]]]]:
    """Runs a statement in a database of its own."""
    name = f"own_{next(_numbers)}"
    engine.query(f"CREATE DATABASE {name}")
    engine.query(f"USE {name}")
    yield engine.query
    engine.query(f"DROP DATABASE {name}")
