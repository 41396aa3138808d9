import json
import os
import select
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

WINDOW = 4_000


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 45
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def numbers(path: Path) -> list[int]:
    return [json.loads(line)["n"] for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []


@pytest.mark.parametrize(("number", "expected"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_interrupted_it_delivers_what_it_has_read_and_says_so(
    start: Callable[..., Any], tmp_path: Path, number: signal.Signals, expected: int
) -> None:
    out = tmp_path / "out"
    running = start("record", "-", "--to", f"staged:///{out}?seconds=50ms", "--json")
    running.write("".join(f'{{"n":{n}}}\n' for n in range(1, 20_001)))
    wait_until(lambda: bool(numbers(out)))

    running.interrupt(number)
    code, told = running.end()

    account = json.loads(told)
    assert code == account["exit_code"] == expected
    assert account["undelivered"] == 0
    assert not account["is_at_end"]
    assert numbers(out) == list(range(1, account["lines"] + 1))
    assert len(numbers(out)) < 20_000
    assert f"stopped after line {account['lines']}" in "".join(running.errors)


def test_interrupted_twice_it_says_what_is_not_delivered(start: Callable[..., Any], tmp_path: Path) -> None:
    running = start("record", "-", "--to", f"staged:///{tmp_path}/out?until=never", "--json")
    running.write('{"n":1}\n' * 100)
    running.wait_for_error("delivery interrupted")

    running.interrupt()
    running.wait_for_error("interrupted, delivering")
    running.interrupt()
    code, told = running.end()

    assert code == 130
    assert json.loads(told)["undelivered"] == 100
    assert "read but not delivered: 100 events; every line before line 1 is dealt with" in "".join(running.errors)


def test_destination_that_is_down_at_first_gets_everything(start: Callable[..., Any], tmp_path: Path) -> None:
    running = start("record", "-", "--to", f"staged:///{tmp_path}/out?until=up")
    running.write("".join(f'{{"n":{n}}}\n' for n in range(1, 2_501)))
    running.process.stdin.close()
    running.wait_for_error("delivery interrupted")

    (tmp_path / "up").touch()
    code, _ = running.end()

    assert code == 0
    assert numbers(tmp_path / "out") == list(range(1, 2_501))


def test_it_reads_no_further_than_it_may_hold(start: Callable[..., Any], tmp_path: Path) -> None:
    running = start("record", "-", "--to", f"staged:///{tmp_path}/out?until=up", "--json")
    descriptor = running.process.stdin.fileno()
    os.set_blocking(descriptor, False)
    line = b'{"text":"' + b"x" * 988 + b'"}\n'
    assert len(line) == 1_000

    # It is full when a second passes in which the pipe takes nothing.
    written = 0
    while select.select([], [descriptor], [], 1)[1] and written < 50_000_000:
        rest = line[written % 1_000 :] + line * 60
        written += os.write(descriptor, rest)
    (tmp_path / "up").touch()
    os.set_blocking(descriptor, True)
    running.process.stdin.write(line[written % 1_000 :])
    running.process.stdin.close()
    code, told = running.end()

    assert written <= (WINDOW + 1_000) * 1_000
    assert code == 0
    assert json.loads(told)["delivered"] == written // 1_000 + 1


def test_single_line_of_a_pipe_that_stays_open_is_delivered_soon(start: Callable[..., Any], tmp_path: Path) -> None:
    running = start("record", "-", "--to", f"staged:///{tmp_path}/out")
    running.write('{"n":1}\n')

    wait_until(lambda: numbers(tmp_path / "out") == [1])

    running.interrupt()
    assert running.end()[0] == 130
