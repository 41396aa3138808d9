"""What a layout that has changed asks of its table, and what no table can become."""

from typing import Any

import pytest

from eventrec import EVENT, GENERATED, TIMESTAMP, TYPE, Layout, LayoutColumn, LayoutIndex, from_payload
from eventrec.analytics import LayoutChanges, MigrationError, layout_changes

SERVICE = LayoutColumn("service", from_payload("service"), "varchar", length=50, nullable=False, default="unknown")


def layout(*columns: LayoutColumn, **options: Any) -> Layout:
    base = [
        LayoutColumn("id", GENERATED, "bigint"),
        LayoutColumn("at", TIMESTAMP, "timestamptz"),
        LayoutColumn("kind", TYPE, "varchar", length=50),
        LayoutColumn("data", EVENT, "jsonb"),
    ]
    return Layout("t", [*base, *columns], **{"primary_key": ("at", "id"), **options})


def service(**changed: Any) -> LayoutColumn:
    given = {"type": "varchar", "length": 50, "nullable": False, "default": "unknown", **changed}
    return LayoutColumn("service", from_payload("service"), **given)


def test_what_is_the_same_needs_nothing() -> None:
    assert layout_changes(layout(SERVICE), layout(SERVICE)) == LayoutChanges()


@pytest.mark.parametrize(
    ("after", "expected"),
    [
        (layout(), {}),
        (layout(service(length=60)), {"widened": (service(length=60),)}),
        (layout(service(default="x")), {"defaults": (service(default="x"),)}),
        (layout(service(nullable=True)), {"relaxed": ("service",)}),
        (layout(service(default=None)), {"defaults": (service(default=None),)}),
        (
            layout(SERVICE, LayoutColumn("more", from_payload("more"), "text")),
            {"added": (LayoutColumn("more", from_payload("more"), "text"),)},
        ),
        (layout(SERVICE, indexes=(LayoutIndex("i", ("kind",)),)), {"indexes": (LayoutIndex("i", ("kind",)),)}),
    ],
)
def test_change(after: Layout, expected: dict[str, Any]) -> None:
    assert layout_changes(layout(SERVICE), after) == LayoutChanges(**expected)


def test_column_that_nobody_writes_any_more_needs_no_value() -> None:
    before = layout(LayoutColumn("user", from_payload("user"), "text", nullable=False))

    assert layout_changes(before, layout()) == LayoutChanges(relaxed=("user",))


@pytest.mark.parametrize(
    ("after", "said"),
    [
        (layout(SERVICE, primary_key=()), "its primary key has changed"),
        (layout(SERVICE, partition="day"), "its partition has changed"),
        (layout(service(length=40)), "'service' was service varchar"),
        (layout(service(type="text", length=None)), "'service' was service varchar"),
        (layout(SERVICE, LayoutColumn("more", from_payload("more"), "text", nullable=False)), "needs a default"),
    ],
)
def test_change_that_cannot_be_made_is_refused(after: Layout, said: str) -> None:
    with pytest.raises(MigrationError, match=said):
        layout_changes(layout(SERVICE), after)


def test_rest_that_cannot_be_made_is_refused() -> None:
    with pytest.raises(MigrationError, match="it stays nullable"):
        layout_changes(layout(service(nullable=True)), layout(SERVICE))
    with pytest.raises(MigrationError, match="index 'i' is declared otherwise"):
        layout_changes(
            layout(indexes=(LayoutIndex("i", ("kind",)),)), layout(indexes=(LayoutIndex("i", ("kind", "at")),))
        )
