"""The analytics of a platform, from an empty database to answers: `python examples/platform_analytics/main.py`.

    migrate    the table, its indexes and the rollups are made, as `catalogue.py` declares them
    record     six weeks of events, made up, through `AnalyticsClient` and `AnalyticsWorker`; some come late or twice
    refresh    where the database keeps rollups in tables of their own
    query      who was active each day, week and month; how long requests took

The database is `platform.db` in the current directory, or another: `--to postgresql://…`, `--to timescale://…`. The
same day's second run records the same events with the same ids, and so stores nothing. It needs `eventrec[cli]`.
"""

from __future__ import annotations

import argparse
import sys
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final

import anyio

from client import AnalyticsClient, AnalyticsWorker
from eventrec import cli
from generate import arrivals

if TYPE_CHECKING:
    from eventrec import Status

DAYS: Final = 42

QUERIES: Final = (
    ("analytics_daily_active_users", "--chart"),
    ("analytics_weekly_active_users", "--chart"),
    ("analytics_monthly_active_users", "--chart"),
    ("analytics_task_stats_daily", "--newest-first", "--limit", "7"),
    ("analytics_api_latency_hourly", "--newest-first", "--limit", "15"),
)


async def record(destination: str, number: int) -> Status:
    """Track about `number` events of the days until today, and store them; the account."""
    start = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0) - timedelta(days=DAYS)
    client, config = AnalyticsClient.new(batch_size=1_000, flush_interval_secs=1)
    worker = AnalyticsWorker(config, destination)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(worker.run)
        for event in arrivals(seed=start.toordinal(), start=start, days=DAYS, number=number):
            # A service goes on where its client is full, and `status` counts what was refused: this one waits.
            while not client.track(event):  # noqa: ASYNC110 - for a database
                await anyio.sleep(0.05)
        await client.close(timeout=300)
    return client.status()


def run(*command: str) -> None:
    """Run a command of eventrec, and show it as a reader would type it; end the program where it fails."""
    print(f"\n$ eventrec {' '.join(command)}\n", flush=True)
    code = cli.main(command)
    if code:
        sys.exit(code)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--to", default="sqlite:///platform.db", help="the database, by its URL")
    parser.add_argument("--events", type=int, default=20_000, help="about how many events to record")
    given = parser.parse_args()
    where = ("--to", given.to, "--catalogue", "catalogue:catalogue")
    run("migrate", "all", *where)
    print(f"\nrecording {given.events:,} events of {DAYS} days", flush=True)
    print(anyio.run(record, given.to, given.events))
    run("refresh", *where)
    for name, *how in QUERIES:
        run("query", name, *where, *how)


if __name__ == "__main__":
    main()
