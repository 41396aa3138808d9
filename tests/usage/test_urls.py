from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventrec.usage.hashing import hashed
from eventrec.usage.urls import root_domain, url_properties


@pytest.mark.parametrize(
    "url",
    [
        "https://rerun.io",
        "https://ReRun.io",
        "https://app.rerun.io",
        "HTTPS://a.b.c.Rerun.IO:8443/viewer/x.rrd?url=https://example.org/a.b#c.d",
        "https://user:secret@app.rerun.io/",
        "https://user@elsewhere.org@rerun.io/",
        "https:/rerun.io/x",
        "https:\\\\rerun.io\\x",
        "  https://re\trun.io \n",
        "https://rerun.io.",
        "https://rerun%2Eio",
        "rerun+https://rerun.io/proxy",
        "wss://app.rerun.io",
    ],
)
def test_root_domain_is_the_last_two_labels(url: str) -> None:
    assert root_domain(url) == "rerun.io"


@pytest.mark.parametrize(
    "url",
    [
        "http://localhost",
        "http://127.0.0.1",
        "http://127.1",
        "http://0x7f.0.0.1",
        "http://2130706433",
        "http://1.2.3.4.",
        "http://[2001:db8::1]:80/",
        "rerun.io",
        "app.rerun.io/x",
        "https:/rerun",
        "https://rerun",
        "https://",
        "https://.io",
        "https://rerun..",
        "https://rerun.io:65536",
        "https://re run.io",
        "https://rerun.io:x",
        "mailto:someone@rerun.io",
        "file:///home/me/a.b",
        "data:text/plain,a.b",
        "/home/rerun.io/x",
        "",
    ],
)
def test_what_is_not_a_domain_has_no_root_domain(url: str) -> None:
    assert root_domain(url) is None
    assert url_properties(url) == {}


def test_name_outside_of_ascii_has_its_ascii_form() -> None:
    assert root_domain("https://www.Bücher.example") == "xn--bcher-kva.example"


def test_foreign_url_is_told_by_a_hash_alone() -> None:
    said = url_properties("https://files.customer.example/secret/x.rrd?token=1")

    assert said == {"hashed_root_domain": hashed("customer.example")}


def test_our_own_url_is_told_without_credentials() -> None:
    said = url_properties("https://me:pw@app.rerun.io/examples?a=b@c")

    assert said == {"hashed_root_domain": hashed("rerun.io"), "rerun_url": "https://app.rerun.io/examples?a=b@c"}


def test_application_has_domains_a_name_and_a_salt_of_its_own() -> None:
    own: dict[str, Any] = {"name": "opened", "in_clear": {"example.org"}, "salt": "mine"}

    assert url_properties("https://rerun.io", **own) == {"hashed_root_domain": hashed("rerun.io", salt="mine")}
    assert url_properties("https://a.example.org/x", **own)["opened"] == "https://a.example.org/x"


@given(st.one_of(st.text(), st.from_regex(r"https?:/{0,3}[^/]{0,20}(/.*)?")))
def test_any_text_has_two_plain_labels_or_none(text: str) -> None:
    domain = root_domain(text)

    assert domain is None or (domain.isascii() and domain == domain.lower() and all(domain.split(".")))
    assert domain is None or domain.count(".") == 1
