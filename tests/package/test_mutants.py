"""The table of mutants is of the code as it is: else a run of it would plant nothing."""

from __future__ import annotations

import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_every_mutant_finds_its_text_once_and_its_tests() -> None:
    table = tomllib.loads((ROOT / "tests" / "faults" / "mutants.toml").read_text(encoding="utf-8"))["mutant"]

    wrong = [
        f"{mutant['name']}: {mutant['file']}"
        for mutant in table
        if not (ROOT / mutant["file"]).is_file()
        or (ROOT / mutant["file"]).read_text(encoding="utf-8").count(mutant["before"]) != 1
        or not all((ROOT / test.partition("::")[0]).exists() for test in mutant["tests"])
    ]

    assert table
    assert wrong == []
