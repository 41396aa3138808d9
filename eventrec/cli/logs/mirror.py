"""`log mirror`: keep a copy of a log directory that is served on another machine."""

from __future__ import annotations

import socket
from pathlib import Path  # noqa: TC003 - cyclopts reads annotations
from typing import TYPE_CHECKING

import anyio

from eventrec.cli.exit_codes import CommandError, ExitCode
from eventrec.cli.logs.log_directory import check_log_directory, refuse_url
from eventrec.cli.logs.serve import allow_descriptors, parse_address
from eventrec.cli.progress import LiveProgress, Look
from eventrec.cli.terminal import Terminal, counted
from eventrec.cli.termination import Interruption
from eventrec.mirroring.addresses import client_context, read_token
from eventrec.mirroring.mirror import Mirror

if TYPE_CHECKING:
    import ssl

_MAX_NAME: int = 255


def mirror(
    source: str,
    directory: Path,
    /,
    *,
    name: str | None = None,
    tls_ca: Path | None = None,
    tls_cert: Path | None = None,
    tls_key: Path | None = None,
    token_file: Path | None = None,
    bandwidth: int | None = None,
) -> int:
    """Mirror a log directory of another machine, until Ctrl-C or SIGTERM: its logs, checkpoints and dead letters.

    It connects again by itself, and goes on where it was. When the source is gone for good, end this command: what it
    has are logs like any other. `eventrec drain`, or a recorder in that directory, delivers what the destination does
    not have yet. What a source retains in done/ is not mirrored: it is delivered.

    For example:

    ```sh
    eventrec log mirror db.example.org:7400 var/standby --tls-ca ca.pem --token-file token
    ```

    Args:
        source: HOST:PORT, where eventrec log serve listens.
        directory: Where the copy is to be; it is made where it is not there.
        name: How the source is to know this mirror. Default: the name of this machine.
        tls_ca: Whom to believe that the source is who it says; default: the system's authorities. This machine's own
            addresses are connected to without TLS where it is not given.
        tls_cert: This mirror's own certificate, where the source asks for one.
        tls_key: Its key.
        token_file: A file with the token that the source asks for.
        bandwidth: How many bytes a second to take at most.
    """
    address = parse_address("SOURCE", source)
    name = socket.gethostname() if name is None else name
    if not 0 < len(name) <= _MAX_NAME:
        raise CommandError(f"--name has 1 to {_MAX_NAME} characters", ExitCode.USAGE)
    if (tls_cert is None) != (tls_key is None):
        raise CommandError("--tls-cert and --tls-key come together", ExitCode.USAGE)
    if bandwidth is not None and bandwidth < 1:
        raise CommandError("--bandwidth is at least 1", ExitCode.USAGE)
    refuse_url(directory)
    if directory.exists():
        check_log_directory(directory)
    tls: ssl.SSLContext | None = None
    if tls_ca is not None or tls_cert is not None or not address.is_loopback:
        tls = client_context(ca=tls_ca, certificate=tls_cert, key=tls_key)
    mirror_ = Mirror(
        address,
        directory,
        name=name,
        tls=tls,
        token=None if token_file is None else read_token(token_file),
        bandwidth=bandwidth,
    )
    terminal = Terminal()
    allow_descriptors()

    def look() -> Look:
        counts = mirror_.counts
        what = f"{counted(counts.logs, 'log')} · {counted(counts.records, 'record')} · {counts.bytes:,} bytes received"
        return Look(0, None, f"{mirror_.state} · {what}")

    async def run() -> None:
        interruption = Interruption(terminal, "what it has stays, as logs that no process holds")
        async with anyio.create_task_group() as tasks:
            with LiveProgress(terminal, look) as progress:
                tasks.start_soon(progress.keep_fresh)
                tasks.start_soon(interruption.watch, tasks.cancel_scope)
                await mirror_.run()

    with terminal.showing_logging():
        anyio.run(run)
    counts = mirror_.counts
    terminal.show(f"{counted(counts.logs, 'log')}, {counted(counts.records, 'record')} mirrored")
    return ExitCode.OK
