"""Children: each writes a log of its own, delivers it or leaves it, and keeps nothing of its parent's."""

import sys
from pathlib import Path
from typing import Protocol

import pytest

pytestmark = [
    pytest.mark.skipif(sys.platform == "win32", reason="os.fork"),
    pytest.mark.xdist_group("processes"),
]


class Site(Protocol):
    """See conftest.py."""

    directory: Path

    def run(self, program: str, *arguments: str, code: int = 0, seconds: float = 120) -> str: ...
    def logged(self) -> list[int]: ...
    def stored(self) -> list[int]: ...
    def drain(self) -> list[int]: ...


START = """
import asyncio, atexit, ctypes, gc, multiprocessing, os, signal, sys, threading, time
from pathlib import Path
from eventrec import EventRecorder, EventRecorderOptions, SubscriptionError, TransientError
from eventrec.runs.directory import list_runs
from eventrec.runs.run_folder import is_locked
from eventrec.testing.scripted import Numbered, ScriptedHandler, raising

LOG, URL = Path(os.environ["LOG"]), os.environ["URL"]
OPTIONS = EventRecorderOptions(flush_interval=0.05)

def record(numbers, into=None):
    for n in numbers:
        assert (into or recorder).record(Numbered(n))

def join(child, code=0):
    ended = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert ended == code, f"the child's status is {ended}"

def until(condition, seconds=60):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)
"""

CHILDREN = {
    "made before, opened in both": """
recorder = EventRecorder(URL, log=LOG, options=OPTIONS)
child = os.fork()
with recorder.sync():
    record(range(50) if child else range(50, 100))
if child:
    join(child)
""",
    "open in the parent, opened again in the child": """
recorder = EventRecorder(URL, log=LOG, options=OPTIONS)
delivering = recorder.sync()
delivering.open()
record(range(25))
assert delivering.flush(timeout=60)
handler = recorder._subscriptions["sqlite"].handler
child = os.fork()
if child == 0:
    record(range(25, 50))
    delivering.open()
    assert recorder._subscriptions["sqlite"].handler is not handler
    record(range(50, 75))
    assert delivering.flush(timeout=60)
    assert delivering.status().is_balanced and delivering.status().offered == 50
    sys.exit()
join(child)
record(range(75, 100))
assert delivering.flush(timeout=60)
""",
    "open in the parent, not in the child, which leaves the block": """
recorder = EventRecorder(URL, log=LOG, options=OPTIONS)
with recorder.sync() as delivering:
    record(range(50))
    assert delivering.flush(timeout=60)
    child = os.fork()
    if child == 0:
        record(range(50, 75))
if child == 0:
    sys.exit()
join(child)
assert not recorder.record(Numbered(1))
recorder = EventRecorder(URL, log=LOG, options=OPTIONS)
record(range(75, 100))
""",
    "forked out of a coroutine, with a loop of its own": """
recorder = EventRecorder(URL, log=LOG, options=OPTIONS)
async def child_main():
    async with recorder:
        record(range(75, 100))
async def main():
    async with recorder:
        record(range(50))
        child = os.fork()
        if child == 0:
            record(range(50, 75))
            asyncio.run(child_main())
            os._exit(7)  # Not by sys.exit: that would end in the parent's loop, which shares its epoll with this one.
        await asyncio.to_thread(join, child, 7)
asyncio.run(main())
""",
    "recorded to and not opened, forked while the log is being made": """
recorder = EventRecorder(URL, log=LOG, options=OPTIONS)
record([0])
children = [os.fork()]
if children[0] == 0:
    record(range(1, 50))
    sys.exit()
record(range(50, 100))
join(children[0])
""",
    "a grandchild": """
recorder = EventRecorder(URL, log=LOG, options=OPTIONS)
record(range(30))
child = os.fork()
if child == 0:
    record(range(30, 60))
    grandchild = os.fork()
    if grandchild == 0:
        record(range(60, 100))
        sys.exit()
    join(grandchild)
    sys.exit()
join(child)
""",
    "forked in C, without a hook": """
fork = ctypes.PyDLL(None).fork
recorder = EventRecorder(URL, log=LOG, options=OPTIONS)
# Left in the queue at the fork, as by a writer that is about to come: its parent's alone. With a thread in the parent,
# Python itself might not survive a fork that it is not told of.
import _thread
start, _thread.start_new_thread = _thread.start_new_thread, lambda *_: None
record(range(10))
_thread.start_new_thread = start
sys.setswitchinterval(1e-6)
child = fork()
if child == 0:
    threads = [threading.Thread(target=record, args=[range(n, n + 10)]) for n in range(10, 100, 10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert recorder.status().offered == 90 and recorder.status().is_balanced, recorder.status()
    sys.exit()
join(child)
start(recorder._life.writer._write_until_closed, ())
""",
}


