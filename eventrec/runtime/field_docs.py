"""What stands under a field in the source of a model, as its description.

pydantic does so too (`use_attribute_docstrings`), class by class: that takes five times as long.
"""

from __future__ import annotations

import ast
import linecache
import sys
from functools import cache
from inspect import cleandoc
from typing import TYPE_CHECKING, TypeVar

from pydantic import BaseModel

if TYPE_CHECKING:
    from collections.abc import Mapping

M = TypeVar("M", bound=BaseModel)


def described(model: type[M]) -> type[M]:
    """`model` with its fields described, as far as its source is there. It must not be built yet (`defer_build`)."""
    docs = _docs_in(model.__module__).get(model.__name__, {})
    for name, field in model.model_fields.items():
        field.description = docs.get(name, field.description)
    return model


@cache
def _docs_in(module: str) -> Mapping[str, Mapping[str, str]]:
    """By class and field."""
    loaded = sys.modules[module]
    source = "".join(linecache.getlines(loaded.__file__ or "", vars(loaded)))
    classes = [node for node in ast.parse(source).body if isinstance(node, ast.ClassDef)]
    return {each.name: _docs_of(each) for each in classes}


def _docs_of(defined: ast.ClassDef) -> Mapping[str, str]:
    found = {}
    for field, below in zip(defined.body, defined.body[1:], strict=False):
        match field, below:
            case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(text))):
                found[name] = cleandoc(text)
    return found
