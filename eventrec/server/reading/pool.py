"""Puts questions to the destination: several at once, each on a connection of its own, which is used again."""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING, Final, TypeVar, cast

from eventrec.analytics import plan_of
from eventrec.errors import DeliveryError, HandlerURLError, PauseError, TransientError
from eventrec.records.layout import layouts_by_table
from eventrec.registry import handler_from_url
from eventrec.server.reading.tails import Tails
from eventrec.server.reading.workers import BusyError, SlowError, Workers
from eventrec.server.refusals import RefusedError, wait_header

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping
    from typing import Self

    from eventrec.analytics import Catalogue, RollupPlan, RollupStore
    from eventrec.reading import EventReader
    from eventrec.server.options import ServerOptions

T = TypeVar("T")

_NOT_READ: Final = "the destination cannot tell which events it has stored"
_NO_ROLLUPS: Final = "the destination answers no rollups"


class Pool:
    """Readers and rollup stores of the destination `url`: at most `options.readers` of each at once.

    With `is_awaited` it is one that this process delivers to: before the first batch it may not be there, and is empty.

    Attributes:
        plans: The rollups of the catalogue, by their names.
        tails: Live tails of the destination.

    Raises:
        HandlerURLError: `url` names an unknown scheme or option, or a destination that cannot be read.
    """

    def __init__(
        self, url: str, catalogue: Catalogue | None, options: ServerOptions, *, is_awaited: bool = False
    ) -> None:
        rollups = () if catalogue is None else catalogue.rollups
        self.plans: Final[Mapping[str, RollupPlan]] = {plan.name: plan for plan in map(plan_of, rollups)}
        self._options = options
        handler = handler_from_url(url)
        if catalogue is not None:
            handler.use_layouts(layouts_by_table(catalogue.layouts))
        self._reads = handler.reader() is not None
        self._answers = handler.rollups() is not None
        if not self._reads and not self._answers:
            raise HandlerURLError("the handler of this URL cannot tell what it has stored: nothing can be read from it")
        limit, seconds = options.readers, cast("float", options.read_timeout)

        def reader() -> EventReader:
            made = cast("EventReader", handler.reader())
            made.is_awaited = is_awaited
            return made

        def store() -> RollupStore:
            made = cast("RollupStore", handler.rollups())
            made.is_awaited = is_awaited
            return made

        self._readers: Workers[EventReader] = Workers(reader, limit=limit, seconds=seconds)
        self._stores: Workers[RollupStore] = Workers(store, limit=limit, seconds=seconds)
        self.tails: Final = Tails(self.read, options)

    async def ask(self, question: Callable[[RollupStore], Awaitable[T]]) -> T:
        """What `question` gives, put to a rollup store. Cancelled, so is the question, in the database too.

        Raises:
            RefusedError: 503 with Retry-After where the destination cannot be read now, 504 where it takes too long,
                501 where it answers no rollups.
            ValueError: As the store raises it: the question cannot be answered.
        """
        if not self._answers:
            raise RefusedError(HTTPStatus.NOT_IMPLEMENTED, _NO_ROLLUPS)
        return await self._put(self._stores.ask(question))

    async def read(self, question: Callable[[EventReader], Awaitable[T]]) -> T:
        """What `question` gives, put to a reader; raises as `ask`."""
        if not self._reads:
            raise RefusedError(HTTPStatus.NOT_IMPLEMENTED, _NOT_READ)
        return await self._put(self._readers.ask(question))

    async def __aenter__(self) -> Self:
        self.tails.begin()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.close()

    async def close(self) -> None:
        """End the live tails, cancel what is asked, and disconnect: of the running loop. It may be used again."""
        self.tails.end()
        await self._readers.close()
        await self._stores.close()

    async def _put(self, asked: Awaitable[T]) -> T:
        try:
            return await asked
        except BusyError:
            raise self._later("all readers of the destination are busy") from None
        except SlowError:
            seconds = f"{self._options.read_timeout:g} s"
            raise RefusedError(
                HTTPStatus.GATEWAY_TIMEOUT, f"the destination took longer than {seconds}: ask for less"
            ) from None
        except TransientError as exc:
            raise self._later(f"the destination cannot be read now: {exc}", exc.retry_after) from exc
        except PauseError as exc:
            detail = f"the destination cannot be read until an operator acts: {exc}"
            raise RefusedError(HTTPStatus.SERVICE_UNAVAILABLE, detail) from exc
        except DeliveryError as exc:
            raise RefusedError(HTTPStatus.SERVICE_UNAVAILABLE, f"the destination cannot be read: {exc}") from exc

    def _later(self, detail: str, seconds: float | None = None) -> RefusedError:
        wait = max(cast("float", self._options.retry_after), seconds or 0.0)
        return RefusedError(HTTPStatus.SERVICE_UNAVAILABLE, detail, headers=wait_header(wait))
