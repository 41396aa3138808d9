"""Which of several forms an answer has: what the parameter `format` says, else what the header Accept prefers."""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING, TypeVar

from eventrec.server.refusals import RefusedError

if TYPE_CHECKING:
    from collections.abc import Mapping

F = TypeVar("F", bound=str)


def form_of(said: F | None, accept: str | None, offered: Mapping[F, str]) -> F:
    """One of `offered`, form to media type: `said` where it is, else what `accept` prefers; the first, if it is equal.

    Raises:
        RefusedError: 406: it takes none of them.
    """
    if said is not None:
        return said
    ranges = _ranges(accept or "")
    if not ranges:
        return next(iter(offered))
    form = max(offered, key=lambda each: _quality(ranges, offered[each]))
    if not _quality(ranges, offered[form]):
        raise RefusedError(HTTPStatus.NOT_ACCEPTABLE, f"there is {', '.join(offered.values())}: see the header Accept")
    return form


def _ranges(accept: str) -> dict[str, float]:
    """The media ranges of the header, each with its weight; RFC 9110, 12.5.1."""
    found: dict[str, float] = {}
    for part in accept.split(","):
        media, *parameters = (piece.strip() for piece in part.split(";"))
        weight = 1.0
        for parameter in parameters:
            name, _, value = parameter.partition("=")
            if name.strip().lower() == "q":
                try:
                    weight = min(max(float(value), 0.0), 1.0)
                except ValueError:
                    weight = 0.0
        if media:
            found[media.lower()] = weight if weight == weight else 0.0  # noqa: PLR0124 - a weight may say nan
    return found


def _quality(ranges: Mapping[str, float], media: str) -> float:
    kind = media.partition("/")[0]
    return next((ranges[each] for each in (media, f"{kind}/*", "*/*") if each in ranges), 0.0)
