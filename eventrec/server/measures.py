"""What the server has done, in numbers: requests, seconds, bytes, events, by route."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from typing import Final

BOUNDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
"""Seconds: the upper bounds of the histogram's buckets, of which the last has none."""

UNKNOWN: Final = "unknown"
"""The route of a request for a path that is none of ours, and a method that is not HTTP's: a client has many such."""

_METHODS: Final = frozenset({"GET", "HEAD", "OPTIONS", "POST", "PUT", "PATCH", "DELETE"})


class ServerMeasures:
    """Counts on the loop's thread; they only rise, except `in_progress`.

    Attributes:
        requests: Requests that were answered, by route, method and status.
        bytes_in: Bytes of bodies that have come, by route.
        bytes_out: Bytes of bodies that were sent, by route.
        taken: Events that were taken, by route.
        refused: Events that were not, by route.
        seconds: By route: how many requests fell into each bucket.
        seconds_sum: By route: how long they took together.
        cut_off: Connections that were refused or cut off, by reason.
        in_progress: Requests that are being answered.
    """

    def __init__(self) -> None:
        self.requests: Counter[tuple[str, str, int]] = Counter()
        self.bytes_in: Counter[str] = Counter()
        self.bytes_out: Counter[str] = Counter()
        self.taken: Counter[str] = Counter()
        self.refused: Counter[str] = Counter()
        self.seconds: dict[str, list[int]] = {}
        self.seconds_sum: dict[str, float] = {}
        self.cut_off: Counter[str] = Counter()
        self.in_progress = 0

    def count_request(
        self, route: str, method: str, status: int, *, seconds: float, bytes_in: int, bytes_out: int
    ) -> None:
        """A request was answered."""
        self.requests[route, method if method in _METHODS else UNKNOWN, status] += 1
        self.bytes_in[route] += bytes_in
        self.bytes_out[route] += bytes_out
        self.seconds.setdefault(route, [0] * (len(BOUNDS) + 1))[bisect_left(BOUNDS, seconds)] += 1
        self.seconds_sum[route] = self.seconds_sum.get(route, 0.0) + seconds

    def count_cut_off(self, reason: str) -> None:
        """A connection was refused or cut off."""
        self.cut_off[reason] += 1

    def count_events(self, route: str, *, taken: int = 0, refused: int = 0) -> None:
        """Events of one request were taken, or not."""
        self.taken[route] += taken
        self.refused[route] += refused
