"""What an operator asks of a running server."""

import sqlite3
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import anyio
import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from eventrec import EventRecorder
from eventrec.bridges.prometheus import RecorderCollector
from eventrec.delivery.letters.counts import LetterCounter, LetterCounts, count_letters
from eventrec.delivery.letters.kept import purge
from eventrec.errors import PermanentError, TransientError
from eventrec.runs.directory import list_runs
from eventrec.runs.requests import load_requests
from eventrec.server import Tokens, application
from eventrec.server.operations.metrics import recorder_families
from eventrec.server.operations.text_format import Family, Sample, text_of
from eventrec.server.serving import shared_state
from eventrec.server.token_file import new_token
from eventrec.testing.scripted import FencedHandler, Numbered, ScriptedHandler, quickly, raising, refusing


def app_of(tmp_path: Path, *handlers: Any, **options: Any) -> Any:
    recorder = EventRecorder(*handlers or (f"sqlite:///{tmp_path}/events.db",), log=tmp_path / "log")
    return application(recorder, log=tmp_path / "log", **options)


@pytest.fixture
def dead_log(tmp_path: Path) -> Path:
    """A log directory with two dead letters of the subscription `sqlite`."""

    async def leave() -> None:
        handler = FencedHandler(always=refusing({3, 5}, lambda: PermanentError("out of range")))
        recorder = EventRecorder(log=tmp_path / "log", options=quickly(batch_rows=4))
        recorder.register(handler, name="sqlite")
        async with recorder:
            recorder.record_many(Numbered(number) for number in range(7))
            assert await recorder.flush(timeout=20)

    anyio.run(leave)
    return tmp_path / "log"


