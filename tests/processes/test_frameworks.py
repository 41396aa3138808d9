"""Applications of Django, Flask and Celery under real servers: prefork, reload, workers that leave or are killed."""

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from importlib.util import find_spec
from typing import Any

import pytest

pytestmark = pytest.mark.xdist_group("processes")  # each is several of them

EVENTS = """
from eventrec import EventStruct


class OrderPlaced(EventStruct):
    number: int
"""

DJANGO = {
    "settings.py": """
SECRET_KEY = "of a test"
ALLOWED_HOSTS = ["*"]
DEBUG = True
ROOT_URLCONF = "urls"
INSTALLED_APPS = ["eventrec.bridges.django"]
MIDDLEWARE = ["eventrec.bridges.django.middleware.RecordRequests"]
WSGI_APPLICATION = "wsgi.application"
USE_TZ = True
""",
    "urls.py": """
import os

from django.http import HttpResponse
from django.urls import path
from events import OrderPlaced

from eventrec.bridges.django import recorder


def order(request, number):
    # The thread of runserver serves until the process is gone, also when the recorder is closed.
    is_taken = recorder().record(OrderPlaced(number=number))
    return HttpResponse(str(os.getpid()), status=200 if is_taken else 503)


urlpatterns = [path("ready", lambda _: HttpResponse("yes")), path("orders/<int:number>", order)]
""",
    "wsgi.py": """
import os

os.environ["DJANGO_SETTINGS_MODULE"] = "settings"

from django.core.wsgi import get_wsgi_application

application = get_wsgi_application()

from events import OrderPlaced  # recorded while it loads: in the arbiter, with --preload

from eventrec.bridges.django import recorder

recorder().record(OrderPlaced(number=99))
""",
    "asgi.py": """
import os

os.environ["DJANGO_SETTINGS_MODULE"] = "settings"

from eventrec.bridges.django.asgi import get_asgi_application

application = get_asgi_application()
""",
}

FLASK = {
    "shop.py": """
import os

from events import OrderPlaced
from flask import Flask

from eventrec.bridges.flask import FlaskRecorder

app = Flask(__name__)
events = FlaskRecorder(app)


@app.get("/ready")
def ready():
    return "yes"


@app.get("/orders/<int:number>")
def order(number):
    events.record(OrderPlaced(number=number))
    return str(os.getpid())
"""
}

CELERY = {
    "tasks.py": """
import os
import time
from functools import partial

import anyio
from celery import Celery
from events import OrderPlaced

from eventrec import EventRecorder
from eventrec.bridges.celery import record_tasks

app = Celery("shop", broker="filesystem://")
app.conf.broker_transport_options = {
    "data_folder_in": "queue", "data_folder_out": "queue", "control_folder": "control", "polling_interval": 0.05
}
app.conf.broker_connection_retry_on_startup = False
app.conf.worker_max_tasks_per_child = 3
recorder = EventRecorder.from_env()
record_tasks(app, recorder)


@app.task
def place_order(number):
    recorder.record(OrderPlaced(number=number))


@app.task
def fail(number):
    recorder.record(OrderPlaced(number=number))
    raise ZeroDivisionError


@app.task
def be_killed(number):
    anyio.run(partial(recorder.record_durable, OrderPlaced(number=number), until="written"))
    with open("to-kill", "w") as file:
        file.write(str(os.getpid()))
    time.sleep(600)
"""
}


@pytest.fixture
def write(site: Any) -> Callable[..., dict[str, str]]:
    """Writes an application; the variables that tell it where events go."""

    def write(files: dict[str, str]) -> dict[str, str]:
        for name, content in {"events.py": EVENTS, **files}.items():
            (site.directory / name).write_text(content, "utf-8")
        return {"EVENTREC_TO": site.url, "EVENTREC_LOG": str(site.log), "EVENTREC_FLUSH_INTERVAL": "50ms"}

    return write


def stored(site: Any, kind: str) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """Payload and context of the events of one type."""
    if not (site.directory / "events.db").exists():
        return []
    with closing(sqlite3.connect(site.directory / "events.db")) as database:
        if not database.execute("SELECT 1 FROM sqlite_master WHERE name = 'events'").fetchall():
            return []
        rows = database.execute("SELECT payload, context FROM events WHERE type = ?", (kind,)).fetchall()
    return [(json.loads(payload), json.loads(context or "{}")) for payload, context in rows]


def orders(site: Any) -> list[int]:
    return sorted(payload["number"] for payload, _ in stored(site, "order_placed"))


