"""What can be looked at in a second: the rest is in `nox -s docs`."""

import ast
import json
import re
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from eventrec import EventRecorderOptions
from eventrec.registry import OUR_SCHEMES

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
REFERENCE = ("options", "commands", "metrics", "design", "changes")
MADE = {*(f"reference/{page}.md" for page in REFERENCE), "handlers/new.md"}
FENCED = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"\]\(([^)\s]+)\)")


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def anchors(page: Path) -> set[str]:
    """Those of its headings, as Python-Markdown makes them."""
    text = FENCED.sub("", page.read_text("utf-8"))
    headings = re.findall(r"^#+ (.*)$", text, flags=re.MULTILINE)
    return {re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", heading).strip().lower()) for heading in headings}


@pytest.mark.parametrize("page", [*PAGES, *sorted(ROOT.glob("*.md")), ROOT / "handlers" / "README.md"], ids=name)
def test_links_lead_to_files_and_headings_that_are_there(page: Path) -> None:
    text = re.sub(r"`[^`\n]*`", "", FENCED.sub("", page.read_text("utf-8")))
    broken = []
    for link in LINK.findall(text):
        if link.startswith("https://"):
            continue
        path, _, anchor = link.partition("#")
        target = page if not path else (page.parent / path).resolve()
        if target.is_relative_to(DOCS) and str(target.relative_to(DOCS)) in MADE:
            continue
        if not target.exists() or (anchor and anchor not in anchors(target)):
            broken.append(link)

    assert broken == []


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_python_in_it_is_python(page: Path) -> None:
    for language, block in FENCED.findall(page.read_text("utf-8")):
        if language == "python":
            ast.parse(block)


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_files_in_it_can_be_read(page: Path) -> None:
    readers: dict[str, Callable[[str], object]] = {"yaml": yaml.safe_load, "toml": tomllib.loads, "json": json.loads}
    for language, block in FENCED.findall(page.read_text("utf-8")):
        if language in readers:
            assert readers[language](block)


def test_every_page_is_in_the_navigation() -> None:
    listed = set(re.findall(r"[\w/]+\.md", (ROOT / "mkdocs.yml").read_text("utf-8").partition("\nnav:")[2]))

    assert listed == {str(page.relative_to(DOCS)) for page in PAGES} | MADE


def test_every_handler_has_a_page() -> None:
    pages = " ".join(page.read_text("utf-8") for page in (DOCS / "handlers").glob("*.md"))

    assert {scheme for scheme in OUR_SCHEMES if f"{scheme}:" not in pages} <= {"otlp+http", "http"}


def test_options_that_pages_name_in_the_environment_are_there() -> None:
    others = {"TO", "LOG", "CONFIG", "DISABLED", "CATALOGUE", "FORCE"}
    text = "\n".join(page.read_text("utf-8") for page in [*PAGES, ROOT / "README.md"])

    named = {found.partition("__")[0] for found in re.findall(r"EVENTREC_([A-Z_]+[A-Z])", text)}
    named = {each for each in named if not each.startswith("SERVER")}
    assert {each for each in named - others if each.lower() not in EventRecorderOptions.model_fields} == set()


def test_tests_that_prove_a_guarantee_are_there() -> None:
    table = (DOCS / "guarantees.md").read_text("utf-8").partition("## How each is proved")[2]
    named = re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?[^`]*`", table)

    assert len(named) > 10
    for path, test in named:
        assert f"def {test}" in (ROOT / path).read_text("utf-8")


def test_nothing_that_is_made_lies_in_the_repository() -> None:
    assert [page for page in MADE if (DOCS / page).exists()] == []
