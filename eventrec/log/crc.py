"""Arithmetic with CRC-32C: what bytes that are put behind others, or zeros, do to it.

CRC(ab) = shift(CRC(a), len b) ^ CRC(b).
"""

from __future__ import annotations

import functools
from typing import Final

import google_crc32c

RESIDUE: Final = 0x48674BC7
"""CRC-32C of anything followed by its own CRC-32C."""

_POLYNOMIAL: Final = 0x82F63B78
_AT_ONCE: Final = 1 << 10


def shift_crc(crc: int, size: int) -> int:
    """The share of `crc`, the CRC-32C of some bytes, in the CRC-32C of those bytes with `size` more behind them."""
    power = 0
    while size:
        if size & 1:
            crc = _times(_operator(power), crc)
        size >>= 1
        power += 1
    return crc


def extend_by_zeros(crc: int, size: int) -> int:
    """The CRC-32C of the bytes of `crc` with `size` zeros behind them."""
    return shift_crc(crc, size) ^ _crc_of_zeros(size)


@functools.lru_cache(maxsize=64)
def _crc_of_zeros(size: int) -> int:
    if size <= _AT_ONCE:
        crc: int = google_crc32c.value(bytes(size))
        return crc
    half = size // 2
    return shift_crc(_crc_of_zeros(size - half), half) ^ _crc_of_zeros(half)


@functools.cache
def _operator(power: int) -> tuple[int, ...]:
    """What 2 ** power zero bytes do to a CRC, as 32 columns over GF(2): the image of each single bit."""
    if power:
        half = _operator(power - 1)
        return tuple(_times(half, column) for column in half)
    columns = [1 << bit for bit in range(32)]
    for _ in range(8):
        columns = [crc >> 1 ^ (_POLYNOMIAL if crc & 1 else 0) for crc in columns]
    return tuple(columns)


def _times(columns: tuple[int, ...], crc: int) -> int:
    product = 0
    while crc:
        lowest_bit = crc & -crc
        product ^= columns[lowest_bit.bit_length() - 1]
        crc ^= lowest_bit
    return product
