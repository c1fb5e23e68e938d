"""bfloat16 in zarr-python, through our type: arrays it writes itself, scalars, fill values."""

from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import tensorstore
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from steercache.store.bfloat16 import BFloat16, DataTypeValidationError


@pytest.mark.parametrize("shards", [None, (8, 6)])
def test_an_array_that_zarr_writes_is_read_by_tensorstore(shards: Any, root: Path) -> None:
    values = np.arange(96).reshape(16, 6).astype(ml_dtypes.bfloat16)
    values[3] = np.nan
    array = zarr.create_array(root / "a", shape=(16, 6), chunks=(4, 6), shards=shards, dtype=ml_dtypes.bfloat16)
    array[:] = values
    spec = {"driver": "zarr3", "kvstore": {"driver": "file", "path": str(root / "a")}}
    read = tensorstore.open(spec).result().read().result()
    assert read.dtype == ml_dtypes.bfloat16
    assert read.tobytes() == values.tobytes()
    reopened: Any = zarr.open_array(root / "a", mode="r")
    assert np.asarray(reopened[:]).tobytes() == values.tobytes()


@settings(deadline=None)
@given(st.floats(width=16, allow_nan=True))
def test_scalars_go_through_json_and_back(value: float) -> None:
    kind = BFloat16()
    scalar = kind.cast_scalar(value)
    back = kind.from_json_scalar(kind.to_json_scalar(scalar, zarr_format=3), zarr_format=3)
    assert back == scalar or (np.isnan(np.float32(back)) and np.isnan(np.float32(scalar)))


def test_what_is_no_bfloat16_is_refused() -> None:
    kind = BFloat16()
    with pytest.raises(TypeError, match="no bfloat16"):
        kind.cast_scalar("one")
    with pytest.raises(TypeError, match="no float"):
        kind.from_json_scalar([1], zarr_format=3)
    with pytest.raises(DataTypeValidationError):
        BFloat16.from_native_dtype(np.dtype(np.float16))
    with pytest.raises(DataTypeValidationError):
        BFloat16.from_json("float16", zarr_format=3)
    with pytest.raises(ValueError, match="v2"):
        kind.to_json(2)


def test_other_types_of_zarr_are_found_as_before(root: Path) -> None:
    array = zarr.create_array(root / "a", shape=(2,), dtype="float16")
    assert array.dtype == np.float16


def test_a_fill_value_in_hexadecimal_is_its_bits() -> None:
    kind = BFloat16()
    assert kind.from_json_scalar("0x4049", zarr_format=3) == 3.140625
    with pytest.raises(TypeError, match="no float"):
        kind.from_json_scalar("0x40490fdb", zarr_format=3)
