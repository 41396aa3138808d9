"""Where the parts of an event stand in OTLP's log records: said once for the writer and the reader."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["INFO", "JSON_BODY", "RESOURCE", "SEVERITIES", "TABLE", "TIME", "UID", "UNKNOWN_SERVICE"]

UID: Final = "log.record.uid"
"""The attribute with an event's id."""

TABLE: Final = "eventrec.table"
"""The attribute with its table."""

TIME: Final = "eventrec.time_unix_nano"
"""The attribute with its timestamp, where that is one that OTLP cannot say."""

JSON_BODY: Final = "eventrec.body"
"""The attribute that is "json" where the record's body is the text of the payload's JSON."""

UNKNOWN_SERVICE: Final = "unknown_service"
"""What OpenTelemetry calls a service without a name."""

RESOURCE: Final[Mapping[str, str]] = {
    "service": "service.name",
    "host": "host.name",
    "environment": "deployment.environment.name",
}
"""By field of the context: the attribute of the resource that it is."""

INFO: Final = 9
"""The severity of an event that names none."""

SEVERITIES: Final[Mapping[str, int]] = {
    "trace": 1,
    "debug": 5,
    "info": INFO,
    "notice": 10,
    "warn": 13,
    "warning": 13,
    "error": 17,
    "critical": 21,
    "fatal": 21,
}
"""By what a payload's `level` says, in lower case: the number of the severity."""
