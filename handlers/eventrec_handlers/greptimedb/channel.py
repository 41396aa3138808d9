"""A connection to one front end, and the calls on it.

gRPC's own threads drive the calls and say when one has ended, so that they work alike under asyncio and trio. Its
asyncio interface is not used: all loops of a process share its poller, so that ours would disturb an application's.
"""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import anyio
import grpc

from eventrec import PauseError
from eventrec_handlers._thread import WorkThread, from_any_thread
from eventrec_handlers.greptimedb.errors import texts
from eventrec_handlers.greptimedb.protocol import HANDLE

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from eventrec_handlers.greptimedb.options import CallOptions

GRACE: Final = 2.0
"""Seconds after its time by which gRPC must have said that a call has ended; else it is given up."""

MAX_ANSWER_BYTES: Final = 1 << 20
MAX_HEADER_BYTES: Final = 32 << 10

_COMPRESSION: Final = {"none": None, "gzip": grpc.Compression.Gzip}


class Channel:
    """A connection to one front end, used in `thread`. Given up, it is closed once no call is under way on it."""

    def __init__(
        self, address: str, options: CallOptions, credentials: grpc.ChannelCredentials | None, thread: WorkThread
    ) -> None:
        self._address = address
        self._options = options
        self._credentials = credentials
        self._thread = thread
        self._compression = _COMPRESSION[options.compression]
        self._channel: grpc.Channel | None = None
        self._handle: grpc.UnaryUnaryMultiCallable[bytes, bytes] | None = None
        self._calls = 0
        self._is_given_up = False

    async def call(self, request: bytes, metadata: Sequence[tuple[str, str]], *, seconds: float) -> Outcome:
        """How the call ended. Where its caller is cancelled, it ends on the wire as well.

        Raises:
            TimeoutError: It has not ended in time.
        """

        def begin() -> Any:
            handle = self._handle or self._connect()
            return handle.future(request, timeout=seconds, metadata=tuple(metadata), compression=self._compression)

        call = _Call()
        self._calls += 1
        try:
            with anyio.fail_after(seconds + GRACE):
                await self._thread.run(lambda: call.start(begin))
                return await call.outcome()
        except BaseException:
            with anyio.move_on_after(GRACE, shield=True):
                if await self._thread.run(call.cancel):
                    await call.outcome()
            raise
        finally:
            self._calls -= 1
            if self._is_given_up:
                await self.give_up()

    async def give_up(self) -> None:
        """Close it, now or when its last call has ended."""
        self._is_given_up = True
        if not self._calls:
            with anyio.move_on_after(GRACE, shield=True):
                await self._thread.run(self._close)

    def _connect(self) -> grpc.UnaryUnaryMultiCallable[bytes, bytes]:
        milliseconds = max(1, round(self._options.connect_timeout * 1_000))
        arguments = (
            # Of its own: another one, made after this one failed, begins to connect at once.
            ("grpc.use_local_subchannel_pool", 1),
            ("grpc.enable_retries", 0),
            ("grpc.min_reconnect_backoff_ms", milliseconds),
            ("grpc.max_send_message_length", -1),
            ("grpc.max_receive_message_length", MAX_ANSWER_BYTES),
            ("grpc.max_metadata_size", MAX_HEADER_BYTES),
            ("grpc.absolute_max_metadata_size", MAX_HEADER_BYTES),
        )
        # The scheme, since gRPC would take a host called `unix` or `dns` for one.
        target = f"dns:///{self._address}"
        if self._credentials is None:
            self._channel = grpc.insecure_channel(target, options=arguments)
        else:
            self._channel = grpc.secure_channel(target, self._credentials, options=arguments)
        self._handle = self._channel.unary_unary(HANDLE)
        return self._handle

    def _close(self) -> None:
        channel, self._channel, self._handle = self._channel, None, None
        if channel is not None:
            channel.close()


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a call ended."""

    status: grpc.StatusCode
    details: str
    metadata: Mapping[str, str]
    answer: bytes


class _Call:
    """One call, made in the task that waits for it, and started and cancelled in a thread: each takes gRPC's locks."""

    def __init__(self) -> None:
        self._tell = from_any_thread()
        self._ended = anyio.Event()
        self._call: Any = None
        self._outcome: Outcome | None = None
        self._is_cancelled = False

    def start(self, begin: Callable[[], Any]) -> None:
        self._call = begin()
        self._call.add_done_callback(self._note)
        if self._is_cancelled:
            self._call.cancel()

    def cancel(self) -> bool:
        """End it; False: it was never started, nor will be."""
        self._is_cancelled = True
        if self._call is None:
            return False
        self._call.cancel()
        return True

    async def outcome(self) -> Outcome:
        """How it ended, once it has."""
        await self._ended.wait()
        if self._outcome is None:
            raise RuntimeError("a call of gRPC ended without an outcome")
        return self._outcome

    def _note(self, call: Any) -> None:
        """Called by a thread of gRPC's: nothing that is asked here waits any more."""
        status = call.code()
        answer = call.result() if status is grpc.StatusCode.OK else b""
        metadata = texts(call.initial_metadata(), call.trailing_metadata())
        self._outcome = Outcome(status, call.details() or "", metadata, answer)
        self._tell(self._ended.set)


def credentials_of(options: CallOptions, where: str) -> grpc.ChannelCredentials:
    """What TLS needs, from the files that are named: looked at now, since gRPC does not tell a bad one from an outage.

    Raises:
        PauseError: One cannot be used.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)

    def use(name: str, path: str | None, load: Callable[[str], object]) -> bytes | None:
        if path is None:
            return None
        try:
            load(path)
            return Path(path).read_bytes()
        except (OSError, ValueError) as exc:  # an ssl.SSLError is an OSError
            why = getattr(exc, "strerror", None) or exc
            raise PauseError(f"{where}: {name}={path} cannot be used: {why}") from None

    ca = use("tls_ca", options.tls_ca, lambda path: context.load_verify_locations(cafile=path))
    certificate = use(
        "tls_cert", options.tls_cert, lambda path: context.load_cert_chain(path, options.tls_key, password=_no_password)
    )
    key = use("tls_key", options.tls_key, lambda path: Path(path).stat())
    return grpc.ssl_channel_credentials(ca, key, certificate)


def _no_password() -> str:
    """Asked for where a key is encrypted: gRPC cannot read such a one, and a terminal must not be asked."""
    return ""
