from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest

from eventrec import Batch, Event, HandlerURLError, PauseError, TransientError, handler_from_url
from eventrec.registry import default_name
from eventrec.testing.proxy import FaultProxy
from eventrec_handlers.greptimedb import EventHandlerOptions, GreptimeDBHandler, from_url
from eventrec_handlers.greptimedb.target import Target

pytestmark = pytest.mark.handlers

Batches = Callable[..., Batch]
Events = Callable[..., Event]


# -- URLs


def test_url_names_hosts_user_and_database() -> None:
    target = Target("greptimedb://me:p%40ss@one:4002,two,[::1]:7/their-db?x=1", others=["x"])

    assert target.addresses == ("one:4002", "two:4001", "[::1]:7")
    assert (target.user, target.password) == ("me", "p@ss")
    assert (target.catalog, target.schema, target.database) == ("their", "db", "their-db")
    assert str(target) == "greptimedb://one:4002,two:4001,[::1]:7/their-db"


@pytest.mark.parametrize(
    ("path", "catalog", "schema", "database"),
    [
        ("", "greptime", "greptime_private", "greptime_private"),
        ("/", "greptime", "greptime_private", "greptime_private"),
        ("/public", "greptime", "public", "public"),
        ("/greptime-public", "greptime", "public", "public"),
        ("/cat-my-schema", "cat", "my-schema", "cat-my-schema"),
        ("/%C3%A9", "greptime", "é", "é"),
    ],
)
def test_database_is_a_schema_or_a_catalog_and_a_schema(path: str, catalog: str, schema: str, database: str) -> None:
    target = Target(f"greptimedb://host{path}")

    assert (target.catalog, target.schema, target.database) == (catalog, schema, database)


@pytest.mark.parametrize(
    "url",
    [
        "greptimedb:",
        "greptimedb://",
        "greptimedb:///db",
        "greptimedb://a,,b/db",
        "greptimedb://a:0/db",
        "greptimedb://a:65536/db",
        "greptimedb://a:port/db",
        "greptimedb://a:4001:2/db",
        "greptimedb://me:p/ss@a/db",
        "greptimedb://:secret@a/db",
        "greptimedb://a/db/more",
        "greptimedb://a/-db",
        "greptimedb://a/cat-",
        "greptimedb://a/d%20b",
        "greptimedb://a/db#fragment",
        "greptimedb://a b/db",
        "postgresql://a/db",
        "greptimedb://a/db?ttl=soon",
        "greptimedb://a/db?ttl=90d,append_mode=false",
        "greptimedb://a/db?ttl=0s%2C1",
        "greptimedb://a/db?time_window=never",
        "greptimedb://a/db?append_mode=perhaps",
        "greptimedb://a/db?compression=zstd",
        "greptimedb://a/db?json=yaml",
        "greptimedb://a/db?timeout=0",
        "greptimedb://a/db?timeout=inf",
        "greptimedb://a/db?max_request_bytes=0",
        "greptimedb://a/db?tls=maybe",
        "greptimedb://a/db?tls_ca=/ca.pem",
        "greptimedb://a/db?tls=true&tls_cert=/c.pem",
        "greptimedb://a/db?unknown=1",
        "greptimedb://a/db?ttl=1d&ttl=2d",
    ],
)
def test_url_that_is_none_is_refused_and_shows_no_password(url: str) -> None:
    with pytest.raises(HandlerURLError) as raised:
        from_url(url)

    assert not {"ss@", "p@ss", "secret"} & set(str(raised.value).split())
    assert "secret" not in str(raised.value)


def test_every_option_comes_from_the_url() -> None:
    handler = handler_from_url(
        "greptimedb://a/db?ttl=90d&append_mode=false&time_window=2h&json=text&compression=gzip&timeout=3s&connect_timeout=250ms"
        "&max_request_bytes=1000&tls=true&tls_ca=/a&tls_cert=/b&tls_key=/c"
    )

    assert isinstance(handler, GreptimeDBHandler)
    assert handler._options == EventHandlerOptions(ttl="90d", append_mode=False, time_window="2h")
    calls = handler._calls
    assert (calls.json, calls.compression, calls.timeout, calls.connect_timeout) == ("text", "gzip", 3, 0.25)
    assert calls.max_request_bytes == 1_000
    assert (calls.tls, calls.tls_ca, calls.tls_cert, calls.tls_key) == (True, "/a", "/b", "/c")


def test_subscription_is_called_after_the_scheme() -> None:
    assert default_name("greptimedb://a/db") == "greptimedb"


# -- hints


@pytest.mark.parametrize(
    ("ttl", "expected"),
    [
        ("90d", "90d"),
        (" 2months 29days 2h 52m 48s ", "2months 29days 2h 52m 48s"),
        ("forever", "forever"),
        ("instant", "instant"),
        ("7776000", "90d"),
        (7_776_000, "90d"),
        (7_776_000.0, "90d"),
        (timedelta(days=1, hours=2, seconds=3), "1d 2h 3s"),
        (0.5, "500ms"),
        (1.000001, "1s 1us"),
        (1e-12, "1ns"),
    ],
)
def test_ttl_is_written_as_greptimedb_reads_it(ttl: Any, expected: str) -> None:
    assert EventHandlerOptions(ttl=ttl).to_hints()["ttl"] == expected


