"""`Analytics`: what is recorded, what is sent and what is not, seen from the files and from a socket that listens."""

from __future__ import annotations

import json
import logging
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import anyio
import pytest

from eventrec import Batch, EncodeError, Event, EventHandler, EventModel, EventRecorder, HandlerURLError, OptionsError
from eventrec.consent.choices import ChoicesFile
from eventrec.consent.places import Places, places_of
from eventrec.runtime.loop_thread import LoopThread
from eventrec.testing import assert_conserved
from eventrec.usage.analytics import MAX_FIRST_RUN, Analytics, usage_options
from eventrec.usage.disclosure import Disclosure, print_disclosure

SECRET = "the-payload-of-a-test"
QUICK = usage_options().model_copy(update={"flush_interval": 0.05})
PATIENT = QUICK.model_copy(update={"close_timeout": 20.0})
"""What may be sent is sent before it closes."""


class Clicked(EventModel):
    button: str = SECRET


class Listener:
    """A socket that listens; it counts connections, and answers each line."""

    def __init__(self) -> None:
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.port: int = self.socket.getsockname()[1]
        self.connections = 0
        self.got: list[dict[str, Any]] = []
        self.answer = b"ok\n"
        self.thread = threading.Thread(target=self._serve, daemon=True)
        self.thread.start()

    def _serve(self) -> None:
        with suppress(OSError):
            while True:
                connection, _ = self.socket.accept()
                self.connections += 1
                threading.Thread(target=self._answer, args=(connection,), daemon=True).start()

    def _answer(self, connection: socket.socket) -> None:
        with suppress(OSError), connection, connection.makefile("rb") as lines:
            for line in lines:
                self.got.append(json.loads(line))
                connection.sendall(self.answer)

    def names(self) -> list[str]:
        return [event["type"] for event in self.got]


class Sending(EventHandler):
    """Sends each record as a line, over a connection of its own for each batch."""

    def __init__(self, port: int) -> None:
        self._port = port

    async def open(self) -> None:
        await (await anyio.connect_tcp("127.0.0.1", self._port)).aclose()

    async def handle(self, batch: Batch) -> None:
        async with await anyio.connect_tcp("127.0.0.1", self._port) as stream:
            for record in batch.records:
                said = {
                    "type": record.type,
                    "payload": json.loads(record.payload),
                    "context": json.loads(record.context or b"{}"),
                    "log": str(batch.log_id),
                }
                await stream.send(json.dumps(said).encode() + b"\n")
                if await stream.receive(3) != b"ok\n":
                    raise OSError("refused")


@pytest.fixture
def listener() -> Iterator[Listener]:
    listening = Listener()
    yield listening
    # An accept that waits is woken by nothing but a connection.
    listening.socket.close()
    with suppress(OSError):
        socket.create_connection(("127.0.0.1", listening.port), timeout=0.1).close()


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    home = tmp_path / "home"
    home.mkdir()
    return {"HOME": str(home)}


def places(environment: dict[str, str]) -> Places:
    return places_of("my-app", environment)


def made(listener: Listener, environment: dict[str, str], **options: Any) -> Analytics:
    options = {"disclose": lambda _: None, "options": QUICK, "properties": {"version": "1.2"}, **options}
    return Analytics("my-app", Sending(listener.port), environment=environment, **options)


def one_run(listener: Listener, environment: dict[str, str], *events: Event | Any, **options: Any) -> Analytics:
    with made(listener, environment, **options) as analytics:
        for event in events or (Clicked(),):
            analytics.record(event)
        analytics.flush(20)
    return analytics


def until(holds: Callable[[], object]) -> None:
    latest = time.monotonic() + 20
    while not holds():
        assert time.monotonic() < latest
        time.sleep(0.01)


def content_below(path: Path) -> bytes:
    return b"".join(file.read_bytes() for file in path.rglob("*") if file.is_file())


# -- whoever says no


def opted_out(environment: dict[str, str]) -> None:
    ChoicesFile(places(environment).choices).change(enabled=False)


def corrupt(environment: dict[str, str]) -> None:
    opted_out(environment)
    places(environment).choices.write_bytes(b'{"analytics_enabled": tr')


