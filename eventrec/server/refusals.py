"""What a request is refused with: application/problem+json, as RFC 9457 has it."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil
from typing import TYPE_CHECKING, Any, Final

import msgspec
from starlette.responses import Response

from eventrec.runtime.decoding import decodable
from eventrec.runtime.texts import encoded_json

if TYPE_CHECKING:
    from collections.abc import Mapping
    from http import HTTPStatus

PROBLEM: Final = "application/problem+json"
MAX_ERRORS: Final = 100
"""Errors of elements that one answer tells; it says how many there are."""


@decodable
class ElementError(msgspec.Struct, frozen=True, omit_defaults=True):
    """Why one element of a request was not taken.

    Attributes:
        index: Which, counted from 0.
        error: Why. Nothing of its values is in it.
        retry: Whether the same element may be taken later.
    """

    index: int
    error: str
    retry: bool = False


@decodable
class Problem(msgspec.Struct, frozen=True, omit_defaults=True):
    """The body of a refusal.

    Attributes:
        title: What its status is called.
        status: The status of the answer.
        detail: What is wrong, for who has asked.
        rejected: How many elements were not taken.
        errors: Of the first of them, why.
    """

    title: str
    status: int
    detail: str
    rejected: int = 0
    errors: Sequence[ElementError] = ()


class RefusedError(Exception):
    """A request is refused: `status`, and one line `detail` for who has asked. No secret, no value of an event."""

    def __init__(
        self,
        status: HTTPStatus,
        detail: str,
        *,
        headers: Mapping[str, str] | None = None,
        errors: Sequence[ElementError] = (),
        rejected: int | None = None,
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.headers = dict(headers or {})
        self.errors = tuple(errors[:MAX_ERRORS])
        self.rejected = len(errors) if rejected is None else rejected

    def response(self) -> Response:
        """The answer."""
        problem = Problem(self.status.phrase, int(self.status), self.detail, self.rejected, self.errors)
        return Response(encoded_json(problem), int(self.status), self.headers, PROBLEM)


def wait_header(seconds: float) -> dict[str, str]:
    """The header that has a client wait before it comes again: whole seconds, one at least, and never fewer."""
    return {"Retry-After": str(max(1, ceil(seconds)))}


def json_response(value: Any, status: int = 200, *, headers: Mapping[str, str] | None = None) -> Response:
    """An answer of JSON that no cache keeps."""
    told = {"Cache-Control": "no-store", **(headers or {})}
    return Response(encoded_json(value), int(status), told, "application/json")
