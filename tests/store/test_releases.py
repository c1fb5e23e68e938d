"""Stores that other releases of zarr, numcodecs and pcodec wrote hold the same values here, for us and for zarr-python."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

from steercache.core.layout import CodecName
from steercache.store.documents import shard_record_from_json
from steercache.store.reader import open_generation
from steercache.store.verify import verify_file
from tests.store.releases import BFLOAT16, CODECS, N_ROWS, RELEASES, expected_values, write_release

HERE = "what is installed"


@pytest.fixture(scope="module")
def written_here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("releases") / "here"
    write_release(folder)
    return folder


@pytest.fixture(params=["zarr-3.1", "zarr-3.4", HERE])
def release(request: pytest.FixtureRequest, written_here: Path) -> Path:
    return written_here if request.param == HERE else RELEASES / request.param


@pytest.mark.parametrize("codec", ["raw", *CODECS])
def test_a_generation_of_any_release_holds_the_same_values(release: Path, codec: CodecName) -> None:
    path = release / f"{codec}.record.json"
    record = shard_record_from_json(json.loads(path.read_text()), str(path))
    assert [problem for file in record.files for problem in verify_file(release, file)] == []
    array: Any = zarr.open_group(release / codec, mode="r")["resid_post"]
    with open_generation(release / codec, (record,)) as reader:
        for layer_pos, layer in enumerate((0, 2)):
            expected = expected_values(codec, layer_pos).tobytes()
            assert reader.gather("resid_post", layer, np.arange(N_ROWS)).tobytes() == expected
            assert array[layer_pos, :N_ROWS].tobytes() == expected


@pytest.mark.parametrize("codec", ["pcodec", "int8"])
def test_an_array_that_any_release_of_zarr_python_wrote_holds_the_same_values(release: Path, codec: CodecName) -> None:
    array: Any = zarr.open_array(release / f"zarr-python-{codec}", mode="r")
    assert array.dtype == BFLOAT16
    assert array[:].tobytes() == expected_values(codec, 0).tobytes()


def test_the_stores_kept_come_from_both_ends_of_the_supported_range() -> None:
    releases = {path.parent.name: json.loads(path.read_text()) for path in RELEASES.glob("*/libraries.json")}
    assert releases == {
        "zarr-3.1": {"numcodecs": "0.16.6", "pcodec": "0.3.6", "zarr": "3.1.6"},
        "zarr-3.4": {"numcodecs": "0.17.1", "pcodec": "1.1.0", "zarr": "3.4.2"},
    }
