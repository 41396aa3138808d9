"""How a process may end: what was recorded is in the log or the database, once, and the end is bounded."""

import signal
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Protocol

import pytest

pytestmark = pytest.mark.xdist_group("processes")


class Site(Protocol):
    """See conftest.py."""

    def run(self, program: str, *arguments: str, code: int = 0, seconds: float = 120) -> str: ...
    def start(self, *command: str) -> "subprocess.Popen[str]": ...
    def logged(self) -> list[int]: ...
    def stored(self) -> list[int]: ...
    def drain(self) -> list[int]: ...


START = """
import asyncio, os, signal, sys, threading, time, atexit
from eventrec import EventRecorder, EventRecorderOptions, TransientError
from eventrec.testing.scripted import Numbered, ScriptedHandler, raising

LOG, URL = os.environ["LOG"], os.environ["URL"]
recorder = EventRecorder(URL, log=LOG, options=EventRecorderOptions(flush_interval=3600))

def record(numbers):
    for n in numbers:
        assert recorder.record(Numbered(n))
"""

# Each records 0…99 and ends; the exit code, and whether its own end delivers.
ENDS = {
    "normal": ("with recorder.sync(): record(range(100))", 0, True),
    "an exception": ("with recorder.sync():\n  record(range(100))\n  raise OSError('out of main')", 1, True),
    "sys.exit": ("with recorder.sync():\n  record(range(100))\n  sys.exit(3)", 3, True),
    "sys.exit in a thread": (
        """
with recorder.sync():
    def work():
        record(range(100))
        sys.exit(3)
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
""",
        0,
        True,
    ),
    "sync, never closed": ("delivering = recorder.sync()\ndelivering.open()\nrecord(range(100))", 0, True),
    "never opened": ("record(range(100))", 0, False),
    "never opened, the last in a callback at exit": (
        "record(range(50))\natexit.register(lambda: record(range(50, 100)))",
        0,
        False,
    ),
    "asyncio": (
        """
async def main():
    async with recorder:
        record(range(100))
asyncio.run(main())
""",
        0,
        True,
    ),
    "asyncio, never closed": (
        """
async def main():
    await recorder.open()
    record(range(100))
asyncio.run(main())
""",
        0,
        True,
    ),
    "asyncio, cancelled": (
        """
async def main():
    async with recorder:
        record(range(100))
        asyncio.current_task().cancel()
        asyncio.current_task().cancel()
        await asyncio.sleep(10)
try:
    asyncio.run(main())
except asyncio.CancelledError:
    pass
""",
        0,
        True,
    ),
    "asyncio, an exception": (
        """
async def main():
    async with recorder:
        record(range(100))
        raise OSError
asyncio.run(main())
""",
        1,
        True,
    ),
    "asyncio, Ctrl-C": (
        """
async def main():
    async with recorder:
        record(range(100))
        os.kill(os.getpid(), signal.SIGINT)
        await asyncio.sleep(10)
try:
    asyncio.run(main())
except KeyboardInterrupt:
    sys.exit(130)
""",
        130,
        True,
    ),
    "asyncio, the loop closed over it": (
        """
loop = asyncio.new_event_loop()
loop.run_until_complete(recorder.open())
loop.run_until_complete(asyncio.sleep(0.1))
tasks = asyncio.all_tasks(loop)
loop._ready.clear()
loop.close()
record(range(100))
os.environ["PYTHONWARNINGS"] = ""
import warnings
warnings.simplefilter("ignore")
for task in tasks:
    task._log_destroy_pending = False
""",
        0,
        False,
    ),
    "os._exit": (
        """
async def main():
    async with recorder:
        record(range(99))
        await recorder.record_durable(Numbered(99), until="written")
        os._exit(4)
asyncio.run(main())
""",
        4,
        False,
    ),
    "SIGKILL": (
        """
with recorder.sync() as delivering:
    record(range(99))
    delivering.record_durable(Numbered(99), until="written")
    os.kill(os.getpid(), signal.SIGKILL)
""",
        -signal.SIGKILL,
        False,
    ),
    "SIGTERM, nobody's": (
        """
with recorder.sync() as delivering:
    record(range(99))
    delivering.record_durable(Numbered(99), until="written")
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(10)
""",
        -signal.SIGTERM,
        False,
    ),
}