@pytest.fixture(scope="module")
def plain(serve_all: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A server for tests that change nothing about it."""
    return serve_all(app_of(tmp_path_factory.mktemp("plain")))


def test_health_says_ok_where_it_runs(serve: Any, tmp_path: Path) -> None:
    running = serve(app_of(tmp_path))

    answers = [running.get(path) for path in ("/health", "/health/live", "/health/ready")]

    assert [answer.status for answer in answers] == [200, 200, 200]
    assert [answer.json() for answer in answers] == [{"status": "ok"}, {"is_ok": True}, {"is_ok": True}]


def test_what_is_wrong_is_said_to_those_who_may_read(serve: Any, tmp_path: Path) -> None:
    path = tmp_path / "tokens.toml"
    reads, sends = (new_token(path, name, [name], created=datetime.now(UTC)) for name in ("read", "ingest"))
    app = app_of(tmp_path, tokens=Tokens(path, monotonic=lambda: 0.0))  # It does not look again.
    app.state.server.access._tokens.remark = "tokens: bad"
    running = serve(app)

    answers = [
        running.get("/health/ready", **({} if token is None else {"Authorization": f"Bearer {token}"}))
        for token in (reads, sends, None, "other")
    ]

    assert [answer.status for answer in answers] == [200] * 4
    assert [answer.json().get("reasons") for answer in answers] == [["tokens: bad"], None, None, None]


def test_names_that_are_not_utf_8_fail_no_look_at_the_server(serve: Any, tmp_path: Path, until: Any) -> None:
    mirror = tmp_path / "log" / "mirrors" / "caf\udce9"
    mirror.mkdir(parents=True)
    (mirror / "mirror.json").write_bytes(b"damaged")

    class Remarking(ScriptedHandler):
        @property
        def remarks(self) -> list[str]:
            return ["no access to caf\udce9"]

    running = serve(app_of(tmp_path, Remarking()))
    until(lambda: rb'mirror="caf\\udce9"' in running.get("/metrics").content)
    (run,) = list_runs(tmp_path / "log")
    (tmp_path / "log" / str(run) / "checkpoints" / "\udcff.json").write_bytes(b"damaged")

    ready, status = running.get("/health/ready"), running.get("/status")

    assert (ready.status, ready.json()["reasons"]) == (200, [r"Remarking: no access to caf\udce9"])
    assert (status.status, status.json()["log"]["logs"][0]["unreadable"]) == (200, [r"\udcff.json"])


def test_recorder_that_is_not_open_is_not_ready(serve: Any, tmp_path: Path) -> None:
    app = app_of(tmp_path)
    running = serve(app)

    running.post("/resume/sqlite")
    app.state.server.recorder.sync()  # its status alone is asked
    anyio.run(app.state.server.recorder.close)
    answer = running.get("/health/ready")

    assert answer.status == 503
    assert answer.json()["is_ok"] is False
    assert any("the recorder is closed" in reason for reason in answer.json()["reasons"])
    assert running.get("/health/live").status == 200


def test_metrics_are_those_of_the_bridge_and_the_servers_own(serve: Any, tmp_path: Path) -> None:
    app = app_of(tmp_path)
    recorder = app.state.server.recorder
    running = serve(app)
    registry = CollectorRegistry()
    registry.register(RecorderCollector(recorder))
    recorder.record(Numbered(1))
    running.get("/nothing")

    answer = running.get("/metrics")

    assert answer.status == 200
    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    found = {family.name: family for family in text_string_to_metric_families(answer.content.decode())}
    assert {family.name for family in registry.collect()} <= found.keys()
    (requests,) = [each for each in found["eventrec_server_requests"].samples if each.labels["status"] == "404"]
    assert (requests.labels["route"], requests.labels["method"], requests.value) == ("unknown", "GET", 1)
    counts = [each for each in found["eventrec_server_request_seconds"].samples if each.labels["route"] == "unknown"]
    assert [each.value for each in counts if each.labels.get("le") == "+Inf"] == [1]
    assert [each.value for each in counts if each.name.endswith("_count")] == [1]


def test_metrics_of_a_recorder_read_as_those_of_the_official_client(tmp_path: Path) -> None:
    recorder = EventRecorder(f"sqlite:///{tmp_path}/events.db")
    registry = CollectorRegistry()
    registry.register(RecorderCollector(recorder))

    ours = list(text_string_to_metric_families(text_of(recorder_families(recorder.status()))))

    theirs = list(text_string_to_metric_families(generate_latest(registry).decode()))
    assert [(each.name, each.type, each.documentation) for each in ours] == [
        (each.name, each.type, each.documentation) for each in theirs
    ]
    assert [each.samples for each in ours] == [each.samples for each in theirs]


def test_labels_of_any_text_are_read_back() -> None:
    hostile = 'a"b\\c\nd{e="f"} g\\n 漢'

    (family,) = text_string_to_metric_families(
        text_of([Family("x_total", "counter", 'h\\e\nl"p', [Sample({"a": hostile}, 2)])])
    )

    assert family.samples[0].labels == {"a": hostile}
    assert family.documentation == 'h\\e\nl"p'


def test_status_tells_of_the_recorder_and_its_log(serve: Any, tmp_path: Path, dead_log: Path) -> None:
    answer = serve(app_of(tmp_path)).get("/status").json()

    assert answer["status"]["state"] == "open"
    assert answer["health"]["live"] is True
    assert answer["log"]["dead_letters"] == {"sqlite": 2}
    assert answer["log"]["total"]["logs"] == len(answer["log"]["logs"])


def test_status_reads_the_dead_letters_only_where_their_logs_have_changed(
    serve: Any, tmp_path: Path, dead_log: Path
) -> None:
    reads: list[Path] = []

    def counted(letters: Path) -> LetterCounts:
        reads.append(letters)
        return count_letters(letters)

    app = app_of(tmp_path)
    object.__setattr__(shared_state(app.state.server), "letters", LetterCounter(count=counted))
    running = serve(app)

    before = [running.get("/status").json()["log"]["dead_letters"] for _ in range(3)]
    read_before = len(reads)
    (run,) = list_runs(dead_log / "dead")
    purge(dead_log / "dead", run, "sqlite", below=1)
    after = running.get("/status").json()["log"]["dead_letters"]

    assert before == [{"sqlite": 2}] * 3
    assert after == {"sqlite": 1}
    assert (read_before, len(reads)) == (1, 2)


def test_letters_that_take_long_to_count_are_not_counted_again_at_once(dead_log: Path) -> None:
    times = iter([0.0, 1.0, 9.9, 10.0, 11.0])
    counter = LetterCounter(now=lambda: next(times))
    (run,) = list_runs(dead_log / "dead")

    first = counter.of(dead_log).waiting
    purge(dead_log / "dead", run, "sqlite", below=1)
    soon, later = counter.of(dead_log).waiting, counter.of(dead_log).waiting

    assert (first, soon, later) == ({"sqlite": 2}, {"sqlite": 2}, {"sqlite": 1})


def test_status_without_a_log_tells_of_none(serve: Any, tmp_path: Path) -> None:
    app = application(EventRecorder(f"sqlite:///{tmp_path}/events.db"))
    running = serve(app)

    assert running.get("/status").json()["log"] is None
    assert running.get("/dead").status == 404
    assert running.post("/dead/replay", {"subscription": "sqlite"}).status == 404


def test_dead_letters_are_listed_page_by_page_and_shown(serve: Any, tmp_path: Path, dead_log: Path) -> None:
    running = serve(app_of(tmp_path))

    first = running.get("/dead?limit=1").json()
    second = running.get(f"/dead?limit=1&cursor={first['cursor']}").json()
    shown = running.get(f"/dead/{second['letters'][0]['id']}").json()

    assert [each["offset"] for page in (first, second) for each in page["letters"]] == [3, 5]
    assert (first["waiting"], second["waiting"], second["cursor"]) == (2, 2, None)
    assert first["letters"][0]["reason"] == "out of range"
    assert "payload" not in first["letters"][0]
    assert shown["payload"] == {"number": 5}
    assert running.get("/dead?subscription=other").json()["waiting"] == 0
    assert running.get(f"/dead?type={first['letters'][0]['type']}&subscription=sqlite").json()["waiting"] == 2


@pytest.mark.parametrize(
    "path",
    ["/dead?subscripton=sqlite", "/dead?type=a&type=b", "/dead?type=%00", "/resume/a?form=latest", "/resume/a?from=x"],
)
def test_what_is_no_parameter_or_stands_twice_is_400_and_named(plain: Any, path: str) -> None:
    answer = plain.post(path) if path.startswith("/resume") else plain.get(path)

    assert answer.status == 400
    assert answer.json()["detail"].startswith(f"{path.partition('?')[2].partition('=')[0]}: ")


@pytest.mark.parametrize(
    "query", ["limit=0", "limit=1001", "limit=x", "limit=%C2%B2", "limit=" + "9" * 30, "cursor=x", "cursor=a.1"]
)
def test_list_with_what_is_not_a_number_or_cursor_is_400(plain: Any, query: str) -> None:
    assert plain.get(f"/dead?{query}").status == 400


def test_letter_that_is_not_there_is_404(serve: Any, tmp_path: Path, dead_log: Path) -> None:
    running = serve(app_of(tmp_path))
    letters = ["x", "1.1", "00000000-0000-0000-0000-000000000000.0", "%00", "a" * 3_000]

    assert [running.get(f"/dead/{letter}").status for letter in letters] == [404] * 5


def test_replay_delivers_the_letters(serve: Any, tmp_path: Path, dead_log: Path) -> None:
    running = serve(app_of(tmp_path))

    answer = running.post("/dead/replay", {"subscription": "sqlite"})

    assert answer.json() == {
        "delivered": 2,
        "refused_again": 0,
        "waiting": 0,
        "is_done": True,
        "state": answer.json()["state"],
    }
    assert running.get("/dead").json()["waiting"] == 0
    with closing(sqlite3.connect(tmp_path / "events.db")) as connection:
        found = connection.execute("SELECT json_extract(payload, '$.number') FROM events ORDER BY timestamp, id")
        assert [number for (number,) in found.fetchall()] == [3, 5]


def test_replay_to_what_cannot_be_opened_again_is_refused(serve: Any, tmp_path: Path, dead_log: Path) -> None:
    app = app_of(tmp_path, ScriptedHandler(), "memory:")
    running = serve(app)

    answers = [running.post("/dead/replay", {"subscription": name}) for name in ("ScriptedHandler", "memory", "sqlite")]

    assert [answer.status for answer in answers] == [409, 409, 404]
    assert running.get("/dead").json()["waiting"] == 2


@pytest.mark.parametrize(
    ("body", "kind", "status"),
    [
        (b"{", "application/json", 400),
        (b"\xff", "application/json", 400),
        (b"[" * 100_000, "application/json", 422),
        (b"{}", "application/json", 422),
        (b'{"subscription":"sqlite","timeout":301}', "application/json", 422),
        (b'{"subscription":"sqlite","more":1}', "application/json", 422),
        (b'{"subscription":"sqlite"}', "text/plain", 415),
        (b"", "application/json", 400),
    ],
)
def test_replay_of_what_is_not_asked_rightly_is_refused(plain: Any, body: bytes, kind: str, status: int) -> None:
    answer = plain.post("/dead/replay", body, Content_Type=kind)

    assert answer.status == status
    assert answer.headers["content-type"] == "application/problem+json"


def test_resume_is_left_for_all_who_deliver(serve: Any, tmp_path: Path) -> None:
    app = app_of(tmp_path)
    running = serve(app)

    answers = [running.post(f"/resume/{name}") for name in ("sqlite?from=latest", "other", "sqlite?from=x")]

    assert [answer.status for answer in answers] == [200, 404, 400]
    assert answers[0].json() == {"subscription": "sqlite", "is_elsewhere": False}
    (request,) = load_requests(tmp_path / "log", since=0)
    assert (request.subscription, request.start) == ("sqlite", "latest")


def test_resume_asks_where_to_begin_at_another_destination(serve: Any, until: Any) -> None:
    handler = FencedHandler()
    recorder = EventRecorder(options=quickly())
    recorder.register(handler, name="table")
    running = serve(application(recorder))
    running.post("/events/batch", [{"type": "numbered", "number": 0}])
    until(lambda: handler.delivered == [0])
    handler.id = "another"
    handler.acts = [raising(TransientError("cut"))]
    running.post("/events/batch", [{"type": "numbered", "number": 1}])
    until(lambda: recorder.status().subscriptions["table"].state == "paused: destination changed")

    refused = running.post("/resume/table")

    assert refused.status == 409
    assert "another destination answers than before: from=earliest" in refused.json()["detail"]
    assert running.post("/resume/table?from=latest").status == 200
    until(lambda: handler.delivered == [0, 1])


def test_resume_asks_so_for_an_earlier_log_too(serve: Any, until: Any, tmp_path: Path) -> None:
    def recording(handler: FencedHandler) -> EventRecorder:
        recorder = EventRecorder(log=tmp_path / "log", options=quickly())
        recorder.register(handler, name="table")
        return recorder

    async def leave() -> None:
        async with recording(handler) as recorder:
            recorder.record(Numbered(0))
            assert await recorder.flush(timeout=60)
            handler.always = raising(TransientError("cut"))
            recorder.record(Numbered(1))
            await recorder.close(0)

    handler = FencedHandler()
    anyio.run(leave)
    later = FencedHandler(id="another")
    recorder = recording(later)
    running = serve(application(recorder, log=tmp_path / "log"))
    until(lambda: [part.state for part in recorder.status().parts_of("table")][1:] == ["paused: destination changed"])

    assert running.post("/resume/table").status == 409
    assert running.post("/resume/table?from=latest").status == 200
    until(lambda: later.delivered == [1])


def test_scopes_are_asked_for(serve: Any, tmp_path: Path) -> None:
    path = tmp_path / "tokens.toml"
    tokens = {name: new_token(path, name, [name], created=datetime.now(UTC)) for name in ("ingest", "read", "admin")}
    running = serve(app_of(tmp_path, tokens=Tokens(path)))
    routes = [
        (each.method, each.path.replace("{letter}", "x").replace("{name}", "sqlite"), each.scope)
        for each in running.table
        if each.tag in ("operations", "dead letters")
    ]

    for method, place, scope in routes:
        for name, token in tokens.items():
            answer = running.ask(method, place, Authorization=f"Bearer {token}")
            assert (answer.status == 403) is (scope not in (None, name)), (method, place, name)
        assert (running.ask(method, place).status == 401) is (scope is not None)
