"""The page about servers, file by file, under the servers themselves."""

import importlib.util
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Protocol

import pytest

pytestmark = [
    pytest.mark.skipif(sys.platform == "win32", reason="these servers run on POSIX"),
    pytest.mark.xdist_group("processes"),  # each is several of them, and looks at the clock
]

BIN = Path(sys.executable).parent


class Site(Protocol):
    """See conftest.py."""

    directory: Path
    log: Path
    url: str

    def run(self, program: str, *arguments: str, code: int = 0, seconds: float = 120) -> str: ...
    def start(self, *command: str | Path) -> "subprocess.Popen[str]": ...
    def write_page(self) -> None: ...
    def logged(self) -> list[int]: ...
    def stored(self) -> list[int]: ...
    def drain(self) -> list[int]: ...


class Server(Protocol):
    """See conftest.py."""

    process: "subprocess.Popen[str]"

    def order(self, number: int) -> int: ...
    def terminate(self, seconds: float = 120) -> str: ...


Serve = Callable[..., Server]


def needs(module: str) -> pytest.MarkDecorator:
    found = importlib.util.find_spec(module) is not None
    return pytest.mark.skipif(not found, reason=f"{module} is not installed: it has no wheel for every Python")


def until(condition: Callable[[], object], seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


# -- uvicorn


def test_uvicorn_delivers_before_it_ends_by_sigterm(serve: Serve, site: Site) -> None:
    server = serve(BIN / "uvicorn", "web:app", "--port", "PORT")

    for n in range(50):
        server.order(n)
    server.terminate()

    assert site.stored() == list(range(50))
    assert list(site.log.iterdir()) == []


@pytest.mark.faults
def test_uvicorn_with_two_workers_of_which_one_is_killed_stores_everything_once(serve: Serve, site: Site) -> None:
    server = serve(BIN / "uvicorn", "web:app", "--port", "PORT", "--workers", "2")

    pids = {server.order(n) for n in range(100)}
    time.sleep(1)  # see below
    os.kill(pids.pop(), signal.SIGKILL)
    until(lambda: len(site.stored()) == 100)
    server.terminate()

    assert site.drain() == list(range(100))


# -- gunicorn


@needs("gunicorn")
def test_gunicorn_with_preload_stores_what_arbiter_and_workers_record(serve: Serve, site: Site) -> None:
    shop = site.directory / "shop.py"
    shop.write_text(shop.read_text("utf-8") + "\nrecorder.record(OrderPlaced(number=1000))\n", "utf-8")
    server = serve(BIN / "gunicorn", "shop:application", "--bind", "127.0.0.1:PORT")

    for n in range(50):
        server.order(n)
    server.terminate()

    assert set(range(50)) <= {*site.stored()}
    assert site.drain() == [*range(50), 1000]


@needs("gunicorn")
def test_the_log_of_a_gunicorn_worker_that_is_killed_is_delivered_by_another(serve: Serve, site: Site) -> None:
    server = serve(BIN / "gunicorn", "shop:application", "--bind", "127.0.0.1:PORT")

    killed = {server.order(n) for n in range(50)}.pop()
    time.sleep(1)  # The promise is about what was recorded 20 ms ago, where the machine lets its writer run.
    os.kill(killed, signal.SIGKILL)
    until(lambda: site.stored() == list(range(50)))
    assert server.order(50) != killed
    server.terminate()

    assert site.drain() == list(range(51))


@pytest.mark.faults
@needs("gunicorn")
@pytest.mark.parametrize("preload", [True, False])
def test_gunicorn_workers_that_leave_after_some_requests_lose_nothing(
    preload: bool,  # noqa: FBT001 - a parameter of the test
    serve: Serve,
    site: Site,
) -> None:
    settings = site.directory / "gunicorn.conf.py"
    settings.write_text(settings.read_text("utf-8").replace("preload_app = True", f"preload_app = {preload}"), "utf-8")
    server = serve(BIN / "gunicorn", "shop:application", "--bind", "127.0.0.1:PORT", "--max-requests", "20")

    pids, ordered = set[int](), 0
    deadline = time.monotonic() + 30
    while ordered < 100:
        assert time.monotonic() < deadline
        with suppress(OSError):  # A worker may leave with a connection in its hand.
            pids.add(server.order(ordered))
            ordered += 1
    server.terminate()

    assert len(pids) >= 4
    assert set(site.drain()) == set(range(100))


# -- uWSGI


@needs("pyuwsgi")
def test_uwsgi_with_fork_hooks_delivers_what_master_and_workers_record(serve: Serve, site: Site) -> None:
    events = site.directory / "events.py"
    events.write_text(events.read_text("utf-8") + "\nrecorder.record(OrderPlaced(number=1000))\n", "utf-8")
    server = serve(BIN / "uwsgi", "--ini", "uwsgi.ini", "--http-socket", "127.0.0.1:PORT")

    for n in range(50):
        server.order(n)
    until(lambda: len(site.stored()) == 50)
    server.terminate()

    assert site.drain() == [*range(50), 1000]


@needs("pyuwsgi")
def test_uwsgi_without_fork_hooks_refuses_in_the_master_by_name_and_loses_nothing_in_workers(
    serve: Serve, site: Site
) -> None:
    events = site.directory / "events.py"
    events.write_text(events.read_text("utf-8") + "\nrecorder.record(OrderPlaced(number=1000))\n", "utf-8")
    server = serve(
        BIN / "uwsgi",
        "--module",
        "shop:application",
        "--master",
        "--processes",
        "2",
        "--enable-threads",
        "--die-on-term",
        "--http-socket",
        "127.0.0.1:PORT",
    )

    for n in range(50):
        server.order(n)
    # uWSGI runs no exit hook in a worker that it ends while that one closes a request.
    until(lambda: len(site.logged()) == 50)
    said = server.terminate()

    assert said.count("events refused in this process") == 1
    assert "py-call-uwsgi-fork-hooks" in said
    assert site.drain() == list(range(50))


# -- gevent

GEVENT = """
import os, sys
if sys.argv[1] == "before":
    from gevent import monkey
    monkey.patch_all()
from eventrec import EventRecorder
from eventrec.testing.scripted import Numbered

early = EventRecorder(os.environ["URL"], log=os.environ["LOG"])
if sys.argv[1] == "after":
    from gevent import monkey
    monkey.patch_all()
import threading
import gevent
recorder = EventRecorder(os.environ["URL"], log=os.environ["LOG"])

def work(start):
    for n in range(start, start + 25):
        assert (early if n % 2 else recorder).record(Numbered(n))
        gevent.sleep(0)

gevent.joinall([gevent.spawn(work, start) for start in range(0, 75, 25)])
thread = threading.Thread(target=work, args=(75,))
thread.start()
thread.join()
# A busy program: greenlets of its own would never come to write.
written = lambda: all(each.status().appended == 50 for each in (early, recorder))
while not written():
    pass
assert len(recorder._life.intake.cells) == 1
try:
    recorder.sync().open()
except RuntimeError as exc:
    assert "drain" in str(exc), exc
else:
    assert False
"""


@needs("gevent")
@pytest.mark.parametrize("when", ["before", "after"])
def test_under_gevent_a_thread_of_the_system_writes_and_drain_delivers(when: str, site: Site) -> None:
    site.run(GEVENT, when)

    assert sorted(site.logged()) == list(range(100))
    assert site.drain() == list(range(100))


@needs("gevent")
@needs("gunicorn")
def test_what_gunicorns_gevent_workers_record_a_process_beside_them_delivers(
    serve: Serve, site: Site, await_end: Callable[[object, float], str]
) -> None:
    (site.directory / "gunicorn.conf.py").unlink()
    server = serve(
        BIN / "gunicorn", "shop:application", "--worker-class", "gevent", "--preload", "--bind", "127.0.0.1:PORT"
    )
    beside = site.start(sys.executable, "deliver.py")

    for n in range(50):
        server.order(n)
    server.terminate()
    until(lambda: len(site.stored()) == 50)
    beside.send_signal(signal.SIGINT)
    await_end(beside, 10)

    assert site.drain() == list(range(50))


# -- AWS Lambda


def test_the_function_of_a_lambda_has_delivered_when_it_returns(site: Site) -> None:
    site.write_page()

    site.run(
        """
import os, sqlite3
from handler import handle
for number in range(5):
    handle({"number": number}, None)
    with sqlite3.connect("events.db") as database:
        assert database.execute("SELECT count(*) FROM events").fetchone() == (number + 1,)
database.close()
os._exit(0)
"""
    )

    assert site.drain() == list(range(5))
