"""Every mutant still has its place: the runner itself takes minutes, see `nox -s faults -- --mutants`."""

from __future__ import annotations

import ast
import tomllib
from pathlib import Path
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
