"""What is not run is seen."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

PLUGIN = """
import importlib.util

_find_spec = importlib.util.find_spec
importlib.util.find_spec = lambda name, package=None: None if name == "trio" else _find_spec(name, package)
"""

TESTS = """
import pytest

from eventrec.testing.conformance import HandlerConformance
from eventrec.testing.conformance.delivery import DeliveryClaims
from eventrec.testing.conformance.model import ModelHarness


class TestModelHandler(DeliveryClaims):
    @pytest.fixture
    def harness(self):
        return ModelHarness()
"""


def test_where_trio_is_not_installed_its_claims_are_skipped_with_the_reason(tmp_path: Path) -> None:
    (tmp_path / "without_trio.py").write_text(PLUGIN, encoding="utf-8")
    (tmp_path / "test_it.py").write_text(TESTS, encoding="utf-8")

    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "without_trio", "-rs", "-q", "-k", "one_record", "test_it.py"],
        cwd=tmp_path,
        check=False,
        capture_output=True,
        text=True,
    )

    assert "1 passed, 1 skipped" in done.stdout, f"{done.stdout}\n{done.stderr}"
    assert "trio is not installed: pip install 'eventrec[testing]'" in done.stdout


HANDLER = """
import signal

import anyio
import pytest

from eventrec.testing.conformance import HandlerConformance
from eventrec.testing.conformance.delivery import DeliveryClaims
from eventrec.testing.conformance.model import ModelHandler, ModelHarness


class Handler(ModelHandler):
    async def handle(self, batch):
        await anyio.sleep(0)
        ERROR


class Harness(ModelHarness):
    handler_class = Handler


class TestHandler(DeliveryClaims):
    @pytest.fixture
    def harness(self):
        return Harness()
"""


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
@pytest.mark.parametrize("claim", ["one_record", "two_logs"])
def test_ctrl_c_ends_the_session_and_what_a_handler_raises_fails_its_claim(
    tmp_path: Path, backend: str, claim: str
) -> None:
    said = {}
    for error in ("signal.raise_signal(signal.SIGINT)", "raise KeyboardInterrupt"):
        (tmp_path / "test_it.py").write_text(HANDLER.replace("ERROR", error), encoding="utf-8")
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "--tb=short", "-k", f"{claim} and {backend}", "test_it.py"],
            cwd=tmp_path,
            check=False,
            capture_output=True,
            text=True,
        )
        said[error] = (done.returncode, done.stdout)

    pressed, raised = said.values()
    assert pressed[0] == 2, pressed[1]
    assert "KeyboardInterrupt" in pressed[1]
    assert raised[0] == 1, raised[1]
    assert "`handle` raised KeyboardInterrupt(), which is not an Exception" in raised[1]
