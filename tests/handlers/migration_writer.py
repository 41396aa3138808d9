"""A process that migrates and is killed: once at each point, each time in a place of its own, then to the end.

`migration_writer.py URL EVERY [MODULE:OBJECT]` with a `{}` in the URL, which becomes `whole`, 1, 1 + EVERY, … and
prints these numbers. It forks: what it imports is loaded once. Without the name of a catalogue it is the one below.
"""

import os
import signal
import sys
from typing import Annotated, Any

import anyio

from eventrec import (
    EVENT,
    GENERATED,
    TIMESTAMP,
    TYPE,
    Column,
    EventModel,
    Layout,
    LayoutColumn,
    LayoutIndex,
    migration_target_from_url,
)
from eventrec.analytics import Catalogue, MigrationRunner, MigrationTarget, Rollup, bucket, count, max_of
from eventrec.analytics.loading import load_catalogue


class OrderPlaced(EventModel, table="orders"):
    number: int
    customer: Annotated[str, Column()]


class Clicked(EventModel):
    target: str


VISITS = Layout(
    "visits",
    [
        LayoutColumn("number", GENERATED, "bigint"),
        LayoutColumn("at", TIMESTAMP, "timestamptz", default="now"),
        LayoutColumn("kind", TYPE, "varchar", length=100),
        LayoutColumn("data", EVENT, "jsonb"),
    ],
    primary_key=("at", "number"),
    indexes=[
        LayoutIndex("visits_kind", ("kind", "at"), descending=("at",)),
        LayoutIndex("visits_data", ("data",), kind="json"),
    ],
    partition="day",
)


class OrdersHourly(Rollup, events=[OrderPlaced]):
    hour = bucket("1 hour")
    orders = count()
    largest = max_of("number")


class VisitsDaily(Rollup, table="visits"):
    day = bucket("1 day", zone="Europe/Berlin")
    visits = count()


CATALOGUE = Catalogue(name="shop", events=[OrderPlaced, Clicked], layouts=[VISITS], rollups=[OrdersHourly, VisitsDaily])


class Killer:
    """Ends this process with SIGKILL as it comes to point `at`, counted from 1; None: never."""

    def __init__(self, at: int | None) -> None:
        self.at = at
        self.passed = 0

    def point(self) -> None:
        self.passed += 1
        if self.passed == self.at:
            os.kill(os.getpid(), signal.SIGKILL)

    def beside(self, target: MigrationTarget, name: str) -> None:
        """Points before and behind the method `name` of `target`."""
        method = getattr(target, name)
        is_static = not hasattr(method, "__self__")

        async def awaited(*arguments: Any) -> Any:
            self.point()
            found = await method(*arguments)
            self.point()
            return found

        def called(*arguments: Any) -> Any:
            self.point()
            found = method(*arguments)
            self.point()
            return found

        setattr(target, name, called if is_static else awaited)


async def migrate(url: str, kill_at: int | None, catalogue: Catalogue) -> int:
    killer = Killer(kill_at)
    target = migration_target_from_url(url)
    for name in ("prepare", "begin", "apply", "_execute", "_drop_invalid_index"):
        if not hasattr(target, name):
            continue
        killer.beside(target, name)
    async with target:
        await MigrationRunner(target, catalogue=catalogue).run()
    return killer.passed


def in_child(url: str, kill_at: int | None, catalogue: Catalogue) -> tuple[bool, int]:
    """Whether it was killed, and how many points it passed."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(writing, str(anyio.run(migrate, url, kill_at, catalogue)).encode())
        os._exit(0)
    os.close(writing)
    passed = os.read(reading, 20)
    os.close(reading)
    _, status = os.waitpid(child, 0)
    assert status in {0, signal.SIGKILL}, status
    return status == signal.SIGKILL, int(passed or b"0")


def main(url: str, every: int, catalogue: Catalogue) -> None:
    is_killed, points = in_child(url.format("whole"), None, catalogue)
    assert not is_killed
    killed_at = range(1, points + 1, every)
    for at in killed_at:
        is_killed, _ = in_child(url.format(at), at, catalogue)
        assert is_killed, at
        is_killed, _ = in_child(url.format(at), None, catalogue)
        assert not is_killed, at
    sys.stdout.write(" ".join(map(str, [points, *killed_at])))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), load_catalogue(sys.argv[3]) if sys.argv[3:] else CATALOGUE)
