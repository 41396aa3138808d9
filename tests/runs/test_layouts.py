"""The layouts beside the logs of a directory."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from eventrec import TIMESTAMP, TYPE, Layout, LayoutColumn
from eventrec.runs.layouts import LAYOUTS, keep_layouts, kept_layouts
from eventrec.runs.survey import list_foreign


def layout(table: str, length: int = 20) -> Layout:
    return Layout(
        table, [LayoutColumn("kind", TYPE, "varchar", length=length), LayoutColumn("at", TIMESTAMP, "timestamptz")]
    )


GOLDEN = (
    b'{"version":1,"table":"visits","columns":['
    b'{"name":"kind","source":"type","type":"varchar","length":20,"nullable":false},'
    b'{"name":"at","source":"timestamp","type":"timestamptz","nullable":false}]}\n'
    b'{"crc32c":"%b"}\n'
)


def test_a_layout_is_kept_and_replaced(tmp_path: Path) -> None:
    directory, long = tmp_path / "log", layout("T" * 60 + "ä./")
    assert kept_layouts(directory) == ({}, {})

    keep_layouts(directory, [])
    assert not directory.exists()
    keep_layouts(directory, [layout("visits"), long])
    keep_layouts(directory, [layout("visits", 30)])

    assert kept_layouts(directory) == ({"visits": layout("visits", 30), long.table: long}, {})
    assert list_foreign(directory) == []
    assert stat.S_IMODE((directory / LAYOUTS / "visits.json").stat().st_mode) == 0o600


def test_the_same_layout_is_not_written_again(tmp_path: Path) -> None:
    keep_layouts(tmp_path, [layout("visits")])
    before = (tmp_path / LAYOUTS / "visits.json").stat()

    keep_layouts(tmp_path, [layout("visits")])

    assert (tmp_path / LAYOUTS / "visits.json").stat() == before


def test_the_format_is_the_one_that_was_written_first(tmp_path: Path) -> None:
    golden = GOLDEN % b"df5c4473"
    keep_layouts(tmp_path, [layout("visits")])
    assert (tmp_path / LAYOUTS / "visits.json").read_bytes() == golden

    (tmp_path / LAYOUTS / "visits.json").write_bytes(golden)

    assert kept_layouts(tmp_path)[0] == {"visits": layout("visits")}


@pytest.mark.parametrize("content", [b"", b"{}", b'{"version":9}', b"\xff", GOLDEN % b"00000000"])
def test_what_cannot_be_read_is_named_by_its_table_and_replaced(tmp_path: Path, content: bytes) -> None:
    keep_layouts(tmp_path, [layout("visits"), layout("other")])
    (tmp_path / LAYOUTS / "visits.json").write_bytes(content)
    (tmp_path / LAYOUTS / "notes.txt").write_text("of an operator", encoding="utf-8")

    found, unreadable = kept_layouts(tmp_path)
    keep_layouts(tmp_path, [layout("visits")])

    assert (found, list(unreadable)) == ({"other": layout("other")}, ["visits"])
    assert kept_layouts(tmp_path) == ({"other": layout("other"), "visits": layout("visits")}, {})


def test_a_stray_file_is_named_in_text_that_can_be_encoded(tmp_path: Path) -> None:
    keep_layouts(tmp_path, [layout("visits")])
    (tmp_path / LAYOUTS / "caf\udce9.json").write_bytes(b"of an operator")

    assert list(kept_layouts(tmp_path)[1]) == [r"caf\udce9"]
