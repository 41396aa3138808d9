"""What can be set about the server, in one frozen model: every limit by its name."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from eventrec.durations import Duration
from eventrec.errors import OptionsError
from eventrec.option_sources import OF_SERVER, SERVER, first_errors, read_document, variables
from eventrec.options import MiB
from eventrec.runtime.field_docs import described

LOOPBACK: Final = "127.0.0.1"


def _listed(value: object) -> object:
    """Of a variable of the environment: a list in JSON, or texts parted by commas."""
    if not isinstance(value, str):
        return value
    if value.lstrip().startswith("["):
        try:
            return json.loads(value)
        except RecursionError as exc:
            raise ValueError(str(exc)) from exc
    return [part.strip() for part in value.split(",") if part.strip()]


_Texts = Annotated[tuple[str, ...], BeforeValidator(_listed)]


@described
class ServerOptions(BaseModel):
    """Every option of the server. Sizes are bytes, durations seconds or text such as "5s".

    Raises:
        pydantic.ValidationError: An unknown name or a value that is not allowed.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True, hide_input_in_errors=True)

    ingest_until: Literal["written", "synced", "mirrored"] = "written"
    """What an answer of 200 waits for, where the recorder has a log; without one, for the destinations."""
    ingest_timeout: Duration = Field(default=30.0)
    """Longest time that a request waits for that; then it is answered 503, though its events are taken."""
    retry_after: Duration = Field(default=1.0)
    """What a client that is to come again is told to wait, in whole seconds from one on."""

    max_body_bytes: int = Field(default=16 * MiB, ge=1)
    """Bytes of a request's body at most, as they are sent."""
    max_unpacked_bytes: int = Field(default=64 * MiB, ge=1)
    """Bytes that a compressed body may unpack to."""
    max_elements: int = Field(default=50_000, ge=1)
    """Events of one request at most."""
    max_json_depth: int = Field(default=200, ge=1)
    """How deep the JSON of an event may be nested."""
    body_timeout: Duration = Field(default=30.0)
    """Longest time for a body to arrive."""
    header_timeout: Duration = Field(default=10.0)
    """Longest time for the headers of a request to arrive, from the first byte of the connection on."""
    idle_timeout: Duration = Field(default=65.0)
    """Longest time that a connection may be kept without a request."""
    send_timeout: Duration = Field(default=30.0)
    """Longest time that a client may not read of an answer; then it is cut off."""
    max_header_bytes: int = Field(default=64 << 10, ge=1)
    """Bytes of the headers of a request at most, with its path and query."""
    max_connections: int = Field(default=1_000, ge=1)
    """Connections at once at most; a further one is closed."""
    max_requests: int = Field(default=200, ge=1)
    """Requests that are being answered at once at most; a further one is answered 503."""
    max_body_memory: int = Field(default=256 * MiB, ge=1)
    """Bytes of the bodies of all requests at once; a further one is answered 503, and one that alone has more 413."""

    default_rows: int = Field(default=1_000, ge=1)
    """Rows of an answer, where a request does not say how many."""
    max_rows: int = Field(default=50_000, ge=1)
    """Rows of one answer at most; its cursor goes on."""
    max_range: Duration = Field(default=3_660 * 86_400.0)
    """Longest span of time that a question may name both ends of."""
    read_timeout: Duration = Field(default=30.0)
    """Longest time that a question to a destination may take; then it is cancelled, and answered 504."""
    readers: int = Field(default=4, ge=1)
    """Questions that are put to a destination at once; further ones wait for their turn."""
    max_followers: int = Field(default=100, ge=1)
    """Live tails at once at most."""
    follow_interval: Duration = Field(default=0.5)
    """How often a live tail looks for what arrived."""

    cors_origins: _Texts = ()
    """Origins whose pages may call the server from a browser; "*" stands for all, where there are tokens. None: no page
    of another origin."""
    hosts: _Texts = ()
    """Names that the header Host may have; none: any. Without tokens only those of this machine, in any case."""
    access_log: bool = True
    """Whether each request is logged: method, path, status, bytes, seconds, and the name of its token."""
    dashboard: bool = True
    """Whether the page is served."""

    @classmethod
    def load(cls, path: str | os.PathLike[str] | None = None, **given: Any) -> ServerOptions:
        """Options from `given`, over the environment (`EVENTREC_SERVER_…`), over the table `[server]` of a TOML file.

        In a pyproject.toml the table is `[tool.eventrec.server]`.

        Raises:
            OptionsError: The file cannot be read, a name is unknown, or a value is not allowed.
        """
        in_file = {} if path is None else _table(Path(path))
        in_environment = {name[len(OF_SERVER) :].lower(): os.environ[name] for name in variables(OF_SERVER)}
        for where, named in ((path, in_file), ("the environment", in_environment)):
            for name in named:
                if name not in cls.model_fields:
                    known = ", ".join(sorted(cls.model_fields))
                    raise OptionsError(f"unknown option {name!r} of the server in {where}; known are {known}")
        texts = {name: value for name, value in in_environment.items() if value}
        try:
            return cls(**{**in_file, **texts, **given})
        except ValidationError as exc:
            raise OptionsError(f"options of the server: {first_errors(exc)}") from exc


def _table(path: Path) -> dict[str, Any]:
    document: Any = read_document(path)
    if path.name == "pyproject.toml":
        for name in ("tool", "eventrec"):
            document = document.get(name, {}) if isinstance(document, dict) else {}
    table = document.get(SERVER, {}) if isinstance(document, dict) else {}
    if not isinstance(table, dict):
        raise OptionsError(f"options file {path}: server is a table of options, got {type(table).__name__}")
    return table