@pytest.mark.parametrize("how", CHILDREN)
def test_what_parent_and_child_recorded_is_stored_once(how: str, site: Site) -> None:
    site.run(START + CHILDREN[how])

    assert site.drain() == list(range(100))


def test_the_log_of_a_parent_that_dies_is_an_orphan_at_once_though_its_child_lives(site: Site) -> None:
    site.run(
        START
        + """
out, in_ = os.pipe()
wait, go = os.pipe()
parent = os.fork()
if parent == 0:
    # It forks over and over while its logs are made.
    recorders = []
    for n in range(20):
        recorders.append(EventRecorder(log=LOG))
        recorders[-1].record(Numbered(n))
        child = os.fork()
        if child == 0:
            os.write(in_, b"x")
            os.read(wait, 1)
            os._exit(0)
    until(lambda: all(each._life.writer.log and each._life.writer.log.written for each in recorders))
    assert all(is_locked(LOG, run) for run in list_runs(LOG))
    os.kill(os.getpid(), signal.SIGKILL)
join(parent, -signal.SIGKILL)
for _ in range(20):
    os.read(out, 1)
locked = [is_locked(LOG, run) for run in list_runs(LOG)]
os.write(go, b"x" * 20)
assert locked == [False] * 20, locked
"""
    )

    assert site.drain() == list(range(20))


def test_what_a_parent_adopted_is_an_orphan_again_as_soon_as_it_dies(site: Site) -> None:
    site.run(
        START
        + """
out, in_ = os.pipe()
wait, go = os.pipe()
recorder = EventRecorder(log=LOG)
record(range(10))
asyncio.run(recorder.close())
parent = os.fork()
if parent == 0:
    down = ScriptedHandler(always=raising(TransientError("down")))
    recorder = EventRecorder(down, log=LOG, options=OPTIONS)
    delivering = recorder.sync()
    delivering.open()
    record([10])
    until(lambda: delivering.status().adopted and delivering.status().appended)
    if os.fork() == 0:
        os.write(in_, b"x")
        os.read(wait, 1)
        os._exit(0)
    os.read(out, 1)
    os.kill(os.getpid(), signal.SIGKILL)
join(parent, -signal.SIGKILL)
locked = [is_locked(LOG, run) for run in list_runs(LOG)]
os.write(go, b"x")
assert locked == [False, False], locked
"""
    )

    assert sorted(site.logged()) == list(range(11))


def test_a_handler_that_was_opened_before_the_fork_is_refused_by_name_and_the_child_records_on(site: Site) -> None:
    site.run(
        START
        + """
handler = ScriptedHandler()
recorder = EventRecorder(handler, log=LOG, options=OPTIONS)
delivering = recorder.sync()
delivering.open()
child = os.fork()
if child == 0:
    record(range(50))
    try:
        delivering.open()
    except SubscriptionError as exc:
        assert "'ScriptedHandler'" in str(exc) and "URL" in str(exc), exc
    else:
        assert False
    record(range(50, 100))
    sys.exit()
join(child)
until(lambda: sorted(handler.delivered) == list(range(100)))
delivering.close()
assert handler.closed == 1
"""
    )

    assert site.drain() == []


def test_a_child_leaves_the_live_logs_to_its_parent_that_follows_them(site: Site) -> None:
    site.run(
        START
        + """
recorder = EventRecorder(log=LOG, options=OPTIONS)
writing = recorder.sync()
writing.open()
record(range(25))
following = EventRecorder(URL, log=LOG, options=EventRecorderOptions(flush_interval=0.05, follow=True))
delivering = following.sync()
delivering.open()
followed = lambda: sum(part["sqlite"].delivered for part in delivering.status().adopted.values())
until(lambda: followed() == 25)
child = os.fork()
if child == 0:
    record(range(25, 50))
    assert following.status().adopted == {}
    sys.exit()
join(child)
record(range(50, 100))
until(lambda: followed() >= 75)
writing.close()
delivering.close()
with EventRecorder(URL, log=LOG, options=OPTIONS).sync() as rest:
    until(lambda: not rest.status().adopted and not rest.status().left)
"""
    )

    assert site.logged() == []
    assert site.stored() == list(range(100))


