"""What was measured: ways, the values of each round, and the ratios that are asked for."""

from __future__ import annotations

import gc
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal

Sense = Literal["at most", "at least"]


@dataclass
class Way:
    """One way to do it, with a value for each round. `is_ours`: it is eventrec's."""

    name: str
    values: list[float]
    is_ours: bool = False

    @property
    def median(self) -> float:
        """Of the rounds."""
        return statistics.median(self.values)


@dataclass
class Ratio:
    """What is asked for: the median of the rounds' ratios is `at most` or `at least` the `bound`."""

    name: str
    values: list[float]
    sense: Sense
    bound: float
    aim: str = ""

    @property
    def median(self) -> float:
        """Of the rounds."""
        return statistics.median(self.values)

    @property
    def is_met(self) -> bool:
        """Whether the median is on the right side of the bound."""
        return self.median <= self.bound if self.sense == "at most" else self.median >= self.bound


@dataclass
class Row:
    """One line of what eventrec must cost: ways in one `unit`, of which `better` are the better ones, and ratios.

    `left_out` says which peers are missing and why; `note` what the figures do not say.
    """

    name: str
    what: str
    unit: str
    better: Literal["lower", "higher"]
    ways: list[Way] = field(default_factory=list)
    ratios: list[Ratio] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    note: str = ""
    series: dict[str, list[tuple[float, float]]] = field(default_factory=dict)
    """Lines to draw instead of bars, by name."""

    def way(self, name: str) -> Way:
        """The way of that name."""
        return next(way for way in self.ways if way.name == name)

    def ask(
        self,
        name: str,
        ours: str,
        base: str,
        *,
        at_most: float | None = None,
        at_least: float | None = None,
        aim: str = "",
    ) -> None:
        """Ask that `ours` / `base`, within each round, is on that side of a bound; nothing where one is left out."""
        ways = {way.name: way.values for way in self.ways}
        if ours in ways and base in ways:
            each = [a / b for a, b in zip(ways[ours], ways[base], strict=True)]
            if at_most is not None:
                self.ratios.append(Ratio(name, each, "at most", at_most, aim))
            if at_least is not None:
                self.ratios.append(Ratio(name, each, "at least", at_least, aim))

    def to_json(self) -> dict[str, Any]:
        """Everything as plain values."""
        return {
            "name": self.name,
            "what": self.what,
            "unit": self.unit,
            "better": self.better,
            "ways": [
                {"name": way.name, "is_ours": way.is_ours, "median": way.median, "rounds": way.values}
                for way in self.ways
            ],
            "ratios": [
                {
                    "name": ratio.name,
                    "median": ratio.median,
                    "rounds": ratio.values,
                    "must": f"{ratio.sense} {ratio.bound:g}",
                    "aim": ratio.aim,
                    "is_met": ratio.is_met,
                }
                for ratio in self.ratios
            ],
            "left_out": self.left_out,
            "note": self.note,
            "series": self.series,
        }


Measure = Callable[[], float]


@dataclass(frozen=True)
class Plan:
    """How much to do: `rounds` of everything, and `scale` (1 or less) of the events of each."""

    rounds: int
    scale: float

    def events(self, most: int, *, least: int = 1) -> int:
        """Of `most` as many as the scale says."""
        return max(least, int(most * self.scale))


FULL: Final = Plan(rounds=7, scale=1.0)
QUICK: Final = Plan(rounds=3, scale=0.1)


def interleaved(row: Row, ways: Mapping[str, Measure], ours: Sequence[str], rounds: int) -> None:
    """Run every way once a round, every other round in the other order, and put the values into `row`.

    A way whose package is not installed, or whose server is not there, is left out, and said.
    """
    values: dict[str, list[float]] = {name: [] for name in ways}
    left_out: dict[str, str] = {}
    for number in range(rounds):
        for name in reversed(list(ways)) if number % 2 else list(ways):
            if name in left_out:
                continue
            gc.collect()
            try:
                values[name].append(ways[name]())
            except ImportError as exc:
                left_out[name] = str(exc)
    row.ways += [Way(name, each, name in ours) for name, each in values.items() if name not in left_out]
    row.left_out += [f"{name}: {why}" for name, why in left_out.items()]
