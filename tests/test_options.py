import math
import os
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from eventrec import RateLimit, Redaction, Sampling
from eventrec.durations import duration_seconds, seconds
from eventrec.errors import OptionsError
from eventrec.options import Backoff, DeliverySettings, EventRecorderOptions, ResolvedOptions, RetrySettings

MiB = 1 << 20
DURATIONS = ["flush_interval", "write_interval", "close_timeout"]


@pytest.fixture(autouse=True)
def _own_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No option of the environment that the tests run in."""
    for name in list(os.environ):
        if name.upper().startswith("EVENTREC_"):
            monkeypatch.delenv(name)


# -- defaults


def test_defaults_are_those_of_the_design() -> None:
    options = EventRecorderOptions()

    assert options.model_dump() == {
        "queue_events": None,
        "queue_bytes": 64 * MiB,
        "overflow": "drop_new",
        "max_event_bytes": 1 * MiB,
        "batch_rows": 1_000,
        "batch_bytes": 1 * MiB,
        "flush_interval": 1.0,
        "batching": "age",
        "retry": None,
        "write_interval": 0.02,
        "sync": "interval",
        "sync_interval": 1.0,
        "segment_bytes": 64 * MiB,
        "max_log_bytes": 8 << 30,
        "keep_free": 0.05,
        "retain": None,
        "retain_bytes": None,
        "ttl": None,
        "follow": False,
        "close_timeout": 5.0,
        "event_types": None,
        "enabled": True,
        "on_failure": "retry",
        "hash_salt": None,
        "redact": None,
        "policy": "open",
        "plain_keys": frozenset(),
        "sample": {},
        "rate_limits": {},
        "dead_letters": None,
        "mirrors": 1,
        "max_dead_bytes": 256 * 2**20,
        "on_unmapped": "dead",
        "trace_context": False,
        "service": None,
        "host": None,
        "environment": None,
    }
    assert Backoff().model_dump() == {"first": 0.5, "factor": 2.0, "max": 30.0, "jitter": "full", "attempts": None}


def test_without_a_log_the_queue_holds_10_000_events_and_a_batch_has_4_attempts() -> None:
    settled = EventRecorderOptions().resolve(has_log=False)

    assert settled == ResolvedOptions(
        queue_events=10_000,
        queue_bytes=64 * MiB,
        write_interval=0.02,
        sync="interval",
        sync_interval=1.0,
        segment_bytes=64 * MiB,
        max_log_bytes=8 << 30,
        keep_free=0.05,
        retain_seconds=None,
        retain_bytes=None,
        close_timeout=5.0,
        delivery=DeliverySettings(
            batch_rows=1_000,
            batch_bytes=1 * MiB,
            flush_interval=1.0,
            ticks=False,
            retry=RetrySettings(first=0.5, factor=2.0, max=30.0, full_jitter=True, attempts=4),
            hold_unmapped=False,
        ),
    )


def test_with_a_log_the_queue_is_bounded_by_bytes_alone_and_attempts_have_no_end() -> None:
    settled = EventRecorderOptions().resolve(has_log=True)

    assert (settled.queue_events, settled.delivery.retry.attempts) == (None, None)


@pytest.mark.parametrize("has_log", [True, False])
def test_what_is_set_holds_with_and_without_a_log(has_log: bool) -> None:  # noqa: FBT001 - a parameter of the test
    options = EventRecorderOptions(
        queue_events=5,
        retry=Backoff(first="1ms", jitter="none"),
        flush_interval="2s",
        batching="tick",
        on_unmapped="hold",
    )

    settled = options.resolve(has_log=has_log)

    assert settled.queue_events == 5
    assert settled.delivery.retry == RetrySettings(first=0.001, factor=2.0, max=30.0, full_jitter=False, attempts=None)
    assert (settled.delivery.flush_interval, settled.delivery.ticks, settled.delivery.hold_unmapped) == (
        2.0,
        True,
        True,
    )


def test_reference_has_the_numbers_of_greptimedb() -> None:
    settled = EventRecorderOptions.reference().resolve(has_log=False)

    retry = settled.delivery.retry
    waits = [min(retry.first * retry.factor**number, retry.max) for number in range(3)]
    assert settled.queue_events == 2_048
    assert (settled.delivery.batch_rows, settled.delivery.flush_interval, settled.delivery.ticks) == (100, 5.0, True)
    assert waits == pytest.approx([1.667, 3.333, 5.0], abs=0.001)
    assert (retry.attempts, retry.full_jitter) == (4, False)
    assert EventRecorderOptions.reference().ttl == 90 * 86_400


def test_options_are_frozen() -> None:
    options = EventRecorderOptions()

    with pytest.raises(ValidationError, match="frozen"):
        options.batch_rows = 5


# -- durations


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("5s", 5.0),
        ("250ms", 0.25),
        ("20us", 2e-05),
        ("20µs", 2e-05),
        ("5ns", 5e-09),
        ("1m", 60.0),
        ("1h 30m", 5_400.0),
        ("1h30m", 5_400.0),
        ("90d", 7_776_000.0),
        (" 1.5 s ", 1.5),
        ("0.25", 0.25),
        ("1e-3", 0.001),
        (5, 5.0),
        (0, 0.0),
        (timedelta(minutes=1), 60.0),
    ],
    ids=str,
)
def test_durations_are_seconds_or_text(given: Any, expected: float) -> None:
    options = EventRecorderOptions(flush_interval=given)

    assert isinstance(options.flush_interval, float)
    assert options.flush_interval == pytest.approx(expected)
    assert duration_seconds(given) == pytest.approx(expected)


@pytest.mark.parametrize("text", ["", "s", "5 parsecs", "5s!", "five", "-5s", "1h, 30m", "5 s 3", "5S"])
def test_text_that_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(
        ValueError, match="is not a duration: write seconds, or text with units ns, us, µs, ms, s, m, h, d"
    ):
        seconds(text)


@pytest.mark.parametrize("name", DURATIONS)
@pytest.mark.parametrize(
    "value",
    [-1, -0.001, "-1", timedelta(seconds=-1), math.nan, "nan", math.inf, "inf", True, None, b"5s", [5], "never"],
    ids=repr,
)
def test_duration_of_an_option_is_finite_and_not_negative(name: str, value: Any) -> None:
    with pytest.raises(ValidationError, match=name):
        EventRecorderOptions(**{name: value})


@pytest.mark.parametrize("name", ["first", "max"])
@pytest.mark.parametrize("value", [-1, "-1s", math.nan, math.inf, True], ids=repr)
def test_duration_of_a_backoff_is_finite_and_not_negative(name: str, value: Any) -> None:
    with pytest.raises(ValidationError, match=name):
        Backoff(**{name: value})


@pytest.mark.parametrize("value", [-1, "-1", timedelta(seconds=-1), math.nan, "nan", "never", None, [], True], ids=repr)
def test_duration_of_a_call_is_not_negative(value: Any) -> None:
    with pytest.raises(OptionsError):
        duration_seconds(value)


def test_duration_of_a_call_may_be_without_an_end() -> None:
    assert duration_seconds(math.inf) == math.inf


# -- values that are not allowed


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *[(name, 0) for name in ("queue_events", "queue_bytes", "max_event_bytes", "batch_rows", "batch_bytes")],
        ("queue_events", -1),
        ("batch_rows", 1.5),
        ("batch_rows", "many"),
        ("overflow", "drop"),
        ("batching", "size"),
        ("on_unmapped", "drop"),
        ("event_types", "order_placed"),
        ("event_types", [1]),
        ("retry", {"attempts": 0}),
        ("retry", {"attemps": 3}),
        ("retry", 3),
        ("service", 5),
    ],
)
def test_value_that_is_not_allowed_is_named(name: str, value: Any) -> None:
    with pytest.raises(ValidationError, match=name):
        EventRecorderOptions(**{name: value})


@pytest.mark.parametrize(
    ("name", "value"), [("factor", 0.5), ("factor", math.inf), ("factor", math.nan), ("jitter", "half")]
)
def test_backoff_that_is_not_allowed_is_named(name: str, value: Any) -> None:
    with pytest.raises(ValidationError, match=name):
        Backoff(**{name: value})


def test_unknown_name_is_refused() -> None:
    with pytest.raises(ValidationError, match=r"batch_row\n.*Extra inputs are not permitted"):
        EventRecorderOptions(batch_row=5)  # type: ignore[call-arg]


def test_ticks_without_time_between_them_are_refused() -> None:
    with pytest.raises(ValidationError, match="batching='tick' needs a flush_interval above zero"):
        EventRecorderOptions(batching="tick", flush_interval=0)


# -- load


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def test_load_without_anything_gives_the_defaults() -> None:
    assert EventRecorderOptions.load() == EventRecorderOptions()


def test_load_reads_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EVENTREC_BATCH_ROWS", "50")
    monkeypatch.setenv("EVENTREC_FLUSH_INTERVAL", "250ms")
    monkeypatch.setenv("EVENTREC_EVENT_TYPES", '["a", "b"]')
    monkeypatch.setenv("EVENTREC_RETRY__ATTEMPTS", "7")
    monkeypatch.setenv("EVENTREC_RETRY__FIRST", "1s")
    monkeypatch.setenv("eventrec_service", "shop")

    options = EventRecorderOptions.load()

    assert options == EventRecorderOptions(
        batch_rows=50,
        flush_interval=0.25,
        event_types=frozenset({"a", "b"}),
        retry=Backoff(attempts=7, first=1.0),
        service="shop",
    )


@pytest.mark.parametrize(
    ("value", "expected"), [("[]", frozenset()), ("", None), ('["a"]', frozenset({"a"}))], ids=["none", "empty", "one"]
)
def test_load_tells_no_types_from_all_types(
    monkeypatch: pytest.MonkeyPatch, value: str, expected: frozenset[str] | None
) -> None:
    monkeypatch.setenv("EVENTREC_EVENT_TYPES", value)

    assert EventRecorderOptions.load().event_types == expected


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("options.toml", "batch_rows = 50\n[retry]\nattempts = 7"),
        ("options.toml", "[other]\na = 1\n[eventrec]\nbatch_rows = 50\n[eventrec.retry]\nattempts = 7"),
        ("pyproject.toml", "[project]\nname = 'a'\n[tool.eventrec]\nbatch_rows = 50\nretry = {attempts = 7}"),
    ],
    ids=["top", "table", "pyproject"],
)
def test_load_reads_a_file(tmp_path: Path, name: str, text: str) -> None:
    path = write(tmp_path / name, text)

    options = EventRecorderOptions.load(path)

    assert options == EventRecorderOptions(batch_rows=50, retry=Backoff(attempts=7))
    assert EventRecorderOptions.load(str(path)) == options


def test_project_file_without_a_table_of_ours_gives_the_defaults(tmp_path: Path) -> None:
    path = write(tmp_path / "pyproject.toml", "[project]\nname = 'a'")

    assert EventRecorderOptions.load(path) == EventRecorderOptions()


def test_partial_file_keeps_the_other_defaults(tmp_path: Path) -> None:
    path = write(tmp_path / "a.toml", "event_types = []")

    options = EventRecorderOptions.load(path)

    assert (options.event_types, options.batch_rows, options.retry) == (frozenset(), 1_000, None)


def test_environment_stands_above_the_file_name_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "a.toml", "batch_rows = 50\nqueue_events = 60\n[retry]\nattempts = 7\nfirst = '9s'")
    monkeypatch.setenv("EVENTREC_BATCH_ROWS", "1")
    monkeypatch.setenv("EVENTREC_RETRY__ATTEMPTS", "2")

    options = EventRecorderOptions.load(path)

    assert (options.batch_rows, options.queue_events) == (1, 60)
    assert options.retry == Backoff(attempts=2, first=9.0)


@pytest.mark.parametrize(
    ("name", "value", "why"),
    [
        (
            "EVENTREC_BATCH_ROW",
            "5",
            "unknown option EVENTREC_BATCH_ROW in the environment; known are EVENTREC_BATCH_BYTES",
        ),
        ("EVENTREC_RETRYS__ATTEMPTS", "5", "unknown option EVENTREC_RETRYS__ATTEMPTS"),
        ("EVENTREC_RETRY__ATTEMPS", "5", "in the environment: retry.attemps: Extra inputs are not permitted"),
        ("EVENTREC_BATCH_ROWS", "many", "in the environment: batch_rows: .*valid integer"),
        ("EVENTREC_FLUSH_INTERVAL", "-1", "flush_interval: .*finite and not negative"),
        ("EVENTREC_FLUSH_INTERVAL", "soon", "flush_interval: .*'soon' is not a duration"),
        ("EVENTREC_EVENT_TYPES", "a,b", r"event_types: .*several texts, not one: write .*, in the environment as JSON"),
        ("EVENTREC_RETRY", "often", "retry: .*valid dictionary or instance of Backoff"),
    ],
)
def test_load_refuses_what_it_does_not_understand_in_the_environment(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, why: str
) -> None:
    monkeypatch.setenv(name, value)

    with pytest.raises(OptionsError, match=why):
        EventRecorderOptions.load()


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("batch_row = 5", "unknown option 'batch_row' in .*a.toml; known are batch_bytes, batch_rows"),
        ("_env_file = 'x'", "unknown option '_env_file'"),
        ("[eventrec]\nbatch_row = 5", "unknown option 'batch_row'"),
        ("[retry]\nattemps = 5", "a.toml or the environment: retry.attemps: Extra inputs"),
        ("batch_rows = 0", "batch_rows: .*greater than or equal to 1"),
        ("flush_interval = nan", "flush_interval: .*finite and not negative"),
        ("eventrec = 5", "a.toml: eventrec is a table of options, got int"),
        ("batch_rows = ", "a.toml: .*Invalid value"),
        ("batch_rows = 1\nbatch_rows = 2", "a.toml: .*overwrite"),
        ("a = " + "[" * 5_000 + "]" * 5_000, "a.toml: .*recursion"),
        ("batch_rows = " + "9" * 5_000, "a.toml: .*digits"),
    ],
)
def test_load_refuses_what_it_does_not_understand_in_a_file(tmp_path: Path, text: str, why: str) -> None:
    path = write(tmp_path / "a.toml", text)

    with pytest.raises(OptionsError, match=why):
        EventRecorderOptions.load(path)


def test_load_names_the_file_it_cannot_read(tmp_path: Path) -> None:
    binary = tmp_path / "binary.toml"
    binary.write_bytes(b"\xff\xfe")

    for path, why in ((tmp_path / "missing.toml", "No such file"), (tmp_path, "directory"), (binary, "decode")):
        with pytest.raises(OptionsError, match=f"options file {path}: .*{why}"):
            EventRecorderOptions.load(path)


@pytest.mark.parametrize(
    "name",
    [
        "EVENTREC_SERVICE_HOST",
        "EVENTREC_SERVICE_PORT",
        "EVENTREC_SERVICE_PORT_HTTP",
        "EVENTREC_PORT",
        "EVENTREC_PORT_80_TCP",
        "EVENTREC_PORT_80_TCP_PROTO",
        "EVENTREC_PORT_53_UDP_ADDR",
        "EVENTREC_RELAY_SERVICE_HOST",
        "EVENTREC_RELAY_PORT_8080_TCP_PORT",
    ],
)
def test_variables_of_a_kubernetes_service_are_not_options(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "tcp://10.0.0.7:80")
    monkeypatch.setenv("EVENTREC_SERVICE", "shop")

    assert EventRecorderOptions.load().service == "shop"


@pytest.mark.parametrize("link", ["EVENTREC", "EVENTREC_1", "EVENTREC_RELAY"])
def test_variables_of_a_docker_link_are_not_options(link: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(f"{link}_NAME", "/shop/eventrec")
    monkeypatch.setenv(f"{link}_ENV_LANG", "C")
    monkeypatch.setenv(f"{link}_PORT_80_TCP", "tcp://10.0.0.7:80")
    monkeypatch.setenv("EVENTREC_SERVICE", "shop")

    assert EventRecorderOptions.load().service == "shop"


@pytest.mark.parametrize("name", ["EVENTREC_NAME", "EVENTREC_ENV_LANG"])
def test_what_no_link_of_docker_made_is_refused(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "shop")

    with pytest.raises(OptionsError, match=name):
        EventRecorderOptions.load()


@pytest.mark.parametrize("name", ["EVENTREC_PORTS", "EVENTREC_PORT_80", "EVENTREC_SERVICES", "EVENTREC_SERVICE_HOSTS"])
def test_what_only_looks_like_one_is_refused(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "5")

    with pytest.raises(OptionsError, match=name):
        EventRecorderOptions.load()


@pytest.mark.parametrize("text", ["{'page_viewed': 0.1}", "[" * 20_000])
def test_json_in_the_environment_that_is_mistyped_is_refused_by_its_name(
    text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EVENTREC_SAMPLE", text)

    with pytest.raises(OptionsError, match=r"^EVENTREC_SAMPLE in the environment is not JSON: ") as caught:
        EventRecorderOptions.load()

    assert "\n" not in str(caught.value)


def test_a_salt_is_not_shown() -> None:
    options = EventRecorderOptions(hash_salt="a long secret")

    assert options.salt() == b"a long secret"
    assert "a long secret" not in f"{options!r} {options} {options.model_dump()} {options.model_dump_json()}"
    with pytest.raises(ValidationError) as caught:
        EventRecorderOptions(hash_salt="a long secret", batching="tick", flush_interval=0)
    assert "a long secret" not in str(caught.value)
    with pytest.raises(ValidationError, match="at least one character"):
        EventRecorderOptions(hash_salt="")


def test_a_salt_may_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EVENTREC_HASH_SALT", "a long secret")

    assert EventRecorderOptions.load().salt() == b"a long secret"


def test_rules_may_be_said_in_short() -> None:
    options = EventRecorderOptions(
        redact=True,
        sample={"click": 0.1, "login": Sampling(rate=0.5, key="user_id")},
        rate_limits={"click": "100/s", "login": " 5 / 10m ", "error": RateLimit(count=1, period=0.5)},
    )

    assert options.redact == Redaction()
    assert options.sample == {"click": Sampling(rate=0.1), "login": Sampling(rate=0.5, key="user_id")}
    assert options.rate_limits == {
        "click": RateLimit(count=100, period=1),
        "login": RateLimit(count=5, period=600),
        "error": RateLimit(count=1, period=0.5),
    }
    assert EventRecorderOptions(redact=False).redact is None
    in_a_word: dict[str, Any] = {"redact": "on"}
    assert EventRecorderOptions(**in_a_word).redact == Redaction()


def test_rules_may_come_from_the_environment_and_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.toml"
    path.write_text(
        'redact = { keys = ["nick*"], cards = false }\nplain_keys = ["a"]\n[rate_limits]\nclick = "100/s"\n'
        "[sample.login]\nrate = 0.5\nkey = 'user_id'\n"
    )
    monkeypatch.setenv("EVENTREC_POLICY", "allowlist")
    monkeypatch.setenv("EVENTREC_SAMPLE", '{"view": 0.25}')

    options = EventRecorderOptions.load(path)

    assert options.redact == Redaction(keys=frozenset({"nick*"}), cards=False)
    assert options.policy == "allowlist"
    assert options.plain_keys == {"a"}
    assert options.rate_limits == {"click": RateLimit(count=100, period=1)}
    assert options.sample["view"] == Sampling(rate=0.25)
    monkeypatch.setenv("EVENTREC_REDACT", "true")
    assert EventRecorderOptions.load().redact == Redaction()


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("redact", "yes, please"),
        ("redact", {"patterns": ["("]}),
        ("redact", {"key": ["a"]}),
        ("policy", "strict"),
        ("plain_keys", "a"),
        ("sample", {"a": 1.5}),
        ("sample", {"a": -0.1}),
        ("sample", {"a": True}),
        ("sample", {"a": math.nan}),
        ("rate_limits", {"a": "fast"}),
        ("rate_limits", {"a": "1/0s"}),
        ("rate_limits", {"a": "-1/s"}),
        ("rate_limits", {"a": 5}),
        ("rate_limits", {"a": "1.5/s"}),
    ],
)
def test_rules_that_are_none_are_refused(option: str, value: object) -> None:
    given: dict[str, Any] = {option: value}

    with pytest.raises(ValidationError, match=option):
        EventRecorderOptions(**given)


def test_what_names_a_catalogue_is_not_an_option(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EVENTREC_CATALOGUE", "shop:catalogue")
    path = write(
        tmp_path / "pyproject.toml",
        "[tool.eventrec]\ncatalogue = 'shop:catalogue'\nmigrations = 'sql'\nbatch_rows = 50",
    )

    assert EventRecorderOptions.load(path).batch_rows == 50
    with pytest.raises(OptionsError, match="unknown option 'catalogue'"):
        EventRecorderOptions.load(write(tmp_path / "options.toml", "catalogue = 'shop:catalogue'"))
