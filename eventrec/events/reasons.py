"""Why an event was not taken."""

from __future__ import annotations

from typing import Literal, TypeAlias

Reason: TypeAlias = Literal[
    "filtered",
    "declined",
    "sampled",
    "rate_limited",
    "not_allowed",
    "not_encodable",
    "invalid",
    "too_large",
    "overflow",
    "closed",
    "forked",
    "no_writer",
    "interrupted",
    "not_written",
    "disabled",
    "stopped",
    "incomplete",
]
"""Why an event was not taken.

`declined`: it said itself that there is nothing to record. `sampled`, `rate_limited`, `not_allowed`: by the options
`sample`, `rate_limits` and `policy`. `forked`: this is a forked child, where the recorder is not open and has no log.
`no_writer`: the system gives no thread to write the log, or the interpreter ends. `interrupted`: an exception that is
not the event's came in between, and went on to the caller: KeyboardInterrupt, or what a signal handler of the
application raised. `not_written`: it was taken, and the disk kept it out of the log to the end, or the log cannot hold
it. `disabled`: the recorder is switched off. `stopped`: a send failed, and the option `on_failure` is "stop".
`incomplete`: it was to be taken with others or not at all, and one of these was refused.
"""
