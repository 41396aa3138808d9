"""What a token may do."""

from __future__ import annotations

from typing import Final, Literal, TypeAlias

Scope: TypeAlias = Literal["ingest", "read", "admin"]

SCOPES: Final[tuple[Scope, ...]] = ("ingest", "read", "admin")
"""ingest: send events. read: all that is stored, status and metrics. admin: replay dead letters, resume. None of them
holds another."""
