"""The package as it stands is built into a wheel and unpacked where Python looks: installed, without any download."""

import csv
import importlib.util
import os
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "examples" / "own_handler"

RECORDS = """
import asyncio, sys
from eventrec import EventRecorder, EventStruct

class Sold(EventStruct, frozen=True):
    what: str

async def main():
    async with EventRecorder(sys.argv[1]) as recorder:
        recorder.record_many([Sold("tea"), Sold("a, b; c")])
    print(recorder.status())

asyncio.run(main())
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory of packages with the example in it."""
    site = tmp_path_factory.mktemp("site")
    if importlib.util.find_spec("hatchling") is None:
        install_by_hand(site)
        return site
    build = ["-m", "hatchling", "build", "-t", "wheel", "-d", str(site / "dist")]
    subprocess.run([sys.executable, *build], cwd=PACKAGE, check=True, capture_output=True)
    (wheel,) = (site / "dist").glob("*.whl")
    zipfile.ZipFile(wheel).extractall(site)
    return site


def install_by_hand(site: Path) -> None:
    """What an installer would leave of the wheel, by what pyproject.toml says."""
    project = tomllib.loads((PACKAGE / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    name, version = project["name"], project["version"]
    shutil.copy(PACKAGE / "eventrec_csv.py", site)
    dist = site / f"{name.replace('-', '_')}-{version}.dist-info"
    dist.mkdir()
    (dist / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n", encoding="utf-8")
    points = project["entry-points"]["eventrec.handlers"]
    text = "\n".join(["[eventrec.handlers]", *(f"{scheme} = {value}" for scheme, value in points.items())])
    (dist / "entry_points.txt").write_text(text, encoding="utf-8")


def run(url: str, *, path: Path | None, cwd: Path) -> subprocess.CompletedProcess[str]:
    paths = [str(path)] if path is not None else []
    known = os.pathsep.join([*paths, *filter(None, [os.environ.get("PYTHONPATH")])])
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", RECORDS, url],
        check=False,
        capture_output=True,
        text=True,
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": known},
    )


def test_once_installed_it_is_found_by_its_scheme(site: Path, tmp_path: Path) -> None:
    done = run("csv:///events.csv?delimiter=;", path=site, cwd=tmp_path)

    assert (done.returncode, done.stderr) == (0, "")
    assert "csv closed: delivered 2, pending 0" in done.stdout
    with (tmp_path / "events.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.reader(file, delimiter=";"))
    assert [(kind, payload) for _, kind, _, payload in rows] == [
        ("sold", '{"what":"tea"}'),
        ("sold", '{"what":"a, b; c"}'),
    ]
    assert len({id_ for id_, *_ in rows}) == 2


def test_until_then_the_scheme_is_unknown(tmp_path: Path) -> None:
    done = run("csv:///events.csv", path=None, cwd=tmp_path)

    assert done.returncode == 1
    assert "HandlerURLError: no handler for the scheme 'csv'; known are" in done.stderr


def test_its_wrong_option_is_refused(site: Path, tmp_path: Path) -> None:
    done = run("csv:///events.csv?delimiter=x", path=site, cwd=tmp_path)

    assert done.returncode == 1
    assert "the option 'delimiter' of a csv URL must be one of" in done.stderr


def test_handler_is_about_twenty_lines() -> None:
    lines = (PACKAGE / "eventrec_csv.py").read_text(encoding="utf-8").splitlines()
    start = next(number for number, line in enumerate(lines) if line.startswith("class "))

    assert len([line for line in lines[start:] if line.strip()]) <= 20
