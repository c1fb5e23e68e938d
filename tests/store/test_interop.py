"""Other readers open what we write: tensorstore, zarr-python and xarray, values and coordinates."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorstore
import xarray
import zarr

from steercache.core.layout import CodecName, DType, SiteLayout, StoreLayout
from steercache.store.generation import set_complete
from steercache.store.reader import GenerationReader, open_generation
from tests.store.written import BITS, DTYPES, NUMPY, Written, plain_bits, recode_run, small_layout, write_run

N_ROWS_OF = {
    0: 12,
    1: 0,
    2: 5,
}  # full, empty, with a chunk that is partly used and one that is missing; shard 3 is missing


@pytest.fixture(params=DTYPES)
def written(request: pytest.FixtureRequest, root: Path) -> Written:
    return write_run(root, small_layout(request.param, n_shards=4), N_ROWS_OF)


def expected(written: Written, site: SiteLayout) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Bits of the whole array of a site, and which of its rows are used."""
    layout = written.layout
    bits = np.zeros((len(site.layers), layout.n_slots, site.width), dtype=BITS[layout.dtype])
    used = np.zeros(layout.n_slots, dtype=bool)
    for shard, n_rows in N_ROWS_OF.items():
        start = shard * layout.rows_per_shard
        bits[:, start : start + n_rows] = written.truth[site.site, shard]
        used[start : start + n_rows] = True
    return bits, used


def assert_holds(read: np.ndarray[Any, Any], written: Written, site: SiteLayout) -> None:
    bits, used = expected(written, site)
    assert read.dtype == NUMPY[written.layout.dtype]
    assert np.array_equal(read.view(BITS[written.layout.dtype])[:, used], bits[:, used])
    assert np.isnan(read[:, ~used].astype(np.float32)).all()


def open_with_tensorstore(path: Path) -> Any:
    spec = {"driver": "zarr3", "kvstore": {"driver": "file", "path": str(path)}}
    return tensorstore.open(spec, open=True, read=True).result()


def test_zarr_python_reads_values_and_coordinates(written: Written) -> None:
    group = zarr.open_group(written.path, mode="r")
    for site in written.layout.sites:
        array: Any = group[site.site]
        assert_holds(array[:], written, site)
    coordinates: dict[str, Any] = {name: group[name] for name in ("layer", "layer_mlp_out", "position", "sample_idx")}
    assert coordinates["layer"][:].tolist() == [0, 2, 5]
    assert coordinates["layer_mlp_out"][:].tolist() == [2]
    for name in ("position", "sample_idx"):
        values = coordinates[name][:]
        assert values[:12].tolist() == written.columns[name, 0].tolist()
        assert values[24:29].tolist() == written.columns[name, 2].tolist()
        assert set(values[12:24]) == set(values[29:]) == {-1}


def test_tensorstore_reads_values_and_coordinates(written: Written) -> None:
    for site in written.layout.sites:
        stored = open_with_tensorstore(written.path / site.site)
        assert stored.dtype.name == written.layout.dtype
        assert_holds(stored.read().result(), written, site)
    token_id = open_with_tensorstore(written.path / "token_id").read().result()
    assert token_id[24:29].tolist() == written.columns["token_id", 2].tolist()
    assert set(token_id[12:24]) == {-1}


def test_xarray_opens_a_generation_as_one_data_set_with_its_coordinates(written: Written) -> None:
    set_complete(written.path, True)
    with xarray.open_zarr(written.path, consolidated=False, chunks=None) as dataset:
        assert set(dataset.data_vars) == {"resid_post", "mlp_out"}
        assert set(dataset.coords) == {"layer", "layer_mlp_out", "sample_idx", "position", "token_id"}
        assert dataset["resid_post"].dims == ("layer", "row", "hidden")
        assert dataset["mlp_out"].dims == ("layer_mlp_out", "row", "hidden_mlp_out")
        assert dataset.attrs["complete"]
        assert dataset["token_id"].values[24:29].tolist() == written.columns["token_id", 2].tolist()
        layer_5 = dataset["resid_post"].sel(layer=5).values
        assert np.array_equal(layer_5[24:29].view(BITS[written.layout.dtype]), written.truth["resid_post", 2][2])
        for site in written.layout.sites:
            assert_holds(dataset[site.site].values, written, site)


@pytest.mark.parametrize("dtype", DTYPES)
def test_blosc_generations_are_read_by_zarr_tensorstore_and_xarray(dtype: DType, root: Path) -> None:
    written = write_run(root, small_layout(dtype, n_shards=4), N_ROWS_OF)
    path, _ = recode_run(written, "blosc")
    group = zarr.open_group(path, mode="r")
    with xarray.open_zarr(path, consolidated=False, chunks=None) as dataset:
        for site in written.layout.sites:
            array: Any = group[site.site]
            assert_holds(array[:], written, site)
            assert_holds(open_with_tensorstore(path / site.site).read().result(), written, site)
            assert_holds(dataset[site.site].values, written, site)
        assert dataset["position"].values[:12].tolist() == written.columns["position", 0].tolist()


