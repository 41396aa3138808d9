"""Rollups of a SQLite file, answered from its events: `select.py` makes a statement of a question."""

from eventrec_handlers.sqlite.rollups.store import SqliteRollups

__all__ = ["SqliteRollups"]
