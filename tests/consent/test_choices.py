"""The file with a user's choices: whatever is not certain counts as a no."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventrec.consent.choices import Choices, ChoicesFile
from eventrec.consent.decision import Decision, decide
from eventrec.consent.places import Places
from eventrec.errors import ConsentError

YES = {"analytics_enabled": True, "analytics_id": "abc", "metadata": {}}


@pytest.fixture
def file(tmp_path: Path) -> ChoicesFile:
    return ChoicesFile(tmp_path / "config" / "my-app" / "analytics.json")


def put(file: ChoicesFile, content: bytes | object) -> None:
    file.path.parent.mkdir(parents=True, exist_ok=True)
    file.path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())


def decided(file: ChoicesFile, environment: dict[str, str] | None = None, told: list[object] | None = None) -> Decision:
    places = Places(file.path, file.path.parent / "data")
    return decide("my-app", lambda: places, environment or {}, disclose=(told if told is not None else []).append)


# -- what a user chose


def test_what_is_not_there_is_not_made_by_looking(file: ChoicesFile) -> None:
    assert file.load() is None
    assert not file.path.parent.parent.exists()


def test_what_is_made_is_a_yes_under_an_id_of_chance_and_private(file: ChoicesFile) -> None:
    umask = os.umask(0)
    try:
        made = file.tell(lambda: None)
    finally:
        os.umask(umask)

    assert file.load() == made
    assert made.enabled
    assert len(made.id) == 32
    assert int(made.id, 16)
    assert json.loads(file.path.read_text(encoding="utf-8")) == {
        "analytics_enabled": True,
        "analytics_id": made.id,
        "metadata": {},
    }
    assert stat.S_IMODE(file.path.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.path.parent.stat().st_mode) == 0o700
    assert [path.name for path in file.path.parent.iterdir()] == ["analytics.json"]


def test_a_change_leaves_the_rest_as_it_is(file: ChoicesFile) -> None:
    put(file, {**YES, "metadata": {"email": "a@b.c", "n": 1}, "config_file_path": "/x", "unknown": {"deep": [1, None]}})

    changed = file.change(enabled=False, email=None, organization="acme")

    assert file.load() == changed
    assert json.loads(file.path.read_text(encoding="utf-8")) == {
        "analytics_enabled": False,
        "analytics_id": "abc",
        "metadata": {"n": 1, "organization": "acme"},
        "config_file_path": "/x",
        "unknown": {"deep": [1, None]},
    }


def test_reruns_own_file_is_read(file: ChoicesFile) -> None:
    put(
        file,
        {
            "analytics_enabled": True,
            "analytics_id": "any text",
            "metadata": {"email": {"String": "a@b.c"}, "n": {"Integer": 3}, "x": {"Float": 1.5}, "b": {"Bool": True}},
            "config_file_path": "/home/ada/.config/rerun/analytics.json",
        },
    )

    choices = file.load()

    assert choices is not None
    assert (choices.id, choices.metadata) == ("any text", {"email": "a@b.c", "n": 3, "x": 1.5, "b": True})


# -- what is not certain

NOT_CERTAIN: dict[str, bytes] = {
    "nothing": b"",
    "spaces": b"  \n",
    "half": b'{"analytics_enabled": tr',
    "not JSON": b"enabled = true",
    "not UTF-8": b'{"analytics_enabled": true, "analytics_id": "\xff"}',
    "UTF-16": json.dumps(YES).encode("utf-16"),
    "zeros": b"\0" * 100,
    "a list": b"[true]",
    "null": b"null",
    "a number for yes": b'{"analytics_enabled": 1, "analytics_id": "abc"}',
    "a text for yes": b'{"analytics_enabled": "true", "analytics_id": "abc"}',
    "no yes or no": b'{"analytics_id": "abc"}',
    "no id": b'{"analytics_enabled": true}',
    "an empty id": b'{"analytics_enabled": true, "analytics_id": ""}',
    "a long id": b'{"analytics_enabled": true, "analytics_id": "%b"}' % (b"a" * 201),
    "half of a pair": b'{"analytics_enabled": true, "analytics_id": "\\ud800"}',
    "both answers": b'{"analytics_enabled": false, "analytics_id": "abc", "analytics_enabled": true}',
    "told of another kind": b'{"analytics_enabled": true, "analytics_id": "abc", "told": 1}',
    "metadata of another kind": b'{"analytics_enabled": true, "analytics_id": "abc", "metadata": ["email"]}',
    "metadata within metadata": b'{"analytics_enabled": true, "analytics_id": "abc", "metadata": {"a": {"b": 1}}}',
    "NaN": b'{"analytics_enabled": true, "analytics_id": "abc", "metadata": {"a": NaN}}',
    "infinity": b'{"analytics_enabled": true, "analytics_id": "abc", "metadata": {"a": 1e999}}',
    "infinity elsewhere": b'{"analytics_enabled": true, "analytics_id": "abc", "x": [-1e999]}',
    "depth": b'{"analytics_enabled": true, "analytics_id": "abc", "x": ' + b"[" * 30_000 + b"]" * 30_000 + b"}",
    "digits": b'{"analytics_enabled": true, "analytics_id": "abc", "x": ' + b"9" * 5_000 + b"}",
    "much": json.dumps({**YES, "x": "y" * 70_000}).encode(),
}


@pytest.mark.parametrize("content", NOT_CERTAIN.values(), ids=NOT_CERTAIN)
def test_what_cannot_be_decoded_is_off_and_stays_as_it_is(file: ChoicesFile, content: bytes) -> None:
    put(file, content)
    told: list[object] = []

    with pytest.raises(ConsentError, match="json cannot be read"):
        file.load()
    decision = decided(file, told=told)

    assert not decision.is_on
    assert not decision.is_first_run
    assert "cannot be read" in str(decision.why_off)
    assert told == []
    assert file.path.read_bytes() == content


@pytest.mark.parametrize("content", NOT_CERTAIN.values(), ids=NOT_CERTAIN)
def test_a_user_may_choose_again(file: ChoicesFile, content: bytes) -> None:
    put(file, content)

    assert file.change(email="a@b.c").enabled is False
    assert file.change(enabled=True).enabled is True

    assert decided(file).is_on


JSON = st.recursive(st.none() | st.booleans() | st.text(), st.lists).map(json.dumps).map(str.encode)


@given(content=st.binary(max_size=200) | JSON)
def test_no_bytes_but_a_clear_yes_switch_on(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    file = ChoicesFile(tmp_path_factory.mktemp("any") / "analytics.json")
    put(file, content)

    assert not decided(file).is_on


@given(st.integers(min_value=0, max_value=10_000), st.integers(min_value=0, max_value=255))
def test_no_flipped_byte_of_a_no_makes_a_yes(tmp_path_factory: pytest.TempPathFactory, at: int, byte: int) -> None:
    file = ChoicesFile(tmp_path_factory.mktemp("flip") / "analytics.json")
    content = bytearray(json.dumps({**YES, "analytics_enabled": False}).encode())
    content[at % len(content)] = byte
    put(file, bytes(content))

    assert not decided(file).is_on


def a_link(path: Path) -> None:
    elsewhere = path.parent.parent / "elsewhere.json"
    elsewhere.write_text(json.dumps(YES), encoding="utf-8")
    path.symlink_to(elsewhere)


OTHER_THINGS: dict[str, Callable[[Path], object]] = {
    "a directory": Path.mkdir,
    "a pipe": os.mkfifo if hasattr(os, "mkfifo") else Path.mkdir,
    "a link": a_link,
    "a link to nothing": lambda path: path.symlink_to("nowhere"),
    "a link to itself": lambda path: path.symlink_to(path.name),
}


@pytest.mark.parametrize("make", OTHER_THINGS.values(), ids=OTHER_THINGS)
def test_what_is_not_a_file_is_off_and_is_not_touched(file: ChoicesFile, make: Callable[[Path], object]) -> None:
    file.path.parent.mkdir(parents=True)
    make(file.path)
    before = file.path.lstat()

    assert not decided(file).is_on
    with pytest.raises(ConsentError):
        file.change(enabled=True)
    with pytest.raises(ConsentError):
        file.delete()

    after = file.path.lstat()
    assert (before.st_ino, before.st_mode) == (after.st_ino, after.st_mode)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="gives files away, which needs root")
def test_a_file_of_another_user_is_off_and_is_not_touched(file: ChoicesFile) -> None:
    put(file, YES)
    os.chown(file.path, 12_345, 12_345)

    assert not decided(file).is_on
    with pytest.raises(ConsentError, match="another user"):
        file.change(enabled=True)
    with pytest.raises(ConsentError, match="another user"):
        file.delete()
    assert file.path.stat().st_uid == 12_345


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="gives files away, which needs root")
def test_root_makes_nothing_in_the_place_of_another_user(tmp_path: Path) -> None:
    os.chown(tmp_path, 12_345, 12_345)
    file = ChoicesFile(tmp_path / "config" / "my-app" / "analytics.json")

    assert decided(file).why_off == f"{file.path} cannot be written: its directory belongs to another user"
    assert list(tmp_path.iterdir()) == []


def test_where_the_place_cannot_be_made_it_is_off_and_nothing_is_told(tmp_path: Path) -> None:
    (tmp_path / "config").write_text("a file", encoding="utf-8")
    told: list[object] = []

    decision = decided(ChoicesFile(tmp_path / "config" / "my-app" / "analytics.json"), told=told)

    assert not decision.is_on
    assert told == []


def test_a_device_that_is_full_is_off(file: ChoicesFile, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("eventrec.consent.choices.write_all", full)
    told: list[object] = []

    decision = decided(file, told=told)

    assert decision.why_off == f"{file.path} cannot be written: No space left on device"
    assert told == []
    assert list(file.path.parent.iterdir()) == []


# -- one after the other


def test_the_first_run_is_told_and_only_the_first(file: ChoicesFile) -> None:
    told: list[object] = []

    first, second = decided(file, told=told), decided(file, told=told)

    assert (first.is_on, first.is_first_run) == (True, True)
    assert (second.is_on, second.is_first_run) == (True, False)
    assert first.choices == second.choices
    assert len(told) == 1


def test_who_was_not_told_is_not_recorded(file: ChoicesFile) -> None:
    def fails(_: object) -> None:
        raise OSError("stderr is closed")

    places = Places(file.path, file.path.parent)
    decision = decide("my-app", lambda: places, {}, disclose=fails)

    assert decision.why_off == "the disclosure failed: OSError: stderr is closed"
    assert file.load() is None
    assert decided(file).is_first_run


def test_a_user_may_opt_out_while_they_are_told(file: ChoicesFile) -> None:
    decision = decide(
        "my-app",
        lambda: Places(file.path, file.path.parent),
        {},
        disclose=lambda places: ChoicesFile(places.choices).change(enabled=False),
    )
    told: list[object] = []

    assert decision.why_off == "the user has opted out"
    assert decided(file, told=told).why_off == "the user has opted out"
    assert told == []
    assert list(file.path.parent.iterdir()) == [file.path]


def test_a_choice_that_was_written_by_hand_while_they_are_told_counts(file: ChoicesFile) -> None:
    choices = file.tell(lambda: put(file, {**YES, "analytics_enabled": False}))

    assert not choices.enabled
    assert file.load() == choices


def test_a_user_who_gives_an_address_while_they_are_told_is_told_once(file: ChoicesFile) -> None:
    choices = file.tell(lambda: file.change(email="a@b.c"))

    assert (choices.enabled, choices.is_told, choices.metadata) == (True, True, {"email": "a@b.c"})
    assert file.load() == choices


def test_a_disclosure_that_deletes_the_choice_is_none(file: ChoicesFile) -> None:
    file.change(enabled=True)

    with pytest.raises(ConsentError, match="deleted by the disclosure"):
        file.tell(file.delete)

    assert file.load() is None


def test_who_chose_before_the_first_run_is_told_in_it(file: ChoicesFile) -> None:
    chosen = file.change(enabled=True, email="a@b.c")
    told: list[object] = []

    first, second = decided(file, told=told), decided(file, told=told)

    assert (first.is_first_run, second.is_first_run, len(told)) == (True, False, 1)
    assert second.choices is not None
    assert (second.choices.id, second.choices.metadata) == (chosen.id, {"email": "a@b.c"})


def test_who_said_no_before_the_first_run_is_not_bothered(file: ChoicesFile) -> None:
    file.change(enabled=False)
    told: list[object] = []

    assert decided(file, told=told).why_off == "the user has opted out"
    assert told == []


def test_looking_makes_nothing(file: ChoicesFile) -> None:
    places = Places(file.path, file.path.parent)

    assert decide("my-app", lambda: places, {}, disclose=None).is_first_run
    assert not file.path.parent.exists()


def test_force_overrules_a_no_and_nothing_that_is_uncertain(file: ChoicesFile) -> None:
    put(file, {**YES, "analytics_enabled": False})
    assert decided(file).why_off == "the user has opted out"
    assert decided(file, {"EVENTREC_FORCE": "1", "CI": "1", "DO_NOT_TRACK": "1"}).is_on
    assert decided(file, {"FORCE_MY_APP_ANALYTICS": "yes"}).is_on
    assert not decided(file, {"FORCE_RERUN_ANALYTICS": "yes"}).is_on
    assert not decided(file, {"EVENTREC_FORCE": "1", "EVENTREC_DISABLED": "1"}).is_on

    put(file, b"damaged")
    assert not decided(file, {"EVENTREC_FORCE": "1"}).is_on


def test_surroundings_that_switch_off_make_no_file(file: ChoicesFile) -> None:
    for name in ("CI", "DO_NOT_TRACK", "EVENTREC_DISABLED"):
        assert decided(file, {name: "1"}).why_off == f"{name} is set"
    assert not file.path.parent.exists()


def test_a_change_that_is_cut_short_leaves_the_old_file(file: ChoicesFile, monkeypatch: pytest.MonkeyPatch) -> None:
    file.tell(lambda: None)
    file.change(enabled=False)

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("eventrec.consent.choices.write_all", killed)
        with pytest.raises(KeyboardInterrupt):
            file.change(enabled=True)

    choices = file.load()
    assert choices is not None
    assert choices.enabled is False
    assert [path.name for path in file.path.parent.iterdir()] == ["analytics.json"]


def test_what_a_killed_process_left_half_written_goes_with_the_next_change(file: ChoicesFile) -> None:
    file.tell(lambda: None)
    left, foreign = file.path.parent / "analytics.json.12-34.tmp", file.path.parent / "analytics.json.bak"
    left.write_bytes(b'{"analy')
    foreign.write_bytes(b"somebody's")

    file.change(enabled=False)

    assert not left.exists()
    assert foreign.exists()


BESIDE = """
import sys
from pathlib import Path
from eventrec.consent.choices import ChoicesFile
file, name = ChoicesFile(Path(sys.argv[1])), sys.argv[2]
print(file.tell(str).id)
for n in range(20):
    file.change(**{f"{name}{n}": n})
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no locks between processes")
def test_processes_at_once_have_one_id_and_lose_no_change(file: ChoicesFile) -> None:
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", BESIDE, str(file.path), name],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for name in "abc"
    ]
    said = [process.communicate(timeout=200) for process in processes]

    choices = file.load()
    assert [errors for _, errors in said] == ["", "", ""]
    assert choices is not None
    assert {out.strip() for out, _ in said} == {choices.id}
    assert choices.metadata == {f"{name}{n}": n for name in "abc" for n in range(20)}


@pytest.mark.skipif(sys.platform == "win32", reason="no locks between processes")
def test_another_process_that_does_not_let_go_is_waited_for_a_while(
    file: ChoicesFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    import fcntl  # noqa: PLC0415 - not on Windows

    file.tell(lambda: None)
    monkeypatch.setattr("eventrec.consent.locks._SECONDS", 0.05)
    holder = os.open(file.path.parent, os.O_RDONLY)
    try:
        fcntl.flock(holder, fcntl.LOCK_EX)

        with pytest.raises(ConsentError, match="another process is changing it"):
            file.change(enabled=False)
        assert file.load() is not None
    finally:
        os.close(holder)


def test_it_is_deleted_once(file: ChoicesFile) -> None:
    assert file.delete() is False
    assert not file.path.parent.exists()
    file.tell(lambda: None)

    assert file.delete() is True
    assert file.delete() is False
    assert file.load() is None


def test_ids_differ() -> None:
    assert Choices().id != Choices().id
