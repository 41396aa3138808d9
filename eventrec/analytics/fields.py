"""Where a rollup finds a value in an event, and of what kind it is.

kind        in JSON                              in a column                 a value is
text        a text                               text                        str, compared byte by byte
integer     a whole number: 5, and 5.0           an integer                  int, of at most 64 bits
float       a number                             an integer or a float       float, of at most 1e300 in size
boolean     true or false                        a boolean                   bool
uuid        a text of 36 characters, any case    a UUID, or its text         str, in lower case
timestamp   -                                    -                           int: the event's own timestamp alone
json        anything                             anything                    only whether it is there can be asked

A value of another kind than the declared one counts as absent, like null: "5" is not 5, and 1 is not true. So a field
whose type has changed is never an error, and never converted in silence.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias, get_args

from eventrec.errors import CatalogueError

Kind: TypeAlias = Literal["text", "integer", "float", "boolean", "timestamp", "uuid", "json"]
Source: TypeAlias = Literal["column", "payload", "context", "type", "timestamp", "id"]
Value: TypeAlias = str | int | float | bool | None

KINDS: Final[tuple[Kind, ...]] = get_args(Kind)

MAX_INTEGER: Final = 2**63 - 1
MIN_INTEGER: Final = -(2**63)

MAX_FLOAT: Final = 1e300
"""The largest size of a number that counts: below it no sum of a hundred million overflows, in any database."""

NUMERIC: Final[frozenset[Kind]] = frozenset({"integer", "float"})
"""Kinds that can be added up."""

ORDERED: Final[frozenset[Kind]] = frozenset({"text", "integer", "float", "timestamp"})
"""Kinds of which one value is less than another in every database."""

UUID_FORM: Final = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}", re.IGNORECASE)
"""What a text is that counts as a UUID."""

KEYS: Final[frozenset[Kind]] = frozenset({"text", "integer", "boolean", "uuid"})
"""Kinds that are equal or not, without rounding: what can be grouped by, and counted when distinct."""


@dataclass(frozen=True, slots=True)
class Field:
    """A place in an event, and the kind of what is looked for there.

    Attributes:
        source: A column of the table, the payload, the context, or one of the event's own three values.
        path: The name of the column, or the names on the way into the JSON; empty for `type`, `timestamp` and `id`.
        kind: Values of another kind are absent.
    """

    source: Source
    path: tuple[str, ...]
    kind: Kind

    def __str__(self) -> str:
        return place(self.source, self.path)


TYPE: Final = Field("type", (), "text")
TIMESTAMP: Final = Field("timestamp", (), "timestamp")
ID: Final = Field("id", (), "text")


def place(source: str, path: tuple[str, ...]) -> str:
    """A place as messages name it: `payload.address.city`."""
    return ".".join((source, *path))


def check_path(path: tuple[str, ...]) -> None:
    """Refuse names that no event can have.

    Raises:
        CatalogueError: There is none, or one is empty, holds NUL, or is not valid Unicode.
    """
    if not path:
        raise CatalogueError("a field has a name")
    for name in path:
        if not is_name(name):
            raise CatalogueError(f"a field's name is a text that is not empty and without NUL, got {name!r}")


def is_name(name: object) -> bool:
    """Whether `name` is a text that every database can hold, and not empty."""
    return isinstance(name, str) and bool(name) and is_plain_text(name)


def is_plain_text(text: str) -> bool:
    """Whether every database can hold `text`: it has no NUL, and is valid Unicode."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return "\0" not in text
