"""What handlers for SQL databases share: names, what a table lacks, and which records cannot be stored."""

from eventrec_handlers._sql.layouts import plan_layout
from eventrec_handlers._sql.names import fold_ascii, quoted
from eventrec_handlers._sql.plan import SchemaMode, TablePlan, Wanted, plan_table
from eventrec_handlers._sql.values import Convert, Refusals, converted, json_text, text

__all__ = [
    "Convert",
    "Refusals",
    "SchemaMode",
    "TablePlan",
    "Wanted",
    "converted",
    "fold_ascii",
    "json_text",
    "plan_layout",
    "plan_table",
    "quoted",
    "text",
]
