"""What the claims of both suites are run by: a harness is started before each and stopped behind it."""

from __future__ import annotations

import functools
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, ClassVar, Final, Protocol, TypeVar, cast

import anyio
import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Mapping

T = TypeVar("T", bound="Callable[..., Coroutine[Any, Any, None]]")

_UNLESS_TRIO: Final = pytest.mark.skipif(
    find_spec("trio") is None, reason="trio is not installed: pip install 'eventrec[testing]'"
)


class Harness(Protocol):
    """What both kinds of harness have: see `HandlerHarness` and `BusHarness`."""

    lacks: ClassVar[Mapping[Any, str]]
    patience: ClassVar[float]

    async def start(self) -> None: ...

    async def stop(self) -> None: ...


class HarnessedClaims:
    """A room of claims. Overrides: the fixture `harness`, and `anyio_backend` where one backend alone will do."""

    pytestmark = pytest.mark.anyio

    @pytest.fixture(params=["asyncio", pytest.param("trio", marks=_UNLESS_TRIO)])
    def anyio_backend(self, request: pytest.FixtureRequest) -> Any:
        """The backends to run on."""
        return request.param

    @pytest.fixture
    def harness(self) -> Any:
        """The author's own."""
        raise NotImplementedError(f"{type(self).__name__} needs a fixture `harness` that returns its harness")


def harnessed(*needs: str) -> Callable[[T], T]:
    """Run a claim with its harness started and stopped around it; skip it, visibly, where it needs what is lacking."""

    def made(test: T) -> T:
        @functools.wraps(test)
        async def run(self: HarnessedClaims, harness: Harness, **given: object) -> None:
            for need in needs:
                if need in harness.lacks:
                    pytest.skip(f"lacks {need}: {harness.lacks[need]}")
            with anyio.fail_after(harness.patience):
                try:
                    await harness.start()
                    await test(self, harness, **given)
                finally:
                    with anyio.move_on_after(harness.patience, shield=True):
                        await harness.stop()

        return cast("T", run)

    return made
