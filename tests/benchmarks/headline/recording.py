"""Rows about `record()`: what a call costs, and what a burst leaves."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import bench_record
from measured import Plan, Ratio, Row, Way, interleaved

BURST = Path(__file__).with_name("burst.py")
PEERS = ("OpenTelemetry emit", "segment track", "posthog capture")


def record(plan: Plan) -> Row:
    """A call of `record()` beside the barest thing that does the same, and today's clients."""
    bench_record.EVENTS = plan.events(1_000_000)
    bench_record.PEER_EVENTS = plan.events(4_000, least=1_000)
    row = Row(
        name="record",
        what="one call of record(), on the loop's thread, a payload of 230 bytes",
        unit="µs an event",
        better="lower",
        note="The collector that segment and posthog send to is local and takes everything at once.",
    )
    events = bench_record.EVENTS
    of_struct = bench_record.CheckoutStruct(**bench_record.PAYLOAD)  # type: ignore[arg-type]
    ways = {
        bench_record.BASE: bench_record.barest,
        "record() of a dict": bench_record.record(bench_record.Checkout(), events),
        "record() of an EventStruct": bench_record.record(of_struct, events),
        "the same from 4 threads": bench_record.four_threads,
        **{name: bench_record.WAYS[name] for name in PEERS},
    }
    interleaved(row, ways, list(ways)[1:4], plan.rounds)
    for ours in ("record() of a dict", "record() of an EventStruct"):
        row.ask(f"{ours} / OpenTelemetry", ours, PEERS[0], at_most=1 / 8)
        row.ask(f"{ours} / segment", ours, PEERS[1], at_most=1 / 40)
        row.ask(f"{ours} / posthog", ours, PEERS[2], at_most=1 / 80)
    row.ask("record() of a dict / base", "record() of a dict", bench_record.BASE, at_most=2.2, aim="the aim")
    row.ask("4 threads / 1", "the same from 4 threads", "record() of a dict", at_most=1.2, aim="the aim: the same")
    return row


def model(plan: Plan) -> Row:
    """`record()` of a pydantic model beside what serializing it costs anyway."""
    bench_record.EVENTS = events = plan.events(1_000_000)
    row = Row("model", "record() of a built EventModel", "µs an event", "lower")
    made = bench_record.CheckoutModel.model_validate(bench_record.PAYLOAD)
    ours, base = "record() of an EventModel", "that model's own to_json"
    interleaved(
        row,
        {base: bench_record.model_to_json, ours: bench_record.record(made, events // 4)},
        [ours],
        plan.rounds,
    )
    row.ask("record() / to_json", ours, base, at_most=1.5)
    return row


def told(events: int, what: str, *arguments: object) -> dict[str, Any]:
    """What `burst.py` found in a process of its own."""
    command = [sys.executable, str(BURST), what, str(events), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode == 3:
        raise ImportError(done.stderr.strip().splitlines()[-1])
    if done.returncode:
        raise RuntimeError(done.stderr[-2_000:])
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def burst(plan: Plan) -> Row:
    """A burst without an await while nothing can be delivered: how much is still there."""
    ours, theirs = plan.events(1_000_000), plan.events(100_000, least=30_000)
    row = Row(
        name="burst",
        what=f"a burst on the loop's thread without an await: {ours:,} events with the destination down"
        f" (peers: {theirs:,}, with a local collector that takes everything)",
        unit="% kept",
        better="higher",
        note="OpenTelemetry's exporter is a function here, which takes everything at once: its best case.",
    )
    for name, module in (
        ("OpenTelemetry emit", "opentelemetry"),
        ("segment track", "segment"),
        ("posthog capture", "posthog"),
    ):
        try:
            import_module(module)
            found = told(theirs, module)
        except ImportError as exc:
            row.left_out.append(f"{name}: {exc}")
            continue
        row.ways.append(Way(name, [100 * found["kept"] / theirs]))
    found = told(ours, "eventrec", 0)
    row.ways.append(Way("record() with a log", [100 * found["kept"] / ours], is_ours=True))
    row.ratios.append(Ratio("lost of the burst", [float(ours - found["kept"])], "at most", 0))
    return row


def memory(plan: Plan) -> Row:
    """Memory while the destination stays down and recording goes on."""
    seconds = plan.events(60, least=15)
    row = Row(
        name="memory",
        what=f"memory above idle while the destination is down: a burst, then 5,000 events a second for {seconds} s",
        unit="MiB",
        better="lower",
    )
    found = told(plan.events(1_000_000), "eventrec", seconds)
    row.series["record() with a log"] = [(at, mib) for at, mib in found["memory"]]
    row.ways.append(Way("most", [found["most"]], is_ours=True))
    row.ways.append(Way("at the end", [found["memory"][-1][1]], is_ours=True))
    row.ratios.append(Ratio("most above idle, MiB", [found["most"]], "at most", 200))
    half = [mib for at, mib in found["memory"] if at > seconds / 2]
    row.ratios.append(Ratio("growth over the second half, MiB", [max(half) - half[0]], "at most", 16, "flat"))
    return row
