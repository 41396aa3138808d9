import os
import signal
from pathlib import Path

import anyio
import pytest

from eventrec import Batch, EventHandler, TransientError
from eventrec.cli.exit_codes import ExitCode
from eventrec.cli.record.record import Recording
from eventrec.cli.record.report import Outcome
from eventrec.cli.record.sources import JsonLines
from eventrec.cli.terminal import Terminal
from eventrec.ingest.received import Reading


class Unreachable(EventHandler):
    """Whoever tries it presses Ctrl-C, once."""

    def __init__(self) -> None:
        self.has_interrupted = False

    async def handle(self, batch: Batch) -> None:
        if not self.has_interrupted:
            self.has_interrupted = True
            os.kill(os.getpid(), signal.SIGINT)
        raise TransientError(f"nobody takes {len(batch)}")


class Listing(EventHandler):
    def __init__(self) -> None:
        self.payloads: list[bytes] = []

    async def handle(self, batch: Batch) -> None:
        self.payloads += [record.payload for record in batch.records]


def run(directory: Path, handler: EventHandler, lines: int, backend: str) -> Outcome:
    given = directory / "in.jsonl"
    given.write_text(
        "".join(f"{number}\n" if number % 1_000 == 0 else f'{{"n":{number}}}\n' for number in range(lines))
    )

    async def record() -> Outcome:
        dead = directory / "dead.jsonl"
        return await Recording([JsonLines(given, Reading())], handler, dead=dead, terminal=Terminal()).run()

    return anyio.run(record, backend=backend)


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_it_runs_on_either_loop(tmp_path: Path, backend: str) -> None:
    handler = Listing()

    outcome = run(tmp_path, handler, 7_000, backend)

    assert handler.payloads == [b'{"n":%d}' % number for number in range(7_000) if number % 1_000]
    assert (outcome.lines, outcome.delivered, outcome.malformed, outcome.undelivered) == (7_000, 6_993, 7, 0)
    assert outcome.exit_code is ExitCode.INCOMPLETE


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_interrupted_it_does_not_wait_for_what_never_moves(
    tmp_path: Path, backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("eventrec.cli.record.record.PATIENCE", 0.3)

    outcome = run(tmp_path, Unreachable(), 10_000, backend)

    assert outcome.exit_code is ExitCode.INTERRUPTED
    assert outcome.is_given_up
    assert outcome.delivered == 0
    assert outcome.undelivered == outcome.events > 0
    assert outcome.first_open_line == 2
    assert outcome.status is not None
    assert outcome.status.is_balanced
