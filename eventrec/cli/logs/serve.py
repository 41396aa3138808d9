"""`log serve | forget-mirror`: give a log directory to mirrors, and stop keeping what one has not got."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path  # noqa: TC003 - cyclopts reads annotations
from typing import TYPE_CHECKING, Annotated

import anyio
from cyclopts import Parameter

from eventrec.cli.exit_codes import CommandError, ExitCode
from eventrec.cli.logs.directory import listed
from eventrec.cli.logs.log_directory import check_log_directory
from eventrec.cli.progress import LiveProgress, Look
from eventrec.cli.terminal import Terminal, counted
from eventrec.cli.termination import Interruption
from eventrec.mirroring.addresses import Address, read_token, server_context
from eventrec.mirroring.server import MAX_MIRRORS, MirrorServer
from eventrec.runs.mirrors import Mirrors

if TYPE_CHECKING:
    import ssl

try:
    import resource
except ImportError:  # pragma: no cover - Windows has no such limits
    resource = None  # type: ignore[assignment]


def serve(
    directory: Path,
    /,
    *,
    listen: str,
    tls_cert: Path | None = None,
    tls_key: Path | None = None,
    token_file: Path | None = None,
    client_ca: Path | None = None,
    max_mirrors: int = MAX_MIRRORS,
) -> int:
    """Serve a log directory to mirrors on other machines, until Ctrl-C or SIGTERM.

    Recorders go on beside it: nothing is locked. What a mirror has not got is kept, within the disk bound; see
    eventrec log forget-mirror. Addresses that other machines reach take TLS, and a token or a CA of clients.

    For example:

    ```sh
    eventrec log serve var/events --listen 0.0.0.0:7400 --tls-cert cert.pem --tls-key key.pem --token-file token
    ```

    Args:
        directory: A log directory.
        listen: HOST:PORT to listen on; port 0 takes any.
        tls_cert: The certificate, with what leads to its authority.
        tls_key: Its key.
        token_file: A file with a token on its only line, which mirrors have to know.
        client_ca: Mirrors need a certificate of their own, signed by this authority.
        max_mirrors: How many mirrors may be connected at once.
    """
    address = parse_address("--listen", listen)
    if (tls_cert is None) != (tls_key is None):
        raise CommandError("--tls-cert and --tls-key come together", ExitCode.USAGE)
    if client_ca is not None and tls_cert is None:
        raise CommandError("--client-ca takes TLS: give --tls-cert and --tls-key", ExitCode.USAGE)
    if max_mirrors < 1:
        raise CommandError("--max-mirrors is at least 1", ExitCode.USAGE)
    check_log_directory(directory)
    tls: ssl.SSLContext | None = None
    if tls_cert is not None and tls_key is not None:
        tls = server_context(tls_cert, tls_key, client_ca=client_ca)
    server = MirrorServer(
        directory,
        tls=tls,
        token=None if token_file is None else read_token(token_file),
        max_mirrors=max_mirrors,
    )
    terminal = Terminal()
    allow_descriptors()

    def look() -> Look:
        return Look(0, None, f"{counted(len(server.mirrors), 'mirror')}: {', '.join(server.mirrors)}".rstrip(": "))

    async def run() -> None:
        interruption = Interruption(terminal, "mirrors wait till it is served again")
        async with anyio.create_task_group() as tasks:
            with LiveProgress(terminal, look) as progress:
                tasks.start_soon(progress.keep_fresh)
                tasks.start_soon(interruption.watch, tasks.cancel_scope)
                try:
                    await server.serve(
                        address,
                        on_listening=lambda port: terminal.say(f"eventrec: serving on {Address(address.host, port)}"),
                    )
                except OSError as exc:
                    raise CommandError(f"--listen {address}: {exc.strerror or exc}", ExitCode.FILE) from exc

    with terminal.showing_logging():
        anyio.run(run)
    return ExitCode.OK


def parse_address(option: str, text: str) -> Address:
    """`text` as an address; CommandError where it is not one."""
    try:
        return Address.parse(text)
    except ValueError as exc:
        raise CommandError(f"{option}: {exc}", ExitCode.USAGE) from exc


def allow_descriptors() -> None:
    """As many as the system gives: a log that is served or mirrored takes some."""
    if resource is not None:  # pragma: no branch - see above
        with suppress(OSError, ValueError):
            _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def forget_mirror(
    directory: Annotated[Path, Parameter(help="A log directory.")],
    name: Annotated[str, Parameter(help="The mirror's name.")],
    /,
) -> int:
    """Stop keeping what a mirror has not got: one that is gone for good. One that connects again is known again.

    Recorders go on meanwhile: they delete what was kept for that mirror alone within seconds.

    For example:

    ```sh
    eventrec log forget-mirror var/events standby
    ```

    Args:
        directory: A log directory.
        name: The mirror's name, as eventrec status shows it.
    """
    terminal = Terminal()
    check_log_directory(directory)
    mirrors = Mirrors(directory)
    try:
        if not mirrors.forget(name):
            raise CommandError(
                f"{directory} knows no mirror {name!r}; there are: {listed(mirrors.names())}", ExitCode.USAGE
            )
    except OSError as exc:
        raise CommandError(f"{directory}: {exc}", ExitCode.FILE) from exc
    terminal.show(f"{name}: forgotten")
    return ExitCode.OK
