"""The scripts of relays: behind `shard.lua` and `relay/shared.lua`, and allowed to run where memory is full."""

from __future__ import annotations

from functools import cache
from hashlib import sha1
from importlib.resources import files
from typing import TYPE_CHECKING, Final

from eventrec_handlers.redis import scripts
from eventrec_handlers.redis.scripts import Script

if TYPE_CHECKING:
    from collections.abc import Mapping

_FLAGS: Final = "#!lua flags=allow-oom"
"""A server that is full takes no more from producers. What drains it goes on."""

_SHARED: Final = "shared.lua"


@cache
def relay_scripts() -> Mapping[str, Script]:
    """All of them by name. The first call reads files: `RedisBus.open` makes it in a thread."""
    folder = files(scripts)
    before = [file.read_text(encoding="utf-8") for file in (folder / "shard.lua", folder / "relay" / _SHARED)]
    return {
        file.name.removesuffix(".lua"): _script(file.name.removesuffix(".lua"), [*before, file.read_text("utf-8")])
        for file in (folder / "relay").iterdir()
        if file.name.endswith(".lua") and file.name != _SHARED
    }


def _script(name: str, parts: list[str]) -> Script:
    lines = [line for line in "\n".join(parts).splitlines() if not line.startswith("--")]
    text = "\n".join((_FLAGS, *lines))
    return Script(name, text, sha1(text.encode(), usedforsecurity=False).hexdigest())
