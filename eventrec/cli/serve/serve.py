"""`serve`: events over HTTP into destinations, and what is stored, until a signal comes.

check    options, tokens, destinations, the log directory, and the address, which is bound before anything opens
serve    the recorder around the web server: it opens first, and closes last
end      no more requests, those that are on have half of the close timeout, delivery has what is left of it
"""

from __future__ import annotations

import logging
import signal
import socket
import sys
from contextlib import ExitStack, closing, contextmanager, suppress
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
from eventrec.cli.serve.storing import storing_once
from eventrec.cli.terminal import Terminal
from eventrec.errors import LogError, SubscriptionError
from eventrec.mirroring.addresses import Address
from eventrec.options import EventRecorderOptions, duration_seconds
from eventrec.recorder import EventRecorder, subscriptions_of
from eventrec.registry import default_name, handler_from_url

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from starlette.applications import Starlette

    from eventrec.analytics import Catalogue
    from eventrec.server import Tokens
    from eventrec.server.serving import Server
    from eventrec.server.web_server import WebServer
    from eventrec.status import Status

_BACKLOG: Final = 2_048
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
    with terminal.showing_logging(without=_SAID_APART, shows_holds=True), _uvicorn_silent():
        options = ServerOptions.load(config, **({} if cors is None else {"cors_origins": tuple(cors)}))
        address = parse_address("--listen", listen)
        known = _tokens(tokens, address)
        to = [storing_once(url) for url in to]
        subscriptions = _subscriptions(to, name, log)
        declared = load_catalogue(catalogue) if is_catalogue_named(catalogue) else None
        recorder = _recorder(subscriptions, log, declared, config)
        app = application(recorder, to=_readable(to), catalogue=declared, log=log, tokens=known, options=options)
        allow_descriptors()
        with ExitStack() as sockets:
            bound = [sockets.enter_context(closing(each)) for each in _bound(address)]
            status = anyio.run(_run, app, bound, address, terminal)
        if log is not None:
            return report_left(log, list(subscriptions), terminal, json=json)
        return _account(status, terminal, json=json)


def _tokens(path: Path | None, address: Address) -> Tokens | None:
    """Those that count; None: this machine alone is answered.

    Raises:
        CommandError: There are none, and others reach the address.
        TokenFileError: The file cannot be used.
    """
    from eventrec.server import Tokens  # noqa: PLC0415 - see `serve`

    if path is None:
        if not address.is_loopback:
            raise CommandError(
                f"--listen {address}: other machines reach this address: give --tokens FILE (see eventrec token new)",
                ExitCode.USAGE,
            )
        return None
    tokens = Tokens(path)
    if not len(tokens):
        raise CommandError(f"{path} has no tokens: make one with eventrec token new", ExitCode.FILE)
    return tokens


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


def _readable(urls: Sequence[str]) -> str | None:
    """The first destination that tells what it has stored; None: none does."""
    return next((url for url in urls if handler_from_url(url).reader() is not None), None)


def _bound(address: Address) -> list[socket.socket]:
    """Sockets that are bound to `address`: one for each number that its host has, with one port.

    Raises:
        CommandError: It cannot be listened on.
    """
    bound: list[socket.socket] = []
    port = address.port
    try:
        found = socket.getaddrinfo(address.host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        for family, _, _, _, where in dict.fromkeys(found):
            given = (where[0], port, *where[2:]) if bound else where
            each = socket.create_server(given, family=family, backlog=_BACKLOG)
            bound.append(each)
            port = each.getsockname()[1]
    except (OSError, OverflowError, UnicodeError) as exc:
        for each in bound:
            each.close()
        why = exc.strerror if isinstance(exc, OSError) else str(exc)
        raise CommandError(f"--listen {address}: {why}", ExitCode.FILE) from exc
    return bound


async def _run(app: Starlette, sockets: Sequence[socket.socket], address: Address, terminal: Terminal) -> Status:
    """Until a signal comes, and then for as long as closing may take; the account.

    Raises:
        CommandError: The log directory refuses the recorder's own, empty log.
    """
    from eventrec.server.web_server import WebServer  # noqa: PLC0415 - see `serve`

    server: Server = app.state.server
    recorder = server.recorder
    seconds = duration_seconds(subscriptions_of(recorder).options.close_timeout)

    def say() -> None:
        where = Address(address.host, sockets[0].getsockname()[1])
        alone = "" if server.access.has_tokens else ", for this machine alone: there are no tokens"
        terminal.say(f"eventrec: listening on http://{where}{alone}")

    web = WebServer(
        app,
        sockets,
        server.options,
        grace=seconds / 2,
        on_started=say,
        on_ending=server.end,
        count=server.measures.count_cut_off,
    )
    ending = _Ending(web, terminal)
    try:
        await recorder.open()
    except LogError as exc:
        raise CommandError(str(exc), ExitCode.FILE) from exc
    try:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(ending.watch)
            await web.run()
            tasks.cancel_scope.cancel()
    finally:
        with anyio.CancelScope(shield=True):
            spent = 0.0 if ending.since is None else anyio.current_time() - ending.since
            status = await recorder.close(max(0.0, seconds - spent))
    return status


class _Ending:
    """What signals do: the first one ends, the second one ends at once.

    Attributes:
        since: When the first one came, by the loop's clock.
    """

    def __init__(self, web: WebServer, terminal: Terminal) -> None:
        self.since: float | None = None
        self._web = web
        self._terminal = terminal

    async def watch(self) -> None:
        """Until cancelled."""
        if sys.platform == "win32":
            return  # It has no such receiver: there Ctrl-C cancels everything at once.
        with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as received:
            async for _ in received:
                if self.since is not None:
                    self._web.cut()
                    continue
                self.since = anyio.current_time()
                self._terminal.say("eventrec: ending: requests that are on are answered", style="yellow")
                self._web.end()


def _account(status: Status, terminal: Terminal, *, json: bool) -> int:
    """Print what became of the events; the exit code. There is no log: what is not delivered is lost."""
    lost = sum(sum(part.dropped.values()) for part in status.subscriptions.values())
    code = ExitCode.INCOMPLETE if lost else ExitCode.OK
    if json:
        terminal.show_json({"status": status.to_dict(), "exit_code": int(code)})
    else:
        terminal.show(str(status))
    return code


@contextmanager
def _uvicorn_silent() -> Iterator[None]:
    """Its own lines say what ours say already, and one of them is for whoever sends nonsense to write."""
    logger, handler = logging.getLogger("uvicorn"), logging.NullHandler()
    logger.addHandler(handler)
    try:
        yield
    finally:
        with suppress(ValueError):
            logger.removeHandler(handler)
