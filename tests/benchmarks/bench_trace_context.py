"""What the option `trace_context` adds to `record()`, in CPU of this process, in turns.

python tests/benchmarks/bench_trace_context.py [ROUNDS]
"""

from __future__ import annotations

import logging
import statistics
import sys
import time
from contextlib import nullcontext

from opentelemetry.sdk.trace import TracerProvider

from eventrec import EventRecorder, EventRecorderOptions, EventStruct

EVENTS = 20_000
TRACER = TracerProvider(shutdown_on_exit=False).get_tracer("bench")


class Asked(EventStruct):
    """About 230 bytes."""

    number: int
    text: str


def cost(*, option: bool, span: bool) -> float:
    """Microseconds of CPU for each event."""
    options = EventRecorderOptions(trace_context=option, queue_events=EVENTS, queue_bytes=1 << 30)
    recorder = EventRecorder("memory:", options=options)
    record, event = recorder.record, Asked(1, "x" * 200)
    with TRACER.start_as_current_span("bench") if span else nullcontext():
        start = time.process_time()
        for _ in range(EVENTS):
            record(event)
        return (time.process_time() - start) / EVENTS * 1e6


def main() -> None:
    """Print the median of each way."""
    logging.getLogger("eventrec").setLevel(logging.ERROR)  # each recorder says that it was never opened
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 7
    ways = [(option, span) for option in (False, True) for span in (False, True)]
    found: dict[tuple[bool, bool], list[float]] = {way: [] for way in ways}
    for _ in range(rounds):
        for option, span in ways:
            found[option, span].append(cost(option=option, span=span))
    for (option, span), costs in found.items():
        where = "inside a span" if span else "outside"
        print(f"option {'on ' if option else 'off'} {where:14} {statistics.median(costs):6.2f} us of CPU an event")


if __name__ == "__main__":
    main()