def test_a_child_neither_finalizes_nor_closes_what_its_parent_opened(site: Site) -> None:
    said = site.run(
        START
        + """
class Connection:
    def __del__(self, write=os.write):
        write(1, b"finalized")

class Handler(ScriptedHandler):
    async def open(self):
        self.connection = Connection()
    async def close(self):
        assert os.getpid() == home

home = os.getpid()
# Without a log, so without a thread whose frame would keep it alive in the child.
recorder = EventRecorder(Handler(), options=OPTIONS)
loop = asyncio.new_event_loop()
loop.run_until_complete(recorder.open())
record([0])
assert loop.run_until_complete(recorder.flush(timeout=60))
child = os.fork()
if child == 0:
    del recorder, loop
    gc.collect()
    sys.exit()
join(child)
os._exit(0)
"""
    )

    assert said == ""


def test_without_a_log_a_child_refuses_with_one_warning_until_it_opens(site: Site) -> None:
    said = site.run(
        START
        + """
recorder = EventRecorder(URL, options=OPTIONS)
delivering = recorder.sync()
delivering.open()
record(range(50))
assert delivering.flush(timeout=60)
child = os.fork()
if child == 0:
    assert not recorder.record(Numbered(7)) and not recorder.record(Numbered(8))
    assert recorder.status().refused == {"forked": 2}
    delivering.open()
    record(range(50, 100))
    assert delivering.close().is_balanced
    assert recorder.status().offered == 52
    sys.exit()
join(child)
"""
    )

    assert said.count("events refused in this process") == 1
    assert site.stored() == list(range(100))


def test_without_a_log_and_not_opened_a_child_is_as_new(site: Site) -> None:
    site.run(
        START
        + """
recorder = EventRecorder(URL, options=OPTIONS)
record(range(50))
child = os.fork()
if child == 0:
    record(range(50, 75))
with recorder.sync():
    record(range(75, 100) if child == 0 else [])
if child:
    join(child)
"""
    )

    assert site.stored() == list(range(100))


POOL = (
    START
    + """
recorder = EventRecorder(URL, log=LOG, options=OPTIONS)
delivering = recorder.sync()

def work(n):
    record([n])
    return os.getpid()

def start():
    delivering.open()

if __name__ == "__main__":
    context = multiprocessing.get_context(sys.argv[1])
    record([60])
    if sys.argv[2] == "parent delivers":
        delivering.open()
    initializer = start if sys.argv[2] == "children deliver" else None
    with context.Pool(2, initializer, maxtasksperchild=10) as pool:
        pids = set(pool.map(work, range(60), chunksize=1))
        pool.close()
        pool.join()
    assert len(pids) >= 6, pids
    if sys.argv[2] == "parent delivers":
        until(lambda: len(list_runs(LOG)) == 1, seconds=20)
"""
)


@pytest.mark.parametrize(
    ("method", "who"),
    [
        ("fork", "parent delivers"),
        pytest.param("fork", "children deliver", marks=pytest.mark.faults),
        pytest.param("fork", "nobody delivers", marks=pytest.mark.faults),
        pytest.param("spawn", "parent delivers", marks=pytest.mark.faults),
        pytest.param("spawn", "nobody delivers", marks=pytest.mark.faults),
        pytest.param("forkserver", "nobody delivers", marks=pytest.mark.faults),
    ],
)
def test_a_pool_whose_workers_leave_after_some_tasks_loses_nothing(method: str, who: str, site: Site) -> None:
    site.run(POOL, method, who, seconds=50)

    if who == "parent delivers":
        assert site.logged() == []
    assert site.drain() == list(range(61))


@pytest.mark.parametrize("method", ["fork", pytest.param("spawn", marks=pytest.mark.faults)])
def test_what_a_process_of_multiprocessing_records_last_is_written(method: str, site: Site) -> None:
    site.run(
        START
        + """
recorder = EventRecorder(URL, log=LOG)

if __name__ == "__main__":
    process = multiprocessing.get_context(sys.argv[1]).Process(target=record, args=[range(100)])
    process.start()
    process.join()
    assert process.exitcode == 0
""",
        method,
    )

    assert site.drain() == list(range(100))
