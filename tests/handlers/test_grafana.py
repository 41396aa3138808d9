"""The dashboards for Grafana: what they ask is there, and their queries are executed."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from starlette.types import Message

from eventrec import EventRecorder
from eventrec.server import application
from eventrec.testing.servers import PostgresServer
from eventrec.testing.timescale import TimescaleServer

EXAMPLES = Path(__file__).parents[2] / "examples"
FOLDER = EXAMPLES / "grafana"
PLATFORM = EXAMPLES / "platform_analytics"

# What Grafana makes of its macros: https://grafana.com/docs/grafana/latest/datasources/postgres/#macros
LAST_QUARTER = r"\1 BETWEEN now() - interval '90 days' AND now()"

_numbers = count()


def panels(name: str) -> Iterator[dict[str, Any]]:
    """The panels of a dashboard that ask something."""
    dashboard = json.loads((FOLDER / name).read_text(encoding="utf-8"))
    yield from (panel for panel in dashboard["panels"] if panel["type"] != "row")


def statements() -> list[tuple[str, str, str]]:
    """Title, format and SQL of every query, its macros expanded."""
    found = [(panel["title"], each) for panel in panels("platform_analytics.json") for each in panel["targets"]]
    expanded = [
        (title, each["format"], re.sub(r"\$__timeFilter\((\w+)\)", LAST_QUARTER, each["rawSql"]))
        for title, each in found
    ]
    assert not [sql for _, _, sql in expanded if "$" in sql]
    return expanded


def run(directory: Path, *command: str | Path) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", *command], cwd=directory, check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def migrate(url: str) -> None:
    run(PLATFORM, "-m", "eventrec.cli", "migrate", "all", "--to", url, "--catalogue", "catalogue:catalogue")


def answers(url: str, schema: str = "") -> dict[str, list[asyncpg.Record]]:
    """The rows that each query gives, by its panel's title; what is drawn over time has a time first."""

    async def ask() -> dict[str, list[asyncpg.Record]]:
        connection = await asyncpg.connect(url, statement_cache_size=0)
        try:
            if schema:
                await connection.execute(f"SET search_path TO {schema}")
            found: dict[str, list[asyncpg.Record]] = {}
            for title, form, sql in statements():
                asked = await connection.prepare(sql)
                columns = asked.get_attributes()
                if form == "time_series":
                    assert (columns[0].name, columns[0].type.name) == ("time", "timestamptz"), title
                found[title] = [*found.get(title, []), *await asked.fetch()]
            if schema:
                await connection.execute("RESET search_path")
            return found
        finally:
            await connection.close()

    return asyncio.run(ask())


@pytest.mark.parametrize("name", ["metrics.json", "platform_analytics.json"])
def test_panels_lie_beside_one_another_and_ask_the_chosen_source(name: str) -> None:
    dashboard = json.loads((FOLDER / name).read_text(encoding="utf-8"))
    taken = [
        (place["x"] + column, place["y"] + row)
        for place in (panel["gridPos"] for panel in dashboard["panels"])
        for column in range(place["w"])
        for row in range(place["h"])
    ]

    assert len(taken) == len(set(taken))
    assert all(0 <= column < 24 for column, _ in taken)
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"])
    assert {each["datasource"]["uid"] for panel in panels(name) for each in panel["targets"]} == {"${datasource}"}


def test_every_metric_of_the_dashboard_is_one_of_ours(tmp_path: Path) -> None:
    dashboard = (FOLDER / "metrics.json").read_text(encoding="utf-8")
    recorder = EventRecorder(log=tmp_path / "log", environment={})
    recorder.register("memory:", name="memory")

    text = asyncio.run(metrics_of(recorder))

    families = dict(re.findall(r"^# TYPE (\w+) (\w+)$", text, re.MULTILINE))
    ours = {f"{name}{suffix}" for name, kind in families.items() for suffix in suffixes(kind)}
    asked = set(re.findall(r"\beventrec_\w+", dashboard))
    assert asked <= ours
    assert {name for name in families if not name.startswith("eventrec_server_")} <= asked


def suffixes(kind: str) -> tuple[str, ...]:
    return ("_bucket", "_sum", "_count") if kind == "histogram" else ("",)


async def metrics_of(recorder: EventRecorder) -> str:
    """What `/metrics` of a server with `recorder` says."""
    app = application(recorder)
    scope = {
        "type": "http",
        "method": "GET",
        "path": "/metrics",
        "query_string": b"",
        "headers": [(b"host", b"127.0.0.1")],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 2),
        "scheme": "http",
        "http_version": "1.1",
    }
    body = b""

    async def receive() -> Message:
        await asyncio.Event().wait()
        raise AssertionError

    async def send(message: Message) -> None:
        nonlocal body
        body += message.get("body", b"")

    await app(scope, receive, send)
    return body.decode()


@pytest.mark.slow
@pytest.mark.handlers
def test_every_query_has_an_answer_on_postgres(
    tmp_path: Path, postgres_server: PostgresServer, postgres_database: str
) -> None:
    url = postgres_server.url(postgres_database)
    run(tmp_path, PLATFORM / "main.py", "--events", "2000", "--to", url)

    found = answers(url)

    assert [title for title, rows in found.items() if not rows] == []
    assert found["API requests"][0]["requests"] > 0
    assert 0 < found["Task success rate"][0]["rate"] < 1


@pytest.mark.handlers
def test_every_query_runs_on_timescale(timescale_server: TimescaleServer) -> None:
    schema = f"grafana_{next(_numbers)}"
    migrate(f"{timescale_server.url()}&namespace={schema}")

    found = answers(timescale_server.url(scheme="postgresql"), schema)

    assert found.keys() == {title for title, _, _ in statements()}
