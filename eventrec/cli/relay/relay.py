"""`relay`: delivers what applications have put on a bus, until a signal comes, and may show how that goes."""

from __future__ import annotations

import sys
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final
from urllib.parse import parse_qs, urlsplit

import anyio
from cyclopts import Parameter

from eventrec.analytics.loading import is_catalogue_named, load_catalogue
from eventrec.cli.declared import CatalogueName, declared_layouts, layouts_beside
from eventrec.cli.exit_codes import CommandError, ExitCode
from eventrec.cli.logs.deliver import chosen_subscriptions
from eventrec.cli.logs.serve import allow_descriptors, parse_address
from eventrec.cli.serve.extra import needing_server
from eventrec.cli.serve.listening import bound_sockets, known_tokens, readable, serve_until_signal, uvicorn_silent
from eventrec.cli.terminal import Terminal, counted
from eventrec.cli.termination import Interruption
from eventrec.durations import duration_seconds
from eventrec.errors import LogError, OptionsError, SubscriptionError
from eventrec.options import EventRecorderOptions
from eventrec.recorder import EventRecorder
from eventrec.registry import handler_from_url, resolve_url
from eventrec.relay import RelayOptions

if TYPE_CHECKING:
    from collections.abc import Sequence

    from eventrec.status import Status

DIRECTORY: Final = Path("eventrec-relay")

_SAID_APART: Final = frozenset({"closed with records left"})


def relay(
    *,
    from_: Annotated[str, Parameter(name="--from", negative="")],
    to: Annotated[list[str], Parameter(negative="")],
    name: Annotated[list[str] | None, Parameter(negative="")] = None,
    stage: Annotated[list[str] | None, Parameter(negative="")] = None,
    type_: Annotated[list[str] | None, Parameter(name="--type", negative="")] = None,
    log: Path = DIRECTORY,
    lease: str | None = None,
    max_shards: int | None = None,
    project: str | None = None,
    config: Path | None = None,
    dead: Path | None = None,
    catalogue: CatalogueName = None,
    serve: str | None = None,
    tokens: Path | None = None,
    json: Annotated[bool, Parameter(negative="")] = False,
) -> int:
    """Deliver what applications have put on a bus, through stages, to one or several destinations, until Ctrl-C.

    Each record arrives once where its destination can tell, whatever is killed. Any number of relays may run for one
    bus: they share its shards equally by themselves, and the others take over when one ends, at once where it ends in
    good order. What a destination refuses, and what `eventrec resume` and `eventrec dead` act on, is
    in the relay's log directory.

    Sizes are those of the reference system, which the environment may set by its names: `EVENT_BUFFER_BATCH_SIZE`,
    `EVENT_BUFFER_UPDATE_PENDING_SESSIONS_BATCH_SIZE`, `EVENT_BUFFER_DAYS_TO_KEEP`. Other options of a recorder may be
    set in the environment (`EVENTREC_FLUSH_INTERVAL`) and in `--config`. The exit code is 0 once it ended in good
    order, whatever is left on the bus.

    For example:

    ```sh
    eventrec relay --from redis://localhost:6379/0 --stage sessions --to sqlite:///events.db
    ```

    Args:
        from_: The bus's URL; env:NAME takes it from the environment.
        to: A destination's URL; env:NAME takes it from the environment. Give it once for each destination.
        name: The subscription's name; with several destinations, once for each of them, in their order. Default: the
            one that a handler of this URL has by itself.
        stage: What records go through first, by its name or as module:object, with options behind a "?"; give it once
            for each stage, in their order.
        type_: Deliver events of this type only, to every destination; give it once for each type.
        log: The relay's log directory; relays of one machine may share it.
        lease: How long other relays wait for one that died, for example 30s. Default: 15s.
        max_shards: Of a sharded bus, how many shards this relay serves at once at most. Default: its equal share.
        project: The field of a payload that names a project: what is delivered is told to who listens on the bus.
        config: A TOML file with options of a recorder.
        dead: A file of JSON lines for a copy of what a destination refuses.
        catalogue: module:object, a catalogue whose layouts say how tables are made, and whose rollups can be asked for
            where it is served. Default: EVENTREC_CATALOGUE, else `catalogue` in [tool.eventrec] of pyproject.toml.
        serve: HOST:PORT to serve health, metrics, what is stored, and the page on; port 0 takes any, and says which. It
            takes no events. Its options are those of eventrec serve, from the environment and [server] of `--config`.
        tokens: A file of tokens for that: see eventrec token. Without one this machine alone is answered.
        json: Print what was delivered as JSON for a machine instead.
    """
    terminal = Terminal()
    with terminal.showing_logging(without=_SAID_APART, shows_holds=True):
        subscriptions = chosen_subscriptions(log, to, name)
        if _place(from_) in map(_place, subscriptions.values()):
            raise CommandError("--to is where --from is: what it delivers would come again for ever", ExitCode.USAGE)
        if tokens is not None and serve is None:
            raise CommandError("--tokens is for --serve", ExitCode.USAGE)
        layouts = declared_layouts(catalogue)
        if log.exists():
            layouts_beside(log, layouts)  # which refuses what cannot be read
        try:
            options = _relay_options(lease, max_shards, project)
            recorder = EventRecorder(
                log=log,
                options=_options(config, dead),
                layouts=layouts,
                bus=from_,
                stages=stage or (),
                relay=options,
                environment={},
            )
            for subscription, url in subscriptions.items():
                recorder.register(url, name=subscription, types=type_, batch_rows=_rows(url, options))
        except SubscriptionError as exc:
            raise CommandError(f"--name or --type: {exc}", ExitCode.USAGE) from exc
        except OptionsError as exc:
            raise CommandError(str(exc), ExitCode.USAGE) from exc
        if serve is None:
            status = anyio.run(_relay, recorder, list(subscriptions), terminal)
        else:
            shown = _Shown(serve, tokens, catalogue, config)
            status = shown.run(recorder, list(subscriptions.values()), log, terminal)
    return _report(status, terminal, json=json)


