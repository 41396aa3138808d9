"""What is public: two recorders with the same verbs, and no signature that names a type one cannot import."""

from __future__ import annotations

import ast
import importlib
import inspect
import pydoc
import tomllib
from collections.abc import Iterator
from pathlib import Path
from types import FunctionType, ModuleType

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
from eventrec import Backoff, EventRecorder, EventRecorderOptions, SyncRecorder

PUBLIC = (
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
FOR_OURSELVES = {"Batch.__init__", "EventRecorderOptions.resolve", "MemoryShard.__init__"}
"""Called by us alone: an application is given batches and shards, and gives options."""

NAMES = {name for module in PUBLIC for name in module.__all__}


def verbs(cls: type) -> dict[str, list[tuple[str, object, object, object]]]:
    """Public methods, those of the class too, with their parameters: name, kind, default, annotation."""
    methods = [(name, method) for name, method in inspect.getmembers(cls, inspect.isroutine) if name[0] != "_"]
    return {
        name: [(each.name, each.kind, each.default, each.annotation) for each in signature.parameters.values()]
        for name, signature in ((name, inspect.signature(method)) for name, method in methods)
    }


def functions() -> Iterator[tuple[str, FunctionType]]:
    """Every public function, and every public method and property of a public class of ours."""
    for module in PUBLIC:
        for name in module.__all__:
            given = getattr(module, name)
            if isinstance(given, FunctionType):
                yield name, given
            elif isinstance(given, type) and given.__module__.startswith("eventrec"):
                for member, value in inspect.getmembers_static(given):
                    plain = getattr(value, "fget", None) or getattr(value, "__func__", None) or value
                    ours = isinstance(plain, FunctionType) and plain.__module__.startswith("eventrec")
                    is_public = not member.startswith("_") or member == "__init__"
                    if ours and is_public and f"{name}.{member}" not in FOR_OURSELVES:
                        yield f"{name}.{member}", plain


def names_of_ours(module: ModuleType) -> dict[str, str]:
    """What the source of `module` defines at its top or imports from us, also for checkers alone: name to module."""
    found: dict[str, str] = {}
    for node in ast.walk(ast.parse(inspect.getsource(module))):
        match node:
            case ast.ImportFrom(module=str() as origin) if origin.startswith("eventrec"):
                found |= {alias.asname or alias.name: origin for alias in node.names}
            case ast.ClassDef(name=name):
                found[name] = module.__name__
            case ast.AnnAssign(target=ast.Name(id=name), annotation=ast.Name(id="TypeAlias")):
                found[name] = module.__name__
    return found


def test_both_recorders_have_the_same_verbs_with_the_same_arguments() -> None:
    blocking, awaited = verbs(SyncRecorder), verbs(EventRecorder)

    del awaited["sync"]
    assert "from_env" in blocking
    assert blocking == awaited


def test_every_type_in_a_public_signature_is_public() -> None:
    hidden = set()
    for name, function in functions():
        ours = names_of_ours(importlib.import_module(function.__module__))
        annotations = inspect.get_annotations(function).values()
        for annotation in annotations:
            words = {node.id for node in ast.walk(ast.parse(str(annotation))) if isinstance(node, ast.Name)}
            hidden |= {f"{name}: {word}" for word in words & ours.keys() if word not in NAMES}

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
