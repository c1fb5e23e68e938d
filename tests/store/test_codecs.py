"""int8 and its measured error; compressed bytes that do not depend on threads."""

import json
import threading
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from steercache.core.errors import UsageError
from steercache.core.ids import canonical_json
from steercache.core.layout import CodecError, CodecName, DType
from steercache.store.codecs import chunk_codec
from steercache.store.documents import shard_record_from_json, shard_record_to_json
from steercache.store.generation import create_generation, read_generation
from steercache.store.int8 import dequantize, measure_error, quantize
from steercache.store.reader import open_generation
from steercache.store.recode import recode_shard
from tests.store.written import BITS, DTYPES, NUMPY, plain_bits, recode_run, small_layout, wild_bits, write_run

FLOATS = hnp.arrays(np.float32, st.tuples(st.integers(1, 5), st.integers(1, 6)), elements=st.floats(width=32))


@settings(deadline=None)
@given(FLOATS)
def test_int8_is_within_half_a_step_and_keeps_what_is_not_a_number(x_nd: np.ndarray[Any, Any]) -> None:
    y_nd = dequantize(*quantize(x_nd), np.dtype(np.float32))
    finite = np.isfinite(x_nd)
    assert np.array_equal(finite, np.isfinite(y_nd))
    assert np.array_equal(np.isnan(x_nd), np.isnan(y_nd))
    assert np.array_equal(x_nd[np.isinf(x_nd)], y_nd[np.isinf(x_nd)])
    for x, y, known in zip(x_nd, y_nd, finite, strict=True):
        top = np.abs(x[known].astype(np.float64)).max(initial=0.0)
        error = np.abs(x[known].astype(np.float64) - y[known].astype(np.float64)).max(initial=0.0)
        assert error <= top / 126 / 2 * (1 + 1e-5) + 1e-40  # below float32's normal range a step cannot be written


@settings(deadline=None)
@given(FLOATS, st.sampled_from(DTYPES))
def test_int8_of_int8_changes_nothing_more_than_rounding_to_the_type(x_nd: np.ndarray[Any, Any], dtype: DType) -> None:
    with np.errstate(over="ignore"):
        values = x_nd.astype(NUMPY[dtype])
    once = dequantize(*quantize(values), np.dtype(NUMPY[dtype]))
    assert once.dtype == NUMPY[dtype]
    assert np.array_equal(np.isnan(once.astype(np.float32)), np.isnan(values.astype(np.float32)))


def test_a_massive_activation_costs_its_own_row_only() -> None:
    rng = np.random.default_rng(0)
    x_nd = rng.standard_normal((64, 576)).astype(np.float32)
    x_nd[0, 7] = 26_880
    error_nd = np.abs(dequantize(*quantize(x_nd), np.dtype(np.float32)) - x_nd)
    assert error_nd[0].max() > 1
    assert error_nd[1:].max() < 0.02


def plain_error(x_nd: np.ndarray[Any, Any], y_nd: np.ndarray[Any, Any]) -> dict[str, float]:
    """Worst absolute error, relative errors and cosines, a row at a time."""
    worst_abs = 0.0
    relative: list[float] = []
    cosines: list[float] = []
    for x, y in zip(x_nd.astype(np.float64), y_nd.astype(np.float64), strict=True):
        known = np.isfinite(x)
        x, y = x[known], y[known]
        if not len(x) or not x.any():
            continue
        worst_abs = max(worst_abs, float(np.abs(x - y).max()))
        relative.append(float(np.sqrt(((x - y) ** 2).sum() / (x**2).sum())))
        norms = np.sqrt((x**2).sum() * (y**2).sum())
        cosines.append(float(x @ y / norms) if norms else 0.0)
    return {
        "n_rows": len(relative),
        "max_abs": worst_abs,
        "max_relative": max(relative, default=0.0),
        "mean_relative": sum(relative) / len(relative) if relative else 0.0,
        "min_cosine": min([*cosines, 1.0]),
        "mean_cosine": sum(cosines) / len(cosines) if cosines else 1.0,
    }


def measured(error: CodecError) -> dict[str, float]:
    """The measures alone."""
    return {name: value for name, value in asdict(error).items() if name not in ("site", "layer")}


