"""What was redacted is nowhere: not in a file, on the wire, in the logging, in metrics, in errors, in what we show."""

from __future__ import annotations

import base64
import dataclasses
import io
import logging
import os
import socket
import threading
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar

import anyio
import pytest
import structlog
from prometheus_client import CollectorRegistry, generate_latest
from pydantic import BaseModel, Field, SecretStr, ValidationError

from eventrec import (
    Batch,
    Column,
    ColumnSchema,
    ColumnType,
    EncodeError,
    Event,
    EventHandler,
    EventModel,
    EventRecorder,
    EventRecorderOptions,
    EventStruct,
    Hashed,
    InvalidEventError,
    PermanentError,
    ReceivedEvent,
    Redacted,
    Redaction,
    Row,
    Sampling,
    Truncated,
)
from eventrec.bridges.prometheus import RecorderCollector
from eventrec.records.entry import PAYLOAD

SECRET = "Sentinel7f3a91c4e2b8"
SALT = "SaltOfTheseTests5d1b"
KEPT = "kept-as-it-is"


def forms(text: str) -> list[bytes]:
    """What `text` may look like in bytes, in the encodings that anything of ours or of a destination uses."""
    raw = text.encode()
    shifted = [base64.b64encode(b"x" * shift + raw)[4:-4] for shift in range(3)]
    return [raw, raw.hex().encode(), text.encode("utf-16-le"), text[::-1].encode(), *shifted]


def assert_nowhere(where: str, content: bytes) -> None:
    for form in (*forms(SECRET), *forms(SALT)):
        assert form not in content, f"{where}: …{content[max(0, content.index(form) - 60) :][:160]!r}"


# -- events with it in every place where a rule is about it


class Person(BaseModel):
    email: Annotated[str, Hashed()]


@dataclass
class Company:
    email: Annotated[str, Hashed()]
    password: Annotated[str, Redacted()] = SECRET


class Model(EventModel):
    email: Annotated[str, Hashed()] = SECRET
    password: Annotated[str, Redacted()] = SECRET
    note: Annotated[str, Truncated(4)] = SECRET
    user: Annotated[str, Column(), Hashed()] = SECRET
    card: Annotated[str, Column(), Redacted()] = SECRET
    people: list[Person] = Field(default_factory=lambda: [Person(email=SECRET)])
    anything: Any = Field(default_factory=lambda: {"a": [Person(email=SECRET)]})
    kept: str = KEPT


class Struct(EventStruct):
    type: ClassVar[str] = "struct"
    email: Annotated[str, Hashed()] = SECRET
    user: Annotated[str, Column(), Hashed()] = SECRET
    companies: tuple[Company, ...] = (Company(SECRET),)
    token: str = SECRET
    kept: str = KEPT


@dataclass(frozen=True)
class Plain(Event):
    email: Annotated[str, Hashed()] = SECRET

    @property
    def payload(self) -> object:
        return {**dataclasses.asdict(self), "headers": {"Authorization": SECRET}, "more": Company(SECRET), "kept": KEPT}

    def extra_schema(self) -> Sequence[ColumnSchema]:
        return (ColumnSchema("api_key", ColumnType.STRING), ColumnSchema("request", ColumnType.JSON))

    def extra_rows(self) -> Sequence[Row]:
        return ((SECRET, {"cookie": SECRET}), (SECRET, [Company(SECRET)]))


class Overriding(Model):
    def to_event(self) -> Event | None:
        return super().to_event()


class Untyped(Event):
    def __init__(self, payload: object) -> None:
        self.given = payload

    @property
    def payload(self) -> object:
        return self.given


def good_events() -> list[Any]:
    return [
        Model(),
        Struct(),
        Plain(),
        Overriding(),
        Untyped({"password": SECRET, "nested": [{"X-Api-Key": {"a": SECRET}}], "kept": KEPT}),
        Untyped(f"GET /?token={SECRET} Bearer {SECRET} postgres://me:{SECRET}@host"),
        ReceivedEvent("received", b'{"pass\\u0077ord":"%s","kept":"%s"}' % (SECRET.encode(), KEPT.encode())),
        ReceivedEvent("received", b"{}", context=b'{"secret":"%s"}' % SECRET.encode()),
    ]


class Quoting:
    """Cannot be encoded, and says its secret wherever it is shown."""

    def __init__(self) -> None:
        self.secret = SECRET

    def __repr__(self) -> str:
        return SECRET

    def __getattr__(self, name: str) -> object:
        raise AttributeError(f"{SECRET} has no {name}")


class Raising(Plain):
    @property
    def payload(self) -> object:
        raise ValueError(f"no payload of {self.email}")


class RaisingStamp(Model):
    anything: Any = None

    def to_event(self) -> Event | None:
        raise RuntimeError(f"no event of {self.email}")


class Elsewhere(Plain):
    @property
    def payload(self) -> object:
        return {"mail": self.email}

    def extra_schema(self) -> Sequence[ColumnSchema]:
        return ()

    def extra_rows(self) -> Sequence[Row]:
        return ((),)


def bad_events() -> list[Any]:
    cycle: dict[str, object] = {"password": SECRET}
    cycle["again"] = cycle
    return [
        Model(anything=Quoting()),
        Model.model_construct(people=(SECRET,)),
        Model.model_construct(user=[SECRET], people=SECRET),
        Struct(token=Quoting()),  # type: ignore[arg-type]
        Plain(email=Quoting()),  # type: ignore[arg-type]
        Raising(),
        RaisingStamp(),
        Elsewhere(),
        Untyped(cycle),
        Untyped({"password": SECRET, SECRET: Quoting()}),
        Untyped({"password": SECRET, "x": float("nan")}),
        Untyped({b"password": SECRET}),
        ReceivedEvent("received", b'{"password":"%s"' % SECRET.encode()),
        ReceivedEvent("received", b"{}", timestamp=SECRET),  # type: ignore[arg-type]
    ]


