"""ClickHouse's engine for tests, from the wheel `chdb-core`, in a process of its own; a database for each test.

`from eventrec.testing.clickhouse import clickhouse_engine` in a conftest.py is all it takes. Without the wheel the
fixture skips, visibly; with `CI=true` it fails.
"""

from __future__ import annotations

import json
import sys
from contextlib import contextmanager
from importlib.util import find_spec
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Final

import pytest

from eventrec.testing.server_process import ServerWithPipes, absent

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from typing import Self

_SCRIPT: Final = Path(__file__).with_name("clickhouse_engine.py")


class ClickHouseEngine(ServerWithPipes):
    """A ClickHouse of one's own, in memory. One caller at a time."""

    def __init__(self) -> None:
        super().__init__()
        self._numbers = count(1)

    def start(self) -> Self:
        """Start it. What it is asked before it is ready waits."""
        self._begin(sys.executable, str(_SCRIPT))
        return self

    def query(self, sql: str) -> list[list[Any]]:
        """The rows that a statement gives.

        Raises:
            AssertionError: The engine refuses it; the message is the engine's.
        """
        answer: dict[str, Any] = json.loads(self._tell(json.dumps(sql)))
        if "error" in answer:
            raise AssertionError(f"{answer['error']}\n{sql:.2000}")
        rows: list[list[Any]] = answer["rows"]
        return rows

    def insert(self, table: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Insert `rows`, all with the same columns, as one block; moments are nanoseconds since the epoch."""
        known = dict(
            self.query(
                f"SELECT name, type FROM system.columns WHERE table = '{table}' AND database = currentDatabase()"  # noqa: S608 - a test's
            )
        )
        types = {name: known[name] for name in rows[0]}
        moments = {name for name, type_ in types.items() if type_.startswith("DateTime64")}
        shape = ", ".join(f"`{name}` {'Int64' if name in moments else type_}" for name, type_ in types.items())
        shape = shape.replace("\\", "\\\\").replace("'", "\\'")
        columns = ", ".join(f"`{name}`" for name in types)
        values = ", ".join(
            f"fromUnixTimestamp64Nano(`{name}`, 'UTC')" if name in moments else f"`{name}`" for name in types
        )
        with TemporaryDirectory() as folder:
            file = Path(folder, "rows.json")
            file.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
            self.query(
                f"INSERT INTO `{table}` ({columns}) SELECT {values} FROM file('{file}', JSONEachRow, '{shape}')"  # noqa: S608 - likewise
                " SETTINGS max_partitions_per_insert_block = 0"  # a year in days
            )

    @contextmanager
    def database(self) -> Iterator[None]:
        """A database of one's own, in which statements run meanwhile."""
        name = f"own_{next(self._numbers)}"
        self.query(f"CREATE DATABASE {name}")
        self.query(f"USE {name}")
        try:
            yield
        finally:
            self.query(f"DROP DATABASE {name}")


@pytest.fixture(scope="session")
def clickhouse_engine() -> Iterator[ClickHouseEngine]:
    """ClickHouse for the whole session, running."""
    if find_spec("chdb") is None:
        absent("ClickHouse", "chdb-core is not installed: pip install 'eventrec[dev]'")
    with ClickHouseEngine() as engine:
        yield engine
