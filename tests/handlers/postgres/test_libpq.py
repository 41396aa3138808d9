"""URLs in libpq's words: what is taken means what it means there, what is not has a reason of its own."""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from eventrec import Batch, Event, HandlerURLError, PauseError
from eventrec.testing.servers import free_port
from eventrec_handlers.postgres import PostgresHandler, from_url
from eventrec_handlers.postgres.target import Target

pytestmark = pytest.mark.handlers

Events = Callable[..., Event]
Batches = Callable[..., Batch]


# -- hosts


@pytest.mark.parametrize(
    ("url", "host", "port", "named"),
    [
        ("postgresql://h/d", "h", None, "postgresql://h/d"),
        ("postgresql://u:p@h1:5432,h2:5433/d", ["h1", "h2"], ["5432", "5433"], "postgresql://h1:5432,h2:5433/d"),
        ("postgresql://h1,h2:5433/d", ["h1", "h2"], ["5432", "5433"], "postgresql://h1,h2:5433/d"),
        ("postgresql://h1,h2/d?port=5444", ["h1", "h2"], ["5444", "5444"], "postgresql://h1:5444,h2:5444/d"),
        (
            "postgresql://[::1]:5433,[fe80::1]/d",
            ["::1", "fe80::1"],
            ["5433", "5432"],
            "postgresql://[::1]:5433,[fe80::1]/d",
        ),
        ("postgresql://[::1]/d", "::1", None, "postgresql://[::1]/d"),
        ("postgresql:///d?host=/Var/Run&port=5433", "/Var/Run", 5433, "postgresql:///Var/Run:5433/d"),
        ("postgresql://%2FVar%2FRun:5433/d", "/Var/Run", 5433, "postgresql:///Var/Run:5433/d"),
        ("postgresql://u@/d?host=%2Fa,%2Fb", ["/a", "/b"], ["5432", "5432"], "postgresql:///a,/b/d"),
        ("postgresql:///d?hostaddr=10.0.0.1", "10.0.0.1", None, "postgresql://10.0.0.1/d"),
        ("postgresql:///d?port=5433", None, 5433, "postgresql://:5433/d"),
        ("postgresql://:5433/d", None, 5433, "postgresql://:5433/d"),
        ("postgresql://", None, None, "postgresql:///"),
        ("postgresql:", None, None, "postgresql:///"),
    ],
)
def test_hosts_and_ports(url: str, host: object, port: object, named: str) -> None:
    target = Target(url)
    arguments = target.arguments()

    assert (arguments["host"], arguments["port"]) == (host, port)
    assert str(target) == named


def test_hosts_are_tried_in_any_order_where_the_url_says_so() -> None:
    url = "postgresql://" + ",".join(f"h{n}:{n}" for n in range(9)) + "/d?load_balance_hosts=random"

    orders = {tuple(Target(url).arguments()["host"]) for _ in range(20)}
    pairs = {tuple(zip(a["host"], a["port"], strict=True)) for a in [Target(url).arguments()]}

    assert len(orders) > 1
    assert all(host == f"h{port}" for pair in pairs for host, port in pair)


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://u:12,s3cret/x@h/d",
        "postgresql://u:s3cret:x/y@h/d",
        "postgresql://h:s3cret/d",
        "postgresql://h1:1,h2:s3cret/d",
        "postgresql://u:s3cret@h:99999/d",
        "postgresql://h1,,h2/d?password=s3cret",
        "postgresql://u:s3cret[@h/d",
        "postgresql://u:s3cret#x@h/d",
        "postgresql://u:s3cret@[::1/d",
    ],
)
def test_what_should_be_encoded_is_refused_and_never_shown(url: str) -> None:
    with pytest.raises(HandlerURLError, match="percent-encoded") as caught:
        from_url(url)

    assert "s3cret" not in str(caught.value)


# -- parameters


@pytest.mark.parametrize(
    "query",
    [
        "channel_binding=prefer",
        "channel_binding=disable",
        "gssencmode=prefer",
        "gssencmode=disable",
        "sslcompression=0",
        "sslcertmode=allow",
        "sslsni=1",
        "sslnegotiation=postgres",
        "client_encoding=UTF8",
        "replication=false",
        "max_protocol_version=latest",
        "min_protocol_version=3.0",
        "pgbouncer=true",
        "keepalives=1&keepalives_idle=30&keepalives_interval=5&keepalives_count=3&tcp_user_timeout=9000",
        "krbsrvname=pg&gsslib=gssapi",
        "connect_timeout=0",
        "connect_timeout=10",
        "load_balance_hosts=disable",
        "target_session_attrs=read-write",
    ],
)
def test_what_makes_no_difference_is_taken(query: str) -> None:
    target = f"postgresql://u:p@h/d?{query}"

    assert repr(from_url(target)) == "<PostgresHandler 'postgresql://h/d' closed>"


