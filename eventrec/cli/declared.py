"""What the catalogue of an application declares, for the commands: imported from its modules."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, TypeAlias

from cyclopts import Parameter

from eventrec.cli.exit_codes import CommandError, ExitCode
from eventrec.cli.streams import printing_to_stderr
from eventrec.runs.layouts import kept_layouts

if TYPE_CHECKING:
    from collections.abc import Collection
    from pathlib import Path

    from eventrec.analytics.catalogue import Catalogue
    from eventrec.records.layout import Layout

CatalogueName: TypeAlias = Annotated[str | None, Parameter(name="--catalogue", negative="")]


def declared_layouts(catalogue: str | None) -> tuple[Layout, ...]:
    """The layouts of the catalogue that `catalogue`, the environment or the project names; none where none is named.

    Raises:
        CatalogueError: One is named, and cannot be loaded: records must not get another shape because of that.
    """
    from eventrec.analytics.loading import is_catalogue_named  # noqa: PLC0415 - most name none

    return load_declared(catalogue).layouts if is_catalogue_named(catalogue) else ()


def load_declared(catalogue: str | None) -> Catalogue:
    """The catalogue that `catalogue`, the environment or the project names. What its modules print goes to stderr.

    Raises:
        CatalogueError: See `load_catalogue`.
    """
    from eventrec.analytics.loading import load_catalogue  # noqa: PLC0415 - likewise

    with printing_to_stderr():
        return load_catalogue(catalogue)


def layouts_beside(directory: Path, declared: Collection[Layout]) -> dict[str, Layout]:
    """What the log directory knows of layouts, by table.

    Raises:
        CommandError: It cannot be read, or one of a table that is not `declared` cannot: records must not get another
            shape because of that.
    """
    try:
        found, unreadable = kept_layouts(directory)
    except PermissionError:
        return {}  # Another user's, as are the logs of which it tells.
    except OSError as exc:
        raise CommandError(f"{directory}: {exc.strerror}", ExitCode.FILE) from exc
    for table in sorted(unreadable.keys() - {layout.table for layout in declared}):
        what = f"the layout of table {table!r} in {directory} cannot be read: {unreadable[table]}"
        raise CommandError(f"{what}; a catalogue that declares it (--catalogue) counts more", ExitCode.FILE)
    return found
