"""What is public: two recorders with the same verbs, and no signature that names a type one cannot import."""

from __future__ import annotations

import ast
import importlib
import inspect
import pydoc
import tomllib
from collections.abc import Iterator
from functools import cache, cached_property
from pathlib import Path
from types import FunctionType, ModuleType
from typing import NamedTuple

import pytest

import eventrec
import eventrec.analytics
import eventrec.bus
import eventrec.relay
import eventrec.server
import eventrec.sessions
import eventrec.testing
import eventrec.testing.bus_conformance
import eventrec.testing.conformance
import eventrec.usage
import eventrec_handlers.clickhouse
import eventrec_handlers.greptimedb
import eventrec_handlers.http
import eventrec_handlers.jsonl
import eventrec_handlers.memory
import eventrec_handlers.otlp
import eventrec_handlers.postgres
import eventrec_handlers.posthog
import eventrec_handlers.redis
import eventrec_handlers.sqlite
import eventrec_handlers.timescale
from eventrec import Backoff, EventRecorder, EventRecorderOptions, SyncRecorder

CORE = (
    eventrec,
    eventrec.analytics,
    eventrec.bus,
    eventrec.relay,
    eventrec.server,
    eventrec.sessions,
    eventrec.testing,
    eventrec.testing.bus_conformance,
    eventrec.testing.conformance,
    eventrec.usage,
)
HANDLERS = (
    eventrec_handlers.clickhouse,
    eventrec_handlers.greptimedb,
    eventrec_handlers.http,
    eventrec_handlers.jsonl,
    eventrec_handlers.memory,
    eventrec_handlers.otlp,
    eventrec_handlers.postgres,
    eventrec_handlers.posthog,
    eventrec_handlers.redis,
    eventrec_handlers.sqlite,
    eventrec_handlers.timescale,
)
FOR_OURSELVES = {
    "Batch.__init__",
    "ClickHouseReader.__init__",
    "ClickHouseRollups.__init__",
    "EventRecorderOptions.resolve",
    "MemoryShard.__init__",
    "PostgresReader.__init__",
    "PostgresRollups.__init__",
    "TimescaleRollups.__init__",
}
"""Called by us alone: an application is given batches, shards, readers and rollups, and gives options."""


def verbs(cls: type) -> dict[str, list[tuple[str, object, object, object]]]:
    """Public methods, those of the class too, with their parameters: name, kind, default, annotation."""
    methods = [(name, method) for name, method in inspect.getmembers(cls, inspect.isroutine) if name[0] != "_"]
    return {
        name: [(each.name, each.kind, each.default, each.annotation) for each in signature.parameters.values()]
        for name, signature in ((name, inspect.signature(method)) for name, method in methods)
    }


class Signature(NamedTuple):
    """One annotation of a public function, or of an attribute of a public class."""

    public: ModuleType
    """Where a user finds it."""
    name: str
    home: str
    """The module in whose words it is written."""
    annotation: str


def signatures() -> Iterator[Signature]:
    """Of every public function; of every public class of ours, its methods, properties and attributes."""
    for module in (*CORE, *HANDLERS):
        for name in module.__all__:
            given = getattr(module, name)
            if isinstance(given, FunctionType):
                for home, annotation in annotations_of(given):
                    yield Signature(module, name, home, annotation)
            elif isinstance(given, type):
                for member, home, annotation in (*methods(given), *attributes(given)):
                    if f"{name}.{member}" not in FOR_OURSELVES:
                        yield Signature(module, f"{name}.{member}", home, annotation)


def methods(cls: type) -> Iterator[tuple[str, str, str]]:
    """What the public methods and properties of `cls` annotate, those of Python's own protocols too."""
    for name, value in inspect.getmembers_static(cls):
        match value:
            case property():
                function: object = value.fget
            case cached_property():
                function = value.func
            case staticmethod() | classmethod():
                function = value.__func__
            case _:
                function = value
        if is_public(name) and isinstance(function, FunctionType) and function.__module__.startswith("eventrec"):
            for home, annotation in annotations_of(function):
                yield name, home, annotation


