"""CRC-32C, and joining the checksums of pieces into the checksum of the whole without reading it again.

A CRC is the remainder of a polynomial over GF(2): appending n bytes to a message multiplies its CRC by x^(8n) modulo the
polynomial and adds (xor) the CRC of the appended bytes. Bits are kept reflected, as CRC-32C (RFC 3720, appendix B.4) has them.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import google_crc32c

_POLYNOMIAL = 0x82F63B78
_ONE = 0x80000000  # x^0 in reflected order


def extend(crc: int, data: Any) -> int:
    """The checksum of what `crc` covers followed by `data`: bytes or a contiguous array."""
    value: int = google_crc32c.extend(crc, data)
    return value


def crc32c(data: Any) -> int:
    """The checksum of bytes or of a contiguous array.

    >>> hex(crc32c(b"123456789"))
    '0xe3069283'
    """
    return extend(0, data)


def _multiply(a: int, b: int) -> int:
    product = 0
    for bit in range(31, -1, -1):
        if (b >> bit) & 1:
            product ^= a
        a = (a >> 1) ^ (_POLYNOMIAL if a & 1 else 0)
    return product


@lru_cache(maxsize=1024)
def _shift_tables(n_bytes: int) -> tuple[tuple[int, ...], ...]:
    """Four tables of 256: what x^(8 n_bytes) makes of each byte of a checksum."""
    factor, square, n = _ONE, _ONE >> 8, n_bytes
    while n:
        if n & 1:
            factor = _multiply(factor, square)
        square = _multiply(square, square)
        n >>= 1
    images = [factor]  # of x^0, x^1, ..., which are bits 31, 30, ...
    for _ in range(31):
        images.append(images[-1] >> 1 ^ (_POLYNOMIAL if images[-1] & 1 else 0))
    images.reverse()
    tables = []
    for shift in (0, 8, 16, 24):
        table = [0]
        for image in images[shift : shift + 8]:
            table += [entry ^ image for entry in table]
        tables.append(tuple(table))
    return tuple(tables)


def combine(crc: int, appended: int, n_bytes: int) -> int:
    """The checksum of a message of checksum `crc` followed by `n_bytes` bytes of checksum `appended`.

    >>> combine(crc32c(b"12345"), crc32c(b"6789"), 4) == crc32c(b"123456789")
    True
    """
    t0, t1, t2, t3 = _shift_tables(n_bytes)
    return t0[crc & 255] ^ t1[crc >> 8 & 255] ^ t2[crc >> 16 & 255] ^ t3[crc >> 24] ^ appended


def combine_all(parts: Sequence[tuple[int, int]]) -> int:
    """The checksum of pieces laid end to end, each a pair (checksum, bytes)."""
    crc = 0
    for appended, n_bytes in parts:
        crc = combine(crc, appended, n_bytes)
    return crc