READ_WITH_ZARR_ALONE = """
import sys, json, zarr
for path in sys.argv[1:]:
    array = zarr.open_group(path, mode="r")["resid_post"]
    print(json.dumps([str(array.dtype), array[:].view(f"u{array.dtype.itemsize}").ravel().tolist()]))
"""


def test_zarr_python_finds_our_type_and_codecs_without_importing_us(root: Path) -> None:
    stores: list[tuple[DType, GenerationReader]] = []
    for dtype in DTYPES:
        written = write_run(root / dtype, small_layout(dtype), {0: 12, 1: 12, 2: 12}, make_bits=plain_bits)
        codecs: tuple[CodecName, ...] = ("raw", "pcodec", "int8")
        stores += [(dtype, open_generation(*recode_run(written, codec, name=codec))) for codec in codecs]
    run = subprocess.run(
        [sys.executable, "-W", "error", "-c", READ_WITH_ZARR_ALONE, *(str(reader.path) for _, reader in stores)],
        check=True,
        capture_output=True,
        text=True,
    )
    for line, (dtype, reader) in zip(run.stdout.splitlines(), stores, strict=True):
        name, bits = json.loads(line)
        assert name == dtype
        ours = np.stack([reader.gather("resid_post", layer, np.arange(36)) for layer in (0, 2, 5)])
        assert bits == ours.view(BITS[dtype]).ravel().tolist()


@pytest.mark.parametrize("codec", ["blosc", "pcodec", "int8"])
def test_zarr_python_writes_through_our_codecs_what_it_reads_back(codec: CodecName, root: Path) -> None:
    written = write_run(root, small_layout("bfloat16"), {}, make_bits=plain_bits)
    path, _ = recode_run(written, codec)
    array: Any = zarr.open_group(path, mode="r+")["resid_post"]
    values = plain_bits(np.random.default_rng(1), array.shape, "bfloat16").view(NUMPY["bfloat16"])
    array[:] = values
    read = array[:]
    if codec == "int8":
        assert np.allclose(read.astype(np.float32), values.astype(np.float32), rtol=0, atol=80)  # 10,000 / 126
        assert not np.array_equal(read, values)
    else:
        assert np.array_equal(read, values)


@pytest.mark.parametrize("dtype", DTYPES)
def test_our_metadata_means_what_zarr_python_itself_would_write(dtype: DType, root: Path) -> None:
    layout = small_layout(dtype)
    written = write_run(root, layout, {0: 3})
    peer = zarr.create_array(
        root / "peer",
        shape=(3, layout.n_slots, 6),
        shards=(3, layout.rows_per_shard, 6),
        chunks=(1, layout.chunk_rows, 6),
        dtype=NUMPY[dtype],
        fill_value=np.nan,
        compressors=None,
        chunk_key_encoding={"name": "default", "separator": "."},
        dimension_names=["layer", "row", "hidden"],
        attributes={"coordinates": "sample_idx position token_id"},
    )
    ours = json.loads((written.path / "resid_post" / "zarr.json").read_text())
    theirs = json.loads((root / "peer" / "zarr.json").read_text())
    optional = {"storage_transformers": []}
    assert optional | ours == optional | theirs
    assert peer.shape == (3, 36, 6)


def test_a_missing_shard_reads_as_nan_and_minus_one(root: Path) -> None:
    written = write_run(root, small_layout(), {1: 12})
    group = zarr.open_group(written.path, mode="r")
    array: Any = group["resid_post"]
    position: Any = group["position"]
    assert np.isnan(array[:, :12].astype(np.float32)).all()
    assert position[:12].tolist() == [-1] * 12


def test_a_run_without_any_shard_is_still_a_readable_group(root: Path) -> None:
    layout = StoreLayout(
        sites=(SiteLayout(site="resid_post", layers=(0,), width=2),),
        dtype="bfloat16",
        n_shards=0,
        rows_per_shard=4,
        chunk_rows=2,
    )
    written = write_run(root, layout, {})
    array: Any = zarr.open_group(written.path, mode="r")["resid_post"]
    assert array.shape == (1, 0, 2)
    with written.open() as reader:
        assert len(reader.layer_views("resid_post", 0)) == 0


def test_rows_with_a_sample_are_the_valid_ones_in_every_reader(written: Written) -> None:
    """The mask that the docs give: `sample_idx >= 0` leaves exactly the rows that were written, none of them NaN."""
    site = written.layout.sites[0]
    bits, used = expected(written, site)
    group = zarr.open_group(written.path, mode="r")
    dataset = xarray.open_zarr(written.path, consolidated=False)
    valid: Any = group["sample_idx"]
    masks = [
        valid[:] >= 0,
        (dataset["sample_idx"] >= 0).values,
        open_with_tensorstore(written.path / "sample_idx").read().result() >= 0,
    ]
    for mask in masks:
        assert np.array_equal(mask, used)
    arrays: list[Any] = [group[site.site], open_with_tensorstore(written.path / site.site).read().result()]
    read = [np.asarray(array[:])[:, used] for array in arrays]
    read.append(np.asarray(dataset[site.site].isel(row=masks[1]).values))
    for rows in read:
        assert np.array_equal(rows.view(BITS[written.layout.dtype]), bits[:, used])
