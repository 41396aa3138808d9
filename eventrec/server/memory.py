"""How many bytes the bodies of all requests take at once, and the bound on that."""

from __future__ import annotations

from http import HTTPStatus
from threading import Lock
from typing import TYPE_CHECKING, Final

from eventrec.server.refusals import RefusedError, wait_header

if TYPE_CHECKING:
    from collections.abc import MutableMapping
    from typing import Any

_LEASE: Final = "eventrec.body_memory"


class BodyMemory:
    """Bytes that are taken, of at most `bound`. From any thread."""

    def __init__(self, bound: int, *, retry_after: float) -> None:
        self._bound = bound
        self._retry_after = retry_after
        self._lock = Lock()
        self.taken = 0

    def lease(self, scope: MutableMapping[str, Any]) -> BodyLease:
        """What the request with this ASGI scope takes. It is one request's alone, until `release`."""
        lease: BodyLease = scope.setdefault(_LEASE, BodyLease(self))
        return lease

    def release(self, scope: MutableMapping[str, Any]) -> None:
        """The request has been answered: what it took is free."""
        lease = scope.pop(_LEASE, None)
        if lease is not None:
            lease.set(0)

    def move(self, by: int, *, held: int = 0) -> None:
        """Take `by` more bytes, or fewer, for a request that has `held`.

        Raises:
            RefusedError: 503: so many are not free; 413: so many there never are. Nothing is taken.
        """
        if by > 0 and held + by > self._bound:
            raise RefusedError(
                HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
                f"the request takes more than the {self._bound:,} bytes of memory that all of them may take",
            )
        with self._lock:
            if by > 0 and self.taken + by > self._bound:
                raise RefusedError(
                    HTTPStatus.SERVICE_UNAVAILABLE,
                    "the bodies of other requests take all the memory that is set aside for them",
                    headers=wait_header(self._retry_after),
                )
            self.taken += by


class BodyLease:
    """What one request takes of it."""

    def __init__(self, memory: BodyMemory) -> None:
        self._memory = memory
        self._bytes = 0

    def add(self, count: int) -> None:
        """Take so many bytes more, or fewer; raises as `BodyMemory.move`."""
        self._memory.move(count, held=self._bytes)
        self._bytes += count

    def set(self, count: int) -> None:
        """Take so many bytes in all; raises likewise, where that is more."""
        self.add(count - self._bytes)

    def at_least(self, count: int) -> None:
        """Take so many bytes in all, unless it takes more; raises likewise."""
        if count > self._bytes:
            self.set(count)
