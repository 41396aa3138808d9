"""The files that say what each mirror of a log directory has."""

from __future__ import annotations

import os
from pathlib import Path
from uuid import UUID

import pytest

from eventrec.runs.mirrors import MIRRORS, Acknowledged, Mirrors
from eventrec.runs.run import new_run_id
from eventrec.runs.survey import list_foreign

LOG = new_run_id()


def known(directory: Path, *names: str) -> Mirrors:
    mirrors = Mirrors(directory)
    for name in names:
        mirrors.register(name)
    return mirrors


def file_of(directory: Path, name: str, id_: UUID = LOG) -> Path:
    return directory / MIRRORS / name / f"{id_}.json"


def test_a_directory_without_mirrors_holds_nothing_for_any(tmp_path: Path) -> None:
    mirrors = Mirrors(tmp_path)

    assert mirrors.names() == []
    assert mirrors.of_log(LOG) == {}
    assert not mirrors.forget("standby")


def test_a_mirror_is_known_from_its_first_registration_and_has_nothing_yet(tmp_path: Path) -> None:
    mirrors = Mirrors(tmp_path)

    assert mirrors.register("standby")
    assert not mirrors.register("standby")
    assert mirrors.names() == ["standby"]
    assert mirrors.of_log(LOG) == {"standby": Acknowledged(log=LOG)}
    assert list_foreign(tmp_path) == []


def test_a_folder_whose_name_is_not_utf_8_is_named_in_text_that_is(tmp_path: Path) -> None:
    folder = tmp_path / MIRRORS / "\udcff"
    folder.mkdir(parents=True)
    (folder / "mirror.json").write_text("damaged", encoding="utf-8")

    assert Mirrors(tmp_path).names() == [r"\udcff"]
    assert Mirrors(tmp_path).of_log(LOG) == {r"\udcff": Acknowledged(log=LOG)}


def test_what_a_mirror_acknowledges_is_read_by_another_process(tmp_path: Path) -> None:
    said = Acknowledged(log=LOG, next_offset=120, checkpoints={"s.json": 90})

    known(tmp_path, "standby", "far").acknowledge("standby", said)

    assert Mirrors(tmp_path).of_log(LOG) == {"standby": said, "far": Acknowledged(log=LOG)}
    assert Mirrors(tmp_path).logs_of("standby") == {LOG}


@pytest.mark.parametrize(
    ("end", "checkpoints", "lacks"),
    [
        (10, {}, False),
        (11, {}, True),
        (10, {"s.json": 10}, False),
        (10, {"s.json": 11}, True),
        (9, {"t.json": 0}, True),
    ],
)
def test_a_mirror_lacks_records_or_checkpoints(end: int, checkpoints: dict[str, int], *, lacks: bool) -> None:
    said = Acknowledged(log=LOG, next_offset=10, checkpoints={"s.json": 10})

    assert said.lacks(end, checkpoints) is lacks


@pytest.mark.parametrize("content", [b"", b"{}", b'{"log":1}\n', b"\xff\xfe", b"[" * 5_000])
def test_a_damaged_file_acknowledges_nothing(tmp_path: Path, content: bytes) -> None:
    mirrors = known(tmp_path, "standby")
    mirrors.acknowledge("standby", Acknowledged(log=LOG, next_offset=7))

    file_of(tmp_path, "standby").write_bytes(content)

    assert mirrors.of_log(LOG) == {"standby": Acknowledged(log=LOG)}


def test_the_file_of_another_log_acknowledges_nothing(tmp_path: Path) -> None:
    mirrors, other = known(tmp_path, "standby"), new_run_id()
    mirrors.acknowledge("standby", Acknowledged(log=other, next_offset=7))

    file_of(tmp_path, "standby", other).rename(file_of(tmp_path, "standby"))

    assert mirrors.of_log(LOG) == {"standby": Acknowledged(log=LOG)}


def test_a_mirror_whose_own_file_is_damaged_is_known_still(tmp_path: Path) -> None:
    mirrors = known(tmp_path, "standby")

    (tmp_path / MIRRORS / "standby" / "mirror.json").write_bytes(b"\0")

    assert mirrors.names() == ["standby"]


def test_what_is_not_ours_is_not_a_mirror_and_not_followed(tmp_path: Path) -> None:
    mirrors = known(tmp_path, "standby")
    (tmp_path / MIRRORS / "theirs").mkdir()
    (tmp_path / MIRRORS / "notes.txt").touch()
    (tmp_path / MIRRORS / "link").symlink_to(tmp_path / MIRRORS / "standby")

    assert mirrors.names() == ["standby"]


