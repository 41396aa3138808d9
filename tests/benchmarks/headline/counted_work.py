"""The work whose instructions are counted, run under callgrind by `instructions.py`: `counted_work.py`."""

from __future__ import annotations

import gc
import os
import shutil
import subprocess
import sys
from collections import deque
from collections.abc import Callable
from uuid import UUID

import msgspec

import bench_record
from eventrec import Batch, Event
from eventrec.events.encoder import Encoder
from eventrec.log.log import Log
from eventrec.records.content import encode_take
from eventrec.testing.storage import MemoryStorage

CONTROL = shutil.which("callgrind_control") or "callgrind_control"
ROUNDS = 1_000
BATCHES = 20


def works() -> dict[str, tuple[Callable[[], object], int]]:
    """What to do again and again, and how often."""
    recorder = bench_record.recorder_of_all()
    event: Event = bench_record.Checkout()
    struct = bench_record.CheckoutStruct(**bench_record.PAYLOAD)  # type: ignore[arg-type]
    model = bench_record.CheckoutModel.model_validate(bench_record.PAYLOAD)
    log = Log.create(MemoryStorage())
    records = [b"x" * 250] * 100
    encode = Encoder().encode
    entries = [entry for _ in range(1_000) if isinstance(entry := encode(event), tuple)]

    def append() -> None:
        log.append(records)
        log.write()

    def rows_of_a_batch() -> int:
        batch = Batch(
            log_id=UUID(int=7), subscription="bench", start=0, end=1_000, offsets=range(1_000), entries=entries
        )
        return sum(len(request.rows) for request in batch.row_inserts())

    queue: deque[bytes] = deque()
    to_bytes = msgspec.json.Encoder().encode
    to_json = bench_record.CheckoutModel.__pydantic_serializer__.to_json

    return {
        "deque.append + msgspec.json": (lambda: queue.append(to_bytes(bench_record.PAYLOAD)), ROUNDS),
        "a model's own to_json": (lambda: to_json(model), ROUNDS),
        "record() of a dict": (lambda: recorder.record(event), ROUNDS),
        "record() of an EventStruct": (lambda: recorder.record(struct), ROUNDS),
        "record() of an EventModel": (lambda: recorder.record(model), ROUNDS),
        "append and write 100 records": (append, BATCHES),
        "encode a take of 1,000 records": (lambda: list(encode_take(entries, UUID(int=7), written=0)), BATCHES),
        "rows of a batch of 1,000": (rows_of_a_batch, BATCHES),
    }


def control(*arguments: str) -> None:
    """Tell callgrind."""
    command = [CONTROL, *arguments, str(os.getpid())]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def main() -> None:
    """Do each of it twice: the second time double as often, so that what stands around it can be taken away."""
    gc.disable()
    for number, (name, (work, times)) in enumerate(works().items()):
        print(f"{number} {times} {name}", flush=True)
        for _ in range(20):
            work()
        for factor in (1, 2):
            control("-i", "on")
            for _ in range(times * factor):
                work()
            control("-i", "off")
            control("-d", f"part_{number}_{factor}")
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
