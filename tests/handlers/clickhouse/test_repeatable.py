"""Which statements of a migration may run twice, by their text."""

from __future__ import annotations

import pytest

from eventrec_handlers.clickhouse.repeatable import is_repeatable

TWICE = (
    "CREATE TABLE IF NOT EXISTS a (x Int8 COMMENT 'UPDATE') ENGINE = Null",
    "create table if not exists a engine = Null empty as select 1",
    "CREATE OR REPLACE VIEW v AS SELECT 1",
    "CREATE MATERIALIZED VIEW IF NOT EXISTS v TO a AS SELECT x FROM b",
    "/* INSERT */ DROP TABLE IF EXISTS `a b`",
    "ALTER TABLE a ADD COLUMN IF NOT EXISTS y Int8, DROP COLUMN IF EXISTS z",
    "ALTER TABLE a MODIFY TTL x + INTERVAL 1 DAY",
    "ALTER TABLE a MODIFY SETTING enable_block_number_column = 1",
    "ALTER TABLE a DROP PARTITION 202401",
    "ALTER TABLE a DELETE WHERE x = 1",
    "-- eventrec\nTRUNCATE TABLE a",
    "INSERT INTO eventrec_layouts (table_name, layout) VALUES ('a', '{}')",
)
ONCE = (
    "CREATE TABLE a (x Int8) ENGINE = Null",
    "CREATE TABLE IF NOT EXISTS a ENGINE = Memory AS SELECT 1",
    "CREATE MATERIALIZED VIEW IF NOT EXISTS v ENGINE = Memory POPULATE AS SELECT x FROM b",
    "DROP TABLE a",
    "DROP TABLE a SETTINGS x = 'IF EXISTS'",
    "ALTER TABLE a ADD COLUMN y Int8",
    "ALTER TABLE a ADD COLUMN IF NOT EXISTS y Int8, ADD COLUMN z Int8",
    "ALTER TABLE a UPDATE x = x + 1 WHERE 1",
    "ALTER TABLE a RENAME COLUMN x TO y",
    "ALTER TABLE a ATTACH PARTITION 1 FROM b",
    "INSERT INTO a VALUES (1)",
    "INSERT INTO a SELECT * FROM eventrec_layouts",
    "RENAME TABLE a TO b",
    "EXCHANGE TABLES a AND b",
    "SYSTEM RESTART REPLICA a",
    "-- nothing",
)


@pytest.mark.parametrize(("sql", "may"), [*((sql, True) for sql in TWICE), *((sql, False) for sql in ONCE)])
def test_statement_may_run_twice(sql: str, *, may: bool) -> None:
    assert is_repeatable(sql) is may
