"""Every mutant still has its place: the runner itself takes minutes, see `nox -s faults -- --mutants`."""

from __future__ import annotations

import ast
import importlib.util
import os
import sys
import time
import tomllib
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
MUTANTS: list[dict[str, Any]] = tomllib.loads((ROOT / "tests/faults/mutants.toml").read_text(encoding="utf-8"))[
    "mutant"
]


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant["name"])
def test_a_mutant_can_be_planted_where_it_says(mutant: dict[str, Any]) -> None:
    source = (ROOT / mutant["file"]).read_text(encoding="utf-8")

    assert source.count(mutant["before"]) == 1
    ast.parse(source.replace(mutant["before"], mutant["after"]))
    assert mutant["tests"]
    for test in mutant["tests"]:
        path, _, name = test.partition("::")
        assert (ROOT / path).is_file()
        assert not name or f"def {name}(" in (ROOT / path).read_text(encoding="utf-8")


@pytest.fixture
def runner(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The program `mutants.py`."""
    spec = importlib.util.spec_from_file_location("mutants", ROOT / "tests/faults/mutants.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "mutants", module)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(("then", "code"), [("", 0), ("sys.exit(1)", 1), ("signal.pause()", -9)])
def test_what_a_run_has_started_ends_with_it_or_when_it_takes_too_long(
    runner: ModuleType, tmp_path: Path, then: str, code: int
) -> None:
    program = (
        "import os, signal, sys\n"
        "child = os.fork()\n"
        "if not child:\n"
        "    signal.pause()\n"
        "print(child, flush=True)\n"
        f"{then}\n"
    )

    for seconds in (1, 10, 100):  # A busy machine may need longer until the child is there.
        done = runner.run_in_group([sys.executable, "-c", program], cwd=tmp_path, env=os.environ, seconds=seconds)
        if done.stdout and done.returncode == code:
            break

    assert done.returncode == code
    assert is_gone(int(done.stdout))


def is_gone(process: int) -> bool:
    """Whether `process` ends soon: it was killed, and waits at most for what has adopted it."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            state = Path(f"/proc/{process}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0]
        except (FileNotFoundError, ProcessLookupError):
            return True
        if state == "Z":
            return True
        time.sleep(0.01)
    return False
