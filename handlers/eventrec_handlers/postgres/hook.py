"""What the handler of a database that is PostgreSQL and more stands on: TimescaleDB's imports nothing else of ours."""

from __future__ import annotations

from eventrec_handlers.postgres.catalog import read_tables
from eventrec_handlers.postgres.checkpoints import Namespace, creating, literal
from eventrec_handlers.postgres.ddl import PostgresDdl
from eventrec_handlers.postgres.errors import errors_translated
from eventrec_handlers.postgres.layout_ddl import create_index, in_block
from eventrec_handlers.postgres.layouts import create_table
from eventrec_handlers.postgres.migrations import PostgresMigrations
from eventrec_handlers.postgres.options import NAMES, Options
from eventrec_handlers.postgres.rollups import PostgresRollups
from eventrec_handlers.postgres.rollups.answering import Answering
from eventrec_handlers.postgres.rollups.fields import Columns
from eventrec_handlers.postgres.rollups.known import Known
from eventrec_handlers.postgres.rollups.measures import measure_sql
from eventrec_handlers.postgres.rollups.moments import EARLIEST, moment
from eventrec_handlers.postgres.rollups.select import matching
from eventrec_handlers.postgres.rollups.tables import cut_groups, prefix_of
from eventrec_handlers.postgres.target import Target

__all__ = [
    "EARLIEST",
    "NAMES",
    "Answering",
    "Columns",
    "Known",
    "Namespace",
    "Options",
    "PostgresDdl",
    "PostgresMigrations",
    "PostgresRollups",
    "Target",
    "create_index",
    "create_table",
    "creating",
    "cut_groups",
    "errors_translated",
    "in_block",
    "literal",
    "matching",
    "measure_sql",
    "moment",
    "prefix_of",
    "read_tables",
]
