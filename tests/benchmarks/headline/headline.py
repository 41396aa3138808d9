"""The rows that eventrec is held to, with its peers in the same run: `nox -s bench [-- --quick]`.

    python tests/benchmarks/headline/headline.py [--quick] [--only record,append] [--output DIR]

Writes `results.md`, `results.json` and a picture for each row into DIR (`.nox/bench`, which git ignores), and prints
the Markdown. Nothing here fails because a figure is bad.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).parents[3]
sys.path.insert(1, str(Path(__file__).parents[1]))  # the scripts that measure one thing each

from measured import FULL, QUICK, Plan, Row  # noqa: E402 - the scripts come first

Measures = Callable[[Plan], Row | Sequence[Row]]


def measures() -> dict[str, Measures]:
    """The rows, in their order, by the names that `--only` knows."""
    import delivering  # noqa: PLC0415 - what a client measures with, only where it is asked for
    import recording  # noqa: PLC0415
    import storing  # noqa: PLC0415
    from instructions import instructions  # noqa: PLC0415

    return {
        "record": recording.record,
        "model": recording.model,
        "burst": recording.burst,
        "memory": recording.memory,
        "append": storing.append,
        "durable": storing.durable,
        "postgres": delivering.postgres,
        "sqlite": delivering.sqlite,
        "loop": delivering.loop_lag,
        "open": storing.opening,
        "backlog": storing.backlog,
        "read": storing.reading,
        "instructions": lambda _: instructions(),
    }


def markdown(found: dict[str, Any], rows: Sequence[Row]) -> str:
    """All of it for people."""
    machine, (before, after) = found["machine"], found["noise_ms"]
    about = (
        f"{machine['at']}; {machine['processor']}, {machine['cores']} cores, {machine['memory_gib']} GiB;"
        f" {machine['system']}; {machine['python']}; {machine['file_system']}; a sync of 4 KiB takes"
        f" {machine['fdatasync_ms']} ms. Load before: {machine['load_before']}. A fixed piece of Python took"
        f" {before:.2f} ms before and {after:.2f} ms after: where these differ, so may figures of different rows."
        f" {found['plan'].capitalize()}."
    )
    lines = [
        "# What eventrec costs",
        "",
        about,
        "",
        f"Versions: {', '.join(f'{name} {number}' for name, number in machine['versions'].items())}.",
        "",
        "![ratios](ratios.png)",
    ]
    for row in rows:
        lines += ["", f"## {row.name}: {row.what}", ""]
        if row.ways:
            lines += [f"| way | {row.unit}, median | range |", "| --- | ---: | ---: |"]
            lines += [
                f"| {'**' * way.is_ours}{way.name}{'**' * way.is_ours} | {way.median:,.4g} |"
                f" {min(way.values):,.4g} – {max(way.values):,.4g} |"
                for way in row.ways
            ]
        if row.ratios:
            lines += ["", "| asked for | must | median | range | |", "| --- | ---: | ---: | ---: | --- |"]
            lines += [
                f"| {ratio.name} | {ratio.sense} {ratio.bound:.4g}{f' ({ratio.aim})' if ratio.aim else ''} |"
                f" {ratio.median:.4g} | {min(ratio.values):.4g} – {max(ratio.values):.4g} |"
                f" {'met' if ratio.is_met else '**missed**'} |"
                for ratio in row.ratios
            ]
        lines += ["", *(f"Left out: {each}." for each in row.left_out)] if row.left_out else []
        lines += ["", row.note] if row.note else []
        if row.ways or row.series:
            lines += ["", f"![{row.name}]({row.name}.png)"]
    return "\n".join(lines) + "\n"


def main(arguments: list[str]) -> None:
    """Measure, write, print."""
    parser = argparse.ArgumentParser(prog="bench", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="a tenth of the events, three rounds: some three minutes")
    parser.add_argument("--only", default="", metavar="ROWS", help="names of rows, with commas between them")
    parser.add_argument("--output", type=Path, default=ROOT / ".nox" / "bench", metavar="DIR", help="(.nox/bench)")
    given = parser.parse_args(arguments)
    logging.getLogger("eventrec").setLevel(logging.CRITICAL)
    plan = QUICK if given.quick else FULL
    from charts import draw  # noqa: PLC0415 - matplotlib is in the environment of the benchmarks alone
    from machine import describe, fixed_work_ms  # noqa: PLC0415

    known = measures()
    wanted = [name for name in given.only.split(",") if name] or list(known)
    if unknown := set(wanted) - set(known):
        parser.error(f"no row {sorted(unknown)}; there are {list(known)}")
    machine, before = describe(Path(tempfile.gettempdir())), fixed_work_ms()
    rows: list[Row] = []
    for name in wanted:
        start = time.perf_counter()
        measured = known[name](plan)
        rows += [measured] if isinstance(measured, Row) else measured
        print(f"{name}: {time.perf_counter() - start:.1f} s", file=sys.stderr, flush=True)
    said = f"{plan.rounds} interleaved rounds, {'a tenth of' if given.quick else 'all'} the events"
    found = {"machine": machine, "noise_ms": [before, fixed_work_ms()], "plan": said}
    given.output.mkdir(parents=True, exist_ok=True)
    subtitle = f"{machine['at']} · {machine['processor']} · {machine['python']} · {said}; median, range of the rounds"
    draw(rows, given.output, subtitle)
    (given.output / "results.json").write_text(
        json.dumps({**found, "rows": [row.to_json() for row in rows]}, indent=1), encoding="utf-8"
    )
    text = markdown(found, rows)
    (given.output / "results.md").write_text(text, encoding="utf-8")
    print(text)
    print(f"written to {given.output}: results.md, results.json, and a picture for each row")


if __name__ == "__main__":
    main(sys.argv[1:])
