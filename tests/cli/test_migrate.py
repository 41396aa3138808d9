"""`eventrec migrate`, in this process or, where it is about processes, in its own."""

from __future__ import annotations

import hashlib
import json
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any, TypeAlias

    Main: TypeAlias = "Callable[..., tuple[int, str, str]]"
    Start: TypeAlias = "Callable[..., Any]"

SHOP = """
from typing import Annotated
from eventrec import Column, EventModel
from eventrec.analytics import Catalogue

class OrderPlaced(EventModel, table="orders"):
    number: int

catalogue = Catalogue(name="shop", events=[OrderPlaced])
"""
MORE = SHOP.replace("number: int", "number: int\n    customer: Annotated[str, Column()]")
URL = "sqlite:///events.db"


@pytest.fixture(autouse=True)
def _nothing_is_named(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    import sys  # noqa: PLC0415

    for name in ("DATABASE_URL", "PLATFORM_DATABASE_URL", "EVENTREC_CATALOGUE"):
        monkeypatch.delenv(name, raising=False)
    before = list(sys.path)
    yield
    sys.path[:] = before
    for name in [name for name in sys.modules if name.startswith("shop_")]:
        del sys.modules[name]


@pytest.fixture
def shop(tmp_path: Path) -> str:
    """The catalogue of a module with a name of its own: what is imported once stays what it was."""
    name = "shop_" + hashlib.sha256(str(tmp_path).encode()).hexdigest()[:12]
    (tmp_path / f"{name}.py").write_text(SHOP, encoding="utf-8")
    (tmp_path / f"{name}_more.py").write_text(MORE, encoding="utf-8")
    return f"{name}:catalogue"


def more(shop: str) -> str:
    return shop.replace(":", "_more:")


def tables(path: Path) -> set[str]:
    with closing(sqlite3.connect(path)) as connection:
        return {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}


def test_all_is_the_default_and_then_there_is_nothing_to_do(main: Main, shop: str, tmp_path: Path) -> None:
    assert main("migrate", "--to", URL, "--catalogue", shop) == (0, "applied 0001 pre tables\n", "")
    assert "orders" in tables(tmp_path / "events.db")

    assert main("migrate", "all", "--to", URL, "--catalogue", shop) == (0, "nothing to do\n", "")
    assert main("migrate", "post", "--to", URL, "--catalogue", shop) == (0, "nothing to do\n", "")


def test_unknown_command_shows_the_usage(main: Main, shop: str, tmp_path: Path) -> None:
    for words in (["everything"], ["all", "more"], [""]):
        code, out, said = main("migrate", *words, "--to", URL, "--catalogue", shop)

        assert (code, out) == (1, "")
        assert said.startswith("usage: eventrec migrate [all | pre | post | status | dry-run | rollback")
    assert not (tmp_path / "events.db").exists()


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["stats"], 'eventrec: Unknown command "stats". Did you mean "status"?'),
        (["everything"], 'eventrec: Unknown command "everything".'),
        (["sqlite://user:secret@x"], "eventrec: Unknown command: a database is named with --to."),
        (["status", "sqlite://user:secret@x"], "eventrec: status takes no argument: a database is named with --to."),
        (["all", "more"], "eventrec: all takes no argument."),
    ],
)
def test_what_is_wrong_with_a_command_is_said_behind_the_usage(main: Main, words: list[str], line: str) -> None:
    code, _, said = main("migrate", *words)

    assert code == 1
    assert said.splitlines()[-1] == line
    assert "secret" not in said


def test_status_counts_and_names_what_is_applied_and_pending(main: Main, shop: str) -> None:
    _, out, _ = main("migrate", "status", "--to", URL, "--catalogue", shop)
    assert out == "Applied: 0\nPending: 1\n  0001 pre tables\n"
    main("migrate", "--to", URL, "--catalogue", shop)

    code, out, _ = main("migrate", "status", "--to", URL, "--catalogue", more(shop))

    assert (code, out) == (0, "Applied: 1\n  0001 pre tables\nPending: 1\n  0002 pre events_orders\n")
    _, out, _ = main("migrate", "status", "--to", URL, "--catalogue", more(shop), "--json")
    assert json.loads(out) == {
        "applied": [{"version": 1, "phase": "pre", "name": "tables", "adopted": []}],
        "pending": [{"version": 2, "phase": "pre", "name": "events_orders", "done": 0}],
        "remarks": [],
    }


def test_dry_run_prints_the_sql_and_makes_nothing(main: Main, shop: str, tmp_path: Path) -> None:
    before = sorted(path for path in tmp_path.rglob("*") if "__pycache__" not in path.parts)

    code, out, said = main("migrate", "dry-run", "--to", URL, "--catalogue", shop)

    assert (code, said) == (0, "")
    assert 'CREATE TABLE IF NOT EXISTS "orders"' in out
    assert sorted(path for path in tmp_path.rglob("*") if "__pycache__" not in path.parts) == before
    with closing(sqlite3.connect(":memory:")) as connection:
        connection.executescript(out)


