"""Handlers whose calls are seen, one by one: a claim says what else is to happen around each."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, TypeVar, cast

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from typing import TypeAlias

    Around: TypeAlias = Callable[[str, Callable[[], Awaitable[Any]]], Awaitable[Any]]
    """Is given the name of a method and what calls it; awaits that, and gives its answer."""

T = TypeVar("T")

METHODS: Final = frozenset(
    {"open", "prepare", "handle", "close", "destination_id", "resume", "retire", "latest", "range", "follow"}
)
"""What is awaited of a handler, of its checkpoints and of its reader."""


def watched(own: T, around: Around) -> T:
    """A handler, checkpoints or a reader, with `around` around each of `METHODS`, also those of its checkpoints."""
    return cast("T", _Watched(own, around))


class _Watched:
    def __init__(self, own: Any, around: Around) -> None:
        self._own = own
        self._around = around

    def __repr__(self) -> str:
        return repr(self._own)

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._own, name)
        if name == "checkpoints" and found is not None:
            return _Watched(found, self._around)
        if name not in METHODS:
            return found

        async def called(*given: Any, **named: Any) -> Any:
            return await self._around(name, lambda: found(*given, **named))

        return called
