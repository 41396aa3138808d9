"""What mirroring a log costs beside copying its files over the same kind of TLS connection: interleaved rounds.

    python tests/benchmarks/bench_mirror.py [directory] [rounds] [MiB]

Both ways send the same segments through one TLS connection of anyio's on 127.0.0.1, from one process to another, and
have them on the disk at the end. The copy sends files as they are, writes what comes, and syncs each file at its end.
The mirror checks each commit, writes indexes, and syncs and acknowledges what came within its window.
"""

from __future__ import annotations

import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import anyio
import anyio.to_thread
from anyio.streams.tls import TLSListener

from eventrec.log.log import Log
from eventrec.mirroring.addresses import Address, client_context, server_context
from eventrec.mirroring.mirror import Mirror
from eventrec.mirroring.server import MirrorServer
from eventrec.runs.directory import list_runs
from eventrec.runs.mirrors import Mirrors
from eventrec.runs.run import Run, new_run_id

if TYPE_CHECKING:
    from collections.abc import Callable

    from anyio.abc import ByteStream

PIECE = 256 << 10
COMMIT = os.urandom(250_000)
RECORDS = 1_000
SIZE_BYTES = 8


def fill(directory: Path, size: int) -> None:
    """A log of `size` bytes, in segments of 64 MiB and commits of 1,000 records."""
    run = Run.create(directory, new_run_id())
    with Log.create(run.storage) as log:
        for _ in range(size // len(COMMIT)):
            log.append_encoded(COMMIT, RECORDS)
            log.write()
    run.release()


def make_certificate(directory: Path) -> tuple[Path, Path]:
    """A certificate for 127.0.0.1, and its key."""
    certificate, key = directory / "certificate.pem", directory / "key.pem"
    curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"]
    name = ["-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"]
    command = ["openssl", "req", "-x509", *curve, *name, "-keyout", str(key), "-out", str(certificate)]
    subprocess.run(command, check=True, capture_output=True)
    return certificate, key


def say_port(port: int) -> None:
    """Tell the process that started this one, and what this one has used of the processor so far."""
    print(port, time.process_time(), flush=True)


async def send_files(directory: Path, certificate: Path, key: Path) -> None:
    """Send the files of the log in `directory`, one after the other, to whichever connects."""
    (id_,) = list_runs(directory)

    async def send(stream: ByteStream) -> None:
        async with stream:
            for path in sorted((directory / str(id_)).glob("*.stdb.*")):
                await stream.send(path.stat().st_size.to_bytes(SIZE_BYTES))
                async with await anyio.open_file(path, "rb") as file:
                    while piece := await file.read(PIECE):
                        await stream.send(piece)

    listener = await anyio.create_tcp_listener(local_host="127.0.0.1", local_port=0)
    say_port(listener.extra(anyio.abc.SocketAttribute.local_port))  # noqa: S610 - not Django's
    await TLSListener(listener, server_context(certificate, key), standard_compatible=False).serve(send)


async def serve_log(directory: Path, certificate: Path, key: Path) -> None:
    """Serve the log directory."""
    server = MirrorServer(directory, tls=server_context(certificate, key))
    await server.serve(Address("127.0.0.1", 0), on_listening=say_port)


async def copy(port: int, certificate: Path, to: Path) -> None:
    """Write what comes into files, each synced at its end."""
    context = client_context(ca=certificate)
    stream = await anyio.connect_tcp("127.0.0.1", port, ssl_context=context, tls_standard_compatible=False)
    held, number = bytearray(), 0
    async with stream:
        while True:
            try:
                while len(held) < SIZE_BYTES:
                    held += await stream.receive(PIECE)
            except anyio.EndOfStream:
                return
            left = int.from_bytes(held[:SIZE_BYTES])
            del held[:SIZE_BYTES]
            async with await anyio.open_file(to / str(number), "wb", buffering=0) as file:
                while left:
                    while len(held) < min(left, PIECE):
                        held += await stream.receive(PIECE)
                    piece = bytes(held[: min(left, len(held))])
                    await file.write(piece)
                    left -= len(piece)
                    del held[: len(piece)]
                await anyio.to_thread.run_sync(os.fdatasync, file.wrapped.fileno())
            number += 1


async def mirror(port: int, certificate: Path, to: Path, *, source: Path) -> None:
    """Mirror it until all of it is acknowledged."""
    (id_,) = list_runs(source)
    known = Mirrors(source)
    known.forget("bench")
    end = os.environ["BENCH_END"]
    taking = Mirror(Address("127.0.0.1", port), to, name="bench", tls=client_context(ca=certificate))
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(taking.run)
        while True:
            await anyio.sleep(0.005)
            if taking.counts.records >= int(end):
                acknowledged = await anyio.to_thread.run_sync(known.of_log, id_)
                if acknowledged["bench"].next_offset >= int(end):
                    break
        tasks.cancel_scope.cancel()


class Cost(NamedTuple):
    """Seconds, and seconds of a processor at the source and where it is written."""

    seconds: float
    source: float
    target: float

    def of(self, mebibytes: int) -> str:
        """The same, by the MiB."""
        at_source, at_target = (1e3 * cpu / mebibytes for cpu in (self.source, self.target))
        return f"{mebibytes / self.seconds:5.0f} MiB/s, CPU {at_source:.2f} + {at_target:.2f} ms/MiB"


def timed(kind: str, source: Path, keys: tuple[Path, Path], take: Callable[[int], None]) -> Cost:
    """What `take` costs, of what a process of the `kind` serves."""
    command = [sys.executable, __file__, kind, str(source), *map(str, keys)]
    others = resource.getrusage(resource.RUSAGE_CHILDREN)
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        port, used = process.stdout.readline().split()
        started, here = time.perf_counter(), time.process_time()
        take(int(port))
        seconds, here = time.perf_counter() - started, time.process_time() - here
        process.kill()
    now = resource.getrusage(resource.RUSAGE_CHILDREN)
    there = now.ru_utime + now.ru_stime - others.ru_utime - others.ru_stime - float(used)
    return Cost(seconds, there, here)


def main(directory: Path, rounds: int, mebibytes: int) -> None:
    """Print both ways, and the median of their ratios."""
    size = mebibytes << 20
    with tempfile.TemporaryDirectory(dir=directory) as folder:
        base = Path(folder)
        keys, source = make_certificate(base), base / "source"
        fill(source, size)
        os.environ["BENCH_END"] = str(size // len(COMMIT) * RECORDS)
        ratios, cpu_ratios = [], []
        for number in range(rounds):
            to_copy, to_mirror = base / f"copy{number}", base / f"mirror{number}"
            to_copy.mkdir()
            plain = timed("copy", source, keys, lambda port: anyio.run(copy, port, keys[0], to_copy))  # noqa: B023 - it is called here
            ours = timed(
                "mirror",
                source,
                keys,
                lambda port: anyio.run(partial(mirror, port, keys[0], to_mirror, source=source)),  # noqa: B023 - likewise
            )
            ratios.append(plain.seconds / ours.seconds)
            cpu_ratios.append((plain.source + plain.target) / (ours.source + ours.target))
            print(f"copy {plain.of(mebibytes)}   mirror {ours.of(mebibytes)}   {ratios[-1]:.2f} ×", flush=True)
            shutil.rmtree(to_copy)
            shutil.rmtree(to_mirror)
        print(
            f"mirror beside a copy of the files, median of {rounds}: {statistics.median(ratios):.2f} × as fast, "
            f"{statistics.median(cpu_ratios):.2f} × as far with as much CPU"
        )


if __name__ == "__main__":
    given = sys.argv[1:]
    match given:
        case ["copy" | "mirror" as kind, source_, certificate_, key_]:
            serving = send_files if kind == "copy" else serve_log
            anyio.run(serving, Path(source_), Path(certificate_), Path(key_))
        case _:
            main(
                Path(given[0] if given else tempfile.gettempdir()),
                int(given[1]) if len(given) > 1 else 5,
                int(given[2]) if len(given) > 2 else 256,
            )
