"""A layout is declared once, on the event class, or told to the recorder; handlers know it before they open."""

from __future__ import annotations

import gc
import sqlite3
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any, ClassVar

import anyio.to_thread
import pytest

from eventrec import (
    EVENT,
    TIMESTAMP,
    TYPE,
    Batch,
    EventHandler,
    EventModel,
    EventRecorder,
    EventRecorderOptions,
    EventStruct,
    Layout,
    LayoutColumn,
    LayoutError,
    ReceivedEvent,
    from_payload,
)
from eventrec.events.layouts import class_layouts
from eventrec.runs.layouts import kept_layouts

VISITS = Layout(
    "test_layouts_visits",
    [
        LayoutColumn("at", TIMESTAMP, "timestamptz"),
        LayoutColumn("kind", TYPE, "varchar", length=8),
        LayoutColumn("shop", from_payload("shop"), "text", default="none"),
        LayoutColumn("data", EVENT, "jsonb"),
    ],
)


class Entered(EventModel, layout=VISITS):
    shop: str


class Left(EventStruct):
    layout: ClassVar[Layout] = VISITS
    shop: str


class Telling(EventHandler):
    """Remembers what it was told."""

    def __init__(self) -> None:
        self.told: dict[str, Layout] = {}
        self.was_told_before_open = False

    def use_layouts(self, layouts: Mapping[str, Layout]) -> None:
        self.told |= layouts

    async def open(self) -> None:
        self.was_told_before_open = VISITS.table in self.told

    async def handle(self, batch: Batch) -> None:
        pass


def other_layout(table: str) -> Layout:
    return Layout(table, [LayoutColumn("kind", TYPE, "text")])


def test_class_with_a_layout_is_for_its_table() -> None:
    assert Entered.__eventrec_table__ == VISITS.table


def test_class_of_another_table_does_not_inherit_the_layout() -> None:
    class Elsewhere(Entered, table="elsewhere"):
        pass

    assert Elsewhere.__eventrec_layout__ is None


@pytest.mark.parametrize(
    ("keywords", "said"),
    [
        ({"layout": VISITS, "type": "far_too_long"}, "holds 8 characters, and the type 'far_too_long' has 12"),
        ({"layout": VISITS, "table": "other"}, "its table is 'other', and its layout one of table"),
        ({"layout": "visits"}, "a layout is a Layout"),
    ],
)
def test_layout_that_does_not_fit_its_class_is_an_error_where_the_class_is_defined(
    keywords: dict[str, Any], said: str
) -> None:
    with pytest.raises(TypeError, match=said):
        type("Wrong", (EventModel,), {"__module__": __name__}, **keywords)


async def test_struct_whose_type_is_too_long_for_its_layout_is_refused() -> None:
    class FarTooLongName(EventStruct):
        layout: ClassVar[Layout] = VISITS

    async with EventRecorder(environment={}) as recorder:
        assert not recorder.record(FarTooLongName())


async def test_handler_is_told_before_it_opens_what_classes_declare() -> None:
    handler = Telling()

    async with EventRecorder(handler, environment={}) as recorder:
        recorder.record(Entered(shop="a"))
        await recorder.flush(timeout=30)

    assert handler.told[VISITS.table] == VISITS
    assert handler.was_told_before_open


async def test_layout_that_the_recorder_is_given_counts_before_that_of_a_class() -> None:
    handler, own = Telling(), other_layout(VISITS.table)

    async with EventRecorder(handler, layouts=[own, other_layout("more")], environment={}):
        pass

    assert handler.told == {VISITS.table: own, "more": other_layout("more")}


async def test_handler_that_may_be_stopped_is_told_too() -> None:
    handler = Telling()
    options = EventRecorderOptions(on_failure="stop")

    async with EventRecorder(handler, layouts=[Entered], options=options, environment={}):
        pass

    assert handler.told == {VISITS.table: VISITS}


@pytest.mark.parametrize("layouts", [[int], [EventModel], ["visits"], [other_layout("a"), Layout("a", VISITS.columns)]])
def test_what_is_not_one_layout_for_each_table_is_refused(layouts: Any) -> None:
    with pytest.raises(LayoutError):
        EventRecorder(layouts=layouts, environment={})


async def test_two_classes_that_disagree_about_a_table_are_an_error_when_the_recorder_opens() -> None:
    class One(EventModel, layout=other_layout("test_layouts_disputed")):
        pass

    class Two(EventModel, layout=Layout("test_layouts_disputed", VISITS.columns)):
        pass

    try:
        with pytest.raises(LayoutError, match="two layouts for table 'test_layouts_disputed'"):
            await EventRecorder(environment={}).open()
        async with EventRecorder(layouts=[One], environment={}):
            pass
    finally:
        One.__eventrec_layout__ = Two.__eventrec_layout__ = None
        del One, Two
        gc.collect()


async def test_a_module_that_is_loaded_again_may_have_changed_a_layout() -> None:
    module: dict[str, Any] = {"__name__": "test_layouts_reloaded", "EventModel": EventModel}
    handler = Telling()
    old, new = other_layout("test_layouts_reloaded"), Layout("test_layouts_reloaded", VISITS.columns)
    before: list[Any] = []
    for layout in (old, new):
        exec("class Visit(EventModel, layout=layout): pass", module | {"layout": layout}, module)  # noqa: S102
        before.append(module["Visit"])  # what another module still has

    try:
        async with EventRecorder(handler, environment={}):
            assert handler.told["test_layouts_reloaded"] == new
    finally:
        for cls in before:
            cls.__eventrec_layout__ = None


def test_program_without_a_loop_writes_by_the_layout_of_its_class(tmp_path: Path) -> None:
    path = tmp_path / "events.db"

    with EventRecorder(f"sqlite:///{path}", environment={}).sync() as recorder:
        recorder.record(Entered(shop="a"))
        recorder.record(Left(shop="b"))
        assert recorder.flush(timeout=30)

    with closing(sqlite3.connect(path)) as connection:
        found = connection.execute(f"SELECT kind, shop, data FROM {VISITS.table} ORDER BY rowid").fetchall()
    assert found == [
        ("entered", "a", '{"type":"entered","shop":"a"}'),
        ("left", "b", '{"type":"left","shop":"b"}'),
    ]


async def test_log_keeps_the_layout_of_a_class_once_it_is_recorded(tmp_path: Path) -> None:
    directory = tmp_path / "log"
    async with EventRecorder(log=directory, environment={}) as recorder:
        await recorder.record_durable(ReceivedEvent("a", b"{}"), until="written")
        assert not (directory / "layouts").exists()

        await recorder.record_durable(Entered(shop="a"), until="written")

        assert await anyio.to_thread.run_sync(kept_layouts, directory) == ({VISITS.table: VISITS}, {})


def test_class_that_was_refused_has_no_layout_while_it_is_not_collected() -> None:
    wrong: Any = "not a layout"

    with pytest.raises(TypeError, match="a layout is a Layout") as refused:

        class Wrong(EventModel, layout=wrong):
            pass

    assert refused.value.__traceback__ is not None  # which holds the class
    assert all(isinstance(layout, Layout) for layout in class_layouts())