def test_a_link_or_a_file_in_the_place_of_the_folder_is_no_folder_of_mirrors(tmp_path: Path) -> None:
    (elsewhere := tmp_path / "elsewhere").mkdir()
    known(elsewhere, "standby")
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    (tmp_path / "a" / MIRRORS).symlink_to(elsewhere / MIRRORS)
    (tmp_path / "b" / MIRRORS).touch()

    assert Mirrors(tmp_path / "a").names() == []
    assert Mirrors(tmp_path / "b").names() == []


@pytest.mark.parametrize("name", ["../..", "a/b", ".", "x" * 300, "überall", "mirror.json"])
def test_any_name_is_a_mirror_of_its_own_and_stays_in_its_folder(tmp_path: Path, name: str) -> None:
    mirrors = known(tmp_path, name)

    mirrors.acknowledge(name, Acknowledged(log=LOG, next_offset=3))

    assert mirrors.names() == [name]
    assert mirrors.of_log(LOG)[name].next_offset == 3
    assert [path.name for path in tmp_path.iterdir()] == [MIRRORS]
    assert len(list((tmp_path / MIRRORS).iterdir())) == 1


def test_a_forgotten_mirror_leaves_nothing_and_its_acknowledgements_are_refused(tmp_path: Path) -> None:
    mirrors = known(tmp_path, "standby", "far")
    mirrors.acknowledge("standby", Acknowledged(log=LOG, next_offset=3))

    assert mirrors.forget("standby")

    assert mirrors.names() == ["far"]
    assert not (tmp_path / MIRRORS / "standby").exists()
    with pytest.raises(FileNotFoundError):
        mirrors.acknowledge("standby", Acknowledged(log=LOG, next_offset=4))


def test_other_peoples_files_survive_that_a_mirror_is_forgotten(tmp_path: Path) -> None:
    mirrors = known(tmp_path, "standby")
    theirs = tmp_path / MIRRORS / "standby" / "notes.txt"
    theirs.touch()

    assert mirrors.forget("standby")

    assert theirs.exists()
    assert mirrors.names() == []


def test_what_is_acknowledged_of_a_log_goes_with_the_log(tmp_path: Path) -> None:
    mirrors = known(tmp_path, "standby")
    mirrors.acknowledge("standby", Acknowledged(log=LOG, next_offset=3))

    mirrors.forget_log("standby", LOG)

    assert mirrors.logs_of("standby") == set()


def test_the_files_are_private(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        known(tmp_path, "standby").acknowledge("standby", Acknowledged(log=LOG, next_offset=3))
    finally:
        os.umask(before)

    modes = {path.stat().st_mode & 0o777 for path in (tmp_path / MIRRORS).rglob("*")}
    assert modes == {0o700, 0o600}


def test_of_a_mirror_that_is_not_known_nothing_is_noted_and_nothing_forgotten(tmp_path: Path) -> None:
    mirrors = known(tmp_path, "standby")
    (tmp_path / MIRRORS / "theirs").mkdir()

    assert mirrors.logs_of("other") == set()
    mirrors.forget_log("other", LOG)
    mirrors.forget_log("standby", LOG)
    assert not mirrors.forget("theirs")
    assert (tmp_path / MIRRORS / "theirs").is_dir()


def test_a_name_that_is_not_its_folders_is_not_believed(tmp_path: Path) -> None:
    mirrors = known(tmp_path, "standby")

    (tmp_path / MIRRORS / "standby").rename(tmp_path / MIRRORS / "moved")

    assert mirrors.names() == ["moved"]


def test_mirrors_say_whose_they_are(tmp_path: Path) -> None:
    assert repr(Mirrors(tmp_path)) == f"<Mirrors of {tmp_path}>"


def test_a_mirror_whose_own_file_is_gone_notes_nothing(tmp_path: Path) -> None:
    mirrors = known(tmp_path, "standby")
    for path in (tmp_path / MIRRORS / "standby").iterdir():
        path.unlink()

    with pytest.raises(FileNotFoundError, match="'standby' is not known any more"):
        mirrors.acknowledge("standby", Acknowledged(log=LOG, next_offset=1))

    assert list((tmp_path / MIRRORS / "standby").iterdir()) == []
