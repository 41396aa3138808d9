"""ClickHouse: the SQL of rollups. Its handler comes later."""
