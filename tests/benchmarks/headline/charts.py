"""Rows as pictures: a bar for each way with the range of its rounds, ours in colour; one picture of all ratios."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import matplotlib as mpl

from measured import Ratio, Row

mpl.use("Agg")

from matplotlib import pyplot as plt

OURS, THEIRS, MISSED, LINE = "#1b6ca8", "#b5bdc6", "#c8553d", "#333333"
WIDTH: Final = 9.0
_SPREAD: Final = 30.0
"""From so many times on between the least and the most a scale is logarithmic."""


def draw(rows: Sequence[Row], directory: Path, subtitle: str) -> list[Path]:
    """Draw every row with something to show into `directory`, and all ratios; the files."""
    made = []
    for row in rows:
        if row.series:
            made.append(_lines(row, directory, subtitle))
        elif row.ways:
            made.append(_bars(row, directory, subtitle))
    ratios = [(row, ratio) for row in rows for ratio in row.ratios]
    if ratios:
        made.append(_ratios(ratios, directory, subtitle))
    return made


def number(value: float) -> str:
    """As few digits as say it."""
    if value >= 1_000_000:
        return f"{value / 1e6:.2f} M"
    if value >= 100:
        return f"{value:,.0f}"
    if value >= 1:
        return f"{value:.1f}" if value >= 10 else f"{value:.2f}"
    return f"{value:.3g}"


def _bars(row: Row, directory: Path, subtitle: str) -> Path:
    figure, axes = plt.subplots(figsize=(WIDTH, 1.5 + 0.5 * len(row.ways)), layout="constrained")
    ways = sorted(row.ways, key=lambda way: way.median, reverse=row.better == "lower")
    medians = [way.median for way in ways]
    ranges = [
        [median - min(way.values) for median, way in zip(medians, ways, strict=True)],
        [max(way.values) - median for median, way in zip(medians, ways, strict=True)],
    ]
    axes.barh(
        [textwrap.fill(way.name, 34) for way in ways],
        medians,
        xerr=ranges,
        color=[OURS if way.is_ours else THEIRS for way in ways],
        error_kw={"ecolor": LINE, "lw": 1, "capsize": 3},
        height=0.65,
    )
    least, most = min(medians), max(max(way.values) for way in ways)
    is_log = least > 0 and most / least > _SPREAD
    if is_log:
        axes.set_xscale("log")
        axes.set_xlim(least / 2.5, most * 3)
    else:
        axes.set_xlim(0, most * 1.18 or 1)
    for place, way in enumerate(ways):
        at = max(way.values) * (1.12 if is_log else 1) + (0 if is_log else most * 0.012)
        axes.text(at, place, number(way.median), va="center", fontsize=10, fontweight="bold" if way.is_ours else None)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}" if value >= 1 else f"{value:g}")
    scale = ", logarithmic" if is_log else ""
    axes.set_xlabel(f"{row.unit} ({row.better} is better{scale})")
    return _saved(figure, axes, row.what, subtitle, directory / f"{row.name}.png")


def _lines(row: Row, directory: Path, subtitle: str) -> Path:
    figure, axes = plt.subplots(figsize=(WIDTH, 3.6), layout="constrained")
    for name, points in row.series.items():
        axes.plot([at for at, _ in points], [value for _, value in points], color=OURS, lw=2, label=name)
    for ratio in row.ratios[:1]:
        axes.axhline(ratio.bound, color=MISSED, ls="--", lw=1)
        axes.text(0, ratio.bound, f" {ratio.sense} {ratio.bound:g}", va="bottom", color=MISSED)
    axes.set_ylim(bottom=0)
    axes.set_xlabel("seconds")
    axes.set_ylabel(row.unit)
    return _saved(figure, axes, row.what, subtitle, directory / f"{row.name}.png")


def _ratios(ratios: Sequence[tuple[Row, Ratio]], directory: Path, subtitle: str) -> Path:
    """How each ratio stands to its bound, on one scale: 1 is the bound, more is better."""
    named = [(f"{row.name}: {ratio.name}", ratio, standing(ratio)) for row, ratio in reversed(ratios)]
    figure, axes = plt.subplots(figsize=(WIDTH + 1, 1.6 + 0.36 * len(named)), layout="constrained")
    axes.barh(
        [textwrap.fill(name, 52) for name, _, _ in named],
        [each - 1 for _, _, each in named],
        left=1,
        color=[OURS if ratio.is_met else MISSED for _, ratio, _ in named],
        height=0.62,
    )
    axes.axvline(1, color=LINE, lw=1)
    axes.set_xscale("log")
    axes.set_xlim(0.2, 110)
    axes.set_xticks([0.25, 0.5, 1, 2, 4, 8, 16, 32], ["¼", "½", "1", "2", "4", "8", "16", "32"])
    axes.minorticks_off()
    axes.set_ylim(-0.7, len(named) - 0.3)
    for place, (_, ratio, each) in enumerate(named):
        said = f" {number(ratio.median)}  ({ratio.sense} {number(ratio.bound)})"
        axes.text(max(each, 1) * 1.05, place, said, va="center", fontsize=9)
    axes.set_xlabel("times as good as asked for: left of 1, in red, is a miss")
    axes.tick_params(axis="y", labelsize=9)
    return _saved(figure, axes, "What is asked for, and how it stands", subtitle, directory / "ratios.png")


def standing(ratio: Ratio) -> float:
    """How many times as good as its bound it is, between 1/4 and 32."""
    if not ratio.bound or not ratio.median:
        return 32.0 if ratio.is_met else 0.25
    times = ratio.bound / ratio.median if ratio.sense == "at most" else ratio.median / ratio.bound
    return min(32.0, max(0.25, times))


def _saved(figure: Any, axes: Any, title: str, subtitle: str, path: Path) -> Path:
    figure.suptitle(textwrap.fill(title, 84), x=0.01, ha="left", fontsize=12, fontweight="bold")
    figure.supxlabel(subtitle, x=0.01, ha="left", fontsize=7.5, color="#666666")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="x", color="#e6e6e6")
    axes.set_axisbelow(True)
    figure.savefig(path, dpi=130)
    plt.close(figure)
    return path