def unreadable(environment: dict[str, str]) -> None:
    places(environment).choices.mkdir(parents=True)


def told_not_to_track(environment: dict[str, str]) -> None:
    environment["DO_NOT_TRACK"] = "1"


def disabled(environment: dict[str, str]) -> None:
    environment["EVENTREC_DISABLED"] = "1"


def in_continuous_integration(environment: dict[str, str]) -> None:
    environment["CI"] = ""


def without_a_place(environment: dict[str, str]) -> None:
    Path(environment["HOME"], ".config").write_text("a file", encoding="utf-8")


@pytest.mark.parametrize(
    "say_no",
    [opted_out, corrupt, unreadable, told_not_to_track, disabled, in_continuous_integration, without_a_place],
)
@pytest.mark.parametrize("beside", ["nothing", "old sessions"])
def test_a_no_leaves_no_connection_no_thread_and_no_payload(
    listener: Listener, environment: dict[str, str], say_no: Callable[[dict[str, str]], None], beside: str
) -> None:
    if beside == "old sessions":
        leave_a_session(environment)
    say_no(environment)
    before, threads = content_below(Path(environment["HOME"])), threading.active_count()
    told: list[Disclosure] = []

    with made(listener, environment, disclose=told.append, options=PATIENT) as analytics:
        assert analytics.record(Clicked()) is False
        assert analytics.identify(email="a@b.c") is False
        assert analytics.set_person(plan="free") is False
        assert analytics.flush() is True
        assert threading.active_count() <= threads
        status = analytics.status()

    assert (status.state, status.refused) == ("disabled", {"disabled": 3})
    assert analytics.state.startswith("off: ")
    assert listener.connections == 0
    assert content_below(Path(environment["HOME"])) == before
    assert told == []


def leave_a_session(environment: dict[str, str], count: int = 1) -> None:
    """What a process that was killed before it could send has left."""
    for number in range(count):
        recorder = EventRecorder(log=places(environment).data)
        recorder.record(Clicked(button=f"old {number}"))
        recorder.sync().close(5)


# -- the first run


@pytest.mark.parametrize("beside", ["nothing", "old sessions"])
def test_the_first_run_sends_nothing_and_the_second_sends_it_all(
    listener: Listener, environment: dict[str, str], beside: str
) -> None:
    old = 2 if beside == "old sessions" else 0
    leave_a_session(environment, old)
    told: list[Disclosure] = []

    first = made(listener, environment, disclose=told.append, options=PATIENT)
    with first:
        assert first.record(Clicked())
        assert first.state == "first run"
        assert first.flush(5) is False
    assert (listener.connections, len(told)) == (0, 1)
    assert SECRET.encode() in content_below(places(environment).data)

    with made(listener, environment, disclose=told.append) as second:
        assert second.record(Clicked(button="second"))
        assert second.state == "on"
        until(lambda: len(listener.got) == 2 + old)
    assert len(told) == 1
    said = sorted(event["payload"]["button"] for event in listener.got)
    assert said == sorted(["second", SECRET, *(f"old {number}" for number in range(old))])


def test_a_configuration_that_was_lost_makes_a_first_run_again(listener: Listener, environment: dict[str, str]) -> None:
    one_run(listener, environment)
    leave_a_session(environment)
    places(environment).choices.unlink()

    analytics = one_run(listener, environment, options=PATIENT)

    assert analytics.is_first_run
    assert listener.connections == 0


def test_opted_out_after_the_first_run_nothing_is_ever_sent(listener: Listener, environment: dict[str, str]) -> None:
    with made(listener, environment) as analytics:
        analytics.record(Clicked())
        analytics.disable()
        assert analytics.record(Clicked()) is False

    later = one_run(listener, environment, options=PATIENT)

    assert later.why_off == "the user has opted out"
    assert listener.connections == 0


def test_a_first_run_is_bounded(listener: Listener, environment: dict[str, str]) -> None:
    with made(listener, environment) as analytics:
        event = Clicked()
        taken = sum(analytics.record(event) for _ in range(MAX_FIRST_RUN + 100))

    assert taken == MAX_FIRST_RUN
    assert analytics.status().refused == {"disabled": 100}
    assert analytics.why_off == "a first run keeps 10,000 events"