OFTEN = {"an exception", "sys.exit in a thread", "never opened", "asyncio, never closed", "asyncio, Ctrl-C", "os._exit"}
"""The other ones run in `nox -s faults`: each is a process and a second."""


@pytest.mark.parametrize("how", [pytest.param(how, marks=[] if how in OFTEN else pytest.mark.faults) for how in ENDS])
def test_whatever_ends_a_process_everything_is_stored_once(how: str, site: Site) -> None:
    program, code, is_delivered = ENDS[how]

    site.run(START + program, code=code)

    if is_delivered:
        assert site.stored() == list(range(100))
        assert site.logged() == []
    else:
        assert sorted(site.logged() or site.stored()) == list(range(100))
    assert site.drain() == list(range(100))


def test_a_loop_that_is_closed_over_what_follows_leaves_the_rest_to_the_next_process(site: Site) -> None:
    program = """
owner = recorder = EventRecorder(log=LOG)
writing = owner.sync()
writing.open()
record(range(50))
following = EventRecorder(URL, log=LOG, options=EventRecorderOptions(flush_interval=0.05, follow=True))
loop = asyncio.new_event_loop()
loop.run_until_complete(following.open())
async def followed():
    while sum(part["sqlite"].delivered for part in following.status().adopted.values()) < 50:
        await asyncio.sleep(0.01)
loop.run_until_complete(asyncio.wait_for(followed(), 60))
tasks = asyncio.all_tasks(loop)
loop._ready.clear()
loop.close()
record(range(50, 100))
os.environ["PYTHONWARNINGS"] = ""
import warnings
warnings.simplefilter("ignore")
for task in tasks:
    task._log_destroy_pending = False
writing.close()
"""
    rest = """
with recorder.sync() as rest:
    deadline = time.monotonic() + 60
    while rest.status().adopted or rest.status().left:
        assert time.monotonic() < deadline
        time.sleep(0.01)
"""

    site.run(START + program)
    site.run(START + rest)

    assert site.logged() == []
    assert site.stored() == list(range(100))


DOWN = """
recorder = EventRecorder(
    ScriptedHandler(always=raising(TransientError("down"))), log=LOG, options=EventRecorderOptions(close_timeout=0.5)
)
"""


@pytest.mark.parametrize(
    "program",
    [
        pytest.param("with recorder.sync(): record(range(100))", marks=pytest.mark.faults),
        "delivering = recorder.sync()\ndelivering.open()\nrecord(range(100))",
        pytest.param(
            "async def main():\n  async with recorder: record(range(100))\nasyncio.run(main())",
            marks=pytest.mark.faults,
        ),
        "async def main():\n  await recorder.open()\n  record(range(100))\nasyncio.run(main())",
    ],
    ids=["sync", "sync, never closed", "asyncio", "asyncio, never closed"],
)
def test_the_end_is_bounded_while_the_destination_is_down_and_the_rest_is_in_the_log(program: str, site: Site) -> None:
    clocked = "\nstarted = time.monotonic()\natexit.register(lambda: print(time.monotonic() - started))\n"

    said = site.run(START + DOWN + clocked + program)

    assert float(said.split()[-1]) < 4
    assert sorted(site.logged()) == list(range(100))


def test_a_handler_that_blocks_its_loop_does_not_hang_the_end(site: Site) -> None:
    said = site.run(
        START
        + """
import eventrec.sync
eventrec.sync._STOP_SECONDS = 0.2
recorder = EventRecorder(
    ScriptedHandler(always=lambda _: time.sleep(60)), log=LOG, options=EventRecorderOptions(close_timeout=0.1)
)
delivering = recorder.sync()
delivering.open()
record(range(100))
"""
    )

    assert "left behind at exit" in said
    assert sorted(site.logged()) == list(range(100))


NO_THREAD = """
import _thread

def refuse(*_):
    raise RuntimeError("can't start new thread")

start, _thread.start_new_thread = _thread.start_new_thread, refuse
"""