@pytest.mark.parametrize(
    ("query", "why"),
    [
        ("channel_binding=require", "channel_binding=require .* the driver cannot bind"),
        ("gssencmode=require", "gssencmode=require .* the driver cannot encrypt with GSSAPI"),
        ("gssdelegation=1", "gssdelegation=1 .* cannot delegate"),
        ("sslcertmode=disable", "sslcertmode=disable .* sends its certificate"),
        ("sslsni=0", "sslsni=0 .* always names the host"),
        ("client_encoding=LATIN1", "client_encoding=LATIN1 .* UTF-8"),
        ("replication=database", "replication=database .* stores no rows"),
        ("min_protocol_version=3.2", "min_protocol_version=3.2 .* protocol 3.0"),
        ("sslnegotiation=direct", "sslnegotiation=direct .* needs sslmode=require"),
        ("sslnegotiation=later", "sslnegotiation=later .* postgres or direct"),
        ("sslcrldir=/d", "sslcrldir .* use sslcrl"),
        ("requirepeer=postgres", "requirepeer .* behind a socket"),
        ("require_auth=none", "require_auth .* logging in"),
        ("scram_client_key=x", "scram_client_key .* password"),
        ("oauth_issuer=x", "oauth_issuer .* OAuth"),
        ("sslkeylogfile=x", "sslkeylogfile .* not written"),
        ("ssl=on", "'ssl' .* use sslmode"),
        ("sslrootcert=system&sslmode=require", "sslrootcert=system .*verify-full"),
        ("hostaddr=1.2.3.4", "both host and hostaddr"),
        ("keepalives_idle=long", "keepalives_idle .* whole number"),
        ("pgbouncer=maybe", "pgbouncer=maybe"),
        ("load_balance_hosts=all", "load_balance_hosts=all"),
        ("connect_timeout=-1", "connect_timeout"),
        ("channelbinding=prefer", "unknown option 'channelbinding'"),
        ("port=x", "port in a postgresql URL must be a number"),
        ("port=65536", "port in a postgresql URL must be a number"),
        ("port=5432,-1", "port in a postgresql URL must be a number"),
    ],
)
def test_what_cannot_be_had_is_refused_with_its_own_reason(query: str, why: str) -> None:
    with pytest.raises(HandlerURLError, match=why):
        from_url(f"postgresql://u:p@h/d?{query}")


def test_words_of_libpq_become_those_of_the_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    named = Target("postgresql://h/d?options=-csearch_path%3Dapp%20-c%20jit%3Doff&fallback_application_name=app")
    secure = Target("postgresql://h/d?ssl=true").arguments()
    system = Target("postgresql://h/d?sslrootcert=system&sslmode=verify-full").arguments()
    direct = Target("postgresql://h/d?sslnegotiation=direct&sslmode=require").arguments()
    monkeypatch.setenv("PGOPTIONS", "-c jit=on")
    monkeypatch.setenv("PGAPPNAME", "till")

    assert named.arguments()["server_settings"] == {
        "application_name": "till",
        "options": "-csearch_path=app -c jit=off",
    }
    assert Target("postgresql://h/d").arguments()["server_settings"] == {
        "application_name": "till",
        "options": "-c jit=on",
    }
    assert secure["dsn"] == "postgresql://?sslmode=require"
    assert system["dsn"] == "postgresql://?sslmode=verify-full"
    assert system["ssl"].check_hostname
    assert direct["direct_tls"] is True


def test_service_says_what_the_url_leaves_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "services"
    file.write_text(
        "# ours\n[shop]\nhost=db.example\nport=5444\nuser=till\npassword=s3cret%\ndbname=orders\n\n[odd]\nx=1\n"
    )
    monkeypatch.setenv("PGSERVICEFILE", str(file))

    whole = Target("postgresql://?service=shop")
    arguments = whole.arguments()
    part = Target("postgresql://me@h:1/d?service=shop").arguments()
    monkeypatch.setenv("PGSERVICE", "shop")

    assert (str(whole), arguments["user"], arguments["password"]()) == (
        "postgresql://db.example:5444/orders",
        "till",
        "s3cret%",
    )
    assert (part["host"], part["port"], part["user"], part["database"]) == ("h", 1, "me", "d")
    assert str(Target("postgresql://")) == "postgresql://db.example:5444/orders"
    for url, why in (
        ("postgresql://?service=none", "the service 'none' .* is not defined in .*services"),
        ("postgresql://?service=odd", r"unknown parameters: \['x'\]"),
        (f"postgresql://?service=shop&servicefile={tmp_path}", "service file .* cannot be read"),
        (f"postgresql://?service=shop&servicefile={tmp_path}/none", "is not defined in"),
    ):
        with pytest.raises(HandlerURLError, match=why):
            Target(url)


