from pathlib import Path

import pytest

from eventrec import EventRecorder, HandlerURLError, OptionsError, ReceivedEvent, SyncRecorder, reader_from_url
from eventrec.testing import assert_conserved


@pytest.fixture(autouse=True)
def nothing_said(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("TO", "LOG", "CONFIG", "DISABLED"):
        monkeypatch.delenv(f"EVENTREC_{name}", raising=False)


async def test_destination_log_and_options_come_from_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EVENTREC_TO", f"sqlite:///{tmp_path}/events.db")
    monkeypatch.setenv("EVENTREC_LOG", str(tmp_path / "log"))
    monkeypatch.setenv("EVENTREC_SERVICE", "shop")

    async with EventRecorder.from_env() as recorder:
        recorder.record(ReceivedEvent("said", b"{}"))
        assert await recorder.flush(30)

    assert recorder.has_log
    assert_conserved(recorder.status(), offered=1)
    async with reader_from_url(f"sqlite:///{tmp_path}/events.db") as reader:
        (event,) = (await reader.latest(limit=10)).events
    assert event.context == '{"service":"shop"}'


def test_a_program_without_a_loop_is_given_the_same(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/events.db"
    drops: list[str] = []

    def note_drop(reason: str, count: int) -> None:
        drops.append(f"{reason} {count}")

    with SyncRecorder.from_env(environment={"EVENTREC_TO": url}, on_drop=note_drop) as recorder:
        recorder.record(ReceivedEvent("said", b"{}"))
        assert recorder.flush(30)

    status = recorder.status()
    assert_conserved(status, offered=1)
    assert status.subscriptions["sqlite"].delivered == 1
    assert drops == []


def test_the_environment_goes_before_the_file_whose_log_lies_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "events.toml"
    file.write_text('[eventrec]\nto = ["memory:", "sqlite:///x.db"]\nlog = "log"\nservice = "file"\n', "utf-8")
    monkeypatch.setenv("EVENTREC_CONFIG", str(file))

    of_file = EventRecorder.from_env()
    monkeypatch.setenv("EVENTREC_TO", "memory:")
    monkeypatch.setenv("EVENTREC_SERVICE", "environment")
    of_both = EventRecorder.from_env()

    assert "to memory, sqlite" in repr(of_file)
    assert of_both._setup.options.service == "environment"
    assert repr(of_both).endswith("to memory>")
    assert of_both._setup.log_directory is not None
    assert Path(of_both._setup.log_directory.path) == tmp_path / "log"


@pytest.mark.parametrize(
    "text", ["memory: sqlite:///x.db", '["memory:", "sqlite:///x.db"]', " memory:\n sqlite:///x.db"]
)
def test_several_destinations_stand_in_one_variable(text: str) -> None:
    recorder = EventRecorder.from_env(environment={"EVENTREC_TO": text})

    assert repr(recorder).endswith("to memory, sqlite>")


def test_a_log_alone_is_enough_since_another_process_may_deliver(tmp_path: Path) -> None:
    recorder = EventRecorder.from_env(environment={"EVENTREC_LOG": str(tmp_path / "log")})

    assert recorder.has_log
    assert repr(recorder).endswith("to nothing>")


def test_an_empty_destination_is_none_where_the_file_has_one_or_none_is_asked_for(tmp_path: Path) -> None:
    file = tmp_path / "events.toml"
    file.write_text('to = "memory:"\nlog = "log"\n', "utf-8")

    of_file = EventRecorder.from_env(file, environment={"EVENTREC_TO": ""})
    asked_for = EventRecorder.from_env(environment={"EVENTREC_TO": "[]", "EVENTREC_LOG": str(tmp_path / "log")})

    assert repr(of_file).endswith("to memory>")
    assert repr(asked_for).endswith("to nothing>")


def test_project_file_may_say_it_for_commands_too(tmp_path: Path) -> None:
    file = tmp_path / "pyproject.toml"
    file.write_text('[tool.eventrec]\nto = "memory:"\ncatalogue = "shop:catalogue"\nbatch_rows = 7\n', "utf-8")

    recorder = EventRecorder.from_env(file)

    assert recorder._setup.options.batch_rows == 7
    assert repr(recorder).endswith("to memory>")


@pytest.mark.parametrize(
    ("environment", "toml", "said"),
    [
        ({}, None, 'nothing says where events go: set EVENTREC_TO to the URL of a destination, such as "sqlite:///'),
        ({"EVENTREC_TO": "  "}, None, "EVENTREC_TO is empty, so nothing says where events go: set EVENTREC_TO to"),
        (
            {"EVENTREC_TO": "", "EVENTREC_LOG": "log"},
            None,
            "unset it where another process delivers from the log, or set EVENTREC_DISABLED=1 to record nothing",
        ),
        ({"EVENTREC_TO": " "}, "log = 'log'", "EVENTREC_TO is empty, so nothing says where events go: unset it"),
        ({"EVENTREC_TO": "[1]"}, None, "EVENTREC_TO is a URL, several parted by white space, or a JSON array of them"),
        ({"EVENTREC_CONFIG": "/nowhere/at/all.toml"}, None, "options file /nowhere/at/all.toml"),
        ({}, "to = 1", '"to" in FILE is a URL, or an array of them'),
        ({}, "to = ['']", '"to" in FILE is a URL, or an array of them'),
        ({}, "log = 1", '"log" in FILE is the path of a directory'),
        ({}, "too = 'memory:'", "unknown option 'too' in FILE"),
    ],
)
def test_what_is_missing_or_wrong_is_one_clear_line(
    environment: dict[str, str], toml: str | None, said: str, tmp_path: Path
) -> None:
    file = tmp_path / "events.toml"
    if toml is not None:
        file.write_text(toml, "utf-8")

    with pytest.raises(OptionsError) as caught:
        EventRecorder.from_env(None if toml is None else file, environment=environment)

    assert said.replace("FILE", str(file)) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_unknown_scheme_is_told_as_anywhere() -> None:
    with pytest.raises(HandlerURLError, match="nosuch"):
        EventRecorder.from_env(environment={"EVENTREC_TO": "nosuch://x"})


async def test_one_that_is_switched_off_needs_no_destination() -> None:
    async with EventRecorder.from_env(environment={"EVENTREC_DISABLED": "1"}) as recorder:
        assert not recorder.record(ReceivedEvent("said", b"{}"))

    assert recorder.status().refused == {"disabled": 1}
