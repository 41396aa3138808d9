from __future__ import annotations

import re
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

import pytest

from eventrec import EventRecorder, HandlerURL, HandlerURLError, handler_from_url
from eventrec.registry import GROUP, OUR_SCHEMES, address_of, default_name, resolve_url
from eventrec_handlers.memory import MemoryHandler
from eventrec_handlers.sqlite import SqliteHandler

SECRET = "hunter2"


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An installed package `acme` with entry points for handlers."""
    points = (
        "[eventrec.handlers]\n"
        "acme = acme_handlers:from_url\n"
        "driverless = acme_driverless:from_url [turbo]\n"
        "extra = acme_driverless:from_url\n"
        "plain = acme_driverless:from_url\n"
        "gone = acme_handlers:no_such_name\n"
        "wrong = acme_handlers:wrong\n"
        "data = acme_handlers:DATA\n"
    )
    home = tmp_path / "acme-1.0.dist-info"
    home.mkdir()
    (home / "METADATA").write_text("Metadata-Version: 2.1\nName: acme\nVersion: 1.0\nProvides-Extra: extra\n")
    (home / "entry_points.txt").write_text(points)
    (tmp_path / "acme_driverless.py").write_text("import no_such_driver\n")
    (tmp_path / "acme_handlers.py").write_text(
        "from eventrec_handlers.memory import MemoryHandler\n"
        "DATA = 1\n"
        "def from_url(url): return MemoryHandler()\n"
        "def wrong(url): return url\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


# -- handlers by URL


def test_scheme_finds_its_handler_in_any_case(tmp_path: Path) -> None:
    assert isinstance(handler_from_url("memory:"), MemoryHandler)
    assert isinstance(handler_from_url(f"SQLite:///{tmp_path}/x.db"), SqliteHandler)


def test_our_schemes_are_those_of_the_package() -> None:
    installed = {point.name: point.value for point in entry_points(group=GROUP)}

    assert installed == OUR_SCHEMES


def test_our_schemes_work_where_no_metadata_is_installed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("eventrec.registry.entry_points", lambda group: [])

    assert isinstance(handler_from_url("memory:"), MemoryHandler)
    assert isinstance(handler_from_url(f"sqlite:///{tmp_path}/x.db"), SqliteHandler)
    known = ", ".join(sorted(OUR_SCHEMES))
    with pytest.raises(HandlerURLError, match=f"scheme 'acme'; known are {re.escape(known)}"):
        handler_from_url("acme://x")


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("postgres://h/d", "postgres"),
        ("postgresql://h/d", "postgres"),
        ("POSTGRESQL://h/d", "postgres"),
        ("SQLite:///x.db", "sqlite"),
        ("memory:", "memory"),
        ("env:DESTINATION", "postgres"),
    ],
)
def test_spellings_of_one_handler_have_one_name(url: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DESTINATION", "postgresql://user@h/d")

    assert default_name(url) == name
    assert list(EventRecorder(url).status().subscriptions) in ([], [name])
    assert repr(EventRecorder(url)) == f"<EventRecorder new to {name}>"


def test_the_package_runs_as_a_module() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "eventrec", "log", "list", "no-such-directory"],
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 4
    assert "no-such-directory" in done.stderr


@pytest.mark.usefixtures("package")
def test_handler_of_another_package_is_found() -> None:
    assert isinstance(handler_from_url("acme://x"), MemoryHandler)


@pytest.mark.usefixtures("package")
def test_unknown_scheme_lists_the_known_ones() -> None:
    with pytest.raises(HandlerURLError, match=r"scheme 'myssql'; known are acme, .*data, .*memory, .*sqlite"):
        handler_from_url(f"myssql://user:{SECRET}@host/db")


@pytest.mark.parametrize("url", ["", SECRET, f"//{SECRET}", f"9x:{SECRET}", f"a b:{SECRET}", f":{SECRET}"])
def test_text_without_a_scheme_is_refused_and_not_shown(url: str) -> None:
    with pytest.raises(HandlerURLError, match=r"starts with a scheme") as caught:
        handler_from_url(url)
    assert SECRET not in str(caught.value)


@pytest.mark.usefixtures("package")
@pytest.mark.parametrize(
    ("scheme", "advice"),
    [
        ("driverless", r": pip install 'acme\[turbo\]'$"),
        ("extra", r": pip install 'acme\[extra\]'$"),
        ("plain", r"\)$"),
    ],
)
def test_missing_driver_says_what_to_install(scheme: str, advice: str) -> None:
    with pytest.raises(HandlerURLError, match=rf"'{scheme}' cannot be imported .*no_such_driver.*{advice}"):
        handler_from_url(f"{scheme}:")


@pytest.mark.usefixtures("package")
def test_broken_entry_point_is_named() -> None:
    with pytest.raises(HandlerURLError, match=r"'acme_handlers:no_such_name' of the scheme 'gone' does not exist"):
        handler_from_url("gone:")
    with pytest.raises(HandlerURLError, match=r"'acme_handlers:wrong' of the scheme 'wrong' made no EventHandler"):
        handler_from_url("wrong:")
    with pytest.raises(HandlerURLError, match=r"made no EventHandler"):
        handler_from_url("data:")


def test_two_packages_of_one_scheme_break_that_scheme_alone(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = package / "other-1.0.dist-info"
    other.mkdir()
    (other / "METADATA").write_text("Metadata-Version: 2.1\nName: other\nVersion: 1.0\n")
    (other / "entry_points.txt").write_text("[eventrec.handlers]\nacme = other:from_url\n")

    with pytest.raises(HandlerURLError, match=r"two packages handle the scheme 'acme'.*uninstall one"):
        handler_from_url("acme:")
    assert isinstance(handler_from_url("memory:"), MemoryHandler)
    assert default_name("memory:") == "memory"
    monkeypatch.setenv("EVENTS_TO", "memory:")
    assert isinstance(handler_from_url("env:EVENTS_TO"), MemoryHandler)


# -- URLs in the environment


def test_environment_holds_the_url(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EVENTS_TO", "memory:")

    assert resolve_url("env:EVENTS_TO") == "memory:"
    assert isinstance(handler_from_url("env:EVENTS_TO"), MemoryHandler)


def test_any_other_url_stands_for_itself() -> None:
    assert resolve_url("environment:x") == "environment:x"


@pytest.mark.parametrize(("held", "said"), [(None, "not set"), ("", "empty")])
def test_missing_variable_is_named(monkeypatch: pytest.MonkeyPatch, held: str | None, said: str) -> None:
    if held is None:
        monkeypatch.delenv("EVENTS_TO", raising=False)
    else:
        monkeypatch.setenv("EVENTS_TO", held)

    with pytest.raises(HandlerURLError, match=rf"'EVENTS_TO' that env:EVENTS_TO names is {said}"):
        handler_from_url("env:EVENTS_TO")


@pytest.mark.parametrize("held", [SECRET, f"{SECRET}:x", f"key-{SECRET}://x", "env:EVENTS_TO", "sqlite"])
def test_variable_without_a_known_scheme_is_refused_and_not_shown(monkeypatch: pytest.MonkeyPatch, held: str) -> None:
    monkeypatch.setenv("EVENTS_TO", held)

    with pytest.raises(HandlerURLError, match=r"does not start with a known scheme") as caught:
        handler_from_url("env:EVENTS_TO")
    assert SECRET not in str(caught.value)


# -- URLs taken apart


def test_every_part_is_decoded() -> None:
    url = HandlerURL(f"Postgresql://us%40er:{SECRET}%2F%23@Db.Example.org:5433/my%20db?schema=strict&note=a+b%26c")

    assert (url.scheme, url.user, url.password) == ("postgresql", "us@er", f"{SECRET}/#")
    assert (url.host, url.port, url.path) == ("db.example.org", 5433, "my db")
    assert url.options == {"schema": "strict", "note": "a b&c"}


@pytest.mark.parametrize(
    ("url", "path"),
    [
        ("memory:", ""),
        ("memory://", ""),
        ("sqlite:///a.db", "a.db"),
        ("sqlite:////a/b.db", "/a/b.db"),
        ("sqlite:///C:/a.db", "C:/a.db"),
        ("sqlite:///my%20events%3F.db", "my events?.db"),
        ("sqlite:///at@home/100%.db", "at@home/100%.db"),
        ("jsonl:/var/x", "/var/x"),
    ],
)
def test_path_comes_without_the_slash_that_ends_the_authority(url: str, path: str) -> None:
    assert HandlerURL(url).path == path


def test_repr_shows_no_password_nor_secret_option() -> None:
    url = HandlerURL(f"http://user:{SECRET}@host:80/p?api_key={SECRET}&timeout=5&Password={SECRET}")

    assert repr(url) == "HandlerURL('http://user:***@host:80/p?api_key=***&timeout=5&Password=***')"


@pytest.mark.parametrize(
    "rest",
    [
        f"user:{SECRET}/x@host/db",
        f"user:{SECRET}?x@host/db",
        f"user:1?{SECRET}@host/db",
        f"user:1/{SECRET}@host/db",
        f"user:{SECRET}#x@host/db",
        f"user:[{SECRET}@host/db",
        f"user:pw@host:{SECRET}/db",
        f"user:pw@host:99999/{SECRET}",
        f"user:{SECRET}@host/db#there",
    ],
)
def test_password_that_is_not_encoded_is_refused_and_not_shown(rest: str) -> None:
    with pytest.raises(HandlerURLError, match=r"percent-encoded") as caught:
        HandlerURL(f"postgresql://{rest}")
    assert SECRET not in str(caught.value)
    assert caught.value.__cause__ is None


@pytest.mark.parametrize("url", ["sqlite:///a\0b", "sqlite:///a%00b", "sqlite:///a\nb", "sqlite:///x?y=%1b"])
def test_control_characters_are_refused(url: str) -> None:
    with pytest.raises(HandlerURLError, match=r"a sqlite URL holds a control character"):
        HandlerURL(url)


def test_option_given_twice_is_refused() -> None:
    with pytest.raises(HandlerURLError, match=r"the option 'a' stands twice"):
        HandlerURL("x:?a=1&a=2")


def test_what_a_handler_does_not_accept_is_named_with_what_it_does() -> None:
    url = HandlerURL(f"x://user:{SECRET}@host/path?busy_timout=5")

    with pytest.raises(
        HandlerURLError, match=r"unknown option 'busy_timout' in a x URL; allowed are busy_timeout, schema"
    ):
        url.accept("schema", "busy_timeout", parts=("user", "password", "host", "path"))
    with pytest.raises(HandlerURLError, match=r"a x URL has no password; it may have: host, path, user") as caught:
        url.accept("busy_timout", parts=("user", "host", "path"))
    assert SECRET not in str(caught.value)
    url.accept("busy_timout", parts=("user", "password", "host", "path"))


def test_options_are_converted() -> None:
    url = HandlerURL("x:?n=-5&yes=ON&no=0&t=1m%2030s&c=b&s=")

    assert url.integer("n", default=1, low=-9) == -5
    assert url.boolean("yes", default=False) is True
    assert url.boolean("no", default=True) is False
    assert url.seconds("t", default=1) == 90
    assert url.choice("c", ("a", "b"), default="a") == "b"
    assert url.text("s") == ""


def test_options_that_are_not_given_have_their_default() -> None:
    url = HandlerURL("x:")

    assert url.integer("n", default=1) == 1
    assert url.boolean("b", default=True) is True
    assert url.seconds("t", default=2.5) == 2.5
    assert url.choice("c", ("a", "b"), default="a") == "a"
    assert url.text("s", default="d") == "d"
    assert url.text("s") is None


@pytest.mark.parametrize("value", ["", "x", "5.0", "1e3", "11", "-1", "٣", " 5", "9" * 5_000])
def test_wrong_integer_names_the_range(value: str) -> None:
    with pytest.raises(HandlerURLError, match=r"'n' of a x URL must be a whole number from 0 to 10, got "):
        HandlerURL(f"x:?n={value}").integer("n", default=1, low=0, high=10)


@pytest.mark.parametrize("value", ["", "x", "-1", "nan", "inf", "5 parsecs"])
def test_wrong_duration_says_how_to_write_one(value: str) -> None:
    with pytest.raises(HandlerURLError, match=r"'t' of a x URL must be a duration"):
        HandlerURL(f"x:?t={value}").seconds("t", default=1)


def test_wrong_boolean_and_wrong_choice_name_the_allowed_ones() -> None:
    url = HandlerURL(f"x:?b=maybe&c=C&token={SECRET}")

    with pytest.raises(HandlerURLError, match=r"'b' of a x URL must be one of true, 1, yes, on, .* got 'maybe'"):
        url.boolean("b", default=True)
    with pytest.raises(HandlerURLError, match=r"'c' of a x URL must be one of a, c, got 'C'"):
        url.choice("c", ("c", "a"), default="a")
    with pytest.raises(HandlerURLError, match=r"got '\*\*\*'"):
        url.boolean("token", default=True)


# -- what a URL is told from another one by


@pytest.mark.parametrize(
    "other",
    [
        "postgres://me:old@db.example/shop",
        "postgresql://you:new@db.example/shop",
        "postgres://DB.example/shop?schema=s",
    ],
)
def test_the_address_is_that_of_the_destination_whoever_asks_and_how(other: str) -> None:
    assert address_of(other) == address_of("postgres://db.example/shop")


@pytest.mark.parametrize("other", ["postgres://db2.example/shop", "postgres://db.example/shop2", "sqlite:///shop"])
def test_another_host_or_path_is_another_address(other: str) -> None:
    assert address_of(other) != address_of("postgres://db.example/shop")


@pytest.mark.parametrize("url", ["postgres://db:port/shop", "no-scheme", "env:NOT_SET_ANYWHERE"])
def test_what_is_not_a_url_of_parts_has_no_address(url: str) -> None:
    assert address_of(url) == ""
