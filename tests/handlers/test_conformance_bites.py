"""The suite is believed because each of these defects turns it red."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

pytestmark = [pytest.mark.handlers, pytest.mark.slow, pytest.mark.xdist_group("planted")]

PLANTED = Path(__file__).with_name("planted_defects.py")

SAID = {
    **{
        f"Blocks{how}": f" s in `{method}`"
        for how, method in {
            "WithoutAwaiting": "handle",
            "BeforeItAwaits": "handle",
            "BehindWhatItAwaited": "handle",
            "BetweenTwoAwaits": "handle",
            "OnceItHasReturned": "handle",
            "InATaskOfItsOwn": "close",
            "InOpen": "open",
            "InClose": "close",
            "InResume": "resume",
            "InDestinationId": "destination_id",
            "InRetire": "retire",
            "InPrepare": "prepare",
            "InRemarks": "remarks",
            "OutOfReach": "open",
            "InLatest": "latest",
            "InFollow": "follow",
            "WhereItIsOpened": "open",
        }.items()
    },
    "BlocksInCloseOutOfReach": "close took",
    "IdsOfItsOwn": "3 rows arrived with ids that no record has",
    "WritesTheOthersAndRefuses": "are there, and must not be: PermanentError says that they were not written",
    **{
        f"Raises{error}": f" raised {error}(), which is not an Exception"
        for error in ("SystemExit", "KeyboardInterrupt", "GeneratorExit", "CancelledError")
    },
    "RaisesItsOwnBaseException": " raised OwnError(), which is not an Exception",
    "HangsOutOfReach": "given up after 3.0 s (`patience` of the harness): `handle` did not return for ",
    "HangsInCloseOutOfReach": "`close` did not return within 3.0 s (`patience`)",
    "EmptiesItsBatch": "`handle` changed the batch",
    "TurnsItsBatchAround": "`handle` changed the batch",
    "StretchesItsBatch": "'end' of 'Batch' object has no setter",
    "SwallowsItsCancellation": "`handle` returned, though it was cancelled",
    "CutSwallowed": "`handle` returned, though the destination went out of reach",
}
"""Defect to what a claim says of it."""


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What pytest says of the planted defects, each under the claims that must catch it, on asyncio."""
    report = tmp_path_factory.mktemp("planted") / "report.xml"
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "--tb=no",
        "--noconftest",
        "-k",
        "not trio",
        f"--junitxml={report}",
    ]
    done = subprocess.run(
        [*command, str(PLANTED)], cwd=PLANTED.parents[2], check=False, capture_output=True, text=True, timeout=200
    )
    assert done.returncode == 1, f"{done.stdout}\n{done.stderr}"
    return report


def test_each_planted_defect_is_caught_by_each_claim_that_must_catch_it(report: Path) -> None:
    cases = ET.parse(report).getroot().iter("testcase")  # noqa: S314 - pytest's own

    passed = [f"{case.get('classname')}.{case.get('name')}" for case in cases if not len(case)]

    assert passed == []


def test_planted_defects_are_many(report: Path) -> None:
    cases = list(ET.parse(report).getroot().iter("testcase"))  # noqa: S314 - pytest's own

    failed = {case.get("classname") for case in cases if case.find("failure") is not None}

    assert len(failed) >= 40
    assert failed == {case.get("classname") for case in cases}


@pytest.mark.parametrize("defect", SAID)
def test_what_is_wrong_is_said(report: Path, defect: str) -> None:
    cases = ET.parse(report).getroot().iter("testcase")  # noqa: S314 - pytest's own

    said = [
        failure.get("message", "")
        for case in cases
        if case.get("classname", "").endswith(f".Test{defect}")
        for failure in case.iter("failure")
    ]

    assert said
    assert [each for each in said if SAID[defect] not in each] == []
