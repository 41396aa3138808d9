"""What a user may look at and decide, as an application's own command."""

from __future__ import annotations

import io
import json
import os
import sys
from pathlib import Path
from uuid import uuid4

import pytest

from eventrec import EventRecorder
from eventrec.consent.choices import ChoicesFile
from eventrec.consent.places import Places, places_of
from eventrec.runs.run import Run, new_run_id
from eventrec.testing.scripted import Numbered
from eventrec.usage import run_analytics_command


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    return {"HOME": str(tmp_path)}


@pytest.fixture
def places(environment: dict[str, str]) -> Places:
    return places_of("my-app", environment)


@pytest.fixture
def command(
    environment: dict[str, str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Command:
    return Command(environment, capsys, monkeypatch)


class Command:
    def __init__(
        self, environment: dict[str, str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        self._environment, self._capsys, self._monkeypatch = environment, capsys, monkeypatch

    def __call__(self, *arguments: str, stdin: str = "") -> tuple[int, str, str]:
        self._monkeypatch.setattr(sys, "stdin", io.StringIO(stdin))
        code = run_analytics_command("my-app", arguments, environment=self._environment)
        said = self._capsys.readouterr()
        return code, said.out, said.err


def leave_sessions(places: Places, count: int) -> None:
    for number in range(count):
        recorder = EventRecorder(log=places.data)
        recorder.record(Numbered(number))
        recorder.sync().close(5)


def test_a_user_opts_out_and_in_again(command: Command, places: Places) -> None:
    assert command("disable") == (0, "my-app does not record how it is used, from its next start on\n", "")
    assert command("status") == (0, "my-app: off: the user has opted out\n", "")
    choices = ChoicesFile(places.choices).load()
    assert choices is not None
    assert choices.enabled is False

    assert command("enable") == (0, "my-app may record how it is used, from its next start on\n", "")
    assert command("status") == (0, "my-app: not started yet: its first run sends nothing\n", "")
    ChoicesFile(places.choices).tell(lambda: None)
    assert command("status") == (0, "my-app: on\n", "")


def test_looking_makes_no_file(command: Command, places: Places) -> None:
    for name in ("status", "details", "config", "clear"):
        assert command(name)[0] == 0

    assert not places.choices.parent.exists()
    assert not places.data.exists()


def test_status_and_enabling_say_what_else_switches_it_off(command: Command, environment: dict[str, str]) -> None:
    environment["DO_NOT_TRACK"] = "1"

    assert command("status")[1] == "my-app: off: DO_NOT_TRACK is set\n"
    assert command("enable")[1].splitlines()[1] == "but it does not: DO_NOT_TRACK is set"


def test_config_is_json_and_null_without_one(command: Command, places: Places) -> None:
    assert command("config") == (0, "null\n", "")

    command("email", "ada@example.org")

    code, out, _ = command("config")
    document = json.loads(out)
    assert code == 0
    assert document.pop("analytics_id")
    assert document == {
        "analytics_enabled": True,
        "metadata": {"email": "ada@example.org"},
        "told": False,
        "config_file_path": str(places.choices),
        "data_dir_path": str(places.data),
    }
    assert out.count("\n") > 5


@pytest.mark.parametrize("address", ["ada", "@example.org", "ada@", "a\x1b[0m@b", "a@b\n", "a" * 255 + "@b"])
def test_what_is_not_an_address_is_refused(command: Command, places: Places, address: str) -> None:
    code, out, err = command("email", address)

    assert (code, out) == (2, "")
    assert err.startswith("not an email address")
    assert not places.choices.exists()


def test_an_address_is_taken_back(command: Command) -> None:
    command("email", "ada@example.org")

    assert command("email", "") == (0, "my-app has forgotten it\n", "")
    assert json.loads(command("config")[1])["metadata"] == {}


def test_details_say_what_is_kept_and_where(command: Command, places: Places) -> None:
    command("email", "ada@example.org")
    leave_sessions(places, 2)

    code, out, err = command("details")

    assert (code, err) == (0, "")
    assert "email: ada@example.org" in out
    assert f"Your choice: {places.choices}\n" in out
    assert "Recorded and not sent: 2 sessions (" in out
    assert str(places.data) in out
    assert "To opt out: my-app analytics disable, or DO_NOT_TRACK=1" in out


@pytest.mark.parametrize("answer", ["", "\n", "n\n", "Y\n", "yes\n", " y\n", "y \n", "yy\n"])
def test_only_y_deletes(command: Command, places: Places, answer: str) -> None:
    command("enable")
    leave_sessions(places, 1)

    code, out, err = command("clear", stdin=answer * 2)

    assert (code, out) == (0, "")
    assert err.count("[y/N]") == 2
    assert places.choices.exists()
    assert len([*places.data.iterdir()]) == 1


def test_each_is_asked_for_by_itself(command: Command, places: Places) -> None:
    command("enable")
    leave_sessions(places, 2)

    code, out, _ = command("clear", stdin="n\ny\n")

    assert (code, out) == (0, "deleted 2 sessions\n")
    assert places.choices.exists()
    assert not places.data.exists()
    assert command("clear", stdin="y\n")[1] == f"deleted {places.choices}\n"
    assert not places.choices.exists()


def test_clear_leaves_what_is_not_ours(command: Command, places: Places) -> None:
    command("enable")
    leave_sessions(places, 1)
    beside = places.choices.parent / "settings.toml"
    foreign = [places.data / "notes.txt", places.data / f"{uuid4()}.json", places.data / str(new_run_id()) / "kept"]
    for path in [beside, *foreign]:
        path.parent.mkdir(exist_ok=True)
        path.write_text("somebody's", encoding="utf-8")
    outside = places.data.parent / "outside"
    outside.mkdir()
    (outside / "file").write_text("kept", encoding="utf-8")
    (places.data / "done").symlink_to(outside)

    code, out, _ = command("clear", stdin="y\ny\n")

    assert (code, out.splitlines()[1]) == (0, "deleted 1 session")
    assert all(path.exists() for path in [beside, *foreign, outside / "file"])


def test_clear_leaves_the_session_of_a_process_that_runs(command: Command, places: Places) -> None:
    leave_sessions(places, 1)
    run = Run.create(places.data, new_run_id())

    code, out, err = command("clear", stdin="y\n")

    assert (code, out) == (5, "deleted 1 session\n")
    assert f"{run.id}: held by a process; end that first" in err
    assert run.is_in_place()
    run.release()


def test_clear_refuses_what_is_not_a_file_of_ours(command: Command, places: Places) -> None:
    elsewhere = places.choices.parent.parent / "elsewhere.json"
    places.choices.parent.mkdir(parents=True)
    elsewhere.write_text("{}", encoding="utf-8")
    places.choices.symlink_to(elsewhere)

    code, out, err = command("clear", stdin="y\n")

    assert (code, out) == (4, "")
    assert "not a regular file" in err
    assert places.choices.is_symlink()
    assert elsewhere.exists()


def test_a_damaged_choice_is_said_and_may_be_made_again(command: Command, places: Places) -> None:
    places.choices.parent.mkdir(parents=True)
    places.choices.write_bytes(b"{")

    assert command("status")[1].startswith(f"my-app: off: {places.choices} cannot be read")
    code, out, err = command("config")
    assert (code, out) == (4, "")
    assert err.startswith(f"my-app analytics: {places.choices} cannot be read")
    assert command("enable")[0] == 0
    assert command("status")[1] == "my-app: not started yet: its first run sends nothing\n"


@pytest.mark.parametrize("arguments", [[], ["enabled"], ["email"], ["enable", "now"], ["run"], ["__init__"], ["app"]])
def test_what_is_not_a_command_is_usage(command: Command, arguments: list[str]) -> None:
    code, out, err = command(*arguments)

    assert (code, out) == (2, "")
    assert err.startswith("Usage: my-app analytics enable|disable|")


def test_help_names_each_command(command: Command) -> None:
    code, out, err = command("--help")

    assert (code, err) == (0, "")
    for name in ("enable", "disable", "status", "details", "clear", "email ADDR", "config"):
        assert name in out


def test_a_name_that_leads_elsewhere_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_analytics_command("../../etc", ["status"], command="app analytics") == 2

    assert "the name of an application" in capsys.readouterr().err


def test_nothing_that_was_stored_reaches_the_terminal_raw(command: Command, places: Places) -> None:
    command("enable")
    document = json.loads(places.choices.read_text(encoding="utf-8"))
    document["metadata"] = {"email": "\x1b]0;owned\x07\u202e"}
    places.choices.write_text(json.dumps(document), encoding="utf-8")

    out = command("details")[1] + command("config")[1]

    assert "\x1b" not in out
    assert "\u202e" not in out


def test_without_stdin_nothing_is_deleted(
    environment: dict[str, str], places: Places, monkeypatch: pytest.MonkeyPatch
) -> None:
    ChoicesFile(places.choices).change(enabled=True)
    monkeypatch.setattr(sys, "stdin", None)

    assert run_analytics_command("my-app", ["clear"], environment=environment) == 0

    assert places.choices.exists()
    assert os.listdir(places.choices.parent) == ["analytics.json"]  # noqa: PTH208 - names alone
