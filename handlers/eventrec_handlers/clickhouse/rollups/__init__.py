"""Rollups as ClickHouse's SQL: a question as one statement over the events, or views that keep states up to date."""

from eventrec_handlers.clickhouse.rollups.answering import Run, answer, answer_kept
from eventrec_handlers.clickhouse.rollups.fields import Columns, create_table
from eventrec_handlers.clickhouse.rollups.select import Extent, Statement, extent, newest, select
from eventrec_handlers.clickhouse.rollups.views import KeptRollup

__all__ = [
    "Columns",
    "Extent",
    "KeptRollup",
    "Run",
    "Statement",
    "answer",
    "answer_kept",
    "create_table",
    "extent",
    "newest",
    "select",
]
