"""The catalogue is found by `module:object`, a variable or pyproject.toml; what is wrong is one line."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from eventrec import CatalogueError
from eventrec.analytics import Catalogue, load_catalogue
from eventrec.analytics.loading import is_catalogue_named

MODULE = """
from eventrec import EventModel
from eventrec.analytics import Catalogue

class Sold(EventModel):
    what: str

catalogue = Catalogue(name="{name}", events=[Sold])

class Inside:
    catalogue = catalogue
"""


@pytest.fixture(autouse=True)
def application(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A current directory with modules in it, forgotten afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", sys.path[:])
    monkeypatch.delenv("EVENTREC_CATALOGUE", raising=False)
    before = set(sys.modules)
    (tmp_path / "ours_one.py").write_text(MODULE.format(name="one"), encoding="utf-8")
    (tmp_path / "ours_two.py").write_text(MODULE.format(name="two"), encoding="utf-8")
    yield tmp_path
    for name in set(sys.modules) - before:
        if name.startswith("ours_"):
            del sys.modules[name]


def project(text: str) -> None:
    Path("pyproject.toml").write_text(text, encoding="utf-8")


def test_it_is_named_outright() -> None:
    catalogue = load_catalogue("ours_one:catalogue")

    assert isinstance(catalogue, Catalogue)
    assert catalogue.name == "one"
    assert load_catalogue("ours_one:Inside.catalogue") is catalogue


def test_variable_goes_before_the_project(monkeypatch: pytest.MonkeyPatch) -> None:
    project('[tool.eventrec]\ncatalogue = "ours_two:catalogue"\n')

    assert load_catalogue().name == "two"
    monkeypatch.setenv("EVENTREC_CATALOGUE", "ours_one:catalogue")
    assert load_catalogue().name == "one"
    assert load_catalogue("ours_two:catalogue").name == "two"


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("ours_one", "'ours_one' is not of the form module:object"),
        (":catalogue", "is not of the form"),
        ("ours_one:", "is not of the form"),
        ("", "is not of the form"),
        ("ours_none:catalogue", r"there is no module 'ours_none' in .*, nor where Python looks"),
        ("ours_one.deeper:catalogue", "there is no module|import of"),
        ("ours_one:missing", "ours_one has no 'missing'"),
        ("ours_one:Sold", "ours_one:Sold is not a Catalogue: its class is ModelMetaclass"),
        (".relative:catalogue", "is not of the form module:object, for example relative:catalogue"),
        ("\x00:catalogue", "."),
    ],
)
def test_what_is_not_there_is_said(spec: str, said: str) -> None:
    with pytest.raises(CatalogueError, match=said) as raised:
        load_catalogue(spec)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("import ours_missing", "the import of 'ours_broken' failed: No module named 'ours_missing'"),
        ("raise ValueError('two\\nlines')", "failed: ValueError: two lines"),
        ("raise SystemExit(3)", "failed: SystemExit: 3"),
        ("def", "failed: SyntaxError"),
        ("from eventrec.analytics import Catalogue\nCatalogue(name='')", "ours_broken: "),
    ],
)
def test_module_that_fails_is_said_with_its_cause(application: Path, source: str, said: str) -> None:
    (application / "ours_broken.py").write_text(source, encoding="utf-8")

    with pytest.raises(CatalogueError, match=said) as raised:
        load_catalogue("ours_broken:catalogue")
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "no catalogue is named: give module:object, or set EVENTREC_CATALOGUE"),
        ("[tool.eventrec]\ncatalogue = 5", "is a text, module:object"),
        ("[tool.eventrec\n", r"pyproject.toml cannot be read"),
        ("tool = 5", r"pyproject.toml cannot be read"),
    ],
)
def test_project_that_names_none_is_said(text: str, said: str) -> None:
    project(text)

    with pytest.raises(CatalogueError, match=said):
        load_catalogue()


def test_project_in_no_encoding_or_as_a_directory_is_said(application: Path) -> None:
    (application / "pyproject.toml").write_bytes(b"\xff")
    with pytest.raises(CatalogueError, match="cannot be read"):
        load_catalogue()
    (application / "pyproject.toml").unlink()
    (application / "pyproject.toml").mkdir()
    with pytest.raises(CatalogueError, match="cannot be read"):
        load_catalogue()


def test_project_that_this_user_may_not_read_names_none(application: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> str:
        raise PermissionError(13, "Permission denied")

    (application / "pyproject.toml").write_text("[tool.eventrec]\ncatalogue = 'shop:catalogue'\n")
    assert is_catalogue_named()

    monkeypatch.setattr(Path, "read_text", refuse)

    assert not is_catalogue_named()
    assert is_catalogue_named("shop:catalogue")
    with pytest.raises(CatalogueError, match=r"pyproject\.toml cannot be read"):
        load_catalogue()


def test_without_any_it_says_how_to_name_one() -> None:
    with pytest.raises(CatalogueError, match="no catalogue is named"):
        load_catalogue()


def test_a_module_that_refuses_to_tell_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "refusing_shop.py").write_text(
        "def __getattr__(name): raise ValueError('no ' + name)", encoding="utf-8"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)

    with pytest.raises(CatalogueError, match="'catalogue' of refusing_shop cannot be read: ValueError: no catalogue"):
        load_catalogue("refusing_shop:catalogue")
