"""What is known around an event: fields of the running task, and the static ones of the process."""

from __future__ import annotations

from contextlib import AbstractContextManager, ContextDecorator, suppress
from contextvars import ContextVar, Token
from typing import TYPE_CHECKING, Final
from weakref import WeakSet

import msgspec

from eventrec.errors import EncodeError
from eventrec.records.json import encode_json, refuse_bad_text

if TYPE_CHECKING:
    from types import TracebackType


class ContextBlock:
    """One block `with recorder.context(…)`. `encoded` are the fields that are true inside it, as a JSON object.

    Where it ends elsewhere than it was entered, `end` makes its own fields untrue in every context that still has it.
    """

    __slots__ = ("__weakref__", "_blocks_within", "_fields", "_outer", "encoded")

    def __init__(self, outer: ContextBlock | None, fields: dict[str, object]) -> None:
        """Raises EncodeError where a value is not a JSON value."""
        self._outer = outer
        self._fields: dict[str, object] = dict(fields)
        self._blocks_within: WeakSet[ContextBlock] = WeakSet()
        self.encoded: bytes | None = None
        self._encode()
        if outer is not None:
            outer._blocks_within.add(self)  # noqa: SLF001 - of the same class

    def end(self) -> None:
        """Its own fields are no longer true."""
        self._fields = {}
        self._encode()

    def _all(self) -> dict[str, object]:
        outer = {} if self._outer is None else self._outer._all()  # noqa: SLF001 - of the same class
        return {**outer, **self._fields}

    def _encode(self) -> None:
        fields = self._all()
        self.encoded = encode_json(fields) if fields else None
        for block in list(self._blocks_within):
            block._encode()  # noqa: SLF001 - of the same class


class ContextFields:
    """The fields that `recorder.context(…)` adds to every event recorded inside it, per task and thread."""

    def __init__(self) -> None:
        self._block: ContextVar[ContextBlock | None] = ContextVar("eventrec.records.context", default=None)
        self.block = self._block.get
        """The innermost block that was entered here; None where there is none."""

    def encoded(self) -> bytes | None:
        """The fields that are true here as the bytes of a JSON object; None where there are none."""
        block = self.block()
        return None if block is None else block.encoded

    def bound(self, fields: dict[str, object]) -> BoundFields:
        """Add `fields` inside the block; an inner value hides an outer one of the same name.

        The block may end in another task or thread than it began in.

        Raises:
            EncodeError: A value is not a JSON value; on entering the block.
        """
        return BoundFields(self, fields)

    def enter(self, fields: dict[str, object]) -> tuple[ContextBlock, Token[ContextBlock | None]]:
        """Begin a block. Raises EncodeError where a value is not a JSON value."""
        block = ContextBlock(self.block(), fields)
        return block, self._block.set(block)

    def leave(self, block: ContextBlock, token: Token[ContextBlock | None]) -> None:
        """End one that `enter` began."""
        if self.block() is block:
            with suppress(ValueError):  # This is another context than it was entered in, which only that one can leave.
                self._block.reset(token)
                return
        # Or blocks are left in another order than that of their begin. A task that was started inside keeps its fields
        # where they are left in order.
        block.end()


class BoundFields(ContextDecorator, AbstractContextManager[None]):
    """`with recorder.context(…)`, or all calls of the function that it decorates: each call is a block.

    A class: what leaves a generator's context manager is changed there, which an error that is frozen refuses.
    """

    def __init__(self, context: ContextFields, fields: dict[str, object]) -> None:
        self._context = context
        self._fields = fields
        self._entered: tuple[ContextBlock, Token[ContextBlock | None]] | None = None

    def _recreate_cm(self) -> BoundFields:
        return BoundFields(self._context, self._fields)

    def __enter__(self) -> None:
        if self._entered is not None:
            raise RuntimeError("this block has begun already: call context() once for each")
        self._entered = self._context.enter(self._fields)

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        entered, self._entered = self._entered, None
        if entered is not None:
            self._context.leave(*entered)


def encoded_fields(**fields: object) -> bytes | None:
    """The fields that are not None, as the bytes of a JSON object; None where there are none."""
    given = {name: value for name, value in fields.items() if value is not None}
    return encode_json(given) if given else None


def merged_context(static: bytes | None, of_call: bytes | None) -> bytes | None:
    """One JSON object of the static fields and those of the call; the call's hide the static ones."""
    if static is None or of_call is None:
        return of_call or static
    return msgspec.json.encode({**_fields_of(static), **_fields_of(of_call)})


def check_context(text: bytes) -> None:
    """Raise EncodeError if `text` is not a JSON object in UTF-8: where it is merged, nothing could be done about it."""
    refuse_bad_text(text)
    try:
        _fields_of(text)
    except msgspec.DecodeError as exc:
        raise EncodeError(f"a context is a JSON object: {exc}") from exc


# Values stay the bytes they are: integers of any size pass, and nothing is decoded that need not be.
_fields_of: Final = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
