"""What the pages show runs as it stands."""

import json
import os
import runpy
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from eventrec.testing.redis import RedisServer

DOCS = Path(__file__).parents[2] / "docs"
BIN = Path(sys.executable).parent
RUNNER = Path(__file__).with_name("run_pages.py")
SHOWN_ALONE = {
    "guides/servers.md": "run by tests/processes, under their servers",
    "guides/celery.md": "the same as what tests/processes runs",
    "guides/rq.md": "below, by a worker",
    "start.md": "below, by uvicorn",
    "server.md": "its commands are run by tests/cli",
}

pytestmark = [pytest.mark.docs, pytest.mark.timeout(280)]


@pytest.fixture(scope="module")
def files_of() -> Any:
    return runpy.run_path(str(RUNNER))["files_of"]


def test_every_example_runs() -> None:
    pages = sorted(str(page.relative_to(DOCS)) for page in DOCS.rglob("*.md"))

    done = subprocess.run(
        [
            sys.executable,
            Path(__file__).with_name("run_pages.py"),
            *(page for page in pages if page not in SHOWN_ALONE),
        ],
        capture_output=True,
        text=True,
        check=False,
    )

    outcomes = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(outcomes) == len(pages) - len(SHOWN_ALONE), done.stderr
    assert [f"{each['page']}: {each['failed']}" for each in outcomes if each["failed"]] == []


def ask(url: str, method: str = "GET") -> bytes:
    with urllib.request.urlopen(urllib.request.Request(url, method=method), timeout=5) as answer:  # noqa: S310 - ours
        return bytes(answer.read())


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST", "EVENTREC"))}
    return {
        **kept,
        "PATH": f"{BIN}{os.pathsep}{kept['PATH']}",
        "EVENTREC_TO": "sqlite:///events.db",
        "EVENTREC_LOG": "var/events",
        "EVENTS_URL": "sqlite:///events.db",
    }


@pytest.fixture
def started() -> Iterator[list["subprocess.Popen[bytes]"]]:
    started: list[subprocess.Popen[bytes]] = []
    yield started
    for process in started:
        if process.poll() is None:
            process.kill()
        process.wait()


def test_start_page_leads_to_events_in_a_database(
    tmp_path: Path, environment: dict[str, str], files_of: Any, started: list[Any]
) -> None:
    (tmp_path / "web.py").write_text(files_of(DOCS / "start.md")["web.py"], "utf-8")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    server = subprocess.Popen([str(BIN / "uvicorn"), "web:app", "--port", str(port)], cwd=tmp_path, env=environment)
    started.append(server)
    deadline = time.monotonic() + 60
    while True:
        try:
            answer = ask(f"http://127.0.0.1:{port}/orders/1?customer=ada", "POST")
        except OSError:
            assert time.monotonic() < deadline
            time.sleep(0.1)
        else:
            break
    server.send_signal(signal.SIGTERM)
    server.wait(30)

    tail = [str(BIN / "eventrec"), "tail", "sqlite:///events.db", "--json"]
    told = subprocess.run(tail, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True).stdout
    stored = {event["type"]: event for event in map(json.loads, told.splitlines())}
    assert json.loads(answer) == {"recorded": True}
    assert stored["order_placed"]["columns"]["customer"] == "ada"
    assert stored["order_placed"]["context"] == stored["http_request"]["context"]


def test_jobs_of_rq_are_recorded_and_delivered(
    tmp_path: Path, environment: dict[str, str], files_of: Any, started: list[Any]
) -> None:
    for name, content in files_of(DOCS / "guides" / "rq.md").items():
        (tmp_path / name).write_text(content, "utf-8")
    queue = "import rq, redis, jobs; q = rq.Queue(connection=redis.Redis.from_url(URL))\n"
    queue += "for n in range(5): q.enqueue(jobs.place_order, n)\n"
    with RedisServer("valkey") as server:
        subprocess.run(
            [sys.executable, "-c", queue.replace("URL", repr(server.url()))], cwd=tmp_path, env=environment, check=True
        )
        worker = [str(BIN / "rq"), "worker", "-w", "recording_worker.RecordingWorker", "--burst", "--url", server.url()]
        ran = subprocess.run(worker, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    drain = [str(BIN / "eventrec"), "drain", "var/events", "--to", "env:EVENTS_URL"]
    subprocess.run(drain, cwd=tmp_path, env=environment, capture_output=True, check=True)
    tail = [str(BIN / "eventrec"), "tail", "sqlite:///events.db", "--json"]
    told = subprocess.run(tail, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True).stdout

    stored = [json.loads(line) for line in told.splitlines()]
    assert sorted(event["payload"]["number"] for event in stored) == [0, 1, 2, 3, 4], ran.stderr
    assert len({event["context"]["job_id"] for event in stored}) == 5
    assert list((tmp_path / "var" / "events").iterdir()) == []
