"""What a user's checker says about the right uses (nothing) and the wrong ones (each of them)."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parents[1]

Errors = set[tuple[str, int]]
"""File name and line, counted from 1."""


def run_mypy(folder: Path) -> tuple[Errors, str]:
    ran = subprocess.run(
        [
            *(sys.executable, "-m", "mypy", "--config-file", str(ROOT / "pyproject.toml")),
            # Of its own, for another mypy may be running on the whole tree.
            *("--cache-dir", str(ROOT / ".mypy_cache" / "uses")),
            *map(str, folder.glob("*.py")),
        ],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )
    # By name alone: where a file lay in an earlier run is what mypy's cache may say.
    found = re.findall(r"^(.+?):(\d+): error:", ran.stdout, re.MULTILINE)
    return {(Path(name).name, int(line)) for name, line in found}, ran.stdout + ran.stderr


def run_pyright(folder: Path) -> tuple[Errors, str]:
    (folder / "pyrightconfig.json").write_text(
        json.dumps({"typeCheckingMode": "strict", "extraPaths": [str(ROOT), str(ROOT / "handlers")]}), encoding="utf-8"
    )
    ran = subprocess.run(
        [sys.executable, "-m", "pyright", "--outputjson", "--pythonpath", sys.executable, "--project", str(folder)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYRIGHT_PYTHON_IGNORE_WARNINGS": "1"},
    )
    found = json.loads(ran.stdout)["generalDiagnostics"]
    errors = {(Path(each["file"]).name, each["range"]["start"]["line"] + 1) for each in found}
    return errors, "\n".join(f"{each['range']['start']['line'] + 1}: {each['message']}" for each in found)


@pytest.mark.slow
@pytest.mark.parametrize("check", [run_mypy, run_pyright])
def test_checkers_refuse_every_wrong_use_and_no_right_one(
    check: Callable[[Path], tuple[Errors, str]], tmp_path: Path
) -> None:
    wrong = (HERE / "wrong_uses.py.txt").read_text(encoding="utf-8")
    (tmp_path / "wrong_uses.py").write_text(wrong, encoding="utf-8")
    (tmp_path / "right_uses.py").write_text((HERE / "test_uses.py").read_text(encoding="utf-8"), encoding="utf-8")

    errors, said = check(tmp_path)

    lines = enumerate(wrong.splitlines(), 1)
    expected = {("wrong_uses.py", number) for number, line in lines if line.endswith("# wrong")}
    assert errors == expected, said
