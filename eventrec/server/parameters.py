"""What the query of a request says: each parameter as what it means, or a refusal that names it."""

from __future__ import annotations

import time
from http import HTTPStatus
from typing import TYPE_CHECKING, Final, TypeVar

from eventrec.ingest.moments import known_zone, moment_of
from eventrec.server.refusals import RefusedError

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from starlette.requests import Request

    from eventrec.server.routes import Query

C = TypeVar("C", bound=str)

_TRUE: Final = frozenset({"true", "1", "yes", "on", ""})
_FALSE: Final = frozenset({"false", "0", "no", "off"})
_MAX_DIGITS: Final = 18
_MAX_SHOWN: Final = 40


class Parameters:
    """The query of `request`, of which `declared` may stand in it. `now` is the moment that times are relative to.

    Raises:
        RefusedError: 400, from here and every method: a parameter that is not declared, stands twice where it may not,
            or does not mean anything. One line, which names it.
    """

    def __init__(self, request: Request, declared: Sequence[Query], *, now: int | None = None) -> None:
        self.now: Final = time.time_ns() if now is None else now
        self._said: dict[str, list[str]] = {}
        known = {query.name: query for query in declared if query.place == "query"}
        for name, value in request.query_params.multi_items():
            if name not in known:
                raise refused(name, f"there is no such parameter; there are {', '.join(known) or 'none'}")
            if "\0" in value:
                raise refused(name, "a text without NUL")
            values = self._said.setdefault(name, [])
            values.append(value)
            if len(values) > 1 and not known[name].is_repeated:
                raise refused(name, "it may stand only once")

    def text(self, name: str) -> str | None:
        """What it says; None: it is not there, or empty."""
        return self._said.get(name, [""])[0] or None

    def texts(self, name: str) -> tuple[str, ...] | None:
        """All that is said, each once and without what is empty; None: it is not there at all."""
        found = self._said.get(name)
        return None if found is None else tuple(dict.fromkeys(filter(None, found)))

    def flag(self, name: str) -> bool:
        """Whether it is true: `name`, `name=true`, `name=1`; false where it is not there.

        Raises:
            RefusedError: It says neither.
        """
        if name not in self._said:
            return False
        said = self._said[name][0].lower()
        if said not in _TRUE | _FALSE:
            raise refused(name, f"true or false, not {_shown(said)}")
        return said in _TRUE

    def whole(self, name: str, *, default: int, high: int, low: int = 1) -> int:
        """A whole number from `low` to `high`.

        Raises:
            RefusedError: It is not one.
        """
        said = self.text(name)
        if said is None:
            return default
        if not (said.isascii() and said.isdigit() and len(said) <= _MAX_DIGITS and low <= int(said) <= high):
            raise refused(name, f"a whole number from {low} to {high}, not {_shown(said)}")
        return int(said)

    def choice(self, name: str, allowed: Collection[C]) -> C | None:
        """One of `allowed`; None: it is not there.

        Raises:
            RefusedError: It is another one.
        """
        said = self.text(name)
        for each in allowed:
            if said == each:
                return each
        if said is not None:
            raise refused(name, f"one of {', '.join(allowed)}, not {_shown(said)}")
        return None

    async def zone(self, name: str, *, default: str) -> str:
        """A time zone.

        Raises:
            RefusedError: There is no such zone.
        """
        said = self.text(name)
        try:
            return await known_zone(default if said is None else said)
        except ValueError as exc:
            raise refused(name, str(exc)) from None

    def moment(self, name: str, zone: str) -> int | None:
        """A moment in nanoseconds since the epoch; in `zone`, where it names none. None: it is not there.

        Raises:
            RefusedError: It is not a moment.
        """
        said = self.text(name)
        if said is None:
            return None
        try:
            return moment_of(said, zone, now=self.now)
        except ValueError as exc:
            raise refused(name, str(exc)) from None


def refused(name: str, why: str) -> RefusedError:
    """The refusal of a request for its parameter `name`."""
    return RefusedError(HTTPStatus.BAD_REQUEST, f"{_plain(name)}: {why}")


def _plain(name: str) -> str:
    return name if name.isidentifier() and name.isascii() else _shown(name)


def _shown(text: str) -> str:
    return ascii(text if len(text) <= _MAX_SHOWN else text[:_MAX_SHOWN] + "...")
