"""Sessions and profiles: what one event costs, by how many there are, and what one is kept in.

    python tests/benchmarks/bench_sessions.py [ROUNDS]

EVENTREC_BENCH_SESSIONS (1,000,000) sessions are open in the end. Times are of the processor, for `keys` and `process`,
in turns of 1,000 events with 20 members; what a bus takes is not in it. What it must come to:
≤ 8 µs an event where a turn has some events of each session, and the same for a million open sessions as for ten
thousand (≤ 1.3 ×: their state is in other caches of the processor). Profiles likewise; most events change none.
"""

from __future__ import annotations

import gc
import os
import statistics
import sys
import time
from typing import Final
from uuid import UUID

import msgspec

from eventrec.bus import Entry, Records, make_entry
from eventrec.records.schema import Shape
from eventrec.sessions import Profiles, ReferenceSessions, SessionPolicy, Sessions, SessionStage

SESSIONS: Final = int(os.environ.get("EVENTREC_BENCH_SESSIONS", "1000000"))
TURN: Final = 1_000
LOG_ID: Final = UUID(int=1)
START: Final = 1_760_000_000_000
VIEW: Final = Shape("events", "screen_view")
CLICK: Final = Shape("events", "click")


def event(number: int, device: int) -> Entry:
    """One as a browser sends it."""
    payload = {
        "project_id": "shop",
        "device_id": f"{device:032x}",
        "profile_id": "" if device % 4 else f"customer-{device}",
        "session_id": f"{device:032x}",
        "path": f"/shoes/{number % 50}",
        "origin": "https://shop.example.com",
        "referrer": "https://search.example.com",
        "referrer_name": "Search",
        "referrer_type": "search",
        "country": "DE",
        "region": "BE",
        "city": "Berlin",
        "longitude": 13.4,
        "latitude": 52.5,
        "os": "macOS",
        "os_version": "14.2",
        "browser": "Chrome",
        "browser_version": "120.0",
        "device": "desktop",
        "properties": {"__query": {"utm_source": "news"}, "size": "42"},
    }
    shape = VIEW if number % 3 else CLICK
    return make_entry(shape, (START + number // 100) * 1_000_000, msgspec.json.encode(payload))


class Bench:
    """A stage with its state in a dict."""

    def __init__(self, policy: SessionPolicy) -> None:
        self.stage = SessionStage(policy)
        self.state: dict[str, bytes] = {}
        self.next = 0

    def turn(self, devices: list[int]) -> float:
        """Seconds of the processor for one event of each of `devices`."""
        entries = [event(self.next + i, device) for i, device in enumerate(devices)]
        records = Records(self.next, self.next + len(entries), range(self.next, self.next + len(entries)), entries)
        start = time.process_time()
        keys = self.stage.keys(LOG_ID, records)
        asked = time.process_time()
        state = {key: self.state.get(key) for key in keys}
        found = time.process_time()
        output = self.stage.process(LOG_ID, records, state, 0.0)
        seconds = time.process_time() - found + asked - start
        for key, value in output.state.items():
            if value is None:
                self.state.pop(key, None)
            else:
                self.state[key] = value
        self.next += len(entries)
        return seconds

    def per_event(self, open_sessions: int, *, each: int, turns: int) -> float:
        """Microseconds an event, where a turn has `each` events of some of the open sessions."""
        seconds = []
        for turn in range(turns):
            some = [(turn * 7_919 + i * 104_729) % open_sessions for i in range(TURN // each)]
            seconds.append(self.turn([some[i % len(some)] for i in range(TURN)]))
        return statistics.median(seconds) / TURN * 1e6


def main(rounds: int) -> None:
    """Print the table."""
    for policy in (Sessions, ReferenceSessions, Profiles):
        bench = Bench(policy())
        print(f"\n{policy.__name__}: µs an event, by open sessions and events of each in a turn")
        opened = 0
        first: dict[int, float] = {}
        for count in sorted({10_000, min(100_000, SESSIONS), SESSIONS}):
            began = opened
            seconds = 0.0
            while opened < count:
                seconds += bench.turn(list(range(opened, opened + TURN)))
                opened += TURN
            row = [f"{count:>10,} open"]
            for each in (50, 20, 5, 1):
                cost = bench.per_event(count, each=each, turns=10 * rounds)
                first.setdefault(each, cost)
                row.append(f"{each:>3} each {cost:6.2f} ({cost / first[each]:4.2f} x)")
            print("  ".join(row), f" opening {seconds / max(1, opened - began) * 1e6:6.2f}")
        kept = [len(value) for key, value in bench.state.items() if key[0] in "dsu"]
        others = sum(len(value) for key, value in bench.state.items() if key[0] == "p")
        print(
            f"  each is kept in {statistics.mean(kept):.0f} bytes; its profile, where sessions know one, adds", end=" "
        )
        print(f"{others / max(1, len(bench.state) - len(kept)):.0f}; keys of {len(next(iter(bench.state)))} bytes")
        del bench
        gc.collect()


if __name__ == "__main__":
    gc.freeze()
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 1)