@settings(deadline=None)
@given(hnp.arrays(np.float32, (4, 5), elements=st.floats(-1e6, 1e6, width=32, allow_subnormal=False)))
def test_the_error_is_what_a_plain_loop_measures(x_nd: np.ndarray[Any, Any]) -> None:
    y_nd = dequantize(*quantize(x_nd), np.dtype(np.float32))
    assert measured(measure_error(x_nd, y_nd).of("resid_post", 0)) == pytest.approx(plain_error(x_nd, y_nd), abs=1e-12)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_shards_record_has_the_error_of_every_layer(dtype: DType, root: Path) -> None:
    written = write_run(root, small_layout(dtype), {0: 12, 1: 0, 2: 5}, make_bits=plain_bits)
    path, records = recode_run(written, "int8")
    assert read_generation(path).lossy
    places = [(site.site, layer) for site in written.layout.sites for layer in site.layers]
    with written.open() as raw, open_generation(path, records) as coded:
        assert coded.lossy
        for record in records:
            assert [(one.site, one.layer) for one in record.codec_errors] == places
            first = record.shard_idx * written.layout.rows_per_shard
            rows = np.arange(first, first + record.n_rows)
            for one in record.codec_errors:
                x_nd, y_nd = (source.gather(one.site, one.layer, rows) for source in (raw, coded))
                assert measured(one) == pytest.approx(plain_error(x_nd, y_nd))
                assert one.n_rows == 0 or 0.99 < one.min_cosine < one.mean_cosine < 1
            assert shard_record_from_json(json.loads(canonical_json(shard_record_to_json(record))), "here") == record
            assert record.digest() != replace(record, codec_errors=()).digest()
    with written.open() as source:
        again = recode_shard(source, path, written.layout, 0, codec="int8", n_threads=1)
    assert (again.files, again.codec_errors) == (records[0].files, records[0].codec_errors)


def test_what_is_lossy_is_not_recoded_into_something_that_looks_exact(root: Path) -> None:
    written = write_run(root, small_layout(), {0: 12}, make_bits=plain_bits)
    path, records = recode_run(written, "int8")
    create_generation(root / "g0003", written.layout, attributes={}, codec="raw")
    with open_generation(path, records) as lossy, pytest.raises(UsageError, match="lossy"):
        recode_shard(lossy, root / "g0003", written.layout, 0, codec="raw")


def test_a_lossless_generation_goes_back_to_raw_with_the_same_bytes(root: Path) -> None:
    written = write_run(root, small_layout(), {0: 12, 2: 5})
    path, records = recode_run(written, "pcodec")
    create_generation(root / "g0003", written.layout, attributes={}, codec="raw")
    with open_generation(path, records) as source:
        for number, record in enumerate(records):
            files = recode_shard(source, root / "g0003", written.layout, record.shard_idx, codec="raw").files
            for old, new in zip(written.records[number].files, files, strict=True):
                assert (root / old.path).read_bytes() == (root / new.path).read_bytes()
                assert (old.crc32c, old.chunk_crc32c) == (new.crc32c, new.chunk_crc32c)


def test_other_rows_than_the_sources_are_refused_but_other_chunks_are_not(root: Path) -> None:
    layout = small_layout()
    written = write_run(root, layout, {0: 11})
    larger_chunks = replace(layout, chunk_rows=6)
    create_generation(root / "g0002", larger_chunks, attributes={}, codec="blosc")
    with written.open() as source:
        files = recode_shard(source, root / "g0002", larger_chunks, 0, codec="blosc").files
        for other in (replace(layout, n_shards=2), replace(layout, sites=layout.sites[:1])):
            with pytest.raises(UsageError, match="chunk_rows"):
                recode_shard(source, root / "g0002", other, 0, codec="blosc")
    recoded = replace(written.records[0], files=files)
    read = open_generation(root / "g0002", [recoded]).gather("resid_post", 5, np.arange(11))
    assert read.tobytes() == written.truth["resid_post", 0][2].tobytes()


@pytest.mark.parametrize("codec", ["blosc", "pcodec", "int8"])
def test_compressed_bytes_are_the_same_from_any_thread(codec: CodecName) -> None:
    rows = plain_bits(np.random.default_rng(0), (256, 576), "bfloat16")
    encode = chunk_codec(codec, "bfloat16").encode
    found: list[bytes] = [encode(rows)]
    threads = [threading.Thread(target=lambda: found.append(encode(rows))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(found)) == 1
    assert len(found) == 5


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("codec", ["blosc", "pcodec", "int8"])
def test_bytes_that_no_encoder_made_for_the_shape_are_an_error_that_the_reader_expects(
    codec: CodecName, dtype: DType
) -> None:
    coder = chunk_codec(codec, dtype)
    packed = coder.encode(wild_bits(np.random.default_rng(0), (40, 6), dtype))
    for shape in ((41, 6), (39, 6), (40, 5), (40, 12)):
        with pytest.raises((ValueError, RuntimeError)):
            coder.decode(packed, shape)
    for length in (0, 1, 15, 16, 17, len(packed) // 2):
        with pytest.raises((ValueError, RuntimeError)):
            coder.decode(packed[:length], (40, 6))


def test_lossless_codecs_make_activations_smaller() -> None:
    rng = np.random.default_rng(0)
    values = (rng.standard_t(4, (256, 576)) * np.exp(rng.normal(0, 0.6, 576))).astype(NUMPY["bfloat16"])
    rows = values.view(BITS["bfloat16"])
    sizes = {
        name: len(chunk_codec(name, "bfloat16").encode(rows)) / rows.nbytes for name in ("blosc", "pcodec", "int8")
    }
    assert sizes["pcodec"] < sizes["blosc"] < 0.80
    assert sizes["int8"] < 0.45
