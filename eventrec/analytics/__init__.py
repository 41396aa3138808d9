"""From events to answers: what an application declares about its events, and what follows from it."""

from eventrec.analytics.answer import Answer, AnswerColumn, AnswerRow, Question, Role
from eventrec.analytics.brute_force import brute_force, interpolated
from eventrec.analytics.buckets import Bucket, BucketDeclaration, Unit, bucket, zone_of
from eventrec.analytics.catalogue import Catalogue
from eventrec.analytics.catalogued_event import CataloguedEvent
from eventrec.analytics.conditions import And, Comparison, Condition, Constant, IsNull, Membership, Not, Operator, Or
from eventrec.analytics.expressions import (
    Expression,
    Reference,
    Resolver,
    column,
    context,
    event_id,
    event_timestamp,
    event_type,
    f,
    is_type,
    payload,
)
from eventrec.analytics.fields import MAX_FLOAT, UUID_FORM, Field, Kind, Source, Value
from eventrec.analytics.loading import load_catalogue
from eventrec.analytics.measures import (
    ADDITIVE,
    Function,
    Measure,
    MeasureDeclaration,
    avg,
    count,
    distinct,
    first,
    last,
    max_of,
    min_of,
    percentile,
    sum_of,
)
from eventrec.analytics.migration import MAX_VERSION, Migration, Phase, Statement
from eventrec.analytics.migration_files import MigrationFileError, read_migrations, write_migrations
from eventrec.analytics.migration_layouts import LayoutChanges, layout_changes
from eventrec.analytics.migration_plan import migrations_of
from eventrec.analytics.migration_runner import MigrationRunner, MigrationStatus, Pending, Tell
from eventrec.analytics.migration_tables import added_columns, tables_of_events
from eventrec.analytics.migration_target import (
    Declaration,
    Declarations,
    EarlierMigrations,
    MigrationRecord,
    MigrationTarget,
    Steps,
)
from eventrec.analytics.migration_text import canonical_json
from eventrec.analytics.rollup import GroupDeclaration, Refresh, Rollup, group, plan_of
from eventrec.analytics.rollup_plan import Group, RefreshPlan, RollupPlan, fields_of
from eventrec.analytics.store import Progress, Refreshed, RollupStore
from eventrec.analytics.versions import Upgrade
from eventrec.errors import MigrationError, RollbackNotSupported, RollbackNotSupportedError

__all__ = [
    "ADDITIVE",
    "MAX_FLOAT",
    "MAX_VERSION",
    "UUID_FORM",
    "And",
    "Answer",
    "AnswerColumn",
    "AnswerRow",
    "Bucket",
    "BucketDeclaration",
    "Catalogue",
    "CataloguedEvent",
    "Comparison",
    "Condition",
    "Constant",
    "Declaration",
    "Declarations",
    "EarlierMigrations",
    "Expression",
    "Field",
    "Function",
    "Group",
    "GroupDeclaration",
    "IsNull",
    "Kind",
    "LayoutChanges",
    "Measure",
    "MeasureDeclaration",
    "Membership",
    "Migration",
    "MigrationError",
    "MigrationFileError",
    "MigrationRecord",
    "MigrationRunner",
    "MigrationStatus",
    "MigrationTarget",
    "Not",
    "Operator",
    "Or",
    "Pending",
    "Phase",
    "Progress",
    "Question",
    "Reference",
    "Refresh",
    "RefreshPlan",
    "Refreshed",
    "Resolver",
    "Role",
    "RollbackNotSupported",
    "RollbackNotSupportedError",
    "Rollup",
    "RollupPlan",
    "RollupStore",
    "Source",
    "Statement",
    "Steps",
    "Tell",
    "Unit",
    "Upgrade",
    "Value",
    "added_columns",
    "avg",
    "brute_force",
    "bucket",
    "canonical_json",
    "column",
    "context",
    "count",
    "distinct",
    "event_id",
    "event_timestamp",
    "event_type",
    "f",
    "fields_of",
    "first",
    "group",
    "interpolated",
    "is_type",
    "last",
    "layout_changes",
    "load_catalogue",
    "max_of",
    "migrations_of",
    "min_of",
    "payload",
    "percentile",
    "plan_of",
    "read_migrations",
    "sum_of",
    "tables_of_events",
    "write_migrations",
    "zone_of",
]
