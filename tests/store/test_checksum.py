"""CRC-32C and the joining of checksums, against a bit-by-bit division."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from steercache.store.checksum import combine, combine_all, crc32c, extend


def plain_crc32c(data: bytes) -> int:
    """RFC 3720's CRC, one bit at a time."""
    register = 0xFFFFFFFF
    for byte in data:
        register ^= byte
        for _ in range(8):
            register = (register >> 1) ^ (0x82F63B78 if register & 1 else 0)
    return register ^ 0xFFFFFFFF


@pytest.mark.parametrize(
    ("data", "expected"),  # RFC 3720, appendix B.4
    [(bytes(32), 0x8A9136AA), (b"\xff" * 32, 0x62A8AB43), (bytes(range(32)), 0x46DD794E), (b"", 0)],
)
def test_the_rfcs_own_examples(data: bytes, expected: int) -> None:
    assert crc32c(data) == expected == plain_crc32c(data)


@settings(deadline=None)
@given(st.binary(max_size=200))
def test_it_is_the_plain_division(data: bytes) -> None:
    assert crc32c(data) == plain_crc32c(data)


@settings(deadline=None)
@given(st.lists(st.binary(max_size=300), max_size=6))
def test_joining_checksums_is_the_checksum_of_the_joined(parts: list[bytes]) -> None:
    whole = plain_crc32c(b"".join(parts))
    assert combine_all([(crc32c(part), len(part)) for part in parts]) == whole
    crc = 0
    for part in parts:
        crc = extend(crc, part)
    assert crc == whole


@settings(deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1), st.integers(0, 2**33), st.integers(0, 2**33))
def test_joining_holds_for_lengths_beyond_four_gigabytes(crc: int, appended: int, n: int, m: int) -> None:
    zeros = combine(combine(crc, 0, n), 0, m)
    assert zeros == combine(crc, 0, n + m)
    assert combine(crc, appended, n) == combine(crc, 0, n) ^ appended


def test_arrays_of_every_stored_type_are_their_bytes() -> None:
    for dtype in (np.uint8, np.uint16, np.float32):
        values = np.arange(12, dtype=dtype).reshape(3, 4)
        assert crc32c(values) == plain_crc32c(values.tobytes())
