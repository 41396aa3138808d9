"""Producers that only record, and processes that follow them: `follow_writer.py`, for kills at any moment.

Reads a life from each line of stdin, as JSON, starts it, and prints its process id. Each is a fork of this process,
which has imported everything, started nothing, and has one thread.
"""

from __future__ import annotations

import asyncio
import faulthandler
import mmap
import os
import signal
import sys
import traceback
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal

import anyio
import msgspec
import trio

from eventrec import Backoff, Event, EventRecorder, EventRecorderOptions
from eventrec_handlers import jsonl, postgres, sqlite

HANDLERS = {"sqlite": sqlite.from_url, "jsonl": jsonl.from_url, "postgresql": postgres.from_url}

recorders: list[EventRecorder] = []
"""Those of this process that follow."""

OPTIONS = EventRecorderOptions(
    batch_rows=50,
    flush_interval=0.005,
    write_interval=0.005,
    sync_interval=0.02,
    segment_bytes=4_000,
    retry=Backoff(first=0.01, max=0.1),
)


class Life(msgspec.Struct):
    """A producer of numbers for `url`'s follower to deliver, or a follower; until SIGTERM.

    A producer counts in the file `counts` what it offered, and what it was told is written. It delivers to `own`
    itself, if that is given, as another subscription.
    """

    role: Literal["producer", "follower"]
    log: str
    url: str
    name: str
    counts: str = ""
    own: str = ""
    backend: Literal["asyncio", "trio"] = "asyncio"


@dataclass(frozen=True)
class Made(Event):
    producer: str
    number: int

    @property
    def type(self) -> str:
        return "made"

    @property
    def payload(self) -> object:
        return {"producer": self.producer, "number": self.number}


async def produce(life: Life) -> None:
    counts = memoryview(mmap.mmap(os.open(life.counts, os.O_RDWR), 0)).cast("q")
    made = EventRecorder(log=life.log, options=OPTIONS)
    if life.own:
        made.register(jsonl.from_url(life.own), name="own")
    async with made as recorder:
        number = 0
        while True:
            for _ in range(20):
                counts[0] = number + 1
                recorder.record(Made(life.name, number))
                number += 1
            counts[0] = number + 1
            await recorder.record_durable(Made(life.name, number), until="written")
            number += 1
            counts[1] = number
            await anyio.sleep(0.01)


async def follow(life: Life) -> None:
    scheme = life.url.partition(":")[0]
    recorder = EventRecorder(log=life.log, options=OPTIONS.model_copy(update={"follow": True}))
    recorder.register(HANDLERS[scheme](life.url), name=scheme)
    recorders.append(recorder)
    async with recorder:
        await anyio.sleep_forever()


async def live(life: Life) -> None:
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(produce if life.role == "producer" else follow, life)
        with anyio.open_signal_receiver(signal.SIGTERM) as received:
            async for _ in received:
                tasks.cancel_scope.cancel()
                return


def show_stacks(*_: object) -> None:
    """Where each thread and each task of this process is, on stderr."""
    sys.stderr.write(f"--- process {os.getpid()}\n")
    sys.stderr.flush()
    faulthandler.dump_traceback(all_threads=True)
    with suppress(RuntimeError):
        for task in asyncio.all_tasks():
            show_awaited(task.get_name(), task.get_coro())
    with suppress(RuntimeError):
        nurseries = list(trio.lowlevel.current_root_task().child_nurseries)  # type: ignore[union-attr]
        while nurseries:
            for each in nurseries.pop().child_tasks:
                show_awaited(each.name, each.coro)
                nurseries += each.child_nurseries
    for recorder in recorders:
        sys.stderr.write(f"{recorder.status()!r}\n")
    sys.stderr.flush()


def show_awaited(name: str, awaited: Any) -> None:
    """Where a task is: from its coroutine down to what it waits for."""
    sys.stderr.write(f"{name}:\n")
    while awaited is not None:
        frame = getattr(awaited, "cr_frame", None) or getattr(awaited, "gi_frame", None)
        if frame is not None:
            sys.stderr.write(f"  {frame.f_code.co_filename}:{frame.f_lineno} {frame.f_code.co_qualname}\n")
        awaited = getattr(awaited, "cr_await", None) or getattr(awaited, "gi_yieldfrom", None)


def bury(*_: object) -> None:
    """Those that were killed, or ended in good order or before they could, without a word."""
    with suppress(ChildProcessError):
        while (found := os.waitpid(-1, os.WNOHANG))[0]:
            if (code := os.waitstatus_to_exitcode(found[1])) not in {0, -signal.SIGKILL, -signal.SIGTERM}:
                sys.stderr.write(f"--- process {found[0]} ended with {code}\n")


def main() -> None:
    signal.signal(signal.SIGCHLD, bury)
    for line in sys.stdin.buffer:
        life = msgspec.json.decode(line, type=Life)
        child = os.fork()
        if not child:
            _be_born(life)
        print(child, flush=True)


def _be_born(life: Life) -> Any:
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.signal(signal.SIGUSR1, show_stacks)
    try:
        anyio.run(live, life, backend=life.backend)
    except BaseException:  # noqa: BLE001 - the end of this process
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


if __name__ == "__main__":
    main()
