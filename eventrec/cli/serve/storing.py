"""Destinations store once what clients send again, where their handlers can."""

from __future__ import annotations

from typing import Final
from urllib.parse import parse_qs

from eventrec.registry import handler_from_url, resolve_url

OPTION: Final = "unique_ids"


def storing_once(url: str) -> str:
    """`url`, asking for `unique_ids` where its handler takes this option, and `url` does not say it itself.

    A client that had no answer sends its events again, under the same ids.

    Raises:
        HandlerURLError: It cannot be used: as `handler_from_url`.
    """
    held = resolve_url(url)
    place, _, query = held.partition("?")
    if OPTION in parse_qs(query, keep_blank_values=True) or not handler_from_url(held).takes_unique_ids:
        return url
    return f"{place}?{query}{'&' if query else ''}{OPTION}=true"
