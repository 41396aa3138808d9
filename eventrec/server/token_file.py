"""Changes a file of tokens: adds one, revokes one. What else stands in it, comments too, stays."""

from __future__ import annotations

import os
import re
import secrets
import tempfile
from contextlib import closing, contextmanager, suppress
from typing import TYPE_CHECKING, Final

from eventrec.errors import LogLockedError
from eventrec.log.disk import DiskStorage
from eventrec.server.scopes import SCOPES
from eventrec.server.tokens import Token, TokenFileError, digest_of, parse_tokens, read_token_file

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator
    from datetime import datetime
    from pathlib import Path

    from eventrec.server.scopes import Scope

PREFIX: Final = "evr_"
"""What a token begins with, so that what looks for leaked secrets finds it."""

_BYTES: Final = 32
_HEAD: Final = "# Tokens of `eventrec serve`: made by `eventrec token new`, taken away by `eventrec token revoke`.\n"
_BLOCK: Final = re.compile(r"^(?=[ \t]*\[\[[ \t]*token[ \t]*\]\])", re.MULTILINE)


def new_token(
    path: Path, name: str, scopes: Collection[Scope], *, created: datetime, expires: datetime | None = None
) -> str:
    """Add a token to the file, which is made where there is none, and return its text: it is kept nowhere. Blocking.

    Raises:
        TokenFileError: The file is not one of tokens, another process changes it, or it has a token of that name.
        OSError: It cannot be read or written.
    """
    text = PREFIX + secrets.token_urlsafe(_BYTES)
    token = Token(name, frozenset(scopes), digest_of(text), created, expires)
    with _changing(path) as before:
        if any(each.name == name for each in parse_tokens(before.encode())):
            raise TokenFileError(f"{path} has a token named {name!r} already")
        _replace(path, f"{(before or _HEAD).rstrip()}\n\n{_shown(token)}")
    return text


def revoke_token(path: Path, name: str) -> None:
    """Take the token away. Servers that read the file refuse it a second later. Blocking.

    Raises:
        TokenFileError: The file is not one of tokens, another process changes it, or it has no token of that name.
        OSError: It cannot be read or written.
    """
    path.stat()
    with _changing(path) as before:
        tokens = parse_tokens(before.encode())
        kept = tuple(each for each in tokens if each.name != name)
        if len(kept) == len(tokens):
            names = ", ".join(each.name for each in tokens) or "none"
            raise TokenFileError(f"{path} has no token named {name!r}; it has: {names}")
        _replace(path, _without(before, name, kept))


def _without(text: str, name: str, kept: tuple[Token, ...]) -> str:
    """`text` without the table of that token; written again where it is not of such tables alone."""
    blocks = _BLOCK.split(text)
    with suppress(TokenFileError):
        left = "".join(block for block in blocks if [each.name for each in parse_tokens(block.encode())] != [name])
        if parse_tokens(left.encode()) == kept:
            return left
    return _HEAD + "".join("\n" + _shown(each) for each in kept)


def _shown(token: Token) -> str:
    scopes = ", ".join(f'"{scope}"' for scope in SCOPES if scope in token.scopes)
    lines = [
        "[[token]]",
        f'name = "{token.name}"',
        f"scopes = [{scopes}]",
        f'sha256 = "{token.digest.hex()}"',
        f"created = {token.created.isoformat(timespec='seconds')}",
    ]
    if token.expires is not None:
        lines.append(f"expires = {token.expires.isoformat(timespec='seconds')}")
    return "\n".join(lines) + "\n"


@contextmanager
def _changing(path: Path) -> Iterator[str]:
    """What is in the file, "" where there is none, while no other command changes it."""
    with closing(DiskStorage(path.parent)) as folder:
        try:
            lock = folder.lock(f".{path.name}.lock")
        except LogLockedError as exc:
            raise TokenFileError(f"{path}: another command is changing it") from exc
        try:
            yield _content(path)
        finally:
            lock.release(delete=True)


def _content(path: Path) -> str:
    try:
        read_token_file(path)
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return ""
    except TokenFileError as exc:
        raise TokenFileError(f"{path}: {exc}") from exc


def _replace(path: Path, text: str) -> None:
    """At once, and durable on return: who reads it sees it as it was, or as it is then. Only its user may read it."""
    place = path.resolve()
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=place.parent)  # readable by its user alone
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            with suppress(OSError):
                os.fchmod(descriptor, place.stat().st_mode & 0o644)
            file.write(text)
            file.flush()
            os.fsync(descriptor)
        os.replace(name, place)  # noqa: PTH105 - of names
    except BaseException:
        with suppress(OSError):
            os.unlink(name)  # noqa: PTH108 - likewise
        raise
    with closing(DiskStorage(place.parent)) as folder:
        folder.sync_directory()
