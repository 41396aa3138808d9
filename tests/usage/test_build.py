from __future__ import annotations

import json
import platform
from importlib.metadata import version
from pathlib import Path

import pytest

from eventrec.usage.build import BuildInformation, build_information

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def install(site: Path, name: str, **files: str) -> None:
    info = site / f"{name}-1.2.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.2\n", encoding="utf-8")
    for file, text in files.items():
        (info / f"{file}.json").write_text(text, encoding="utf-8")


def test_properties_carry_the_names_of_the_application() -> None:
    said = BuildInformation(
        application="my-app", version="1.2", git_hash=COMMIT, features="web gpu", build_date="2026-11-28", is_debug=True
    ).properties()

    assert said == {
        "features": "web gpu",
        "git_hash": COMMIT,
        "my_app_version": "1.2",
        "python_version": platform.python_version(),
        "python_implementation": "cpython",
        "target": said["target"],
        "build_date": "2026-11-28",
        "debug": True,
        "my_app_workspace": False,
    }


def test_what_is_not_known_is_left_out() -> None:
    said = BuildInformation(application="tool").properties()

    assert not said.keys() & {"git_hash", "features", "build_date"}


def test_installed_package_says_its_version() -> None:
    assert build_information("eventrec").version == version("eventrec")


def test_package_installed_from_a_repository_says_its_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, "from_git", direct_url=json.dumps({"url": "x", "vcs_info": {"vcs": "git", "commit_id": COMMIT}}))
    install(tmp_path, "edited", direct_url=json.dumps({"url": "x", "dir_info": {"editable": True}}))
    monkeypatch.syspath_prepend(tmp_path)

    assert build_information("tool", package="from_git").git_hash == COMMIT
    assert build_information("edited").is_workspace


@pytest.mark.parametrize("damaged", ["", "{", "[]", "null", '{"vcs_info":1}', '{"dir_info":[]}'])
def test_damaged_metadata_is_no_reason_to_fail(damaged: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, "damaged", direct_url=damaged)
    monkeypatch.syspath_prepend(tmp_path)

    found = build_information("damaged")

    assert (found.version, found.git_hash, found.is_workspace) == ("1.2", "", False)


def test_application_that_is_not_installed_is_unknown() -> None:
    assert build_information("nowhere-to-be-found").version == "unknown"


def test_what_the_application_says_counts() -> None:
    said = build_information("eventrec", version="9", is_debug=True, build_date="today")

    assert (said.version, said.is_debug, said.build_date) == ("9", True, "today")
