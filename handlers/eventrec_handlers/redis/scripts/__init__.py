"""The scripts that Redis runs: one file of Lua each, behind `shard.lua`, which all share."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache
from hashlib import sha1
from importlib.resources import files
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

_SHARED: Final = "shard.lua"


@dataclass(frozen=True, slots=True)
class Script:
    """A script by name: its whole text, and the digest under which a server that has seen it knows it."""

    name: str
    text: str = field(repr=False)
    digest: str = field(repr=False)


def script(name: str) -> Script:
    """The script of the file `name`.lua."""
    return all_scripts()[name]


@cache
def all_scripts() -> Mapping[str, Script]:
    """All of them by name. The first call reads files: `Connection.open` makes it in a thread."""
    texts = {
        file.name: "\n".join(line for line in file.read_text(encoding="utf-8").splitlines() if line[:2] != "--")
        for file in files(__name__).iterdir()
        if file.name.endswith(".lua")
    }
    shared = texts.pop(_SHARED)
    return {name.removesuffix(".lua"): _script(name, f"{shared}\n{text}\n") for name, text in texts.items()}


def _script(name: str, text: str) -> Script:
    return Script(name.removesuffix(".lua"), text, sha1(text.encode(), usedforsecurity=False).hexdigest())
