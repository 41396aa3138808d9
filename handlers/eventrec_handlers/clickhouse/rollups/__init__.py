"""Rollups as ClickHouse's SQL: a question as one statement over the events, or a view that keeps states up to date."""

from eventrec_handlers.clickhouse.rollups.answering import Run, answer
from eventrec_handlers.clickhouse.rollups.fields import Columns, create_table
from eventrec_handlers.clickhouse.rollups.select import Extent, Statement, extent, newest, select
from eventrec_handlers.clickhouse.rollups.views import fill, views

__all__ = [
    "Columns",
    "Extent",
    "Run",
    "Statement",
    "answer",
    "create_table",
    "extent",
    "fill",
    "newest",
    "select",
    "views",
]
