"""Tokens with scopes, as they are kept: hashed, in a file that is read again when it changes.

    [[token]]
    name = "checkout"
    scopes = ["ingest"]
    sha256 = "b6d8…"                        of the token's text; the text itself is kept by who asks with it
    created = 2026-01-31T12:00:00Z
    expires = 2027-01-31T12:00:00Z          without it, never

A scope says what a token may do, and no scope holds another: one for everything has all three. Who can change the file
can make tokens, so it belongs to root or to the user of this process, and no other user may write to it. A file that
becomes bad, or goes, changes nothing: to revoke all tokens, empty it.
"""

from __future__ import annotations

import os
import re
import stat
import time
import tomllib
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from hmac import compare_digest
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast

from eventrec.errors import EventrecError
from eventrec.runtime.backend import in_thread
from eventrec.runtime.logging import get_logger, text_of
from eventrec.server.scopes import SCOPES

if TYPE_CHECKING:
    from collections.abc import Callable

    from eventrec.server.scopes import Scope

MAX_FILE_BYTES: Final = 1 << 20
MAX_TOKEN_LENGTH: Final = 512
"""Characters of what is taken for a token at all."""

_LOOK_SECONDS: Final = 1.0
_SETTLED_SECONDS: Final = 2.0
"""So old a change of a file must be for a later one to have another time."""

_PAUSE_SECONDS: Final = 0.05
_PAUSES: Final = 5
"""So often a file that changes all the time is waited for."""

_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_DIGEST: Final = re.compile(r"[0-9a-f]{64}")
_KEYS: Final = ("name", "scopes", "sha256", "created", "expires")

_logger = get_logger("eventrec.server")


class TokenFileError(EventrecError):
    """A file of tokens cannot be used: what is wrong with it, without anything of its content."""


@dataclass(frozen=True, slots=True)
class Token:
    """What is known of a token. `digest` is the SHA-256 of its text."""

    name: str
    scopes: frozenset[Scope]
    digest: bytes
    created: datetime
    expires: datetime | None = None

    def is_expired(self, now: datetime) -> bool:
        """Whether its time is over."""
        return self.expires is not None and now >= self.expires


def digest_of(text: str) -> bytes:
    """What is kept of the token `text`: it has 256 random bits, so that no salt and no slow hash is needed."""
    return sha256(text.encode("utf-8", "surrogatepass")).digest()


def parse_tokens(content: bytes) -> tuple[Token, ...]:
    """The tokens of a file.

    Raises:
        TokenFileError: It is not one, or says something that is not known: it may have been meant to restrict.
    """
    try:
        document = tomllib.loads(content.decode())
    except (ValueError, RecursionError) as exc:  # also of what is TOML, but no number or nesting of Python's
        where = re.search(r"\(at [^()]*\)$", str(exc))
        raise TokenFileError(f"it is not TOML{' ' + where.group() if where else ''}") from None
    entries = document.pop("token", [])
    if document or not isinstance(entries, list):
        raise TokenFileError("it may hold tables [[token]], and nothing else")
    tokens = tuple(_token(number, entry) for number, entry in enumerate(entries, 1))
    for what, values in (("name", [each.name for each in tokens]), ("sha256", [each.digest for each in tokens])):
        if len(set(values)) < len(values):
            raise TokenFileError(f"two tokens have one {what}")
    return tokens


def check_token_name(name: str) -> None:
    """Raise ValueError where a token may not be called so."""
    if _NAME.fullmatch(name) is None:
        raise ValueError(
            "a token's name has 1 to 64 letters, digits, '.', '_', '-', and begins with a letter or a digit"
        )


def _token(number: int, entry: object) -> Token:
    if not isinstance(entry, dict) or (unknown := sorted(entry.keys() - set(_KEYS))):
        what = "is not a table" if not isinstance(entry, dict) else f"has {unknown[0]!r}, which is not known"
        raise TokenFileError(f"token {number} {what}")
    name, scopes, digest = entry.get("name"), entry.get("scopes"), entry.get("sha256")
    if not isinstance(name, str) or _NAME.fullmatch(name) is None:
        raise TokenFileError(f"token {number} has no name that a token may have")
    if not isinstance(scopes, list) or not scopes or any(scope not in SCOPES for scope in scopes):
        raise TokenFileError(f"token {number}: scopes is a list of some of {', '.join(SCOPES)}")
    if not isinstance(digest, str) or _DIGEST.fullmatch(digest) is None:
        raise TokenFileError(f"token {number}: sha256 has 64 digits of 0 to 9, a to f")
    return Token(
        name,
        frozenset(cast("list[Scope]", scopes)),
        bytes.fromhex(digest),
        _moment(number, entry, "created"),
        _moment(number, entry, "expires") if "expires" in entry else None,
    )


