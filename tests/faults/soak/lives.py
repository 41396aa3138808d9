"""Lives told on stdin, each a fork of this process: so a life costs what it does, not what Python's start does.

The process has imported everything, started nothing, and has one thread.
"""

from __future__ import annotations

import os
import select
import signal
import sys
import time
import traceback
from collections.abc import Callable
from typing import TypeVar

import msgspec

L = TypeVar("L")


def answer_lives(kind: type[L], answer: Callable[[L], msgspec.Struct]) -> None:
    """For each line of stdin, a `kind` as JSON, a line with what `answer` says of it, until stdin ends."""
    for line in sys.stdin.buffer:
        death = answer(msgspec.json.decode(line, type=kind))
        sys.stdout.buffer.write(msgspec.json.encode(death) + b"\n")
        sys.stdout.buffer.flush()


def live_and_die(live: Callable[[], object], *, seconds: float | None, patience: float) -> tuple[int, float]:
    """Call `live` in a fork, which is killed `seconds` after its birth. Its exit code, negative for a signal, and age.

    On return the children that it had are gone too: what lies on the disk is at rest. They have `patience` seconds.
    """
    end, alive = os.pipe()
    born = time.monotonic()
    child = os.fork()
    if not child:
        _live_and_exit(live)
    os.close(alive)
    # The other end is closed when the child is gone, however it went.
    if not select.select([end], [], [], seconds)[0]:
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    assert select.select([end], [], [], patience)[0], f"a child of {live} lives on"
    os.close(end)
    return os.waitstatus_to_exitcode(status), time.monotonic() - born


def _live_and_exit(live: Callable[[], object]) -> None:
    try:
        live()
    except BaseException:  # noqa: BLE001 - the end of this process
        traceback.print_exc()
        os._exit(1)
    os._exit(0)
