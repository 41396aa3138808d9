"""What follows from one attempt: a piece, what came back, and what is remembered, to what the worker does. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, TypeAlias

from eventrec.errors import (
    BatchTooLargeError,
    DeliveryError,
    FencedError,
    PartialError,
    PauseError,
    PermanentError,
    TransientError,
)
from eventrec.runtime.logging import described, text_of
from eventrec.runtime.signals import pass_on

if TYPE_CHECKING:
    from collections.abc import Sequence

    from eventrec.delivery.worker.piece import Piece


class NotAwaitableError(PauseError):
    """`handle` gave back what cannot be awaited: it is a plain function. Sent again, a batch would fare the same."""


UNMAPPED: Final = "unmapped: "
"""How the reason of a record begins that failed alone, with an error that says nothing about it."""


@dataclass(frozen=True, slots=True)
class Remembered:
    """What earlier attempts and the settings say.

    Attributes:
        is_probing: The same unknown error came so often that single records are tried.
        has_passed: While probing, a batch went through: the destination works.
        knows_tokens: The destination drops a batch whose token it has seen, so a batch may not change.
        holds_unmapped: A record that fails alone waits for an operator; it does not become a dead letter.
    """

    is_probing: bool = False
    has_passed: bool = False
    knows_tokens: bool = False
    holds_unmapped: bool = False


@dataclass(frozen=True, slots=True)
class Deliver:
    """All of the piece arrived."""


@dataclass(frozen=True, slots=True)
class Retry:
    """The same records again, after a pause. `asks_first`: without one, where the destination answers something new."""

    cause: Exception
    asks_first: bool = False


@dataclass(frozen=True, slots=True)
class Split:
    """The left half, then the right half."""


@dataclass(frozen=True, slots=True)
class Hold:
    """Nothing goes on before an operator acts. `slowly`: look now and then whether one has; else only `resume()` helps.

    `asks_first`: only if the destination does not answer that it has the piece.
    """

    reason: str
    slowly: bool = True
    is_paused: bool = True
    asks_first: bool = False

    @property
    def state(self) -> str:
        """What `status()` says."""
        return f"{'paused' if self.is_paused else 'holding'}: {self.reason}"


@dataclass(frozen=True, slots=True)
class Bury:
    """The records of `dead` become dead letters, with their reasons; those of `delivered` arrived.

    `is_suspect`: not yet, since it may be the destination's fault. `asks_first` as in `Hold`. `then` is what follows.
    """

    dead: Mapping[int, str] = field(default_factory=dict)
    delivered: Sequence[int] = ()
    is_suspect: bool = False
    asks_first: bool = False
    then: Retry | Hold | None = None


Outcome: TypeAlias = Deliver | Retry | Split | Bury | Hold


def outcome_of(piece: Piece, failure: Exception | None, remembered: Remembered) -> Outcome:
    """What follows when a batch of `piece` was handled, and `failure` came back."""
    if failure is None:
        return Deliver()
    try:
        return _outcome_of(piece, failure, remembered)
    except BaseException as exc:  # noqa: BLE001 - what a failure names by offset is foreign code as well
        pass_on(exc)
        return _unknown(piece, failure, remembered)


def _outcome_of(piece: Piece, failure: Exception, remembered: Remembered) -> Outcome:
    outcome: Outcome
    match failure:
        case FencedError():
            # Not an outage. Only a destination that sends us back to the same place needs patience.
            outcome = Retry(failure, asks_first=True)
        case TransientError():
            outcome = Retry(failure)
        case NotAwaitableError():
            outcome = Hold(error_text(failure), slowly=False)
        case PauseError():
            outcome = Hold(error_text(failure))
        case PermanentError() | BatchTooLargeError():
            outcome = _refused(piece, failure)
        case PartialError() if (errors := _parts(piece, failure)) is not None:
            outcome = _partial(piece, errors)
        case _:
            outcome = _unknown(piece, failure, remembered)
    return outcome


def outcome_of_opening(failure: Exception) -> Retry | Hold:
    """What follows when the destination could not be opened or asked: not a word about the piece in hand."""
    if isinstance(failure, TransientError) or not isinstance(failure, DeliveryError):
        return Retry(failure)
    return Hold(error_text(failure))


def is_named(piece: Piece, failure: Exception) -> bool:
    """Whether `failure` is one of a handler's words for a batch of `piece`, and rightly used; else it is unknown."""
    try:
        if isinstance(failure, PartialError):
            return _parts(piece, failure) is not None
        if isinstance(failure, PermanentError):
            _named(piece, failure)
    except BaseException as exc:  # noqa: BLE001 - foreign code
        pass_on(exc)
        return False
    return isinstance(failure, (TransientError, PermanentError, BatchTooLargeError, PauseError))


def error_text(exc: BaseException) -> str:
    """What `exc` says; its class too, where it is not one of a handler's own words."""
    return text_of(exc) if isinstance(exc, DeliveryError) else described(exc)


def _refused(piece: Piece, failure: PermanentError | BatchTooLargeError) -> Bury | Split:
    """What follows when the destination will not take the batch as it is."""
    if isinstance(failure, PermanentError) and (named := _named(piece, failure)):
        return Bury(named)
    if len(piece) > 1:
        return Split()
    reason = error_text(failure) if isinstance(failure, PermanentError) else f"too large alone: {error_text(failure)}"
    return Bury({piece.offsets[0]: reason})


def _named(piece: Piece, failure: PermanentError) -> dict[int, str]:
    """The open records that `failure` names, with reasons."""
    records = getattr(failure, "records", None)
    if not isinstance(records, Mapping):
        return {}
    return {offset: text_of(records[offset]) for offset in piece.offsets if offset in records}


def _parts(piece: Piece, failure: PartialError) -> Mapping[int, DeliveryError] | None:
    """The errors of a PartialError by offset; None where it does not say what is true of which record."""
    errors = getattr(failure, "errors", None)
    if not isinstance(errors, Mapping) or not errors or not set(errors) <= set(piece.offsets):
        return None
    words = (TransientError, PermanentError, BatchTooLargeError, PauseError)
    return errors if all(isinstance(error, words) for error in errors.values()) else None


def _partial(piece: Piece, errors: Mapping[int, DeliveryError]) -> Bury:
    """What is not named arrived, what is refused for good is dead, and the rest waits."""
    dead = {
        offset: error_text(error)
        for offset, error in errors.items()
        if isinstance(error, (PermanentError, BatchTooLargeError))
    }
    paused = [error for error in errors.values() if isinstance(error, PauseError)]
    open_ = [error for offset, error in errors.items() if offset not in dead]
    then: Retry | Hold | None = None
    if paused:
        then = Hold(error_text(paused[0]))
    elif open_:
        then = Retry(open_[0])
    return Bury(dead, [offset for offset in piece.offsets if offset not in errors], then=then)


def _unknown(piece: Piece, failure: Exception, remembered: Remembered) -> Outcome:
    """A record, or an outage? What fails alone while a neighbour passes is dead, if it has not arrived."""
    if not remembered.is_probing:
        return Retry(failure)
    if len(piece) > 1:
        if remembered.knows_tokens and piece.is_doubtful:
            # Its halves would come under other tokens, and the destination cannot say whether it has arrived.
            return Hold(f"a batch that may have arrived fails: {error_text(failure)}", is_paused=False)
        return Split()
    reason = f"{UNMAPPED}{error_text(failure)}"
    if remembered.holds_unmapped:
        return Hold(reason, is_paused=False, asks_first=True)
    return Bury({piece.offsets[0]: reason}, is_suspect=not remembered.has_passed, asks_first=True)
