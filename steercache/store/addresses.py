"""The system's own `mmap`, for what Python's cannot do: maps at chosen addresses, and maps that hold no descriptor."""

import ctypes
import mmap
import os
import sys
import weakref
from typing import Any

import numpy as np
import numpy.typing as npt

PROT_NONE = 0
MAP_FIXED = 0x10  # Linux and macOS agree on it; Python's mmap knows neither this nor the next
MAP_NORESERVE = {"linux": 0x4000, "darwin": 0x40}.get(sys.platform, 0)
_MADV_HUGEPAGE = 14  # Linux; macOS knows no such advice
_FAILED = ctypes.c_void_p(-1).value


class _Range:
    """Mapped addresses as numpy's array interface; an array over it keeps it alive, and with it the map."""

    def __init__(self, address: int, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        read_only = True
        self.__array_interface__ = {"shape": shape, "typestr": dtype.str, "data": (address, read_only), "version": 3}


def have_addresses() -> bool:
    """Whether this system maps files as this module expects (Linux and macOS do)."""
    return MAP_NORESERVE != 0


def map_addresses(address: int | None, n_bytes: int, *, protection: int, flags: int, fd: int) -> int:
    """Map `fd` from its beginning and return the address. Raises OSError."""
    mapped = _LIBC.mmap(address, n_bytes, protection, flags, fd, 0)
    if mapped == _FAILED:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return int(mapped)


def array_over(
    address: int, *, shape: tuple[int, ...], dtype: np.dtype[Any], mapped: tuple[int, int]
) -> npt.NDArray[Any]:
    """A read-only array at `address`; the range `mapped` (address, bytes) is unmapped when the last array over it is gone."""
    owner = _Range(address, shape, dtype)
    unmap = weakref.finalize(owner, _LIBC.munmap, *mapped)
    unmap.atexit = False  # arrays may still be read while the process ends
    return np.asarray(owner)


def read_in_large_pieces(address: int, n_bytes: int) -> None:
    """Tell the system to read a mapped file 2 MiB at a time and to keep it in large pages where its disk has them.

    Small pages that are there already stay. Told of a whole map, so that it is not cut into several.
    """
    _LIBC.madvise(address, n_bytes, _MADV_HUGEPAGE)  # advice: what it answers does not matter


def _load_libc() -> Any:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_longlong]
    libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
    libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    return libc


_LIBC: Any = _load_libc() if have_addresses() else None


def map_bytes(fd: int, n_bytes: int) -> npt.NDArray[np.uint8]:
    """The bytes of an open file, read-only, without reading them; `fd` may be closed, `n_bytes` is not 0. Raises OSError."""
    if not have_addresses():
        return np.frombuffer(mmap.mmap(fd, n_bytes, access=mmap.ACCESS_READ), dtype=np.uint8)
    address = map_addresses(None, n_bytes, protection=mmap.PROT_READ, flags=mmap.MAP_SHARED, fd=fd)
    return array_over(address, shape=(n_bytes,), dtype=np.dtype(np.uint8), mapped=(address, n_bytes))
