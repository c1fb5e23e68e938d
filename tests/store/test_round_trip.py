"""What goes in comes out: bit for bit, for every dtype, shape, order of writing and way of reading."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from steercache.core.layout import CodecName, DType, SiteLayout, StoreLayout
from steercache.store.generation import create_generation
from steercache.store.reader import GenerationReader
from steercache.store.shard import ShardWriter
from tests.store.written import BITS, DTYPES, NUMPY, Written, recode_run, scratch, small_layout, wild_bits, write_run


@st.composite
def layouts(draw: st.DrawFn) -> StoreLayout:
    chunk_rows = draw(st.integers(1, 5))
    sites = [SiteLayout(site="resid_post", layers=tuple(range(draw(st.integers(1, 3)))), width=draw(st.integers(1, 9)))]
    if draw(st.booleans()):
        sites.append(SiteLayout(site="attn_out", layers=(-1,), width=draw(st.integers(1, 9))))
    return StoreLayout(
        sites=tuple(sites),
        dtype=draw(st.sampled_from(DTYPES)),
        n_shards=draw(st.integers(1, 4)),
        rows_per_shard=chunk_rows * draw(st.integers(1, 4)),
        chunk_rows=chunk_rows,
    )


@st.composite
def runs(draw: st.DrawFn) -> tuple[StoreLayout, dict[int, int], int]:
    """A layout, the used rows of the shards that are committed (none, all or some), and a seed."""
    layout = draw(layouts())
    shards = draw(st.sets(st.integers(0, layout.n_shards - 1), min_size=1))
    n_rows_of = {shard: draw(st.integers(0, layout.rows_per_shard)) for shard in sorted(shards)}
    return layout, n_rows_of, draw(st.integers(0, 2**32 - 1))


def assert_reads_what_was_written(written: Written, reader: GenerationReader, rng: np.random.Generator) -> None:
    used = written.used_rows()
    bits = BITS[written.layout.dtype]
    for site in written.layout.sites:
        for layer_pos, layer in enumerate(site.layers):
            views = list(reader.layer_views(site.site, layer))
            assert [first for first, _ in views] == [
                r.shard_idx * written.layout.rows_per_shard for r in written.records
            ]
            for record, (_, view_nd) in zip(written.records, views, strict=True):
                truth_nd = written.truth[site.site, record.shard_idx][layer_pos]
                assert view_nd.dtype == NUMPY[written.layout.dtype]
                assert np.array_equal(view_nd.view(bits), truth_nd)
            if used:
                rows = rng.choice(used, size=2 * len(used))
                gathered = reader.gather(site.site, layer, rows)
                assert gathered.dtype == NUMPY[written.layout.dtype]
                assert np.array_equal(gathered.view(bits), written.rows(site.site, layer_pos, rows.tolist()))


@settings(max_examples=60, deadline=None)
@given(runs(), st.booleans())
def test_every_row_comes_back_bit_for_bit_in_any_order(
    run: tuple[StoreLayout, dict[int, int], int], side_by_side: bool
) -> None:
    layout, n_rows_of, seed = run
    with scratch() as root:
        written = write_run(root, layout, n_rows_of, seed=seed)
        records = {r.shard_idx: r for r in written.records}
        with GenerationReader(written.path, records, side_by_side=side_by_side) as reader:
            assert_reads_what_was_written(written, reader, np.random.default_rng(seed))


@settings(max_examples=30, deadline=None)
@given(runs(), st.sampled_from(["blosc", "pcodec", "raw"]))
def test_lossless_codecs_give_back_every_bit(run: tuple[StoreLayout, dict[int, int], int], codec: CodecName) -> None:
    layout, n_rows_of, seed = run
    with scratch() as root:
        written = write_run(root, layout, n_rows_of, seed=seed)
        path, records = recode_run(written, codec)
        with GenerationReader(path, {r.shard_idx: r for r in records}) as reader:
            assert reader.codec == codec
            assert not reader.lossy
            assert_reads_what_was_written(written, reader, np.random.default_rng(seed))


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_a_shard_has_the_same_bytes_in_whatever_blocks_and_order_its_rows_come(data: st.DataObject) -> None:
    layout = small_layout(data.draw(st.sampled_from(DTYPES)), n_shards=1)
    n_rows = data.draw(st.integers(0, layout.rows_per_shard))
    rng = np.random.default_rng(data.draw(st.integers(0, 1000)))
    with scratch() as root:
        written = write_run(root / "whole", layout, {0: n_rows})
        places = [(site.site, layer_pos) for site in layout.sites for layer_pos in range(len(site.layers))]
        cuts = st.sets(st.integers(1, max(n_rows - 1, 1)))
        cut_alike = data.draw(cuts)
        blocks = []
        for site_name, layer_pos in places:
            inner = cut_alike if data.draw(st.booleans()) else data.draw(cuts)
            ends = [0, *sorted(cut for cut in inner if cut < n_rows), n_rows]
            blocks += [(site_name, layer_pos, start, end) for start, end in pairwise(ends)]
        order = [blocks[i] for i in rng.permutation(len(blocks))] if data.draw(st.booleans()) else blocks
        path = root / "pieces" / "g0001"
        create_generation(path, layout, attributes={"run_id": "r"})
        writer = ShardWriter(path, layout, 0, n_rows=n_rows)
        for site_name, layer_pos, start, end in order:
            piece = written.truth[site_name, 0][layer_pos, start:end]
            writer.write(site_name, layer_pos, start, piece.view(NUMPY[layout.dtype]))
        files = writer.finish(**{name: written.columns[name, 0] for name in ("sample_idx", "position", "token_id")})
        assert files == written.records[0].files
        assert all((path.parent / f.path).read_bytes() == (root / "whole" / f.path).read_bytes() for f in files)


def test_rows_written_twice_keep_the_last_values_and_true_checksums() -> None:
    layout = small_layout(n_shards=1)
    with scratch() as root:
        written = write_run(root / "whole", layout, {0: 7})
        path = root / "twice" / "g0001"
        create_generation(path, layout, attributes={"run_id": "r"})
        writer = ShardWriter(path, layout, 0, n_rows=7)
        for site in layout.sites:
            for layer_pos, bits_nd in enumerate(written.truth[site.site, 0]):
                writer.write(site.site, layer_pos, 0, np.zeros_like(bits_nd).view(NUMPY[layout.dtype]))
                writer.write(site.site, layer_pos, 0, bits_nd.view(NUMPY[layout.dtype]))
        files = writer.finish(**{name: written.columns[name, 0] for name in ("sample_idx", "position", "token_id")})
        assert files == written.records[0].files


AWKWARD: dict[
    DType, list[int]
] = {  # largest, smallest, subnormal, infinities, zeros, quiet and signalling NaNs with payloads
    "float32": [0x7F7FFFFF, 0xFF7FFFFF, 1, 0x7F800000, 0xFF800000, 0x80000000, 0x7FC00001, 0xFFFFFFFF, 0x7F800001],
    "bfloat16": [0x7F7F, 0xFF7F, 1, 0x7F80, 0xFF80, 0x8000, 0x7FC1, 0xFFFF, 0x7F81],
    "float16": [0x7BFF, 0xFBFF, 1, 0x7C00, 0xFC00, 0x8000, 0x7E01, 0xFFFF, 0x7C01],
}


@pytest.mark.parametrize("codec", ["raw", "blosc", "pcodec"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_massive_values_and_every_kind_of_nan_survive(dtype: DType, codec: CodecName) -> None:
    layout = StoreLayout(
        sites=(SiteLayout(site="resid_post", layers=(0,), width=9),),
        dtype=dtype,
        n_shards=1,
        rows_per_shard=2,
        chunk_rows=2,
    )
    bits = np.array(AWKWARD[dtype], dtype=BITS[dtype])
    with scratch() as root:
        written = write_run(root, layout, {0: 1}, make_bits=lambda *_: bits.reshape(1, 1, 9))
        path, records = recode_run(written, codec)
        with GenerationReader(path, {0: records[0]}) as reader:
            read = reader.gather("resid_post", 0, np.array([0]))
        assert read.view(BITS[dtype])[0].tolist() == AWKWARD[dtype]


def test_wild_bits_hold_what_they_promise() -> None:
    for dtype in DTYPES:
        values = wild_bits(np.random.default_rng(0), (50, 50), dtype).view(NUMPY[dtype]).astype(np.float32)
        assert np.isnan(values).sum() > 20
        assert np.isinf(values).sum() > 20
