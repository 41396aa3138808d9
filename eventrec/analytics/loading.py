"""Finds the catalogue of an application for the command line: `module:object`, wherever that is said."""

from __future__ import annotations

import os
import sys
import tomllib
from importlib import import_module
from pathlib import Path
from typing import Final

from eventrec.analytics.catalogue import Catalogue
from eventrec.errors import CatalogueError
from eventrec.option_sources import CATALOGUE

VARIABLE: Final = CATALOGUE
PROJECT: Final = "pyproject.toml"


def load_catalogue(spec: str | None = None) -> Catalogue:
    """The catalogue that `spec` names, "module:object", in the current directory or where Python looks.

    Without it, the one that the variable EVENTREC_CATALOGUE names; else `catalogue` in `[tool.eventrec]` of the
    `pyproject.toml` of the current directory. The current directory stays on `sys.path`: the application may import
    more of itself later.

    Raises:
        CatalogueError: None is named, it cannot be imported, or it is not a catalogue. One line, with the cause.
    """
    found_name = _said(spec)
    if found_name is None:
        raise CatalogueError(
            f"no catalogue is named: give module:object, or set {VARIABLE}, "
            f"or catalogue in [tool.eventrec] of {PROJECT}"
        )
    said, where = found_name
    module_name, colon, path = said.partition(":")
    if not (module_name and colon and path) or module_name.startswith("."):
        example = f"{module_name.lstrip('.') or 'shop'}:catalogue"
        raise CatalogueError(f"{where}: {said!r} is not of the form module:object, for example {example}")
    found = _imported(module_name, where)
    for name in path.split("."):
        try:
            found = getattr(found, name)
        except AttributeError:
            raise CatalogueError(f"{where}: {module_name} has no {path!r}{_instead(module_name)}") from None
        except Exception as exc:
            what = f"{type(exc).__name__}: {_one_line(exc)}"
            raise CatalogueError(f"{where}: {path!r} of {module_name} cannot be read: {what}") from exc
    if not isinstance(found, Catalogue):
        raise CatalogueError(f"{where}: {said} is not a Catalogue: its class is {type(found).__name__}")
    return found


def _instead(module_name: str) -> str:
    """The catalogues that a module has after all."""
    module = sys.modules.get(module_name)
    names = sorted(name for name, value in list(vars(module).items()) if isinstance(value, Catalogue)) if module else []
    return f"; it has {', '.join(f'{module_name}:{name}' for name in names)}" if names else ""


def is_catalogue_named(spec: str | None = None) -> bool:
    """Whether `load_catalogue` would look for one. Raises as that does where pyproject.toml cannot be read.

    But one that this user may not read names none: it may be any directory that a command is called in.
    """
    try:
        return _said(spec) is not None
    except CatalogueError as exc:
        if isinstance(exc.__cause__, PermissionError):
            return False
        raise


def _said(spec: str | None) -> tuple[str, str] | None:
    """What names the catalogue, and where that stands; None: nothing does."""
    if spec is not None:
        return spec, "catalogue"
    variable = os.environ.get(VARIABLE)
    if variable:
        return variable, VARIABLE
    said = project_setting("catalogue")
    if said is None:
        return None
    if not isinstance(said, str):
        raise CatalogueError(f"{PROJECT}: catalogue in [tool.eventrec] is a text, module:object")
    return said, PROJECT


def project_setting(name: str) -> object:
    """What `name` is in `[tool.eventrec]` of the `pyproject.toml` of the current directory; None: nothing.

    Raises:
        CatalogueError: The file cannot be read.
    """
    try:
        said: object = (
            tomllib.loads(Path(PROJECT).read_text(encoding="utf-8")).get("tool", {}).get("eventrec", {}).get(name)
        )
    except FileNotFoundError:
        return None
    except (OSError, ValueError, AttributeError, RecursionError) as exc:
        raise CatalogueError(f"{PROJECT} cannot be read: {_one_line(exc)}") from exc
    return said


def _imported(name: str, where: str) -> object:
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        return import_module(name)
    except ModuleNotFoundError as exc:
        if exc.name is not None and (name == exc.name or name.startswith(f"{exc.name}.")):
            raise CatalogueError(f"{where}: there is no module {name!r} in {here}, nor where Python looks") from None
        raise CatalogueError(f"{where}: the import of {name!r} failed: {_one_line(exc)}") from exc
    except CatalogueError as exc:
        raise CatalogueError(f"{where}: {name}: {_one_line(exc)}") from exc
    except (Exception, SystemExit) as exc:
        raise CatalogueError(f"{where}: the import of {name!r} failed: {type(exc).__name__}: {_one_line(exc)}") from exc


def _one_line(exc: BaseException) -> str:
    return " ".join(str(exc).split())