def test_database_is_that_of_the_environment(
    main: Main, shop: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main("migrate", "--catalogue", shop) == (
        2,
        "",
        "eventrec: no database is named: give --to URL, or set DATABASE_URL or PLATFORM_DATABASE_URL\n",
    )
    monkeypatch.setenv("EVENTREC_CATALOGUE", shop)
    monkeypatch.setenv("PLATFORM_DATABASE_URL", "sqlite:///second.db")
    assert main("migrate")[0] == 0
    monkeypatch.setenv("DATABASE_URL", "sqlite:///first.db")
    assert main("migrate")[0] == 0

    monkeypatch.setenv("DATABASE_URL", "SQLite+aiosqlite:///third.db")
    assert main("migrate")[0] == 0

    assert {path.name for path in tmp_path.glob("*.db")} == {"first.db", "second.db", "third.db"}


def test_secret_of_a_url_is_never_shown(main: Main, shop: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for url in (
        "postgresql://user:hunter2@127.0.0.1:1/shop?connect_timeout=1",
        "mysql://user:hunter2@127.0.0.1/shop",
        "user:hunter2@host/shop",
        "hunter2",
        "postgresql://user:hun:ter2@127.0.0.1:hunter2/shop",
        "postgresql+asyncpg://user:hunter2@127.0.0.1:hunter2/shop",
        "postgresql+psycopg://user:hun:ter2@127.0.0.1:1/shop?connect_timeout=1",
        "postgresql+asyncpg:hunter2",
    ):
        monkeypatch.setenv("DATABASE_URL", url)
        for command in ("all", "status", "dry-run", "rollback", "files"):
            code, out, said = main("migrate", command, "--catalogue", shop)
            assert code != 0
            assert "ter2" not in out + said
            assert said.count("\n") == 1


def test_files_are_written_reviewed_and_applied(main: Main, shop: str, tmp_path: Path) -> None:
    code, out, _ = main("migrate", "files", "migrations", "--to", URL, "--catalogue", shop)
    assert (code, out) == (0, "migrations/0001_pre_tables.sql\n")
    assert not (tmp_path / "events.db").exists()
    first = (tmp_path / "migrations" / "0001_pre_tables.sql").read_bytes()

    code, out, _ = main("migrate", "files", "migrations", "--to", URL, "--catalogue", more(shop))
    assert (code, out) == (0, "migrations/0002_pre_events_orders.sql\n")
    assert (tmp_path / "migrations" / "0001_pre_tables.sql").read_bytes() == first

    assert main("migrate", "--to", URL, "--files", "migrations") == (
        0,
        "applied 0001 pre tables\napplied 0002 pre events_orders\n",
        "",
    )
    # Generated or from files: a database cannot tell.
    assert main("migrate", "--to", URL, "--catalogue", more(shop)) == (0, "nothing to do\n", "")


def test_difference_between_files_and_catalogue_is_named(main: Main, shop: str, tmp_path: Path) -> None:
    main("migrate", "files", "migrations", "--to", URL, "--catalogue", shop)
    (tmp_path / "pyproject.toml").write_text('[tool.eventrec]\nmigrations = "migrations"\n', encoding="utf-8")

    code, _, said = main("migrate", "status", "--to", URL, "--catalogue", more(shop))

    assert code == 0
    assert said == (
        "eventrec: no file makes what the catalogue declares (events orders): see `eventrec migrate files`\n"
    )


def test_changed_file_is_refused_by_name(main: Main, shop: str, tmp_path: Path) -> None:
    main("migrate", "files", "migrations", "--to", URL, "--catalogue", shop)
    main("migrate", "--to", URL, "--files", "migrations")
    file = tmp_path / "migrations" / "0001_pre_tables.sql"
    file.write_bytes(file.read_bytes() + b"-- a remark\n")

    for command in ("all", "status", "dry-run"):
        code, _, said = main("migrate", command, "--to", URL, "--files", "migrations")

        assert code == 4
        assert "0001_pre_tables.sql was changed after it was applied" in said
        assert said.count("\n") == 1


def test_hostile_file_ends_the_command_in_one_line(main: Main, tmp_path: Path) -> None:
    (tmp_path / "migrations").mkdir()
    (tmp_path / "migrations" / "0001_pre_x.sql").write_bytes(b"\xff\xfe\n\x1b[31m")

    code, out, said = main("migrate", "--to", URL, "--files", "migrations")

    assert (code, out) == (4, "")
    assert said == "eventrec: migrations/0001_pre_x.sql: it is not UTF-8 at byte 0\n"


def test_rollback_without_a_way_back(main: Main, shop: str) -> None:
    main("migrate", "--to", URL, "--catalogue", shop)

    assert main("migrate", "rollback", "--to", URL) == (
        1,
        "",
        "eventrec: migration 1 cannot be rolled back: it has no way back\n",
    )
    assert main("migrate", "rollback", "x", "--to", URL)[0] == 2
    assert main("migrate", "rollback", "7", "--to", URL)[0] == 3


def test_destination_that_nothing_migrates_is_said(main: Main, shop: str) -> None:
    assert main("migrate", "--to", "memory:", "--catalogue", shop) == (
        3,
        "",
        "eventrec: the handler for 'memory' has no migrations\n",
    )


def test_two_processes_at_once_apply_it_once(start: Start, shop: str, tmp_path: Path) -> None:
    both = [start("migrate", "--to", URL, "--catalogue", shop) for _ in range(2)]

    ends = [each.end() for each in both]

    assert sorted(ends) == [(0, "applied 0001 pre tables\n"), (0, "nothing to do\n")]
    assert not (tmp_path / "events.db-migrate").exists()
