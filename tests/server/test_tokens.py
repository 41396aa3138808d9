import os
import sys
import threading
import time
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest

from eventrec.errors import EventrecError
from eventrec.runtime.backend import in_thread
from eventrec.server import Tokens
from eventrec.server.token_file import new_token, revoke_token
from eventrec.server.tokens import MAX_FILE_BYTES, TokenFileError, digest_of, parse_tokens

NOW = datetime(2026, 1, 31, 12, tzinfo=UTC)
ENTRY = '[[token]]\nname = "{}"\nscopes = ["read"]\nsha256 = "{}"\ncreated = 2026-01-31T12:00:00Z\n'


class Clock:
    """Says what time it is, and goes on when it is told to."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


def entry(name: str, text: str = "secret") -> str:
    return ENTRY.format(name, digest_of(text).hex())


def test_token_is_found_by_its_text_alone(tmp_path: Path) -> None:
    path = tmp_path / "tokens.toml"

    text = new_token(path, "web", ["ingest"], created=NOW)

    found = Tokens(path).find(text)
    assert found is not None
    assert (found.name, sorted(found.scopes)) == ("web", ["ingest"])
    assert Tokens(path).find(text + "x") is None
    assert Tokens(path).find(text[:-1]) is None
    assert Tokens(path).find("") is None
    assert text not in path.read_text()
    assert len(text) >= 43


def test_file_is_its_users_alone(tmp_path: Path) -> None:
    new_token(tmp_path / "tokens.toml", "web", ["ingest"], created=NOW)

    assert (tmp_path / "tokens.toml").stat().st_mode & 0o777 == 0o600
    assert [path.name for path in tmp_path.iterdir()] == ["tokens.toml"]


def test_token_expires(tmp_path: Path) -> None:
    path = tmp_path / "tokens.toml"
    text = new_token(path, "web", ["ingest"], created=NOW, expires=NOW + timedelta(days=1))
    now = NOW

    tokens = Tokens(path, clock=lambda: now)

    assert tokens.find(text) is not None
    now = NOW + timedelta(days=1)
    assert tokens.find(text) is None


def test_revoked_token_goes_and_what_else_stands_in_the_file_stays(tmp_path: Path) -> None:
    path = tmp_path / "tokens.toml"
    first, second = (new_token(path, name, ["read"], created=NOW) for name in ("one", "two"))
    path.write_text(path.read_text().replace('\n[[token]]\nname = "two"', '\n# of the shop\n[[token]]\nname = "two"'))

    revoke_token(path, "one")

    assert Tokens(path).find(first) is None
    assert Tokens(path).find(second) is not None
    assert "# of the shop" not in path.read_text() or "two" in path.read_text()
    with pytest.raises(TokenFileError, match="no token named 'one'; it has: two"):
        revoke_token(path, "one")


def test_token_is_revoked_also_where_the_file_is_written_in_another_way(tmp_path: Path) -> None:
    path = tmp_path / "tokens.toml"
    tables = ", ".join(
        f'{{name = "{name}", scopes = ["read"], sha256 = "{digest_of(name).hex()}", created = 2026-01-31T12:00:00Z}}'
        for name in ("one", "two")
    )
    path.write_text(f"token = [{tables}]\n")
    path.chmod(0o600)

    revoke_token(path, "one")

    assert Tokens(path).find("one") is None
    assert Tokens(path).find("two") is not None


def test_two_tokens_of_one_name_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "tokens.toml"
    new_token(path, "web", ["ingest"], created=NOW)

    with pytest.raises(TokenFileError, match="already"):
        new_token(path, "web", ["read"], created=NOW)


def test_tokens_that_are_made_at_once_are_all_kept(tmp_path: Path) -> None:
    path = tmp_path / "tokens.toml"
    pause = threading.Event()

    def make(name: str) -> None:
        while True:
            try:
                new_token(path, name, ["read"], created=NOW)
            except TokenFileError as exc:
                assert "another command" in str(exc)  # noqa: PT017 - tried again
                pause.wait(0.002)
            else:
                return

    threads = [threading.Thread(target=make, args=(f"t{number}",)) for number in range(8)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()

    assert len(Tokens(path)) == 8


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"\xff\xfe", "not TOML"),
        (entry("web").encode() + b"expires = " + b"9" * 5_000, "not TOML"),
        (b"token = 1", "nothing else"),
        (b"[other]\nx = 1", "nothing else"),
        (b"token = [1]", "is not a table"),
        (b"[[token]]\n", "no name"),
        (entry("a b").encode(), "no name"),
        (entry("web").replace("read", "write").encode(), "scopes"),
        (entry("web").replace('["read"]', "[]").encode(), "scopes"),
        (entry("web").replace('["read"]', "[[]]").encode(), "scopes"),
        (entry("web").replace(digest_of("secret").hex(), "ABC").encode(), "sha256"),
        (entry("web").replace("12:00:00Z", "12:00:00").encode(), "created"),
        ((entry("web") + "expires = 2027-01-31\n").encode(), "expires"),
        ((entry("web") + "expire = 2027-01-31T12:00:00Z\n").encode(), "'expire', which is not known"),
        ((entry("web") + entry("web", "b")).encode(), "one name"),
        ((entry("web") + entry("bew")).encode(), "one sha256"),
    ],
)
def test_what_is_not_a_file_of_tokens_is_refused(content: bytes, why: str) -> None:
    with pytest.raises(TokenFileError, match=why) as caught:
        parse_tokens(content)

    assert digest_of("secret").hex() not in str(caught.value)
    assert isinstance(caught.value, EventrecError)


@pytest.mark.skipif(sys.platform == "win32", reason="has other rights")
@pytest.mark.parametrize("mode", [0o620, 0o602, 0o666])
def test_file_that_others_may_write_to_is_refused(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "tokens.toml"
    new_token(path, "web", ["ingest"], created=NOW)

    path.chmod(mode)

    with pytest.raises(TokenFileError, match="others may write"):
        Tokens(path)


@pytest.mark.skipif(sys.platform == "win32", reason="has other rights")
def test_file_in_a_directory_that_anyone_may_change_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "open"
    folder.mkdir()
    new_token(folder / "tokens.toml", "web", ["ingest"], created=NOW)

    folder.chmod(0o777)

    with pytest.raises(TokenFileError, match="in its place"):
        Tokens(folder / "tokens.toml")
    folder.chmod(0o1777)  # as /tmp: only its owner may rename a file there
    assert len(Tokens(folder / "tokens.toml")) == 1


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no pipes of that kind")
def test_what_is_not_a_plain_file_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe", 0o600)

    for path in (tmp_path / "pipe", tmp_path):
        with pytest.raises(TokenFileError) as caught:
            Tokens(path)
        assert str(caught.value) == f"{path}: it is not a file"


@pytest.mark.skipif(not Path("/dev/fd").is_dir(), reason="the system does not list descriptors")
def test_a_directory_in_its_place_keeps_no_descriptor(tmp_path: Path) -> None:
    descriptors = Path("/dev/fd")
    before = len(list(descriptors.iterdir()))

    for _ in range(20):
        with pytest.raises(TokenFileError):
            Tokens(tmp_path)

    assert len(list(descriptors.iterdir())) < before + 20


def test_file_that_is_too_large_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "tokens.toml"
    path.write_bytes(b"#" * (MAX_FILE_BYTES + 1))
    path.chmod(0o600)

    with pytest.raises(TokenFileError, match="more than"):
        Tokens(path)


async def test_changed_file_counts_once_a_second_has_passed(tmp_path: Path) -> None:
    path, clock = tmp_path / "tokens.toml", Clock()
    first = await in_thread(partial(new_token, path, "one", ["read"], created=NOW))
    tokens = await in_thread(partial(Tokens, path, monotonic=clock))
    second = await in_thread(partial(new_token, path, "two", ["read"], created=NOW))
    await in_thread(revoke_token, path, "one")

    await tokens.refresh()
    before = tokens.find(first), tokens.find(second)
    clock.seconds += 1.0
    await tokens.refresh()

    assert (before[0] is not None, before[1]) == (True, None)
    assert tokens.find(first) is None
    assert tokens.find(second) is not None
    assert tokens.remark is None


@pytest.mark.parametrize("break_it", ["bad", "gone", "writable", "directory"])
async def test_file_that_became_bad_changes_nothing_and_is_said_once(
    tmp_path: Path, break_it: str, caplog: pytest.LogCaptureFixture
) -> None:
    path, clock = tmp_path / "tokens.toml", Clock()
    text = await in_thread(partial(new_token, path, "one", ["read"], created=NOW))
    tokens = await in_thread(partial(Tokens, path, monotonic=clock))
    content = path.read_text()
    match break_it:
        case "bad":
            path.write_text("[[token]")
        case "writable":
            path.chmod(0o666)
        case _:
            path.unlink()
            if break_it == "directory":
                path.mkdir()

    for _ in range(3):
        clock.seconds += 1.0
        await tokens.refresh()

    assert tokens.find(text) is not None
    assert tokens.remark is not None
    assert str(path) in tokens.remark
    assert sum("does not count" in record.getMessage() for record in caplog.records) == 1
    if break_it == "directory":
        path.rmdir()
    path.write_text(content)
    path.chmod(0o600)
    clock.seconds += 1.0
    await tokens.refresh()
    assert tokens.remark is None


async def test_path_that_is_not_utf_8_is_said_in_text_that_is(tmp_path: Path) -> None:
    folder, clock = tmp_path / "caf\udce9", Clock()
    folder.mkdir()
    path = folder / "tokens.toml"
    await in_thread(partial(new_token, path, "one", ["read"], created=NOW))
    tokens = await in_thread(partial(Tokens, path, monotonic=clock))
    path.unlink()

    clock.seconds += 1.0
    await tokens.refresh()

    assert tokens.remark is not None
    assert rf"{tmp_path}/caf\udce9/tokens.toml: No such file" in tokens.remark


async def test_file_that_is_being_written_is_not_read_half(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, clock = tmp_path / "tokens.toml", Clock()
    text = await in_thread(partial(new_token, path, "one", ["read"], created=NOW))
    tokens = await in_thread(partial(Tokens, path, monotonic=clock))
    content, pauses = path.read_bytes(), []

    def write_the_rest(seconds: float) -> None:
        pauses.append(seconds)
        path.write_bytes(content)

    monkeypatch.setattr("eventrec.server.tokens.time", SimpleNamespace(time=time.time, sleep=write_the_rest))
    monkeypatch.setattr("eventrec.server.tokens._PAUSE_SECONDS", 60.0)
    path.write_bytes(b"")
    clock.seconds += 1.0
    await tokens.refresh()

    assert 1 <= len(pauses) <= 5  # then it is read as it is: it may change for ever
    assert tokens.find(text) is not None