# -- where it could be


@contextmanager
def listener() -> Iterator[tuple[int, bytearray]]:
    """A server that keeps every byte it is sent; its port."""
    received = bytearray()
    server = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        with suppress(OSError):
            while True:
                connection, _ = server.accept()
                with connection:
                    while chunk := connection.recv(65_536):
                        received.extend(chunk)
                    connection.sendall(b"ok")

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield server.getsockname()[1], received
    finally:
        with suppress(OSError):
            server.shutdown(socket.SHUT_RDWR)
        server.close()
        thread.join(10)


class Wire(EventHandler):
    """Sends all that it is given, as it is shown and as it is stored, over TCP."""

    def __init__(self, port: int) -> None:
        self.port = port

    async def handle(self, batch: Batch) -> None:
        async with await anyio.connect_tcp("127.0.0.1", self.port) as stream:
            for record in batch.records:
                await stream.send(repr(record).encode() + record.payload + (record.context or b""))
            await stream.send(repr(batch.row_inserts()).encode() + repr(batch).encode())
            await stream.send_eof()
            assert await stream.receive() == b"ok"


class Refusing(EventHandler):
    """Refuses every record for good, and says why with what it was given."""

    async def handle(self, batch: Batch) -> None:
        raise PermanentError(f"refused: {[record.payload for record in batch.records]}")


async def test_what_is_redacted_is_nowhere(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    shown = io.StringIO()
    options = EventRecorderOptions(
        hash_salt=SALT,
        redact=Redaction(keys=frozenset({"nick"})),
        dead_letters=tmp_path / "dead.jsonl",
        sample={"sampled": Sampling(rate=0.5, key="user_id")},
    )
    good, bad = good_events(), bad_events()

    with listener() as (port, received):
        recorder = EventRecorder(
            f"sqlite:///{tmp_path / 'events.db'}",
            f"jsonl:///{tmp_path / 'lines'}",
            log=tmp_path / "log",
            options=options,
        )
        recorder.register(Wire(port))
        recorder.register(Refusing())
        async with recorder:
            with recorder.context(cookie=SECRET, nick=SECRET):
                taken = [recorder.record(event) for event in good]
            refused = [recorder.record(event) for event in bad]
            for event in bad:
                with pytest.raises((EncodeError, InvalidEventError)) as caught:
                    await recorder.record_durable(event)
                traceback.print_exception(caught.value, file=shown)
                print(repr(caught.value), file=shown)
            await recorder.flush(30)
            status = recorder.status()
            registry = CollectorRegistry()
            registry.register(RecorderCollector(recorder))
            shown.write(f"{status} {status!r} {status.health} {status.to_dict()} {recorder!r} {options!r} {options}")
            assert_nowhere("metrics", generate_latest(registry))
            on_disk = contents(tmp_path)
        closed = contents(tmp_path)

    assert taken == [True] * len(good)
    assert refused == [False] * len(bad)
    assert status.is_balanced
    assert sum(part.dead for part in status.subscriptions.values()) > 0
    assert KEPT.encode() in received
    for part in ("events.db", "lines", "log", "dead.jsonl"):  # so that the search has something to look at
        files = [
            content for name, content in on_disk.items() if Path(name).relative_to(tmp_path).parts[0].startswith(part)
        ]
        assert any(KEPT.encode() in content for content in files), part
    for where, content in {**on_disk, **closed}.items():
        assert_nowhere(where, content)
    assert_nowhere("the wire", bytes(received))
    assert_nowhere("what is shown", shown.getvalue().encode())
    logged = [f"{record.getMessage()} {record.exc_text} {vars(record)}" for record in caplog.records]
    assert any("events refused" in line for line in logged)
    assert_nowhere("the logging", "\n".join(logged).encode())


def contents(directory: Path) -> dict[str, bytes]:
    """Every file below `directory`, with its name."""
    return {str(path): os.fsencode(path) + path.read_bytes() for path in sorted(directory.rglob("*")) if path.is_file()}


def test_what_pydantic_says_of_a_bad_value_does_not_quote_it() -> None:
    class Strict(EventModel):
        email: Annotated[str, Field(max_length=3), Hashed()]
        secret: SecretStr

    with pytest.raises(ValidationError) as caught:
        Strict(email=SECRET, secret=SECRET, password=SECRET)  # type: ignore[arg-type, call-arg]

    assert_nowhere("its text", f"{caught.value} {''.join(traceback.format_exception(caught.value))}".encode())


def test_a_structured_traceback_shows_no_cause() -> None:
    recorder = EventRecorder(options=EventRecorderOptions(redact=True, hash_salt=SALT))
    with pytest.raises(EncodeError) as caught:
        recorder._encoder.encode(Raising())

    said = structlog.tracebacks.extract(EncodeError, caught.value, caught.value.__traceback__, show_locals=False)

    assert_nowhere("its frames", repr(said).encode())


def test_without_a_rule_nothing_is_hidden() -> None:
    """So that the tests above can fail."""
    recorder = EventRecorder()
    recorder.record(Untyped({"password": SECRET}))
    entry = recorder._encoder.encode(Untyped({"password": SECRET}))

    assert isinstance(entry, tuple)
    with pytest.raises(AssertionError):
        assert_nowhere("an entry", entry[PAYLOAD])
    recorder._life.stay_unopened()
