"""What the claims of both suites are run by: a harness is started before each and stopped behind it."""

from __future__ import annotations

import functools
import traceback
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


def harnessed(*needs: str, unreturned: Callable[[Any, float], str | None] = lambda _, __: None) -> Callable[[T], T]:
    """Run a claim with its harness started and stopped around it; skip it, visibly, where it needs what is lacking.

    `unreturned` says of a harness what was running at a moment of the loop, at which a claim was given up.
    """

    def made(test: T) -> T:
        @functools.wraps(test)
        async def run(self: HarnessedClaims, harness: Harness, **given: object) -> None:
            for need in needs:
                if need in harness.lacks:
                    pytest.skip(f"lacks {need}: {harness.lacks[need]}")
            cut: BaseException | None = None
            with anyio.move_on_after(harness.patience) as scope:
                try:
                    await harness.start()
                    await test(self, harness, **given)
                except anyio.get_cancelled_exc_class() as exc:
                    cut = exc
                    raise
                except BaseExceptionGroup as exc:
                    if (sentence := _sentence_of(exc)) is None:
                        raise
                    raise sentence from exc
                finally:
                    with anyio.move_on_after(harness.patience, shield=True) as stopping:
                        await harness.stop()
                    if stopping.cancelled_caught:
                        raise AssertionError(f"`stop` of the harness did not return within {harness.patience} s")
            if scope.cancelled_caught:
                waited = unreturned(harness, scope.deadline) or (cut and _foreign_call(cut))
                raise AssertionError(
                    f"given up after {harness.patience} s (`patience` of the harness): {waited or 'it did not end'}"
                ) from cut

        return cast("T", run)

    return made


def _sentence_of(group: BaseExceptionGroup[Any]) -> BaseException | None:
    """The one thing that a claim says from a task of its own, or Ctrl-C; None where it is something else, or more."""
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error if isinstance(error, (AssertionError, KeyboardInterrupt)) else None


_ON_THE_WAY: Final = ("eventrec.testing.", "anyio.", "asyncio.", "contextlib", "trio.")


def _foreign_call(cut: BaseException) -> str | None:
    """The first function outside of the suite that was waited for."""
    for frame, _ in traceback.walk_tb(cut.__traceback__):
        if not frame.f_globals.get("__name__", "").startswith(_ON_THE_WAY):
            return f"`{frame.f_code.co_qualname}` did not return"
    return None
