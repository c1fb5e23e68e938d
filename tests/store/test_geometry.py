"""Layout arithmetic: chunks tile the file, the index says where, 64 bits are enough."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from steercache.core.layout import SiteLayout, StoreLayout
from steercache.store.geometry import (
    MISSING,
    ShardGeometry,
    pack_index,
    packed_index,
    shard_geometry,
    unpack_index,
)

GEOMETRIES = st.builds(
    lambda n_layers, width, item_bytes, chunk_rows, chunks, used: ShardGeometry(
        n_layers=n_layers,
        width=width,
        item_bytes=item_bytes,
        chunk_rows=chunk_rows,
        chunks_per_shard=chunks,
        n_rows=used % (chunk_rows * chunks + 1),
    ),
    st.integers(1, 6),
    st.integers(1, 20),
    st.sampled_from([2, 4]),
    st.integers(1, 7),
    st.integers(1, 6),
    st.integers(0, 1000),
)


@settings(deadline=None)
@given(GEOMETRIES)
def test_chunks_lie_end_to_end_in_layer_then_row_order(geometry: ShardGeometry) -> None:
    index = geometry.raw_index()
    present = [tuple(int(n) for n in entry) for entry in index.reshape(-1, 2) if entry[0] != MISSING]
    end = 0
    for offset, length in present:
        assert offset == end
        end = offset + length
    assert end == geometry.data_bytes
    assert len(present) == geometry.n_layers * geometry.filled_chunks
    assert geometry.file_bytes == end + len(pack_index(index))


@settings(deadline=None)
@given(GEOMETRIES)
def test_a_chunk_is_there_exactly_if_it_has_a_used_row(geometry: ShardGeometry) -> None:
    index = geometry.raw_index()
    for chunk in range(geometry.chunks_per_shard):
        used = chunk * geometry.chunk_rows < geometry.n_rows
        assert (index[:, chunk] != MISSING).all() == used
        assert (index[:, chunk] == MISSING).all() != used


@settings(deadline=None)
@given(GEOMETRIES)
def test_every_row_has_its_own_bytes_inside_the_chunk_that_the_index_names(geometry: ShardGeometry) -> None:
    index = geometry.raw_index()
    taken = np.zeros(geometry.data_bytes, dtype=np.int64)
    for layer_pos in range(geometry.n_layers):
        for slot in range(geometry.n_rows):
            start = geometry.offset(layer_pos, slot)
            taken[start : start + geometry.row_bytes] += 1
            offset, length = (int(n) for n in index[layer_pos, slot // geometry.chunk_rows])
            assert offset <= start
            assert start + geometry.row_bytes <= offset + length
    assert taken.max(initial=0) <= 1


@settings(deadline=None)
@given(GEOMETRIES, st.integers(0, 2**32 - 1))
def test_an_index_goes_through_its_bytes_and_back_and_a_flipped_bit_shows(geometry: ShardGeometry, seed: int) -> None:
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, 2**40, geometry.n_layers * geometry.filled_chunks).tolist()
    index = packed_index(geometry, lengths)
    data = rng.bytes(5) + pack_index(index)
    read = unpack_index(data, geometry)
    assert read is not None
    assert np.array_equal(read, index)
    filled = read[:, : geometry.filled_chunks].reshape(-1, 2)
    assert filled[:, 1].tolist() == lengths
    assert filled[:, 0].tolist() == [sum(lengths[:i]) for i in range(len(lengths))]
    flipped = bytearray(data)
    flipped[5 + int(rng.integers(len(data) - 5))] ^= 1 << int(rng.integers(8))
    assert unpack_index(bytes(flipped), geometry) is None
    assert unpack_index(data[6:], geometry) is None


def test_a_run_of_a_hundred_million_rows_fits_the_arithmetic() -> None:
    site = SiteLayout(site="resid_post", layers=tuple(range(126)), width=16_384)
    layout = StoreLayout(sites=(site,), dtype="float32", n_shards=13_500, rows_per_shard=7680, chunk_rows=256)
    geometry = shard_geometry(layout, site, 7680)
    assert geometry.data_bytes == 126 * 7680 * 16_384 * 4  # 63 GB: beyond 32 bits
    assert int(geometry.raw_index()[-1, -1].sum()) == geometry.data_bytes
    assert layout.n_slots == 103_680_000
