"""What can be set, in one frozen model; and the numbers that follow once it is known whether there is a log."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    model_validator,
)

from eventrec.durations import Duration, duration_seconds
from eventrec.errors import OptionsError
from eventrec.option_sources import OF_RECORDERS, OF_SERVER, PREFIX, first_errors, read_table, variables
from eventrec.rules import (
    RateLimitOption,
    RedactionOption,
    SamplingOption,
)
from eventrec.runtime.field_docs import described

if TYPE_CHECKING:
    import os

MiB: Final = 1 << 20

_LEAST_SEGMENTS: Final = 8


def _several(value: object) -> object:
    if isinstance(value, str):
        raise ValueError(f'several texts, not one: write ["{value}"], in the environment as JSON')  # noqa: TRY004
    return value


def _secret(value: object) -> object:
    if isinstance(value, str):
        if not value:
            raise ValueError("a salt has at least one character")
        return SecretStr(value)
    return value


@described
class Backoff(BaseModel):
    """When a failed batch is tried again: after first, first × factor, … seconds, at most `max`, drawn by `jitter`.

    `jitter="full"` draws between 0 and that time, `"none"` takes it as it is. `attempts=None` never gives up.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, defer_build=True)

    first: Duration = Field(default=0.5)
    """Pause before the second attempt."""
    factor: float = Field(default=2.0, ge=1)
    """By how much each pause is longer than the one before."""
    max: Duration = Field(default=30.0)
    """Longest pause."""
    jitter: Literal["full", "none"] = "full"
    """`full`: a pause is drawn between zero and its length. `none`: it is as long as it is."""
    attempts: int | None = Field(default=None, ge=1)
    """How often a batch is tried before it is dropped and counted. None: until it passes. After the last time, where an
    error does not say what it means, records are tried alone: one that fails while others pass is a dead letter."""


