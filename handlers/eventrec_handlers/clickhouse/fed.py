"""The tables that materialized views write to, and those that views on these do."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from eventrec_handlers.clickhouse.sql import literal
from eventrec_handlers.clickhouse.state import TableState

if TYPE_CHECKING:
    from collections.abc import Sequence

    from eventrec_handlers.clickhouse.node import Node

_NAME: Final = r"(?:`(?:[^`\\]|\\.)+`|\w+)"
_TARGET: Final = re.compile(rf"CREATE MATERIALIZED VIEW (?:{_NAME}\.)?{_NAME}[^(`]*? TO (?:({_NAME})\.)?({_NAME})")


async def fed_tables(node: Node, views: Sequence[tuple[str, str]]) -> Sequence[tuple[str, tuple[str, str], TableState]]:
    """The tables that `views` write to, and those that views on these do: view, database and name, what it is."""
    found = {}
    left, seen = list(views), set(views)
    while left:
        database, view = left.pop()
        for query, uuid in await node.query(
            "SELECT create_table_query, toString(uuid) FROM system.tables"  # noqa: S608 - literals
            f" WHERE database = {literal(database)} AND name = {literal(view)} AND engine = 'MaterializedView'"
        ):
            target = _TARGET.match(query)
            names = [f".inner_id.{uuid}", f".inner.{view}"] if target is None else [_plain(target[2])]
            home = database if target is None or target[1] is None else _plain(target[1])
            listed = ", ".join(map(literal, names))
            for name, engine, made_as, databases, tables in await node.query(
                "SELECT name, engine, engine_full, dependencies_database, dependencies_table FROM system.tables"  # noqa: S608 - literals
                f" WHERE database = {literal(home)} AND name IN ({listed})"
            ):
                fed = tuple(zip(databases, tables, strict=True))
                found[home, name] = (view, (home, name), TableState(engine, made_as, {}, frozenset(), fed))
                left += [each for each in fed if each not in seen]
                seen.update(fed)
    return tuple(found.values())


def _plain(name: str) -> str:
    return re.sub(r"\\(.)", r"\1", name[1:-1]) if name.startswith("`") else name