def test_options_become_hints() -> None:
    assert EventHandlerOptions(ttl="90d", append_mode=True).to_hints() == {
        "ttl": "90d",
        "append_mode": "true",
        "compaction.twcs.time_window": "1day",
    }
    assert EventHandlerOptions(append_mode=False, time_window=None).to_hints() == {"append_mode": "false"}


@pytest.mark.parametrize(
    "given",
    [
        {"ttl": "90d,append_mode=false"},
        {"ttl": ""},
        {"ttl": 0},
        {"ttl": -1},
        {"ttl": float("nan")},
        {"ttl": float("inf")},
        {"ttl": True},
        {"ttl": [90]},
        {"ttl": "90d\r\nx-evil: 1"},
        {"ttl": "\uff190d"},
        {"time_window": "1day,ttl=1s"},
        {"time_window": "forever"},
        {"time_window": ""},
    ],
)
def test_option_that_would_not_arrive_as_it_is_meant_is_refused(given: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(given))):
        EventHandlerOptions(**given)


def test_comma_in_an_option_is_named() -> None:
    with pytest.raises(ValueError, match="a comma would end the hint"):
        EventHandlerOptions(ttl="1d,2h")


# -- credentials


async def test_user_and_password_go_in_the_request(
    make_server: Any, opened: Any, batch: Batches, event: Events
) -> None:
    server = make_server(user=("mé", "p@ss:word"))

    await (await opened(server, identity="m%C3%A9:p%40ss%3Aword@")).handle(batch(event()))

    assert server.received[0].request.header["basic"] == ("mé", "p@ss:word")
    assert "authorization" not in server.received[0].metadata


@pytest.mark.parametrize("identity", ["", "me:wrong@", "me@"])
async def test_wrong_credentials_pause(
    make_server: Any, opened: Any, batch: Batches, event: Events, identity: str
) -> None:
    handler = await opened(make_server(user=("me", "right")), identity=identity)

    with pytest.raises(PauseError, match="wrong credentials"):
        await handler.handle(batch(event()))


# -- compression


async def test_requests_are_compressed_where_asked_for(
    server: Any, proxy: FaultProxy, opened: Any, batch: Batches, event: Events
) -> None:
    compressed, plain = await opened(proxy, compression="gzip"), await opened(proxy)
    proxy.cut_after(count=5_000)

    await compressed.handle(batch(event("x" * 10_000)))
    with pytest.raises(TransientError):
        await plain.handle(batch(event("x" * 10_000)))

    assert server.rows[0][1]["payload"] == "x" * 10_000


# -- TLS


@pytest.fixture
def tls_server(make_server: Any, certificate: tuple[Path, Path]) -> Any:
    cert, key = certificate
    pair = (key.read_bytes(), cert.read_bytes())
    return make_server(credentials=grpc.ssl_server_credentials([pair]))


async def test_rows_go_over_tls(
    tls_server: Any, certificate: tuple[Path, Path], opened: Any, batch: Batches, event: Events
) -> None:
    handler = await opened(tls_server, tls=True, tls_ca=str(certificate[0]))

    await handler.handle(batch(event()))

    assert len(tls_server.rows) == 1


async def test_client_shows_its_own_certificate(
    make_server: Any, certificate: tuple[Path, Path], opened: Any, batch: Batches, event: Events
) -> None:
    cert, key = certificate
    both = grpc.ssl_server_credentials(
        [(key.read_bytes(), cert.read_bytes())], cert.read_bytes(), require_client_auth=True
    )
    server = make_server(credentials=both)

    handler = await opened(server, tls=True, tls_ca=str(cert), tls_cert=str(cert), tls_key=str(key))
    await handler.handle(batch(event()))

    assert len(server.rows) == 1


async def test_certificate_that_nothing_vouches_for_pauses(
    tls_server: Any, opened: Any, batch: Batches, event: Events
) -> None:
    handler = await opened(tls_server, tls=True)

    with pytest.raises(PauseError, match="CERTIFICATE_VERIFY_FAILED"):
        await handler.handle(batch(event()))


async def test_server_without_tls_is_not_talked_to(
    server: Any, certificate: tuple[Path, Path], opened: Any, batch: Batches, event: Events
) -> None:
    handler = await opened(server, tls=True, tls_ca=str(certificate[0]))

    with pytest.raises(PauseError, match="WRONG_VERSION_NUMBER"):
        await handler.handle(batch(event()))

    assert server.received == []


@pytest.mark.parametrize("content", [None, "not a certificate", ""])
async def test_file_that_cannot_be_used_pauses_at_open(tmp_path: Path, content: str | None) -> None:
    path = tmp_path / "ca.pem"
    if content is not None:
        path.write_text(content)
    handler = GreptimeDBHandler("greptimedb://127.0.0.1:1/", tls=True, tls_ca=str(path))

    with pytest.raises(PauseError, match=r"tls_ca=.*ca\.pem cannot be used"):
        await handler.open()
    await handler.close()
