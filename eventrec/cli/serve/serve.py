"""`serve`: events over HTTP into destinations, and what is stored, until a signal comes.

check    options, tokens, destinations, the log directory, and the address, which is bound before anything opens
serve    the recorder around the web server: it opens first, and closes last
end      no more requests, then no more delivery: listening.py
"""

from __future__ import annotations

from contextlib import ExitStack, closing
from pathlib import Path  # noqa: TC003 - cyclopts reads annotations
from typing import TYPE_CHECKING, Annotated, Final

import anyio
from cyclopts import Parameter

from eventrec.analytics.loading import is_catalogue_named, load_catalogue
from eventrec.cli.declared import CatalogueName, layouts_beside
from eventrec.cli.exit_codes import CommandError, ExitCode
from eventrec.cli.logs.deliver import chosen_subscriptions, report_left
from eventrec.cli.logs.directory import refuse_memory
from eventrec.cli.logs.log_directory import check_log_directory
from eventrec.cli.logs.serve import allow_descriptors, parse_address
from eventrec.cli.root import Json  # noqa: TC001 - cyclopts reads annotations
from eventrec.cli.serve.extra import needing_server
from eventrec.cli.serve.listening import bound_sockets, known_tokens, readable, serve_until_signal, uvicorn_silent
from eventrec.cli.serve.storing import storing_once
from eventrec.cli.terminal import Terminal
from eventrec.errors import SubscriptionError
from eventrec.options import EventRecorderOptions
from eventrec.recorder import EventRecorder
from eventrec.registry import default_name

if TYPE_CHECKING:
    from collections.abc import Sequence

    from eventrec.analytics import Catalogue
    from eventrec.status import Status

_SAID_APART: Final = frozenset({"closed with records left", "orphan adopted"})


def serve(
    *,
    to: Annotated[list[str], Parameter(negative="")],
    name: Annotated[list[str] | None, Parameter(negative="")] = None,
    log: Annotated[Path | None, Parameter(name="--log", negative="")] = None,
    listen: str = "127.0.0.1:8000",
    tokens: Path | None = None,
    catalogue: CatalogueName = None,
    cors: Annotated[list[str] | None, Parameter(negative="")] = None,
    config: Path | None = None,
    json: Json = False,
) -> int:
    """Take events over HTTP, deliver them, and tell what is stored, until Ctrl-C or SIGTERM.

    With a log directory an answer of 200 means that the events are in it, whatever becomes of the destinations; without
    one, that they are delivered. GET /openapi.json says what the server answers to.

    Without tokens it answers this machine alone, and listens on no address that others reach. Speak TLS in front of it:
    a proxy that passes the header Host on. Behind one, give tokens.

    The exit code is 0 once it ended in good order, whatever is left in the log.

    For example:

    ```sh
    eventrec serve --to sqlite:///events.db --log var/events --listen 127.0.0.1:8000
    ```

    Args:
        to: A destination's URL; env:NAME takes it from the environment. Give it once for each destination. What is
            stored is read from the first one that can be read. An event that comes twice with one id is stored once
            where the destination can (unique_ids), unless its URL says otherwise.
        name: The subscription's name; with several destinations, once for each of them, in their order. Default: the
            one in the log that a handler of this URL has by itself.
        log: A log directory; it is made where it is not there yet. Other processes may record into it.
        listen: HOST:PORT to listen on; port 0 takes any, and says which.
        tokens: A file of tokens: see eventrec token. It is read again when it changes.
        catalogue: module:object, a catalogue: its rollups can be asked for, and its layouts say how tables are made.
            Default: EVENTREC_CATALOGUE, else `catalogue` in [tool.eventrec] of pyproject.toml.
        cors: An origin whose pages may call the server from a browser, such as https://shop.example; give it once for
            each. "*" stands for all.
        config: A TOML file with options: of the recorder in [eventrec], of the server in [server]. Those in the
            environment, EVENTREC_… and EVENTREC_SERVER_…, count more.
        json: Print the account as JSON for a machine instead.
    """
    with needing_server():
        from eventrec.server import ServerOptions, application  # noqa: PLC0415 - see there
    terminal = Terminal()
    with terminal.showing_logging(without=_SAID_APART, shows_holds=True), uvicorn_silent():
        options = ServerOptions.load(config, **({} if cors is None else {"cors_origins": tuple(cors)}))
        address = parse_address("--listen", listen)
        known = known_tokens(tokens, "--listen", address)
        to = [storing_once(url) for url in to]
        subscriptions = _subscriptions(to, name, log)
        declared = load_catalogue(catalogue) if is_catalogue_named(catalogue) else None
        recorder = _recorder(subscriptions, log, declared, config)
        app = application(recorder, to=readable(to), catalogue=declared, log=log, tokens=known, options=options)
        allow_descriptors()
        with ExitStack() as sockets:
            bound = [sockets.enter_context(closing(each)) for each in bound_sockets("--listen", address)]
            status = anyio.run(serve_until_signal, app, bound, address, terminal)
        if log is not None:
            return report_left(log, list(subscriptions), terminal, json=json)
        return _account(status, terminal, json=json)


def _subscriptions(urls: Sequence[str], names: Sequence[str] | None, log: Path | None) -> dict[str, str]:
    """The URLs by the name of their subscriptions.

    Raises:
        CommandError: They are not as many, or two have one name; or what is there is not a log directory.
    """
    if log is not None:
        if log.exists():
            check_log_directory(log)
        return chosen_subscriptions(log, urls, names)
    for url in urls:
        refuse_memory(url)
    if names is not None and len(names) != len(urls):
        raise CommandError(f"--name: {len(names)} for {len(urls)} --to: give one for each", ExitCode.USAGE)
    chosen = list(names) if names is not None else [default_name(url) for url in urls]
    if len(set(chosen)) < len(chosen):
        raise CommandError("--name is needed: two destinations would have one name", ExitCode.USAGE)
    return dict(zip(chosen, urls, strict=True))


def _recorder(
    subscriptions: dict[str, str], log: Path | None, catalogue: Catalogue | None, config: Path | None
) -> EventRecorder:
    layouts = () if catalogue is None else catalogue.layouts
    if log is not None and log.exists():
        layouts_beside(log, layouts)  # which refuses what cannot be read
    # Switching off is about applications that record; this was asked to take events.
    options = EventRecorderOptions.load(config).model_copy(update={"enabled": True})
    recorder = EventRecorder(log=log, options=options, layouts=layouts, environment={})
    try:
        for name, url in subscriptions.items():
            recorder.register(url, name=name)
    except SubscriptionError as exc:
        raise CommandError(f"--name: {exc}", ExitCode.USAGE) from exc
    return recorder


def _account(status: Status, terminal: Terminal, *, json: bool) -> int:
    """Print what became of the events; the exit code. There is no log: what is not delivered is lost."""
    lost = sum(sum(part.dropped.values()) for part in status.subscriptions.values())
    code = ExitCode.INCOMPLETE if lost else ExitCode.OK
    if json:
        terminal.show_json({"status": status.to_dict(), "exit_code": int(code)})
    else:
        terminal.show(str(status))
    return code