def wait_until(holds: Callable[[], bool], seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def wait_for_worker(worker: "subprocess.Popen[str]", holds: Callable[[], bool], seconds: float = 120) -> None:
    """As `wait_until`, and what the worker has said where it does not come to hold."""
    try:
        wait_until(holds, seconds)
    except AssertionError:
        os.killpg(worker.pid, signal.SIGKILL)
        pytest.fail(worker.communicate()[0])


def test_django_under_gunicorn_with_preload_stores_what_arbiter_and_workers_record_once(
    serve_own: Callable[..., Any], site: Any, write: Callable[..., dict[str, str]]
) -> None:
    server = serve_own("gunicorn", "wsgi", "-b", "127.0.0.1:PORT", "--preload", "--workers", "2", **write(DJANGO))

    pids = {server.order(n) for n in range(12)}
    server.terminate()
    left = list(site.log.iterdir())
    site.drain()

    assert server.process.pid not in pids
    assert left == []
    assert orders(site) == [*range(12), 99]
    assert {context.get("request_id") is None for _, context in stored(site, "order_placed")} == {True, False}
    assert len([1 for payload, _ in stored(site, "http_request") if payload["path"] != "/ready"]) == 12


def test_django_under_uvicorn_delivers_before_it_ends_by_sigterm(
    serve_own: Callable[..., Any], site: Any, write: Callable[..., dict[str, str]]
) -> None:
    server = serve_own(
        "uvicorn", "asgi:application", "--port", "PORT", **{**write(DJANGO), "EVENTREC_FLUSH_INTERVAL": "1h"}
    )

    for n in range(5):
        server.order(n)
    server.terminate()

    assert orders(site) == [0, 1, 2, 3, 4]
    assert list(site.log.iterdir()) == []


@pytest.mark.faults
def test_djangos_runserver_reloads_and_each_of_its_processes_delivers(
    serve_own: Callable[..., Any], site: Any, write: Callable[..., dict[str, str]]
) -> None:
    variables = {**write(DJANGO), "DJANGO_SETTINGS_MODULE": "settings"}
    server = serve_own(sys.executable, "-m", "django", "runserver", "127.0.0.1:PORT", **variables)

    first = server.order(1)
    urls = site.directory / "urls.py"
    os.utime(urls, (time.time() + 2, time.time() + 2))
    numbers, pid = [1], first
    deadline = time.monotonic() + 40
    while pid == first:
        assert time.monotonic() < deadline
        time.sleep(0.1)
        try:
            pid = server.order(len(numbers) + 1)
        except OSError:
            continue
        numbers.append(len(numbers) + 1)
    # Each process loads wsgi.py; and an order whose answer the reload cut off was given again.
    wait_until(lambda: set(orders(site)) == {*numbers, 99})
    os.killpg(server.process.pid, signal.SIGKILL)
    server.process.wait()
    site.drain()

    assert set(orders(site)) == {*numbers, 99}
    assert orders(site).count(99) >= 2


@pytest.mark.faults
def test_flask_under_gunicorn_with_preload_stores_everything_once_though_a_worker_is_killed(
    serve_own: Callable[..., Any], site: Any, write: Callable[..., dict[str, str]]
) -> None:
    server = serve_own("gunicorn", "shop:app", "-b", "127.0.0.1:PORT", "--preload", "--workers", "2", **write(FLASK))

    pid = [server.order(n) for n in range(12)][-1]
    wait_until(lambda: orders(site) == [*range(12)])
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: server.order(100) != pid)
    server.terminate()
    site.drain()

    found = orders(site)
    assert found[:12] == [*range(12)]
    assert set(found[12:]) == {100}


@pytest.mark.faults
@pytest.mark.skipif(find_spec("gevent") is None, reason="gevent is not installed: it has no wheel for every Python")
def test_flask_under_gevent_records_and_says_once_that_another_process_has_to_deliver(
    serve_own: Callable[..., Any], site: Any, write: Callable[..., dict[str, str]]
) -> None:
    server = serve_own("gunicorn", "shop:app", "-b", "127.0.0.1:PORT", "-k", "gevent", **write(FLASK))

    for n in range(12):
        server.order(n)
    said = server.terminate()
    assert orders(site) == []
    site.drain()

    assert said.count("nothing is delivered from here") == 1
    assert "eventrec drain" in said
    assert orders(site) == [*range(12)]


@pytest.mark.faults
def test_celerys_processes_deliver_though_they_leave_after_some_tasks_and_one_is_killed(
    site: Any, write: Callable[..., dict[str, str]], await_end: Callable[..., str]
) -> None:
    variables = write(CELERY)
    for name in ("queue", "control"):
        (site.directory / name).mkdir()
    send = (
        "from tasks import *\n"
        "for n in range(8): place_order.delay(n)\n"
        "fail.delay(8)\n"
        "be_killed.delay(9)\n"
        "assert recorder.status().state == 'new'\n"  # Who only sends opens nothing.
    )
    await_end(site.start(sys.executable, "-c", send, **variables), 40)

    worker = site.start("celery", "-A", "tasks", "worker", "--concurrency", "2", "-l", "info", **variables)
    to_kill = site.directory / "to-kill"
    wait_for_worker(worker, lambda: to_kill.exists() and to_kill.read_text("utf-8") != "")
    os.kill(int(to_kill.read_text("utf-8")), signal.SIGKILL)
    wait_for_worker(worker, lambda: orders(site) == [*range(10)] and len(stored(site, "celery_task")) >= 9)
    worker.terminate()
    await_end(worker, 40)
    site.drain()

    assert orders(site) == [*range(10)]
    runs = [payload for payload, _ in stored(site, "celery_task")]
    assert sorted((run["task"], run["state"], run["error"]) for run in runs) == sorted(
        [("tasks.fail", "FAILURE", "ZeroDivisionError")] + [("tasks.place_order", "SUCCESS", None)] * 8
    )
    contexts = [context for _, context in stored(site, "order_placed")]
    assert {context["task"] for context in contexts} == {"tasks.place_order", "tasks.fail", "tasks.be_killed"}
    assert len({context["task_id"] for context in contexts}) == 10


@pytest.mark.faults
@pytest.mark.parametrize("pool", ["solo", "threads"])
def test_celerys_pools_within_one_process_deliver(
    pool: str, site: Any, write: Callable[..., dict[str, str]], await_end: Callable[..., str]
) -> None:
    variables = write(CELERY)
    for name in ("queue", "control"):
        (site.directory / name).mkdir()
    send = "from tasks import *\nfor n in range(4): place_order.delay(n)\n"
    await_end(site.start(sys.executable, "-c", send, **variables), 40)

    worker = site.start("celery", "-A", "tasks", "worker", "--pool", pool, "-c", "2", "-l", "info", **variables)
    wait_for_worker(worker, lambda: orders(site) == [0, 1, 2, 3])
    worker.terminate()
    await_end(worker, 40)

    assert list(site.log.iterdir()) == []
    assert len(stored(site, "celery_task")) == 4