# -- against a server


async def test_socket_leads_to_the_database_that_the_url_names(
    opened: Any, database: Any, event: Events, batch: Batches
) -> None:
    ((folder,),) = database.rows("SHOW unix_socket_directories")
    place = f"{database.name}?port={database.server.port}&user=postgres&host="

    for start, url in enumerate(
        (
            f"postgresql:///{place}{folder}",
            f"postgres:///{place}{quote(folder, safe='')}",
            f"postgresql://postgres@{quote(folder, safe='')}:{database.server.port}/{database.name}?ttl=9d",
        )
    ):
        handler = from_url(url)
        await handler.open()
        await handler.resume(batch(event(0)).log_id, "tested", 0)
        await handler.handle(batch(event(start), start=start))
        await handler.close()

    assert database.rows("SELECT payload FROM events ORDER BY id") == [("0",), ("1",), ("2",)]


async def test_next_host_is_tried_where_one_does_not_answer(
    opened: Any, database: Any, event: Events, batch: Batches
) -> None:
    url = f"postgresql://postgres@127.0.0.1:{free_port()},127.0.0.1:{database.server.port}/{database.name}"

    await (await opened(url + "?sslmode=disable&target_session_attrs=read-write")).handle(batch(event(1)))

    assert database.rows("SELECT payload FROM events") == [("1",)]


async def test_options_reach_the_server_and_the_system(
    opened: Any, database: Any, event: Events, batch: Batches
) -> None:
    database.execute("CREATE SCHEMA app")
    handler = await opened(
        database.url(options="-csearch_path%3Dapp", keepalives_idle=77, keepalives_count=3, tcp_user_timeout=9_000)
    )
    await handler.handle(batch(event(1)))

    async def look() -> list[int]:
        async with handler._connections.connected() as (connection, _):
            made = connection._con._transport.get_extra_info("socket")
            return [
                made.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE),
                made.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE),
                made.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT),
                made.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT),
            ]

    seen = await handler._calls.run(look)

    assert database.rows("SELECT payload FROM app.events") == [("1",)]
    assert seen == [1, 77, 3, 9_000]


@pytest.mark.parametrize("options", ["-c%20no_such_setting%3D1", "-c%20statement_timeout%3Dsoon", "endpoint%3Dx"])
async def test_options_that_the_server_does_not_know_are_held(database: Any, options: str) -> None:
    with pytest.raises(PauseError, match=r"42704|22023|42601"):
        await PostgresHandler(database.url(options=options)).open()
    with pytest.raises(PauseError, match=r"42704|22023|42601"):
        await PostgresHandler(database.url(options=options)).reader().open()


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (
            {"sslmode": "verify-full", "sslrootcert": "/nowhere/ca.pem"},
            "sslrootcert=/nowhere/ca.pem cannot be used: No such",
        ),
        ({"sslmode": "require", "sslrootcert": "/etc/hostname"}, "sslrootcert=/etc/hostname cannot be used"),
        (
            {"sslmode": "require", "sslcert": "/nowhere/c", "sslkey": "/nowhere/k"},
            "sslcert or sslkey=/nowhere/c cannot",
        ),
        ({"sslmode": "require", "sslcrl": "/nowhere/crl"}, "sslcrl=/nowhere/crl cannot be used"),
        ({"target_session_attrs": "standby"}, "with target_session_attrs=standby nothing can be stored"),
        ({"ssl_min_protocol_version": "TLSv9", "sslmode": "require"}, "TLSv9"),
    ],
)
async def test_what_can_never_connect_is_held_with_its_reason(options: dict[str, str], why: str) -> None:
    query = "&".join(f"{name}={value}" for name, value in options.items())

    with pytest.raises(PauseError, match=why):
        await PostgresHandler(f"postgresql://127.0.0.1:1/d?{query}").open()


@pytest.mark.parametrize("url", ["postgresql://h%00/d", "postgresql:///d?host=h%E2%80%AE"])
def test_host_that_does_not_print_is_refused(url: str) -> None:
    with pytest.raises(HandlerURLError, match="control character"):
        PostgresHandler(url)


@pytest.mark.parametrize("host", ["a..b", "h" * 300])
async def test_host_that_no_name_can_be_is_held(host: str) -> None:
    with pytest.raises(PauseError, match="label"):
        await PostgresHandler(f"postgresql://{host}/d").open()
