"""Addresses, tokens and certificates, as an operator gives them."""

from __future__ import annotations

from pathlib import Path

import pytest

from eventrec.errors import MirrorError
from eventrec.mirroring.addresses import Address, client_context, is_loopback, read_token, server_context


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1:7400", Address("127.0.0.1", 7400)),
        ("db.example.org:1", Address("db.example.org", 1)),
        ("[::1]:0", Address("::1", 0)),
    ],
)
def test_an_address_is_read_and_shown_alike(text: str, address: Address) -> None:
    assert Address.parse(text) == address
    assert str(address) == text


@pytest.mark.parametrize(
    "text", ["", "7400", ":7400", "host", "host:", "host:x", "host:65536", "host:-1", "::1:5", "a:٣"]
)
def test_what_is_not_an_address_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"HOST:PORT|brackets"):
        Address.parse(text)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.9.9", "::1"])
def test_this_machines_own_numbers_are_loopback(host: str) -> None:
    assert is_loopback(host)
    assert Address(host, 1).is_loopback


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.1", "localhost.example.org", "127.0.0.1.nip.io", ""])  # noqa: S104
def test_what_other_machines_reach_is_not(host: str) -> None:
    assert not Address(host, 1).is_loopback


def test_a_token_is_the_only_line_of_its_file(tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_text("secret\n")

    assert read_token(path) == "secret"


@pytest.mark.parametrize("content", [b"", b"\n", b"a\nb\n", b"\xff", b"x" * 5_000])
def test_a_file_that_holds_no_token_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "token"
    path.write_bytes(content)

    with pytest.raises(MirrorError, match="token"):
        read_token(path)


def test_a_file_that_holds_no_certificate_is_refused_by_its_name(tmp_path: Path) -> None:
    path = tmp_path / "certificate.pem"
    path.write_text("no certificate")

    with pytest.raises(MirrorError, match=r"certificate\.pem"):
        server_context(path, path)
    with pytest.raises(MirrorError, match=r"certificate\.pem"):
        client_context(ca=path)