@described
class EventRecorderOptions(BaseModel):
    """Every option of a recorder. Sizes are bytes, durations seconds or text such as "5s".

    Raises:
        pydantic.ValidationError: An unknown name or a value that is not allowed.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True, hide_input_in_errors=True)

    queue_events: int | None = Field(default=None, ge=1)
    """Events waiting at most. None: 10,000 without a log, no bound with one."""
    queue_bytes: int = Field(default=64 * MiB, ge=1)
    """Bytes waiting at most; an event counts its encoded length + 200."""
    overflow: Literal["drop_new", "drop_old"] = "drop_new"
    """What goes where one of these bounds is reached: the new event, or the oldest ones that wait."""
    max_event_bytes: int = Field(default=1 * MiB, ge=1)
    """Bytes of one event at most, counted likewise; a larger one is refused."""
    batch_rows: int = Field(default=1_000, ge=1)
    """Rows of a batch at most. Where neither this nor `batch_bytes` is set, a destination that keeps its checkpoints,
    so takes a transaction of any size, gets up to four times as many while they wait."""
    batch_bytes: int = Field(default=1 * MiB, ge=1)
    """Bytes of a batch at most; see `batch_rows`."""
    flush_interval: Duration = Field(default=1.0)
    """Longest time a record waits for its batch to fill. 0: none waits; what comes while a batch is written makes the
    next one."""
    batching: Literal["age", "tick"] = "age"
    """`age`: a batch goes when it is full or its oldest record is `flush_interval` old. `tick`: when the record after a
    full one arrives, and every `flush_interval` from the start on, the first time at once."""
    retry: Backoff | None = None
    """None: `Backoff()`, without a log with 4 attempts."""
    write_interval: Duration = Field(default=0.02)
    """Bound on the time between taken and written."""
    sync: Literal["interval", "never", "take"] = "interval"
    """When the log is synced: every `sync_interval`, never by itself, or after each take."""
    sync_interval: Duration = Field(default=1.0)
    """Bound on the time between written and synced, with `sync="interval"`."""
    segment_bytes: int = Field(default=64 * MiB, ge=1)
    """A segment of the log is followed by a new one once it holds this much; delivered ones are deleted."""
    max_log_bytes: int = Field(default=8 << 30, ge=1)
    """Bytes of the whole log directory. Beyond, logs of earlier runs go, then the subscription furthest behind loses
    its oldest records; where all are that far behind, new events are refused."""
    keep_free: float = Field(default=0.05, ge=0, allow_inf_nan=False)
    """What is left free on the log's file system: a share of it, at most 1 GiB, or, from 1 on, bytes."""
    retain: Duration | None = None
    """How long delivered records stay in the log, for a destination that is restored, or replaced."""
    retain_bytes: int | None = Field(default=None, ge=0)
    """How many bytes of delivered records stay."""
    ttl: Duration | None = None
    """How long rows stay in the database, by their timestamp, for handlers that delete rows and have no ttl of their
    own. None: for ever."""
    follow: bool = False
    """Deliver also what other processes write into the log directory, while they write it: for a process whose work is
    delivery, see `eventrec deliver`. Of several for one subscription one does, and the others wait."""
    close_timeout: Duration = Field(default=5.0)
    """How long `close` goes on delivering, where it is not told otherwise. 0: for programs that must never wait."""
    enabled: bool = True
    """False: nothing is recorded, and nothing is opened or started. The environment variable EVENTREC_DISABLED=1 does
    the same to every recorder. CI and DO_NOT_TRACK do not: they are about a user's data, see `Analytics`."""
    on_failure: Literal["retry", "stop"] = "retry"
    """`retry`: after a failed send delivery goes on, as `retry` says. `stop`: nothing more is recorded or sent in this
    process; what is in the log waits for the next one. A batch that is refused and can be parted is parted first."""
    event_types: Annotated[frozenset[str] | None, BeforeValidator(_several)] = None
    """Types to take; None: all, empty: none."""
    hash_salt: Annotated[SecretStr | str | None, BeforeValidator(_secret)] = None
    """What `Hashed()` hashes values with: a text of your application that stays secret, and stays the same."""
    redact: RedactionOption = None
    """What is redacted in untyped payloads, extra columns and context: a `Redaction`; True: the default one."""
    policy: Literal["open", "allowlist"] = "open"
    """`allowlist`: an event is refused where one of its fields has no rule: neither a marker, nor a key that `redact`
    or `plain_keys` names."""
    plain_keys: Annotated[frozenset[str], BeforeValidator(_several)] = frozenset()
    """Keys that are recorded as they are under that policy, at any depth; case, `_`, `-`, `.` and spaces do not count,
    `*` stands for any characters."""
    sample: Mapping[str, SamplingOption] = Field(default_factory=dict)
    """Of which types only a share is taken: a `Sampling` for each, or its rate."""
    rate_limits: Mapping[str, RateLimitOption] = Field(default_factory=dict)
    """Of which types so many are taken in a time: a text such as "100/s" for each."""
    dead_letters: Path | None = None
    """A JSON Lines file for the records a destination refused for good; with a log, a copy of what is kept there."""
    mirrors: int = Field(default=1, ge=1)
    """How many mirrors have to have what `record_durable(…, until="mirrored")` waits for."""
    max_dead_bytes: int = Field(default=256 * MiB, ge=0)
    """With a log: bytes of dead letters that are kept. Once it is reached, a subscription with another one holds."""
    on_unmapped: Literal["dead", "hold"] = "dead"
    """What becomes of a record that fails alone, with an error that the handler does not name, while others pass."""
    trace_context: bool = False
    """Add `trace_id` and `span_id` of OpenTelemetry's current span to the context of every event that is recorded
    inside one; what `recorder.context(trace_id=…)` says goes before. Needs `eventrec[opentelemetry]`. Under
    `policy="allowlist"` both are among `plain_keys`."""
    service: str | None = None
    """Added to the context of every event, like `host` and `environment`: which service this is."""
    host: str | None = None
    """On which host it runs."""
    environment: str | None = None
    """In which environment: production, say."""

    @model_validator(mode="after")
    def _ticks_take_time(self) -> Self:
        if self.batching == "tick" and duration_seconds(self.flush_interval) == 0:
            raise ValueError("batching='tick' needs a flush_interval above zero")
        return self

    @model_validator(mode="after")
    def _rows_live_for_some_time(self) -> Self:
        if self.ttl is not None and duration_seconds(self.ttl) == 0:
            raise ValueError("a ttl is more than zero: None keeps rows for ever")
        return self

    @classmethod
    def load(cls, path: str | os.PathLike[str] | None = None) -> EventRecorderOptions:
        """Options from the environment (`EVENTREC_…`, nested with `__`) over those of a TOML file.

        The file's options stand at the top, under `[eventrec]`, or, in a pyproject.toml, under `[tool.eventrec]`. `to`
        and `log` beside them, and EVENTREC_TO, EVENTREC_LOG and EVENTREC_CONFIG, are for `EventRecorder.from_env`.

        Raises:
            OptionsError: The file cannot be read, a name is unknown, or a value is not allowed.
        """
        table = {} if path is None else read_table(Path(path))
        given = {name: value for name, value in table.items() if name not in OF_RECORDERS}
        known = sorted(cls.model_fields)
        for name in given:
            if name not in cls.model_fields:
                raise OptionsError(f"unknown option {name!r} in {path}; known are {', '.join(known)}")
        for name in variables(PREFIX):
            option = name.lower().removeprefix(PREFIX.lower())
            if not name.startswith(OF_SERVER) and option.partition("__")[0] not in cls.model_fields:
                named = ", ".join(f"{PREFIX}{option.upper()}" for option in known)
                raise OptionsError(f"unknown option {name} in the environment; known are {named}")
        where = "in the environment" if path is None else f"in {path} or the environment"
        try:
            merged = _environment()(**given)
            return cls(**merged.model_dump(exclude_unset=True))
        except ValidationError as exc:
            raise OptionsError(f"options {where}: {first_errors(exc)}") from exc

    @classmethod
    def reference(cls) -> EventRecorderOptions:
        """The semantics of GreptimeDB's recorder.

        A channel of 2,048, batches of 100 sent when the 101st event arrives, a tick of 5 s with the first at once, four
        attempts with 1.667, 3.333 and 5 s between them. Rows stay for 90 days.
        """
        return cls(
            ttl="90d",
            queue_events=2_048,
            batch_rows=100,
            flush_interval=5.0,
            batching="tick",
            retry=Backoff(first=5 / 3, factor=2, max=5.0, jitter="none", attempts=4),
        )

    def salt(self) -> bytes | None:
        """The bytes of `hash_salt`; None where there is none."""
        given = self.hash_salt
        return given.get_secret_value().encode() if isinstance(given, SecretStr) else None

    def resolve(self, *, has_log: bool) -> ResolvedOptions:
        """The numbers to work with, once it is known whether there is a log."""
        return ResolvedOptions(
            queue_events=self.queue_events if self.queue_events is not None or has_log else 10_000,
            queue_bytes=self.queue_bytes,
            write_interval=duration_seconds(self.write_interval),
            sync=self.sync,
            sync_interval=duration_seconds(self.sync_interval),
            # Several segments have to fit, or nothing could go without everything going.
            segment_bytes=max(1, min(self.segment_bytes, self.max_log_bytes // _LEAST_SEGMENTS)),
            max_log_bytes=self.max_log_bytes,
            keep_free=self.keep_free,
            retain_seconds=None if self.retain is None else duration_seconds(self.retain),
            retain_bytes=self.retain_bytes,
            close_timeout=duration_seconds(self.close_timeout),
            delivery=DeliverySettings(
                batch_rows=self.batch_rows,
                batch_bytes=self.batch_bytes,
                flush_interval=duration_seconds(self.flush_interval),
                ticks=self.batching == "tick",
                retry=RetrySettings.of(self.retry or Backoff(attempts=None if has_log else 4)),
                hold_unmapped=self.on_unmapped == "hold",
            ),
        )


@dataclass(frozen=True, slots=True)
class RetrySettings:
    """A back-off in seconds."""

    first: float
    factor: float
    max: float
    full_jitter: bool
    attempts: int | None

    @classmethod
    def of(cls, backoff: Backoff) -> RetrySettings:
        """The same with its durations in seconds."""
        return cls(
            duration_seconds(backoff.first),
            backoff.factor,
            duration_seconds(backoff.max),
            backoff.jitter == "full",
            backoff.attempts,
        )


@dataclass(frozen=True, slots=True)
class DeliverySettings:
    """What one subscription works with; durations in seconds."""

    batch_rows: int
    batch_bytes: int
    flush_interval: float
    ticks: bool
    retry: RetrySettings
    hold_unmapped: bool
    backlog_batches: int = 1
    """As how many full batches one may be, while more records wait."""


@dataclass(frozen=True, slots=True)
class ResolvedOptions:
    """What one recorder works with; durations in seconds."""

    queue_events: int | None
    queue_bytes: int
    write_interval: float
    sync: Literal["interval", "never", "take"]
    sync_interval: float
    segment_bytes: int
    max_log_bytes: int
    keep_free: float
    retain_seconds: float | None
    retain_bytes: int | None
    close_timeout: float
    delivery: DeliverySettings


def _documented(model: type[BaseModel]) -> str:
    """Its docstring, followed by what stands under each field: `help` shows no docstrings of fields."""
    fields = [
        f"        {name} (default {field.default!r}):\n            {' '.join(field.description.split())}"
        for name, field in model.model_fields.items()
        if field.description is not None
    ]
    return "\n".join([f"{(model.__doc__ or '').rstrip()}\n\n    Attributes:", *fields])


for _model in (Backoff, EventRecorderOptions):
    _model.__doc__ = _documented(_model)


@cache
def _environment() -> type[EventRecorderOptions]:
    """The same options, with the environment above what is given."""
    from pydantic_settings import (  # noqa: PLC0415 - a fifth of the time that importing this package takes
        BaseSettings,
        EnvSettingsSource,
        PydanticBaseSettingsSource,
        SettingsConfigDict,
    )

    class Variables(EnvSettingsSource):
        def prepare_field_value(self, field_name: str, *given: Any) -> Any:
            try:
                return super().prepare_field_value(field_name, *given)
            except (ValueError, RecursionError) as exc:
                raise OptionsError(f"{PREFIX}{field_name.upper()} in the environment is not JSON: {exc}") from exc

    class Environment(EventRecorderOptions, BaseSettings):
        model_config = SettingsConfigDict(
            frozen=True, extra="forbid", env_prefix=PREFIX, env_nested_delimiter="__", env_ignore_empty=True
        )

        @classmethod
        def settings_customise_sources(
            cls,
            settings_cls: type[BaseSettings],
            init_settings: PydanticBaseSettingsSource,
            env_settings: PydanticBaseSettingsSource,
            dotenv_settings: PydanticBaseSettingsSource,
            file_secret_settings: PydanticBaseSettingsSource,
        ) -> tuple[PydanticBaseSettingsSource, ...]:
            del env_settings, dotenv_settings, file_secret_settings
            return Variables(settings_cls), init_settings

    return Environment