# -- what is sent


def test_each_event_says_whose_it_is_and_its_number(listener: Listener, environment: dict[str, str]) -> None:
    one_run(listener, environment)
    ChoicesFile(places(environment).choices).change(email="ada@example.org")

    with made(listener, environment) as analytics:
        analytics.identify(plan="free")
        analytics.record(Clicked(button="ok"))
        analytics.set_person(plan="paid")
        analytics.record(Clicked(button="help"))
        assert analytics.flush(20)
        until(lambda: len(listener.got) == 5)

    mine = [event for event in listener.got if event["context"]["session_id"] == analytics.session_id]
    (old,) = [event for event in listener.got if event not in mine]
    choices = ChoicesFile(places(environment).choices).load()
    assert choices is not None
    identified, first, person, second = mine
    assert (identified["type"], identified["payload"]) == ("$identify", {"email": "ada@example.org", "plan": "free"})
    assert (person["type"], person["payload"]) == ("$set", {"plan": "paid"})
    for event in (identified, person):
        assert event["context"] == {"distinct_id": choices.id, "session_id": analytics.session_id}
    assert (first["type"], first["payload"]) == ("clicked", {"button": "ok"})
    assert [event["context"]["event_id"] for event in (first, second)] == [1, 2]
    assert first["context"]["version"] == "1.2"
    assert first["context"]["python_version"]
    # What the first run kept is still of its own session.
    assert (old["context"]["event_id"], old["payload"]) == (1, {"button": SECRET})
    assert old["context"]["session_id"] not in {event["context"]["session_id"] for event in mine}
    assert old["context"]["distinct_id"] == choices.id


def test_properties_of_the_event_and_of_the_program_are_both_there(
    listener: Listener, environment: dict[str, str]
) -> None:
    one_run(listener, environment, properties={"button": "default", "event_id": "mine", "session_id": "mine"})

    context = next(iter(_contexts(listener, environment)))

    assert context["button"] == "default"
    assert context["event_id"] == 1
    assert context["session_id"] != "mine"


def _contexts(listener: Listener, environment: dict[str, str]) -> list[dict[str, Any]]:
    with made(listener, environment):
        until(lambda: listener.got)
    return [event["context"] for event in listener.got]


# -- after a failure


def test_a_failed_send_stops_the_session_and_removes_nothing(listener: Listener, environment: dict[str, str]) -> None:
    one_run(listener, environment)
    leave_a_session(environment, 3)
    listener.answer = b"no\n"

    analytics = made(listener, environment)
    analytics.record(Clicked(button="lost?"))  # before it is open: an old session's send may fail at once
    with analytics:
        until(lambda: analytics.why_off == "a send failed")
        assert analytics.record(Clicked()) is False
        assert analytics.flush(20) is False
        tries = len(listener.got)
    assert analytics.status().refused == {"stopped": 1}
    assert tries == 1

    listener.answer, listener.got = b"ok\n", []
    with made(listener, environment):
        until(lambda: len(listener.got) == 5)
    assert {event["payload"]["button"] for event in listener.got} == {"lost?", SECRET, "old 0", "old 1", "old 2"}


def test_a_live_session_of_another_process_is_not_sent_by_this_one(
    listener: Listener, environment: dict[str, str]
) -> None:
    one_run(listener, environment)
    other = EventRecorder(log=places(environment).data)
    other.record(Clicked(button="live"))
    until(lambda: b"live" in content_below(places(environment).data))

    with made(listener, environment) as analytics:
        analytics.record(Clicked(button="mine"))
        until(lambda: len(listener.got) == 2)
        analytics.flush(20)
    assert b"live" in content_below(places(environment).data)
    other.record(Clicked(button="live too"))
    other.sync().close(5)

    with made(listener, environment):
        until(lambda: len(listener.got) == 4)
    assert sorted(event["payload"]["button"] for event in listener.got) == sorted([SECRET, "live", "live too", "mine"])