def _moment(number: int, entry: dict[str, Any], key: str) -> datetime:
    value = entry.get(key)
    if not isinstance(value, datetime) or value.tzinfo is None:
        raise TokenFileError(f"token {number}: {key} is a time with a zone, such as 2026-01-31T12:00:00Z")
    return value


def read_token_file(path: Path) -> tuple[tuple[Token, ...], tuple[int, ...]]:
    """The tokens in the file, and what tells it from another one. Blocking.

    Raises:
        TokenFileError: It is not a file of tokens, or others may write to it.
        OSError: It cannot be read.
    """
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))  # a FIFO without a writer would wait
    try:
        found = os.fstat(descriptor)
        _refuse_writable(path, found)  # Before `open`, which says of a directory no more than the descriptor's number.
        with open(descriptor, "rb", closefd=False) as file:
            content = file.read(MAX_FILE_BYTES + 1)
    finally:
        os.close(descriptor)
    if len(content) > MAX_FILE_BYTES:
        raise TokenFileError(f"it has more than {MAX_FILE_BYTES:,} bytes")
    return parse_tokens(content), _identity(found)


def _refuse_writable(path: Path, found: os.stat_result) -> None:
    if not stat.S_ISREG(found.st_mode):
        raise TokenFileError("it is not a file")
    if os.name != "posix":
        return
    if found.st_uid not in (0, os.geteuid()):
        raise TokenFileError("it belongs to another user, who could make tokens")
    if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise TokenFileError("others may write to it, and could make tokens: chmod go-w")
    folder = Path(os.path.realpath(path)).parent.stat()
    if folder.st_mode & stat.S_IWOTH and not folder.st_mode & stat.S_ISVTX:
        raise TokenFileError("any user may put another file in its place: chmod o-w its directory")


def _identity(found: os.stat_result) -> tuple[int, ...]:
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def _changed(identity: tuple[int, ...]) -> float:
    """When that was, in seconds since the epoch."""
    return max(identity[-2:]) / 1e9


class Tokens:
    """The tokens of a file. It is looked at again once a second at most, where `refresh` is called. Made: blocking.

    Attributes:
        remark: Why what the file says now does not count, in one line; None: it counts.

    Raises:
        TokenFileError: The file is not one of tokens, or others may write to it.
        OSError: It cannot be read.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._path = Path(path)
        self._clock = clock
        self._monotonic = monotonic
        self._next_look = monotonic() + _LOOK_SECONDS
        self._is_looking = False
        self.remark: str | None = None
        self._seen: tuple[int, ...] | None
        try:
            self._tokens, self._seen = self._read()
        except TokenFileError as exc:
            raise TokenFileError(f"{self._path}: {exc}") from exc

    def __repr__(self) -> str:
        return f"<Tokens {self._path}: {', '.join(each.name for each in self._tokens) or 'none'}>"

    def __len__(self) -> int:
        return len(self._tokens)

    def find(self, text: str) -> Token | None:
        """The token `text`, if it is known and has not expired. Takes as long for each text of that length."""
        if len(text) > MAX_TOKEN_LENGTH:
            return None
        digest, found = digest_of(text), None
        for each in self._tokens:
            if compare_digest(each.digest, digest):
                found = each
        return None if found is None or found.is_expired(self._clock()) else found

    async def refresh(self) -> None:
        """Look at the file again, unless it was looked at within the last second, or is being looked at.

        What is wrong with it is in `remark` then, once in the log, and changes nothing else.
        """
        if self._is_looking or self._monotonic() < self._next_look:
            return
        self._is_looking = True
        try:
            await in_thread(self._look)
        finally:
            self._next_look = self._monotonic() + _LOOK_SECONDS
            self._is_looking = False

    def _look(self) -> None:
        try:
            if _identity(self._path.stat()) == self._seen:
                return
            self._wait_for_writer()
            tokens, self._seen = self._read()
        except (TokenFileError, OSError) as exc:
            why = str(exc) if isinstance(exc, TokenFileError) else exc.strerror or type(exc).__name__
            remark = text_of(f"tokens: {self._path}: {why}; those that were known still count")
            if remark != self.remark:
                _logger.warning("the file of tokens does not count", file=str(self._path), error=why)
            self.remark = remark
            self._seen = None
            return
        if tokens != self._tokens or self.remark is not None:
            self._tokens, self.remark = tokens, None
            _logger.info("tokens read", file=str(self._path), tokens=len(tokens))

    def _wait_for_writer(self) -> None:
        """Until the file is as it was a moment ago: an editor empties it first, and half of it would revoke tokens."""
        for _ in range(_PAUSES):
            if abs(time.time() - _changed(_identity(self._path.stat()))) >= _PAUSE_SECONDS:
                return
            time.sleep(_PAUSE_SECONDS)

    def _read(self) -> tuple[tuple[Token, ...], tuple[int, ...] | None]:
        tokens, seen = read_token_file(self._path)
        return tokens, seen if abs(time.time() - _changed(seen)) > _SETTLED_SECONDS else None
