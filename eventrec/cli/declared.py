"""The layouts that the catalogue of an application declares, for the commands that deliver its records."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, TypeAlias

from cyclopts import Parameter

if TYPE_CHECKING:
    from eventrec.records.layout import Layout

CatalogueName: TypeAlias = Annotated[str | None, Parameter(name="--catalogue", negative="")]


def declared_layouts(catalogue: str | None) -> tuple[Layout, ...]:
    """The layouts of the catalogue that `catalogue`, the environment or the project names; none where none is named.

    Raises:
        CatalogueError: One is named, and cannot be loaded: records must not get another shape because of that.
    """
    from eventrec.analytics.loading import is_catalogue_named, load_catalogue  # noqa: PLC0415 - most name none

    return load_catalogue(catalogue).layouts if is_catalogue_named(catalogue) else ()
