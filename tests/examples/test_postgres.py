"""The PostgreSQL example, against a real server."""

import asyncio
import subprocess
import sys
from pathlib import Path
from typing import Any

import asyncpg

from eventrec.testing.servers import PostgresServer

EXAMPLE = Path(__file__).parents[2] / "examples" / "postgres.py"


def test_thousand_orders_are_in_the_database_each_once(postgres_server: PostgresServer) -> None:
    url = postgres_server.url("postgres")

    done = subprocess.run([sys.executable, "-W", "error", EXAMPLE, url], check=True, capture_output=True, text=True)

    async def stored() -> list[Any]:
        connection = await asyncpg.connect(url.partition("?")[0])
        try:
            query = "SELECT count(*), count(DISTINCT id), sum(total), count(DISTINCT customer) FROM orders"
            return [tuple(row) for row in await connection.fetch(query)]
        finally:
            await connection.close()

    assert "all stored: True" in done.stdout
    assert asyncio.run(stored()) == [(1_000, 1_000, 499_500, 10)]


def test_without_a_url_it_says_what_to_give() -> None:
    done = subprocess.run([sys.executable, EXAMPLE], check=False, capture_output=True, text=True, env={})

    assert done.returncode == 1
    assert "give a URL" in done.stderr