@dataclass(frozen=True, slots=True)
class _Shown:
    """What is served beside: where, to whom, with which rollups and options."""

    listen: str
    tokens: Path | None
    catalogue: str | None
    config: Path | None

    def run(self, recorder: EventRecorder, urls: Sequence[str], log: Path, terminal: Terminal) -> Status:
        """Relay and serve until a signal comes; the account.

        Raises:
            CommandError: A package is missing, the address cannot be listened on, or the log directory refuses.
        """
        with needing_server():
            from eventrec.server import ServerOptions, application  # noqa: PLC0415 - see there
        address = parse_address("--serve", self.listen)
        known = known_tokens(self.tokens, "--serve", address)
        declared = load_catalogue(self.catalogue) if is_catalogue_named(self.catalogue) else None
        app = application(
            recorder,
            to=readable(urls),
            catalogue=declared,
            log=log,
            tokens=known,
            options=ServerOptions.load(self.config),
            takes_events=False,
        )
        allow_descriptors()
        with uvicorn_silent(), ExitStack() as sockets:
            bound = [sockets.enter_context(closing(each)) for each in bound_sockets("--serve", address)]
            return anyio.run(serve_until_signal, app, bound, address, terminal)


def _place(url: str) -> tuple[str, str | None, int | None, str, list[str]]:
    """What of `url` says where it is: without credentials, and of its options the stream alone."""
    parts = urlsplit(resolve_url(url))
    port = None if "," in parts.netloc else parts.port
    host = parts.netloc.rpartition("@")[2] if port is None else parts.hostname
    return parts.scheme, host, port, parts.path.rstrip("/"), parse_qs(parts.query).get("stream", [])


def _relay_options(lease: str | None, max_shards: int | None, project: str | None) -> RelayOptions:
    options = replace(RelayOptions.reference(), max_shards=max_shards, project=project)
    return options if lease is None else replace(options, lease_seconds=duration_seconds(lease))


def _options(config: Path | None, dead: Path | None) -> EventRecorderOptions:
    """Those of the environment and `config`, and what this command needs where they do not say otherwise."""
    given = EventRecorderOptions.load(config)
    ours: dict[str, Any] = {"flush_interval": 0.0, "max_log_bytes": sys.maxsize, "keep_free": 0}
    ours = {name: value for name, value in ours.items() if name not in given.model_fields_set}
    must: dict[str, Any] = {"enabled": True} | ({} if dead is None else {"dead_letters": dead})
    return given.model_copy(update=ours | must)


def _rows(url: str, options: RelayOptions) -> int | None:
    """Rows of a batch at most, as large as pays; None: as in an application."""
    handler = handler_from_url(url)
    return options.batch_rows if handler.checkpoints is not None or handler.dedupes_by_token else None


async def _relay(recorder: EventRecorder, names: Sequence[str], terminal: Terminal) -> Status:
    """Until a signal comes, and then for as long as closing may take; the account.

    Raises:
        CommandError: The log directory refuses the relay's own, empty log.
    """
    interruption = Interruption(terminal, "what is not delivered stays on the bus")
    try:
        async with recorder, anyio.create_task_group() as tasks:
            terminal.say(f"eventrec: relaying to {', '.join(names)}, until Ctrl-C or SIGTERM")
            tasks.start_soon(interruption.watch, tasks.cancel_scope)
            await anyio.sleep_forever()
    except LogError as exc:
        raise CommandError(str(exc), ExitCode.FILE) from exc
    return recorder.status()


def _report(status: Status, terminal: Terminal, *, json: bool) -> int:
    """Print what became of the records; the exit code."""
    parts = status.subscriptions
    if json:
        told = {
            name: {"delivered": part.delivered, "filtered": part.filtered, "dead": part.dead, "dropped": part.dropped}
            for name, part in parts.items()
        }
        terminal.show_json({"subscriptions": told, "exit_code": int(ExitCode.OK)})
        return ExitCode.OK
    for name, part in parts.items():
        more = f", {counted(part.dead, 'dead letter')}" if part.dead else ""
        more += "".join(f", dropped {count:,} {reason}" for reason, count in sorted(part.dropped.items()))
        terminal.show(f"{name}: delivered {part.delivered:,}{more}")
    return ExitCode.OK
