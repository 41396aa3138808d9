"""`eventrec catalogue`: a document of what is declared, and a refusal of a change that breaks it."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from eventrec import EventRecorder, ReceivedEvent

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


EXPORT = ("catalogue", "export", "--catalogue", "shop_old:catalogue")


def test_a_file_is_replaced_as_a_whole_and_keeps_its_rights_and_links(eventrec: Run, tmp_path: Path) -> None:
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "old.json").write_text("before", encoding="utf-8")
    (tmp_path / "kept" / "old.json").chmod(0o640)
    (tmp_path / "link.json").symlink_to("kept/old.json")
    reader = (tmp_path / "kept" / "old.json").open(encoding="utf-8")

    (tmp_path / "loop").symlink_to("loop")
    done = [eventrec(*EXPORT, "-o", name) for name in ("link.json", "new.json", "/dev/stdout", ".", "loop")]

    assert [each.returncode for each in done] == [0, 0, 0, 4, 4]
    assert [each.stderr for each in done[3:]] == [
        "eventrec: .: Is a directory\n",
        "eventrec: loop: Too many levels of symbolic links\n",
    ]
    assert done[2].stdout == (tmp_path / "new.json").read_text("utf-8")
    with reader:
        assert reader.read() == "before"  # who reads meanwhile has all of it
    assert (tmp_path / "link.json").is_symlink()
    assert (tmp_path / "kept" / "old.json").read_bytes() == (tmp_path / "new.json").read_bytes()
    assert stat.S_IMODE((tmp_path / "kept" / "old.json").stat().st_mode) == 0o640
    assert stat.S_IMODE((tmp_path / "new.json").stat().st_mode) == 0o666 & ~umask()
    assert [path.name for path in (tmp_path / "kept").iterdir()] == ["old.json"]


def umask() -> int:
    now = os.umask(0)
    os.umask(now)
    return now


def test_a_file_stands_where_the_new_one_cannot_be_written(tmp_path: Path) -> None:
    file = tmp_path / "old.json"
    file.write_text("before", encoding="utf-8")
    writing = (
        "import resource, signal, sys; from pathlib import Path; from eventrec.cli.output_file import write_output;"
        " signal.signal(signal.SIGXFSZ, signal.SIG_IGN); resource.setrlimit(resource.RLIMIT_FSIZE, (5_000, 5_000));"
        " write_output(Path(sys.argv[1]), bytes(10_000))"
    )

    done = subprocess.run([sys.executable, "-c", writing, file], capture_output=True, text=True, check=False)

    assert "File too large" in done.stderr
    assert file.read_text(encoding="utf-8") == "before"
    assert [path.name for path in tmp_path.glob("old*")] == ["old.json"]


PRINTING = """
import atexit, os, subprocess, sys
print("printed")
sys.__stdout__.write("written\\n")
os.write(1, b"below\\n")
subprocess.run([sys.executable, "-c", "print('by another')"], check=True)
def __getattr__(name):
    print("looked up", name)
    from shop_old import catalogue
    return catalogue
"""


@pytest.mark.parametrize(
    "command",
    [
        ("catalogue", "check", "shop_old:catalogue", "talking:found", "--json"),
        ("catalogue", "export", "--catalogue", "talking:found"),
        ("migrate", "status", "--to", "sqlite:///x.db", "--catalogue", "talking:found", "--json"),
        ("refresh", "--to", "sqlite:///x.db", "--catalogue", "talking:found", "--json"),
        ("query", "sales", "--to", "sqlite:///x.db", "--catalogue", "talking:found", "--json"),
        ("drain", "log", "--to", "sqlite:///x.db", "--catalogue", "talking:found", "--json"),
    ],
    ids=" ".join,
)
def test_what_a_module_prints_while_it_is_imported_is_not_in_the_result(
    eventrec: Run, tmp_path: Path, command: tuple[str, ...]
) -> None:
    sales = (
        "\nfrom eventrec.analytics import Rollup, bucket, count\nclass Sales(Rollup, name='sales', table='events'):\n"
    )
    module = (tmp_path / "shop_old.py").read_text(encoding="utf-8")
    module = module.replace("catalogue =", f"{sales}    day = bucket('day')\n    sold = count()\n\ncatalogue =")
    (tmp_path / "shop_old.py").write_text(module.replace("events=[Sold]", "events=[Sold], rollups=[Sales]"), "utf-8")
    (tmp_path / "talking.py").write_text(PRINTING, encoding="utf-8")
    with EventRecorder(f"sqlite:///{tmp_path / 'x.db'}", log=tmp_path / "log", environment={}).sync() as recorder:
        recorder.record(ReceivedEvent("sold", b"{}"))
        assert recorder.flush(timeout=30)

    done = eventrec(*command)

    for line in ("printed", "written", "below", "by another", "looked up found"):
        assert line not in done.stdout
        assert line in done.stderr
    documents = [done.stdout] if "export" in command else done.stdout.splitlines()
    assert [isinstance(json.loads(document), dict) for document in documents] == [True], (done.returncode, done.stderr)


def test_package_that_the_application_lacks_has_its_own_exit_code(eventrec: Run, tmp_path: Path) -> None:
    (tmp_path / "shop_old.py").write_text("import no_such_driver", encoding="utf-8")

    done = eventrec("catalogue", "export", "--catalogue", "shop_old:catalogue")

    assert done.returncode == 6
    assert "No module named 'no_such_driver'" in done.stderr
