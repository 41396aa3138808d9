"""Rollups in PostgreSQL: tables that are refreshed from what has arrived, and answers that are right at any moment."""

from eventrec_handlers.postgres.rollups.store import PostgresRollups

__all__ = ["PostgresRollups"]
