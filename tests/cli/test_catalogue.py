"""`eventrec catalogue`: a document of what is declared, and a refusal of a change that breaks it."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

Main = Callable[..., tuple[int, str, str]]
Run = Callable[..., subprocess.CompletedProcess[str]]

MODULE = """
from typing import Annotated
from eventrec import Column, EventModel
from eventrec.analytics import Catalogue

class Sold(EventModel):
    "\\x1b[31mWhat was sold."
    what: str
    {more}

catalogue = Catalogue(name="shop", events=[Sold])
"""


@pytest.fixture(autouse=True)
def modules(tmp_path: Path) -> None:
    (tmp_path / "shop_old.py").write_text(MODULE.format(more="price: int"), encoding="utf-8")
    (tmp_path / "shop_new.py").write_text(MODULE.format(more="cost: int | None = None"), encoding="utf-8")


def test_document_is_written_and_compared(eventrec: Run, tmp_path: Path) -> None:
    written = eventrec("catalogue", "export", "--catalogue", "shop_old:catalogue", "-o", "old.json")
    printed = eventrec("catalogue", "export", "--catalogue", "shop_old:catalogue")
    done = eventrec("catalogue", "check", "old.json", "shop_new:catalogue")

    assert (written.returncode, written.stdout, written.stderr) == (0, "", "")
    text = (tmp_path / "old.json").read_text(encoding="utf-8")
    assert json.loads(printed.stdout) == json.loads(text)
    assert "\x1b" not in printed.stdout
    assert done.returncode == 1
    assert done.stdout.splitlines() == [
        "breaks  sold version 1, field price: is removed",
        "ok      sold version 1, field cost: is added",
    ]
    assert "1 change of 2 would break something" in done.stderr


def test_document_comes_from_stdin_and_the_new_one_from_the_project(eventrec: Run, tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text('[tool.eventrec]\ncatalogue = "shop_old:catalogue"\n', encoding="utf-8")
    old = eventrec("catalogue", "export").stdout

    done = eventrec("catalogue", "check", "-", "--json", stdin=old)

    assert (done.returncode, json.loads(done.stdout)) == (0, {"breaking": 0, "changes": []})


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["export"], 2, "no catalogue is named"),
        (["export", "--catalogue", "nothing:there"], 2, "there is no module 'nothing'"),
        (["export", "--format", "avro"], 2, "avro"),
        (["export", "--catalogue", "eventrec:nothing"], 2, "eventrec has no 'nothing'"),
        (["check", "absent.json", "text"], 4, "absent.json"),
        *((["check", name, name], 4, "not JSON") for name in ("half", "latin", "deep")),
        *((["check", name, name], 4, "not a catalogue") for name in ("list", "object")),
    ],
)
def test_what_is_wrong_is_one_line(main: Main, tmp_path: Path, arguments: list[str], code: int, said: str) -> None:
    texts = {"half": b"{", "latin": b"\xff", "deep": b"[" * 100_000, "list": b"[]", "object": b"{}"}
    for name, text in texts.items():
        (tmp_path / name).write_bytes(text)

    done, out, err = main("catalogue", *arguments)

    assert (done, out) == (code, "")
    assert said in err
    assert len(err.splitlines()) == 1


def test_document_that_cannot_be_written_is_said(eventrec: Run) -> None:
    done = eventrec("catalogue", "export", "--catalogue", "shop_old:catalogue", "-o", "no/such/dir")

    assert (done.returncode, done.stderr) == (4, "eventrec: no/such/dir: No such file or directory\n")


def test_package_that_the_application_lacks_has_its_own_exit_code(eventrec: Run, tmp_path: Path) -> None:
    (tmp_path / "shop_old.py").write_text("import no_such_driver", encoding="utf-8")

    done = eventrec("catalogue", "export", "--catalogue", "shop_old:catalogue")

    assert done.returncode == 6
    assert "No module named 'no_such_driver'" in done.stderr
