"""The site's own process: records what browsers tell, and never waits for anything behind its log.

python examples/web_analytics/browse.py --to redis://127.0.0.1:6379/0?stream=web --log var/site-1 --seed 1
"""

from __future__ import annotations

import argparse
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Final

import anyio
import anyio.lowlevel

from browsers import visits
from eventrec import EventRecorder

DAY: Final = 86_400
FASTER: Final = 100


async def browse(to: str, log: str, *, seed: int, visitors: int) -> None:
    """Record a day of visits that ends now, as fast as events can be made."""
    start = datetime.now(UTC) - timedelta(seconds=DAY)
    async with EventRecorder(to, log=log) as recorder:
        for number, (seconds, event) in enumerate(visits(seed=seed, visitors=visitors, seconds=DAY)):
            recorder.record(event.model_copy(update={"at": start + timedelta(seconds=seconds)}))
            if number % 200 == 0:
                await anyio.lowlevel.checkpoint()
        await recorder.flush(timeout=60)


async def browse_live(to: str, log: str, *, seed: int, visitors: int) -> None:
    """Record a day of visits from now on, within minutes, until it is ended."""
    async with EventRecorder(to, log=log) as recorder:
        start = anyio.current_time()
        for seconds, event in visits(seed=seed, visitors=visitors, seconds=DAY):
            await anyio.sleep_until(start + seconds / FASTER)
            recorder.record(event)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--to", required=True, help="the bus, by its URL")
    parser.add_argument("--log", required=True, help="the process's log directory")
    parser.add_argument("--seed", type=int, default=1, help="which visitors come")
    parser.add_argument("--visitors", type=int, default=200)
    parser.add_argument("--live", action="store_true", help="they come from now on, until Ctrl-C")
    given = parser.parse_args()
    play = browse_live if given.live else browse
    with suppress(KeyboardInterrupt):
        anyio.run(partial(play, given.to, given.log, seed=given.seed, visitors=given.visitors))


if __name__ == "__main__":
    main()
