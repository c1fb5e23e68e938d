"""Writing past the page cache: the same bytes on every disk, and what a disk cannot do is done the usual way."""

import errno
import fcntl
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from steercache.core.errors import BudgetError
from steercache.store import durable
from steercache.store.staging import Staging

BLOCK, PART = 4096, 16 * 2**20
SIZES = [0, 1, BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK, 2 * PART + BLOCK + 17]


def content(n_bytes: int) -> memoryview:
    """Random bytes in the memory that a shard would lie in."""
    memory = Staging().take(n_bytes)
    np.frombuffer(memory, dtype=np.uint8)[:n_bytes] = np.random.default_rng(n_bytes).integers(0, 256, n_bytes)
    return memoryview(memory)[:n_bytes]


def written(path: Path, data: memoryview) -> bytes:
    fd = durable.create(path)
    try:
        durable.reserve(fd, len(data))
        durable.write_past_cache(fd, data)
        assert not is_direct(fd)
        durable.fsync(fd)
    finally:
        durable.close(fd)
    return path.read_bytes()


def is_direct(fd: int) -> bool:
    return bool(fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_DIRECT)


@pytest.mark.parametrize("n_bytes", SIZES)
def test_all_bytes_arrive(tmp_path: Path, root: Path, n_bytes: int) -> None:
    data = content(n_bytes)
    assert written(tmp_path / "on disk", data) == bytes(data)
    assert written(root / "in memory", data) == bytes(data)


def test_memory_that_begins_within_a_page_is_written_too(tmp_path: Path) -> None:
    data = content(3 * BLOCK + 5)[1:]
    assert written(tmp_path / "f", data) == bytes(data)


def test_whole_blocks_go_past_the_cache_and_the_rest_does_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fd = os.open(tmp_path / "probe", os.O_CREAT | os.O_WRONLY)
    try:
        fcntl.fcntl(fd, fcntl.F_SETFL, os.O_DIRECT)
    except OSError:
        pytest.skip("this disk has no direct writes")
    finally:
        os.close(fd)
    calls: list[tuple[int, int, bool]] = []

    def pwrite(fd: int, data: Any, offset: int, real: Any = os.pwrite) -> int:
        calls.append((offset, len(data), is_direct(fd)))
        return int(real(fd, data, offset))

    monkeypatch.setattr(os, "pwrite", pwrite)
    data = content(SIZES[-1])
    assert written(tmp_path / "f", data) == bytes(data)
    assert calls == [(0, PART, True), (PART, PART, True), (2 * PART, BLOCK, True), (2 * PART + BLOCK, 17, False)]


@pytest.mark.parametrize("n_taken", [BLOCK, 5000, 3 * BLOCK])
def test_a_disk_that_takes_less_at_once_gets_the_rest_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, n_taken: int
) -> None:
    def pwrite(fd: int, data: Any, offset: int, real: Any = os.pwrite) -> int:
        return int(real(fd, bytes(data[:n_taken]) if not is_direct(fd) else data[: n_taken // BLOCK * BLOCK], offset))

    monkeypatch.setattr(os, "pwrite", pwrite)
    data = content(9 * BLOCK + 11)
    assert written(tmp_path / "f", data) == bytes(data)


@pytest.mark.parametrize("n_before", [0, 1])
def test_a_disk_that_refuses_direct_writes_is_written_the_usual_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, n_before: int
) -> None:
    n_direct = 0

    def pwrite(fd: int, data: Any, offset: int, real: Any = os.pwrite) -> int:
        nonlocal n_direct
        if is_direct(fd):
            n_direct += 1
            if n_direct > n_before:
                raise OSError(errno.EINVAL, "Invalid argument")
        return int(real(fd, data, offset))

    monkeypatch.setattr(os, "pwrite", pwrite)
    data = content(2 * PART)
    assert written(tmp_path / "f", data) == bytes(data)


def test_a_full_disk_is_named_and_the_descriptor_is_as_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def pwrite(fd: int, data: Any, offset: int) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "pwrite", pwrite)
    fd = durable.create(tmp_path / "f")
    with pytest.raises(BudgetError, match="No space left"):
        durable.write_past_cache(fd, content(BLOCK))
    assert not is_direct(fd)
    durable.close(fd)


def test_what_was_written_is_recorded_as_it_lies_in_the_file(tmp_path: Path) -> None:
    data = content(2 * PART + 9)
    with durable.record_operations() as operations:
        found = written(tmp_path / "f", data)
    rebuilt = bytearray(len(data))
    for operation in operations:
        if operation.kind == "write":
            rebuilt[operation.offset : operation.offset + len(operation.data)] = operation.data
    assert bytes(rebuilt) == found == bytes(data)


def test_memory_is_lent_again_where_it_fits_and_kept_nowhere_else() -> None:
    staging = Staging()
    small, large = staging.take(10), staging.take(5 * 2**20)
    assert np.frombuffer(large, dtype=np.uint8).ctypes.data % BLOCK == 0
    staging.give(small)
    staging.give(large)
    assert staging.take(3 * 2**20) is large
    assert staging.take(7) is small
    staging.give(small)
    assert staging.take(9 * 2**20) is not small
    assert staging.take(10) is not small  # too small once: not kept beside what took its place


def test_memory_that_the_system_has_not_is_named_with_a_way_out() -> None:
    with pytest.raises(BudgetError, match="no memory for a shard's file of") as caught:
        Staging().take(2**46)  # more than any address space that a process has
    assert "shard_mib" in str(caught.value.hint)
