"""Signed requests, as Standard Webhooks has them, so that a receiver may check them with a library that it finds.

    webhook-id          the key of the request: the same at every attempt for the same records
    webhook-timestamp   seconds since the epoch at which it was sent: a receiver refuses old ones
    webhook-signature   v1,<signature>: base64 of HMAC-SHA256 over `id.timestamp.body`, the body byte for byte

A secret that begins with `whsec_` is base64 behind that, as the libraries make them; any other is its UTF-8 bytes.
Headers are not signed: of CloudEvents in the binary mode only the payload is.
"""

from __future__ import annotations

import hmac
import struct
from base64 import b64decode, b64encode
from hashlib import blake2b, sha256
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence
    from uuid import UUID

PREFIX: Final = "whsec_"


class Signer:
    """Signs with `secret`.

    Raises:
        ValueError: It is empty, or not base64 behind `whsec_`. It is not shown.
    """

    def __init__(self, secret: str) -> None:
        try:
            is_base64 = secret.startswith(PREFIX)
            self._key = b64decode(secret.removeprefix(PREFIX), validate=True) if is_base64 else secret.encode()
        except ValueError:
            raise ValueError(f"a secret that begins with {PREFIX} is base64 behind that") from None
        if not self._key:
            raise ValueError("a secret is not empty")

    def headers(self, key: str, body: bytes, *, now: float) -> dict[str, str]:
        """The three headers for a request that is sent `now`, in seconds since the epoch."""
        timestamp = str(int(now))
        signature = hmac.new(self._key, f"{key}.{timestamp}.".encode() + body, sha256).digest()
        return {
            "webhook-id": key,
            "webhook-timestamp": timestamp,
            "webhook-signature": f"v1,{b64encode(signature).decode()}",
        }


def request_key(log_id: UUID, subscription: str, offsets: Sequence[int], row: int | None = None) -> str:
    """The key of a request: 32 hexadecimal digits that follow from the log, the subscription and the records in it.

    `row` is the number of the one row that it holds, where it does not hold all rows of its records.
    """
    count = len(offsets)
    digest = blake2b(log_id.bytes + struct.pack(f">{count + 1}Q", count, *offsets), digest_size=16)
    digest.update((b"" if row is None else row.to_bytes(8)) + b"\0" + subscription.encode())
    return digest.hexdigest()