def test_without_a_thread_for_the_log_events_are_refused_and_counted_until_there_is_one(site: Site) -> None:
    said = site.run(
        START
        + NO_THREAD
        + """
assert not any(recorder.record(Numbered(n)) for n in range(1000, 1100))
status = recorder.status()
assert status.refused == {"no_writer": 100} and status.offered == 100 and status.is_balanced, status
_thread.start_new_thread = start
deadline = time.monotonic() + 60
while not recorder.record(Numbered(0)):
    assert time.monotonic() < deadline
    time.sleep(0.05)
record(range(1, 100))
"""
    )

    assert said.count("events refused in this process") == 1
    assert "can't start new thread" in said
    assert site.drain() == list(range(100))


def test_without_a_thread_for_the_log_opening_and_closing_say_so_and_do_not_hang(site: Site) -> None:
    site.run(
        START
        + NO_THREAD
        + """
from eventrec import LogError
assert not recorder.record(Numbered(0))
async def main():
    try:
        await recorder.open()
    except LogError as exc:
        assert "no thread to write the log" in str(exc), exc
    else:
        assert False
asyncio.run(main())
assert recorder.status().state == "closed" and recorder.status().is_balanced
"""
    )


def test_without_a_second_thread_the_first_one_syncs_too(site: Site) -> None:
    site.run(
        START
        + """
import _thread
start, starts = _thread.start_new_thread, []

def one_only(function, arguments):
    if function.__name__ == "_sync_until_closed":
        raise RuntimeError("can't start new thread")
    return start(function, arguments)

_thread.start_new_thread = one_only
recorder = EventRecorder(URL, log=LOG, options=EventRecorderOptions(sync_interval=0.05))
with recorder.sync() as delivering:
    record(range(99))
    assert delivering.record_durable(Numbered(99)) is not None
    log = recorder._life.writer.log
    assert log.synced == 100
    record(range(100, 200))
    deadline = time.monotonic() + 60
    while log.synced < 200:
        assert time.monotonic() < deadline
        time.sleep(0.01)
"""
    )

    assert site.drain() == list(range(200))


def test_what_a_finaliser_records_after_the_end_is_refused_and_raises_nothing(site: Site) -> None:
    said = site.run(
        START
        + """
class Late:
    def __del__(self, record=recorder.record, status=recorder.status, event=Numbered(7), write=os.write):
        taken = record(event)
        write(1, f"{taken} {status().refused}".encode())

late = Late()
late.itself = late
sys.modules["late"] = late
"""
    )

    assert said in {"False {'no_writer': 1}", "False {'closed': 1}"}


@pytest.mark.parametrize("kind", ["with a log", "without a log"])
def test_no_thread_is_started_at_the_end(kind: str, site: Site) -> None:
    """As from Python 3.12 on, where the interpreter refuses."""
    site.run(
        START
        + ("" if kind == "with a log" else "recorder = EventRecorder(URL)\n")
        + """
import _thread
delivering = recorder.sync()
delivering.open()
record(range(50))
assert delivering.flush(timeout=60)
started, ending = [], delivering._loop.ending

def refuse(*arguments):
    started.append(arguments)
    raise RuntimeError("can't create new thread at interpreter shutdown")

def forbid():
    _thread.start_new_thread = threading._start_new_thread = refuse

# Called last to first: no thread from here on, the end, and what came of it.
atexit.unregister(ending)
atexit.register(lambda: started and os._exit(9))
atexit.register(ending)
atexit.register(forbid)
record(range(50, 100))
"""
    )

    assert site.stored() == list(range(100))


@pytest.mark.faults
@pytest.mark.timeout(300)
def test_killed_at_chance_what_was_told_is_stored_once(site: Site, await_end: Callable[[object, float], str]) -> None:
    program = (
        START
        + """
with recorder.sync() as delivering:
    for n in range(1_000_000):
        delivering.record_durable(Numbered(n), until="written")
        os.write(1, f"{n}\\n".encode())
"""
    )
    for round_ in range(20):
        before = len(site.drain()) if round_ else 0
        process = site.start(sys.executable, "-c", program)
        time.sleep(0.8 + round_ * 0.02)
        process.kill()
        told = [line for line in await_end(process, 10).split("\n")[:-1] if line.isdigit()]

        assert len(site.drain()) - before >= len(told)
