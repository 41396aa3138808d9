import re
import subprocess
import zipfile
from pathlib import Path

import pytest

from eventrec.registry import OUR_SCHEMES

# The first test that asks for it waits until the wheel is built and installed.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

STATIC = Path(__file__).parents[2] / "eventrec" / "server" / "dashboard" / "static"

SCRIPTS = Path(__file__).parents[2] / "handlers" / "eventrec_handlers" / "redis" / "scripts"

# Imported by nothing in the core, in whichever way: named by extras or the standard library, loaded by a handler.
DRIVERS = ["sqlite3", "asyncpg", "clickhouse_connect", "grpc", "redis", "nats", "aiokafka", "httpcore2", "httpx"]


def run(python: Path, code: str) -> str:
    """What `code` prints, run outside the repository and with warnings as errors."""
    done = subprocess.run(
        [python, "-I", "-W", "error", "-c", code], cwd=python.parent, check=True, capture_output=True, text=True
    )
    return done.stdout


def test_wheel_holds_our_two_packages_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        top = {name.split("/")[0] for name in archive.namelist()}

    assert {name for name in top if not name.endswith(".dist-info")} == {"eventrec", "eventrec_handlers"}


def test_wheel_marks_both_packages_as_typed(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()

    assert {"eventrec/py.typed", "eventrec_handlers/py.typed"} <= set(names)


def test_what_a_package_index_shows_has_no_link_that_leads_nowhere(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        (metadata,) = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
        shown = archive.read(metadata).decode().partition("\n\n")[2]

    assert "## Run it" in shown
    assert "Start in five minutes (`docs/start.md`)" in shown
    assert [link for link in re.findall(r"\]\(([^)]+)\)", shown) if not link.startswith("https://")] == []


def test_wheel_holds_the_page_as_it_stands_in_the_tree(wheel: Path) -> None:
    files = {path.name: path.read_bytes() for path in STATIC.iterdir()}

    with zipfile.ZipFile(wheel) as archive:
        packed = {
            name.split("/")[-1]: archive.read(name)
            for name in archive.namelist()
            if name.startswith("eventrec/server/dashboard/static/")
        }

    assert packed == files


def test_wheel_holds_the_scripts_that_redis_runs(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        packed = {name for name in archive.namelist() if name.endswith(".lua")}

    assert packed == {
        f"eventrec_handlers/redis/scripts/{path.relative_to(SCRIPTS).as_posix()}" for path in SCRIPTS.rglob("*.lua")
    }


def test_importing_eventrec_loads_no_driver_and_no_handler(bare_python: Path) -> None:
    loaded = set(run(bare_python, "import sys; from eventrec import *; print(*sys.modules)").split())

    assert "eventrec.recorder" in loaded
    assert not loaded & {*DRIVERS, "eventrec_handlers"}


def test_every_public_name_is_there_in_a_bare_environment(bare_python: Path) -> None:
    missing = run(
        bare_python,
        "import eventrec; print(*[name for name in eventrec.__all__ if not hasattr(eventrec, name)])",
    )

    assert missing.split() == []


def test_a_handler_is_importable_or_says_which_extra_it_lacks(bare_python: Path) -> None:
    loaded = run(
        bare_python,
        "from importlib.metadata import entry_points\n"
        "from eventrec import HandlerURLError, handler_from_url\n"
        "for point in entry_points(group='eventrec.handlers'):\n"
        "    try: print(point.name, callable(point.load()))\n"
        "    except ImportError:\n"
        "        try: handler_from_url(point.name + '://127.0.0.1/x')\n"
        "        except HandlerURLError as exc: print(point.name, f'eventrec[{point.extras[0]}]' in str(exc))",
    )

    assert sorted(loaded.splitlines()) == sorted(f"{scheme} True" for scheme in OUR_SCHEMES)
