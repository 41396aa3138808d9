"""OpenTelemetry's current span in the context of what is recorded inside it: option `trace_context`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from eventrec.errors import OptionsError
from eventrec.records.context import ContextBlock, merged_context
from eventrec.runtime.signals import error_of_signal_handler

if TYPE_CHECKING:
    from collections.abc import Callable

TRACE_KEYS: Final = ("trace_id", "span_id")
"""The members it adds, in hexadecimal, as W3C Trace Context and OpenTelemetry's logs have them."""

_NAMED: Final = tuple(f'"{key}"'.encode() for key in TRACE_KEYS)


def with_current_span(
    context: Callable[[], ContextBlock | None],
) -> Callable[[], ContextBlock | bytes | None]:
    """Return what gives `context()`, with the ids of the span that is current where it is called.

    A field of the same name in `context()` goes before. What a tracer of others raises costs an event its ids, never
    the event.

    Raises:
        OptionsError: opentelemetry is not installed.
    """
    try:
        from opentelemetry.trace import get_current_span  # noqa: PLC0415 - an extra, asked for by an option
    except ImportError as exc:
        raise OptionsError("trace_context needs OpenTelemetry: pip install 'eventrec[opentelemetry]'") from exc
    last: tuple[object, bytes] = (None, b"")

    def with_span() -> ContextBlock | bytes | None:
        nonlocal last
        block = context()
        try:
            span = get_current_span().get_span_context()
            if not span.is_valid:
                return block
            of, ids = last
            if of is not span:
                ids = b'{"trace_id":"%032x","span_id":"%016x"}' % (span.trace_id, span.span_id)
                last = span, ids  # in one step, for other threads
        except Exception as exc:  # a tracer may be any library's code
            if error_of_signal_handler(exc) is not None:
                raise
            return block
        said = None if block is None else block.encoded
        if said is None:
            return ids
        if any(name in said for name in _NAMED):
            return merged_context(ids, said)
        return b"%b,%b" % (said[:-1], ids[1:])

    return with_span
