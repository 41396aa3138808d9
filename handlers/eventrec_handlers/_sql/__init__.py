"""What handlers for SQL databases share: names, what a table lacks, and which records cannot be stored."""

from eventrec_handlers._sql.kept_layouts import LAYOUTS, KeptLayouts
from eventrec_handlers._sql.layouts import plan_layout, refuse_laid_out
from eventrec_handlers._sql.names import fitting, fold_ascii, quoted
from eventrec_handlers._sql.own_tables import needed_for_layouts, version_of
from eventrec_handlers._sql.plan import SchemaMode, TablePlan, Wanted, plan_table
from eventrec_handlers._sql.seen import SEEN, SEEN_FOR, ids_to_keep, new_rows, remembered_ids
from eventrec_handlers._sql.values import Convert, Refusals, converted, json_text, text

__all__ = [
    "LAYOUTS",
    "SEEN",
    "SEEN_FOR",
    "Convert",
    "KeptLayouts",
    "Refusals",
    "SchemaMode",
    "TablePlan",
    "Wanted",
    "converted",
    "fitting",
    "fold_ascii",
    "ids_to_keep",
    "json_text",
    "needed_for_layouts",
    "new_rows",
    "plan_layout",
    "plan_table",
    "quoted",
    "refuse_laid_out",
    "remembered_ids",
    "text",
    "version_of",
]