def annotations_of(function: FunctionType) -> Iterator[tuple[str, str]]:
    """Those of its public parameters and of what it returns, each with the module that says it."""
    for parameter, annotation in inspect.get_annotations(function).items():
        if is_public(parameter):
            yield function.__module__, str(annotation)


def attributes(cls: type) -> Iterator[tuple[str, str, str]]:
    """What `cls`, and every class of ours that it derives from, annotates in its body, and at `self`."""
    for each in cls.__mro__:
        if not each.__module__.startswith("eventrec"):
            continue
        (body,) = [
            node for node in tree(each.__module__).body if isinstance(node, ast.ClassDef) and node.name == each.__name__
        ]
        for node in ast.walk(body):
            match node:
                case ast.AnnAssign(target=ast.Attribute(value=ast.Name(id="self"), attr=name)) if is_public(name):
                    yield name, each.__module__, ast.unparse(node.annotation)
                case ast.AnnAssign(target=ast.Name(id=name)) if node in body.body and is_public(name):
                    yield name, each.__module__, ast.unparse(node.annotation)


def is_public(name: str) -> bool:
    """A name of Python's own protocols is, our own `__eventrec_…__` is not."""
    return not name.startswith("_") or (name.endswith("__") and not name.startswith("__eventrec_"))


@cache
def tree(module: str) -> ast.Module:
    return ast.parse(inspect.getsource(importlib.import_module(module)))


@cache
def names_of_ours(module: str) -> dict[str, tuple[str, str]]:
    """The types that the source of `module` defines, and what it imports from us, also for checkers alone.

    Each by its name there: the module that it comes from, and its name in that.
    """
    found: dict[str, tuple[str, str]] = {}
    for node in ast.walk(tree(module)):
        match node:
            case ast.ImportFrom(module=str() as origin) if origin.startswith("eventrec"):
                found |= {alias.asname or alias.name: (origin, alias.name) for alias in node.names}
            case ast.ClassDef(name=name) | ast.AnnAssign(target=ast.Name(id=name), annotation=ast.Name(id="TypeAlias")):
                found[name] = (module, name)
    return found


def definition(module: str, name: str) -> tuple[str, str]:
    """Which module defines what `module` calls `name`, and by which name."""
    found = names_of_ours(module).get(name, (module, name))
    return found if found == (module, name) else definition(*found)


def exported(module: ModuleType) -> set[tuple[str, str]]:
    """The definitions of all that `module` exports."""
    return {definition(module.__name__, name) for name in module.__all__}


def test_both_recorders_have_the_same_verbs_with_the_same_arguments() -> None:
    blocking, awaited = verbs(SyncRecorder), verbs(EventRecorder)

    del awaited["sync"]
    assert "from_env" in blocking
    assert blocking == awaited


def test_every_type_in_a_public_signature_is_public() -> None:
    core = {name for each in CORE for name in exported(each)}
    of_handlers = {each.__name__: exported(each) for each in HANDLERS}
    hidden = set()
    for public, name, home, annotation in signatures():
        # A handler exports what it says itself; what another one says whose class it derives from, that one.
        saying = ".".join(home.split(".")[:2])
        known = core | of_handlers.get(public.__name__, set()) | of_handlers.get(saying, set())
        words = {node.id for node in ast.walk(ast.parse(annotation)) if isinstance(node, ast.Name)}
        ours = {definition(home, word) for word in words & names_of_ours(home).keys()}
        hidden |= {f"{public.__name__}.{name}: {'.'.join(one)}" for one in ours - known}

    assert sorted(hidden) == []


@pytest.mark.parametrize("model", [Backoff, EventRecorderOptions])
def test_help_shows_the_default_and_the_meaning_of_every_option(model: type[Backoff | EventRecorderOptions]) -> None:
    shown = " ".join(pydoc.plain(pydoc.render_doc(model)).replace("|", " ").split())

    for name, field in model.model_fields.items():
        assert field.description, f"{name} has no docstring"
        assert f"{name} (default {field.default!r}): {' '.join(field.description.split())}" in shown


def test_what_the_posthog_handler_says_that_it_is_has_the_version_of_this_distribution() -> None:
    from eventrec_handlers.posthog.requests import SDK  # noqa: PLC0415 - the rest is about the core

    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text("utf-8"))["project"]

    assert f"eventrec/{project['version']}" == SDK
