import subprocess
import sys
from pathlib import Path

import pytest

from eventrec import cli
from eventrec.cli.new_handler import FILES

WRITTEN = Path(__file__).with_name("http_handler")
"""What somebody has made of the scaffold, for a destination that is an HTTP endpoint."""

OWN = {"handler.py.txt": "eventrec_endpoint/__init__.py", "test_conformance.py.txt": "tests/test_conformance.py"}


@pytest.fixture
def package(tmp_path: Path) -> Path:
    assert cli.main(["new-handler", "endpoint", "--dir", str(tmp_path)]) == 0
    return tmp_path / "eventrec-endpoint"


def pytest_in(package: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "--tb=short", "-p", "no:cacheprovider", "-p", "no:randomly", *arguments],
        cwd=package,
        check=False,
        capture_output=True,
        text=True,
    )


def lines(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.strip()]


def test_it_makes_a_package_with_handler_harness_test_and_entry_point(package: Path) -> None:
    made = {str(path.relative_to(package)) for path in package.rglob("*") if path.is_file()}

    assert made == {path.replace("PACKAGE", "eventrec_endpoint") for path in FILES}
    assert 'endpoint = "eventrec_endpoint:from_url"' in (package / "pyproject.toml").read_text(encoding="utf-8")


def test_hyphens_become_a_package_and_a_class(tmp_path: Path) -> None:
    assert cli.main(["new-handler", "big-ware-house2", "--dir", str(tmp_path)]) == 0

    module = tmp_path / "eventrec-big-ware-house2" / "eventrec_big_ware_house2" / "__init__.py"
    assert "class BigWareHouse2Handler(EventHandler):" in module.read_text(encoding="utf-8")


@pytest.mark.parametrize("name", ["", "Ware", "1st", "a_b", "-a", "a--b", "../x", "a" * 51, "é"])
def test_name_that_cannot_be_a_package_and_a_scheme_is_refused(
    name: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["new-handler", "--dir", str(tmp_path), "--", name]) == 2

    assert "a handler's name is small letters" in " ".join(capfd.readouterr().err.split())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["sqlite", "memory", "postgresql", "env"])
def test_a_scheme_that_is_taken_is_refused_in_one_line(
    name: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["new-handler", name, "--dir", str(tmp_path)]) == 2

    assert f"the scheme '{name}' is taken" in " ".join(capfd.readouterr().err.split())
    assert list(tmp_path.iterdir()) == []


def test_what_is_there_is_left_alone(package: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (package / "README.md").write_text("mine")

    assert cli.main(["new-handler", "endpoint", "--dir", str(package.parent)]) == 4

    assert "is there already" in " ".join(capfd.readouterr().err.split())
    assert (package / "README.md").read_text() == "mine"


def test_directory_that_cannot_be_written_is_named(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").touch()

    assert cli.main(["new-handler", "endpoint", "--dir", str(tmp_path / "file")]) == 4

    assert "Not a directory" in " ".join(capfd.readouterr().err.split())


@pytest.mark.slow
def test_what_is_not_written_yet_is_red_and_says_so(package: Path) -> None:
    done = pytest_in(package, "-x")

    assert done.returncode == 1
    assert "NotImplementedError: write EndpointHandler.handle" in done.stdout


@pytest.mark.slow
@pytest.mark.handlers
def test_handler_that_writes_the_payload_alone_is_told_where_columns_are(package: Path) -> None:
    for source, target in OWN.items():
        written = (WRITTEN / source).read_text(encoding="utf-8")
        alone = "\n".join(line for line in written.splitlines() if 'base["columns"]' not in line)
        (package / target).write_text(alone, encoding="utf-8")
    (package / "tests" / "endpoint.py").write_bytes((WRITTEN / "endpoint.py").read_bytes())

    done = pytest_in(package, "-k", "asyncio and columns")

    assert done.returncode == 1, done.stdout
    assert "2 failed" in done.stdout
    assert "they are not in the payload: write `record.rows`" in done.stdout


@pytest.mark.slow
@pytest.mark.handlers
def test_http_handler_made_of_it_conforms_in_under_60_lines_of_its_own(package: Path) -> None:
    own = 0
    for source, target in OWN.items():
        scaffold = lines((package / target).read_text(encoding="utf-8"))
        written = (WRITTEN / source).read_text(encoding="utf-8")
        own += sum(line not in scaffold for line in lines(written))
        (package / target).write_text(written, encoding="utf-8")
    (package / "tests" / "endpoint.py").write_bytes((WRITTEN / "endpoint.py").read_bytes())

    done = pytest_in(package, "-k", "not trio")  # that an HTTP handler conforms on both is tested with our own

    assert done.returncode == 0, done.stdout
    assert "lacks checkpoints: the destination keeps none" in done.stdout, "what is lacking is said"
    assert own < 60
