"""Each example, as a reader would run it: from the command line, warnings being errors."""

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from eventrec.testing.server_process import free_port

EXAMPLES = Path(__file__).parents[2] / "examples"


def rows(path: Path, sql: str) -> list[Any]:
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute(sql).fetchall()


def test_logging_bridge_stores_the_lines_of_both_libraries(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", EXAMPLES / "logging_bridge.py"],
        cwd=tmp_path,
        check=False,
        capture_output=True,
        text=True,
    )

    assert done.returncode == 0, done.stderr
    assert "delivered 3, pending 0" in done.stdout
    lines = [json.loads(payload) for (payload,) in rows(tmp_path / "events.db", "SELECT payload FROM logging")]
    assert [line["message"] for line in lines] == ["order 7 placed", "cannot split the bill", "low on stock"]
    assert lines[1]["exception"].endswith("ZeroDivisionError: division by zero")


@pytest.fixture
def service(tmp_path: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The web service on a free port, answering."""
    port = free_port()
    process = subprocess.Popen(
        [sys.executable, EXAMPLES / "web_service.py", str(port)],
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )
    url = f"http://127.0.0.1:{port}"
    deadline = time.monotonic() + 20
    while True:
        try:
            ask(f"{url}/status")
            break
        except OSError:
            assert process.poll() is None, process.communicate()[1]
            assert time.monotonic() < deadline
            time.sleep(0.05)
    yield process, url
    process.kill()
    process.communicate()


def ask(url: str, content: object = None) -> Any:
    body = None if content is None else json.dumps(content).encode()
    request = urllib.request.Request(url, body, {"x-request-id": "from-the-test"})  # noqa: S310 - http, to ourselves
    with urllib.request.urlopen(request, timeout=10) as response:  # noqa: S310 - likewise
        return json.loads(response.read())


def test_web_service_delivers_orders_and_requests_before_it_exits(
    service: tuple[subprocess.Popen[str], str], tmp_path: Path
) -> None:
    process, url = service
    for number in range(20):
        assert ask(f"{url}/orders", {"customer": f"c{number}", "total": 1.5}) == {"customer": f"c{number}"}

    assert ask(f"{url}/status")["offered"] == 40
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=200)

    stored = rows(tmp_path / "events.db", "SELECT customer, context FROM orders ORDER BY rowid")
    assert [customer for customer, _ in stored] == [f"c{number}" for number in range(20)], said
    assert {context for _, context in stored} == {'{"request_id":"from-the-test"}'}
    requests = rows(tmp_path / "events.db", "SELECT payload FROM events WHERE type = 'http_request'")
    assert {(line["method"], line["path"], line["status"]) for (text,) in requests for line in [json.loads(text)]} == {
        ("POST", "/orders", 201)
    }
    assert len(requests) == 20
