from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from starlette.requests import Request

from eventrec.server import Access, Tokens
from eventrec.server.access import TOKEN_NAME, host_of, is_this_machine
from eventrec.server.refusals import RefusedError
from eventrec.server.token_file import new_token
from eventrec.server.tokens import MAX_TOKEN_LENGTH

HERE = ("127.0.0.1", 51_000)


def request(
    *, client: tuple[str, int] | None = HERE, server: tuple[str, int | None] | None = ("127.0.0.1", 80), **headers: str
) -> Request:
    named = {"host": "localhost:80"} | {key.replace("_", "-"): value for key, value in headers.items()}
    scope: dict[str, Any] = {
        "type": "http",
        "method": "GET",
        "path": "/",
        "client": client,
        "server": server,
        "headers": [(key.encode(), value.encode("latin-1")) for key, value in named.items() if value],
    }
    return Request(scope)


def refusal(access: Access, asked: Request, **options: Any) -> int:
    with pytest.raises(RefusedError) as caught:
        access.check(asked, "read", **options)
    return int(caught.value.status)


@pytest.fixture
def file(tmp_path: Path) -> tuple[Access, str, str]:
    path = tmp_path / "tokens.toml"
    reads, admin = (new_token(path, name, [name], created=datetime.now(UTC)) for name in ("read", "admin"))
    return Access(Tokens(path)), reads, admin


def test_token_is_asked_for_and_named(file: tuple[Access, str, str]) -> None:
    access, reads, admin = file
    asked = request(authorization=f"bearer {reads}", client=("203.0.113.9", 1))

    assert access.check(asked, "read") == "read"
    assert asked.scope[TOKEN_NAME] == "read"
    assert access.check(request(), "read", token=reads) == "read"
    assert refusal(access, request()) == 401
    assert refusal(access, request(authorization=f"Bearer {admin}")) == 403


@pytest.mark.parametrize(
    "header",
    ["", "Bearer", "Bearer ", "Basic abc", "Bearer \xff\x00", "Bearer " + "a" * (MAX_TOKEN_LENGTH + 1), "Token a"],
)
def test_what_is_not_a_token_is_401(file: tuple[Access, str, str], header: str) -> None:
    access, _, _ = file

    assert refusal(access, request(authorization=header)) == 401


def test_token_of_the_body_counts_more_than_that_of_the_header(file: tuple[Access, str, str]) -> None:
    access, reads, _ = file

    for other in ("", "other\ud800"):
        assert refusal(access, request(authorization=f"Bearer {reads}"), token=other) == 401


def test_refusal_says_how_to_ask(file: tuple[Access, str, str]) -> None:
    access, reads, admin = file
    asked = [request(), request(authorization="Bearer x"), request(authorization=f"Bearer {admin}")]

    said = []
    for each in asked:
        with pytest.raises(RefusedError) as caught:
            access.check(each, "read")
        said.append(caught.value)

    assert [each.headers["WWW-Authenticate"].count("error=") for each in said] == [0, 1, 1]
    assert not any(token in f"{each.detail}{each.headers}" for each in said for token in (reads, admin))


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:8000", "127.0.0.1:1", "127.9.9.9", "[::1]:80", "localhost."])
def test_without_tokens_this_machine_is_answered(host: str) -> None:
    assert Access(None).check(request(host=host), "admin") == "local"


@pytest.mark.parametrize("client", ["127.0.0.1", "::1", "::ffff:127.0.0.1"])
def test_each_loopback_number_is_this_machine(client: str) -> None:
    assert Access(None).check(request(client=(client, 1)), "read") == "local"


@pytest.mark.parametrize("client", [None, ("", 0)])
def test_unix_socket_is_this_machine(client: Any) -> None:
    assert Access(None).check(request(client=client, server=("/run/eventrec.sock", None)), "read") == "local"
    assert refusal(Access(None), request(client=client)) == 403
    assert refusal(Access(None), request(client=client, server=None)) == 403


@pytest.mark.parametrize("client", ["203.0.113.9", "10.0.0.1", "::ffff:10.0.0.1", "fe80::1%eth0", "testclient"])
def test_without_tokens_another_machine_is_refused(client: str) -> None:
    assert refusal(Access(None), request(client=(client, 1))) == 403


@pytest.mark.parametrize(
    "host",
    ["evil.example", "", "localhost.evil.example", "127.0.0.1.nip.io", "192.168.0.1", "[::1", "localhost@evil", "0"],
)
def test_without_tokens_a_name_that_leads_here_is_refused(host: str) -> None:
    assert refusal(Access(None), request(host=host)) == 403
    assert not is_this_machine(host_of(host))


@pytest.mark.parametrize(
    "headers",
    [
        {"x_forwarded_for": "127.0.0.1"},
        {"x_forwarded_for": "203.0.113.9"},
        {"forwarded": "for=127.0.0.1"},
        {"x_real_ip": "127.0.0.1"},
        {"via": "1.1 proxy"},
        {"x_forwarded_host": "localhost"},
    ],
)
def test_without_tokens_what_came_through_a_proxy_is_refused(headers: Any) -> None:
    assert refusal(Access(None), request(**headers)) == 403


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "http://localhost:3000", "http://[", "file://"])
def test_without_tokens_a_page_of_another_origin_is_refused(origin: str) -> None:
    assert refusal(Access(None), request(origin=origin)) == 403
    assert Access(None, origins=[origin]).check(request(origin=origin), "read") == "local"
    assert refusal(Access(None, origins=["*"]), request(origin=origin)) == 403


def test_without_tokens_a_page_of_this_server_is_answered() -> None:
    assert Access(None).check(request(origin="http://localhost:80", sec_fetch_site="same-origin"), "read") == "local"
    assert refusal(Access(None), request(sec_fetch_site="cross-site")) == 403