@pytest.mark.skipif(sys.platform == "win32", reason="no locks between processes")
def test_what_starts_before_the_first_run_has_ended_is_in_it(listener: Listener, environment: dict[str, str]) -> None:
    told: list[Disclosure] = []

    with made(listener, environment, disclose=told.append) as first:
        first.record(Clicked())
        second = one_run(listener, environment, disclose=told.append)
        third = one_run(listener, environment, disclose=told.append)

        assert [run.is_first_run for run in (first, second, third)] == [True, True, True]
        assert len(told) == 1
    assert listener.connections == 0

    with made(listener, environment, disclose=told.append) as after:
        until(lambda: len(listener.got) == 3)
    assert not after.is_first_run
    assert len(told) == 1


@pytest.mark.skipif(sys.platform == "win32", reason="no locks between processes")
def test_a_choice_ends_the_first_run_of_others(listener: Listener, environment: dict[str, str]) -> None:
    with made(listener, environment) as first:
        first.enable()

        assert not made(listener, environment).is_first_run
        first.disable()
        assert made(listener, environment).why_off == "the user has opted out"


# -- never in the way


def test_a_data_directory_that_cannot_be_made_is_said_and_harms_nothing(
    listener: Listener, environment: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    one_run(listener, environment)
    environment["XDG_DATA_HOME"] = str(Path(environment["HOME"]) / "occupied")
    Path(environment["XDG_DATA_HOME"]).write_text("a file", encoding="utf-8")

    with made(listener, environment) as analytics:
        assert analytics.record(Clicked()) is False

    assert analytics.why_off is not None
    assert "LogWriteError" in analytics.why_off
    assert_conserved(analytics.status(), offered=1)
    assert sum("usage is not recorded" in line for line in caplog.messages) == 1
    assert listener.connections == 0


def test_a_thread_that_cannot_be_started_is_said_and_harms_nothing(
    listener: Listener,
    environment: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    one_run(listener, environment)

    def refuse(*_: object) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(LoopThread, "start", refuse)

    with made(listener, environment) as analytics:
        assert analytics.record(Clicked()) is False

    assert analytics.why_off == "RuntimeError: can't start new thread"
    assert analytics.status().is_balanced
    assert sum("usage is not recorded" in line for line in caplog.messages) == 1


FORGETFUL = """
import sys, time
from pathlib import Path
from eventrec import Analytics, Event
class Ping(Event): ...
analytics = Analytics("my-app", f"jsonl:///{sys.argv[1]}", disclose=str)
analytics.open()
for _ in range(int(sys.argv[2])):
    assert analytics.record(Ping())
expected, latest = int(sys.argv[3]), time.monotonic() + 30
while sum(path.read_bytes().count(b"\\n") for path in Path(sys.argv[1]).rglob("*.jsonl")) < expected:
    assert time.monotonic() < latest
    time.sleep(0.05)
"""


def in_processes(tmp_path: Path, *counts: tuple[int, int]) -> None:
    """Programs that never close, at once: how many events each records, and how many it waits to see sent."""
    environment = {"HOME": str(tmp_path), "PATH": os.defpath, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    processes = [
        subprocess.Popen(
            [sys.executable, "-W", "error", "-c", FORGETFUL, str(tmp_path / "sent"), str(count), str(expected)],
            env=environment,
            stderr=subprocess.PIPE,
            text=True,
        )
        for count, expected in counts
    ]
    said = [process.communicate(timeout=200)[1] for process in processes]
    assert said == [""] * len(processes)


def test_programs_at_once_that_forget_to_close_lose_and_double_nothing(tmp_path: Path) -> None:
    in_processes(tmp_path, (3, 0))
    in_processes(tmp_path, (5, 0), (7, 0))

    in_processes(tmp_path, (0, 15))

    lines = b"".join(path.read_bytes() for path in (tmp_path / "sent").rglob("*.jsonl")).splitlines()
    assert len({json.loads(line)["id"] for line in lines}) == len(lines) == 15


def test_without_logging_configured_its_user_sees_none_of_it(tmp_path: Path) -> None:
    program = (
        "from eventrec import Event\n"
        "from eventrec.usage import Analytics\n"
        "class Ping(Event): ...\n"
        "with Analytics('my-app', 'jsonl:////proc/nowhere/x', disclose=str) as analytics:\n"
        "    analytics.record(Ping())\n"
        "    analytics.flush(20)\n"
    )
    environment = {"HOME": str(tmp_path), "PATH": os.defpath, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    for _ in range(2):
        done = subprocess.run(
            [sys.executable, "-W", "error", "-c", program],
            cwd=tmp_path,
            env=environment,
            check=False,
            capture_output=True,
            text=True,
        )
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_the_end_of_a_program_waits_for_no_destination(environment: dict[str, str], listener: Listener) -> None:
    one_run(listener, environment)
    hanging = socket.create_server(("127.0.0.1", 0))
    analytics = Analytics(
        "my-app", Sending(hanging.getsockname()[1]), environment=environment, options=QUICK, disclose=print
    )
    analytics.open()
    analytics.record(Clicked())
    connection, _ = hanging.accept()

    began = time.monotonic()
    status = analytics.close()
    seconds = time.monotonic() - began

    connection.close()
    hanging.close()
    assert status.state == "closed"
    assert_conserved(status, offered=1)
    assert seconds < 10


def test_what_a_program_gives_wrongly_is_its_own_error(listener: Listener, environment: dict[str, str]) -> None:
    with pytest.raises(OptionsError):
        Analytics("../etc", "jsonl:///x", environment=environment)
    with pytest.raises(EncodeError):
        made(listener, environment, properties={"x": object()})
    with pytest.raises(HandlerURLError):
        Analytics("my-app", "nonesuch://x", environment=environment, disclose=print)


def test_record_is_the_recorders_own_where_it_is_off(listener: Listener, environment: dict[str, str]) -> None:
    analytics = made(listener, environment, enabled=False)

    assert analytics.record == analytics._recorder.record
    assert analytics.why_off == "the application has switched it off"
    assert made(listener, environment, options=QUICK.model_copy(update={"enabled": False})).why_off


@pytest.mark.usefixtures("without_collector")
def test_record_raises_nothing_at_the_recursion_limit(listener: Listener, environment: dict[str, str]) -> None:
    with made(listener, environment) as analytics:
        outcomes: list[bool] = []

        def deeper() -> None:
            try:
                deeper()
            finally:
                outcomes.append(analytics.record(Clicked()))

        with pytest.raises(RecursionError):
            deeper()

        status = analytics.status()
    assert status.offered == len(outcomes)
    assert status.is_balanced
    assert any(outcomes)


# -- what the user is told


def test_the_disclosure_says_where_to_and_how_not(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    analytics = Analytics(
        "my-app", "jsonl:///nowhere", environment={"HOME": str(tmp_path)}, opt_out="my-app privacy off"
    )
    analytics.close()

    said = capsys.readouterr()
    assert said.out == ""
    assert "my-app records how it is used." in said.err
    assert "To opt out: my-app privacy off\n" in said.err
    assert "DO_NOT_TRACK=1" in said.err
    assert str(tmp_path / ".local/share/my-app/analytics") in said.err


def test_a_secret_of_the_url_is_not_disclosed(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    with pytest.raises(HandlerURLError):
        Analytics("my-app", "nonesuch://KEY:word@eu.example.org/path?x=1", environment={"HOME": str(tmp_path)})

    said = capsys.readouterr().err
    assert "it is sent to eu.example.org." in said
    assert "KEY" not in said
    assert "word" not in said


def test_without_a_stderr_no_one_is_told_and_nothing_is_recorded(
    listener: Listener, environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stderr", None)

    analytics = made(listener, environment, disclose=print_disclosure)

    assert analytics.why_off == "the disclosure failed: OSError: there is no stderr"
    assert not places(environment).choices.exists()


def test_a_user_may_change_their_mind(listener: Listener, environment: dict[str, str]) -> None:
    one_run(listener, environment).disable()
    off = made(listener, environment)
    assert off.why_off == "the user has opted out"

    off.enable()

    assert off.record(Clicked()) is False
    with made(listener, environment) as analytics:
        assert analytics.state == "on"
        until(lambda: listener.names() == ["clicked"])


def test_logging_that_is_configured_is_left_alone(listener: Listener, environment: dict[str, str]) -> None:
    handlers = logging.getLogger("eventrec").handlers[:]

    one_run(listener, environment)

    assert logging.getLogger("eventrec").handlers == handlers
