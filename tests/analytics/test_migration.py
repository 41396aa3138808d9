"""Migrations as text and as files: what is written is read back, and what is not one of ours is refused in one line."""

import os
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventrec.analytics import (
    Migration,
    MigrationError,
    MigrationFileError,
    Phase,
    Statement,
    read_migrations,
    write_migrations,
)
from eventrec.analytics.migration_text import parsed, with_text

ONE = with_text(
    Migration(
        version=1,
        name="tables",
        phase=Phase.PRE,
        up=(
            Statement("CREATE TABLE a (b text)"),
            Statement("CREATE INDEX CONCURRENTLY c ON a (b)", in_transaction=False),
        ),
        down=(Statement("DROP TABLE a"),),
        dialect="postgresql",
        declares=(("table a", '{"columns":["b"]}'),),
    )
)
TEXT = """\
-- eventrec migration 1: tables
-- phase: pre
-- dialect: postgresql
-- declares: ["table a", {"columns": ["b"]}]

-- statement
CREATE TABLE a (b text);

-- statement outside a transaction
CREATE INDEX CONCURRENTLY c ON a (b);

-- down
-- statement
DROP TABLE a;
"""


def test_text_is_for_reviewers_and_read_back() -> None:
    assert ONE.text == TEXT
    assert parsed(TEXT) == ONE
    assert ONE.file_name == "0001_pre_tables.sql"
    assert re.fullmatch("[0-9a-f]{64}", ONE.checksum)


sql = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0\r"), min_size=1).filter(
    lambda text: bool(text.strip().removesuffix(";").strip())
)


@given(
    up=st.lists(st.tuples(sql, st.booleans()), min_size=1, max_size=3),
    down=st.none() | st.lists(sql, max_size=2),
    key=st.text(st.characters(exclude_categories=["Cs"])),
)
def test_any_statements_are_read_back(up: list[tuple[str, bool]], down: list[str] | None, key: str) -> None:
    try:
        statements = tuple(Statement(text, in_transaction=inside) for text, inside in up)
        undoing = None if down is None else tuple(map(Statement, down))
    except MigrationError:
        return  # a line of it looks like one of ours
    made = with_text(Migration(7, "any", Phase.POST, statements, undoing, "sqlite", ((key, "[1]"),)))

    assert parsed(made.text) == made


@pytest.mark.parametrize("text", ["", " ;", "a\0b", "a\r\nb", "a\n-- statement", "x;\n-- down", "--  no down"])
def test_statement_that_no_file_can_hold_is_refused(text: str) -> None:
    with pytest.raises(MigrationError):
        Statement(text)


@pytest.mark.parametrize(
    ("version", "name", "up"), [(0, "a", "x"), (10**7, "a", "x"), (1, "A", "x"), (1, "", "x"), (1, "a", None)]
)
def test_migration_that_is_not_one_is_refused(version: int, name: str, up: str | None) -> None:
    with pytest.raises(MigrationError):
        Migration(version, name, Phase.PRE, () if up is None else (Statement(up),))


def changed(old: str, new: str) -> bytes:
    assert old in TEXT
    return TEXT.replace(old, new).encode()


HOSTILE = {
    "0001_pre_tables.sql": [
        (b"", "first line"),
        (b"\xff" + TEXT.encode(), "not UTF-8 at byte 0"),
        (b"\xef\xbb\xbf" + TEXT.encode(), "byte order mark"),
        (TEXT.replace("\n", "\r\n").encode(), "carriage return"),
        (changed("b text", "b\0"), "NUL"),
        (changed("phase: pre", "phase: post"), "inside it says that it is 0001_post_tables.sql"),
        (changed("phase: pre", "phase: later"), "its phase is pre or post, got 'later'"),
        (changed("migration 1", "migration 2"), "inside it says that it is 0002_pre_tables.sql"),
        (changed("migration 1", "migration 01"), "first line"),
        (changed("-- dialect: postgresql\n", ""), "it is for no dialect"),
        (changed("postgresql", "mysql"), "it is for mysql"),
        (changed("-- dialect: postgresql", "-- dialect: a\n-- dialect: b"), "says its dialect twice"),
        (changed("-- statement\n", "DROP TABLE x;\n-- statement\n"), "line 6 is not a comment"),
        (changed("CREATE TABLE a (b text);", ""), "empty"),
        (changed('["table a"', '["table a'), "-- declares:"),
        (changed('["table a"', "[1"), "-- declares:"),
        (changed('["b"]', "[" * 100_000), "-- declares:"),
        (changed("-- down\n", "-- down\nDROP TABLE x;\n"), "something stands between"),
        (changed("-- down\n-- statement\n", "-- no down\n"), "something follows"),
        (TEXT.partition("-- statement")[0].encode(), "no `-- statement`"),
    ],
    "1_pre_tables.sql": [(TEXT.encode(), "is named like")],
    "0001_Pre_tables.sql": [(TEXT.encode(), "is named like")],
    "0001_pre_other.sql": [(TEXT.encode(), "inside it says")],
}


@pytest.mark.parametrize(
    ("name", "content", "said"), [(name, *case) for name, cases in HOSTILE.items() for case in cases]
)
def test_hostile_file_is_refused_in_one_line(tmp_path: Path, name: str, content: bytes, said: str) -> None:
    (tmp_path / name).write_bytes(content)

    with pytest.raises(MigrationFileError, match=re.escape(said)) as raised:
        read_migrations(tmp_path, dialect="postgresql")

    assert str(tmp_path) in str(raised.value)
    assert "\n" not in str(raised.value)
    assert len(str(raised.value)) < 400


def test_directory_with_a_gap_or_a_double_is_refused(tmp_path: Path) -> None:
    write_migrations(tmp_path, [ONE, numbered(3)])
    with pytest.raises(MigrationFileError, match="version 2 is missing"):
        read_migrations(tmp_path)

    write_migrations(tmp_path, [numbered(2), numbered(3, name="twice")])
    with pytest.raises(MigrationFileError, match="version 3 is there twice"):
        read_migrations(tmp_path)


def test_what_is_no_file_of_migrations_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "0001_pre_tables.sql")

    with pytest.raises(MigrationFileError, match="not a file"):
        read_migrations(tmp_path)
    (tmp_path / "0001_pre_tables.sql").unlink()
    (tmp_path / "0001_pre_tables.sql").mkdir()
    with pytest.raises(MigrationFileError, match=r"0001_pre_tables\.sql: it is not a file"):
        read_migrations(tmp_path)
    with pytest.raises(MigrationFileError, match="No such file"):
        read_migrations(tmp_path / "absent")


def test_other_files_are_left_alone(tmp_path: Path) -> None:
    write_migrations(tmp_path, [ONE])
    (tmp_path / "README.md").write_text("about", encoding="utf-8")
    (tmp_path / "0001_pre_tables.sql~").write_text("a backup", encoding="utf-8")

    assert read_migrations(tmp_path) == [ONE]


def test_written_file_replaces_none(tmp_path: Path) -> None:
    (path,) = write_migrations(tmp_path / "new" / "deep", [ONE])
    path.write_text("mine", encoding="utf-8")

    with pytest.raises(MigrationFileError, match=r"0001_pre_tables\.sql: it is there already"):
        write_migrations(path.parent, [ONE])

    assert path.read_text(encoding="utf-8") == "mine"
    assert [each.name for each in path.parent.iterdir()] == [path.name]


def numbered(version: int, *, name: str = "more") -> Migration:
    return with_text(Migration(version, name, Phase.PRE, (Statement("SELECT 1"),), dialect="postgresql"))
