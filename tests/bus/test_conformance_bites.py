"""The suite is believed because each of these defects turns it red."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("planted in buses")]

PLANTED = Path(__file__).with_name("planted_defects.py")


@pytest.fixture(scope="module")
def failed(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], bool]:
    """Whether any form of a claim fails, by planted defect and claim, on asyncio."""
    report = tmp_path_factory.mktemp("planted") / "report.xml"
    command = [sys.executable, "-m", "pytest", "-q", "--tb=no", "--noconftest", "-k", "not trio"]
    done = subprocess.run(
        [*command, f"--junitxml={report}", str(PLANTED)],
        cwd=PLANTED.parents[2],
        check=False,
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 1, f"{done.stdout}\n{done.stderr}"
    found: dict[tuple[str, str], bool] = {}
    for case in ET.parse(report).getroot().iter("testcase"):  # noqa: S314 - pytest's own
        key = (str(case.get("classname")), re.sub(r"\[.*", "", str(case.get("name"))))
        found[key] = found.get(key, False) or case.find("failure") is not None
    return found


def test_each_planted_defect_is_caught_by_each_claim_that_must_catch_it(failed: dict[tuple[str, str], bool]) -> None:
    passed = [key for key, is_caught in failed.items() if not is_caught]

    assert passed == []


def test_planted_defects_are_many(failed: dict[tuple[str, str], bool]) -> None:
    assert len({defect for defect, _ in failed}) >= 40
