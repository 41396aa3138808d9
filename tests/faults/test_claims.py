"""Every claim of CLAIMS.md has a test, and every test that it names is there."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CLAIMS = Path(__file__).with_name("CLAIMS.md")
SUITE = ROOT / "eventrec" / "testing" / "conformance"

CLAIM = re.compile(r"- \*\*(.+?)\*\*")
NODE = re.compile(r"  - `(tests/[^:`]+\.py)::((?:\w+::)?test_\w+)`")


def claims(text: str) -> dict[str, list[tuple[str, str]]]:
    """The tests of each claim, as path and name.

    Raises:
        ValueError: A line of a list is neither a claim nor a test.
    """
    found: dict[str, list[tuple[str, str]]] = {}
    for line in text.splitlines():
        if claim := CLAIM.match(line):
            found[claim[1]] = []
        elif node := NODE.fullmatch(line):
            found[next(reversed(found))].append((node[1], node[2]))
        elif line.lstrip().startswith("-"):
            raise ValueError(f"neither a claim nor a test: {line}")
    return found


@cache
def names_in(path: Path) -> frozenset[str]:
    """The names of the tests in a module; those of a class are `Class::name`, and the suite's `::name`."""
    found = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            found.add(node.name)
        elif isinstance(node, ast.ClassDef):
            found |= {
                f"{node.name}::{each.name}"
                for each in node.body
                if isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef)
            }
            if any(isinstance(base, ast.Name) and base.id == "HandlerConformance" for base in node.bases):
                found |= {f"{node.name}::{name}" for name in of_suite()}
    return frozenset(found)


@cache
def of_suite() -> frozenset[str]:
    """The names of the claims that every handler runs."""
    return frozenset(name.rpartition("::")[2] for path in SUITE.glob("*.py") for name in names_in(path))


def test_every_claim_has_a_test_and_every_test_is_there() -> None:
    found = claims(CLAIMS.read_text(encoding="utf-8"))

    without = [claim for claim, tests in found.items() if not tests]
    gone = [
        f"{path}::{name}"
        for tests in found.values()
        for path, name in tests
        if not (ROOT / path).is_file() or name not in names_in(ROOT / path)
    ]
    assert without == []
    assert gone == []
    assert len(found) >= 37


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("- **A claim.**\n  - `tests/gone.py::test_it`", [("tests/gone.py", "test_it")]),
        ("- **A claim.** peer#1\n", []),
    ],
)
def test_what_is_listed_is_read(text: str, said: list[tuple[str, str]]) -> None:
    assert claims(text) == {"A claim.": said}


def test_a_line_that_says_nothing_is_not_passed_over() -> None:
    with pytest.raises(ValueError, match="neither a claim nor a test"):
        claims("- **A claim.**\n  - tests/faults/test_claims.py::test_it")
