"""Small stores that different releases of zarr, numcodecs and pcodec wrote: `python -m tests.store.releases FOLDER` writes one.

One folder of `golden/releases` per set of libraries: a generation per codec, written by us, and an array per codec that
zarr-python wrote through our bfloat16 and our codecs.
"""

import json
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import zarr

from steercache.core.layout import CodecName, ShardRecord, SiteLayout, StoreLayout
from steercache.store.bfloat16 import BFloat16
from steercache.store.documents import shard_record_to_json
from steercache.store.generation import create_generation
from steercache.store.int8 import dequantize, quantize
from steercache.store.reader import open_generation
from steercache.store.recode import recode_shard
from steercache.store.shard import ShardWriter
from steercache.store.zarr_codecs import Int8Codec, PcodecCodec

RELEASES = Path(__file__).parent / "golden" / "releases"
LIBRARIES = ("numcodecs", "pcodec", "zarr")
CODECS: tuple[CodecName, ...] = ("blosc", "pcodec", "int8")
N_ROWS = 7  # of 8: the last chunk has an unused row
LAYOUT = StoreLayout(
    sites=(SiteLayout(site="resid_post", layers=(0, 2), width=4),),
    dtype="bfloat16",
    n_shards=1,
    rows_per_shard=8,
    chunk_rows=4,
)
BFLOAT16: np.dtype[Any] = np.dtype(ml_dtypes.bfloat16)


def stored_values(layer_pos: int) -> np.ndarray[Any, Any]:
    """The rows of a layer, by formula, shape (n, d)."""
    places = np.arange(N_ROWS * 4, dtype=np.float32) + 100 * layer_pos
    return np.asarray(np.sin(places) * 2.0 ** (places % 9)).reshape(N_ROWS, 4).astype(BFLOAT16)


def expected_values(codec: CodecName, layer_pos: int) -> np.ndarray[Any, Any]:
    """What the codec gives back for `stored_values`."""
    values_nd = stored_values(layer_pos)
    return dequantize(*quantize(values_nd), BFLOAT16) if codec == "int8" else values_nd


def write_release(folder: Path) -> None:
    """Write the stores of the libraries that are installed."""
    folder.mkdir(parents=True)
    (folder / "libraries.json").write_text(json.dumps({name: version(name) for name in LIBRARIES}, indent=1) + "\n")
    raw = folder / "raw"
    create_generation(raw, LAYOUT, attributes={})
    writer = ShardWriter(raw, LAYOUT, 0, n_rows=N_ROWS)
    for layer_pos in range(2):
        writer.write("resid_post", layer_pos, 0, stored_values(layer_pos))
    slots = np.arange(N_ROWS, dtype=np.int32)
    record = _keep_record(raw, writer.finish(sample_idx=slots // 4, position=slots % 4, token_id=slots * 11))
    for codec in CODECS:
        path = folder / codec
        create_generation(path, LAYOUT, attributes={}, codec=codec)
        with open_generation(raw, (record,)) as source:
            _keep_record(path, recode_shard(source, path, LAYOUT, 0, codec=codec).files)
    for name, serializer in {"pcodec": PcodecCodec(), "int8": Int8Codec()}.items():
        array = zarr.create_array(
            folder / f"zarr-python-{name}",
            shape=(N_ROWS, 4),
            chunks=(4, 4),
            shards=(8, 4),
            dtype=BFloat16(),
            fill_value=np.nan,
            serializer=serializer,
            compressors=None,
        )
        array[:] = stored_values(0)


def _keep_record(path: Path, files: Any) -> ShardRecord:
    record = ShardRecord(
        shard_idx=0, first_sample=0, n_samples=2, n_rows=N_ROWS, input_digest="golden", files=tuple(files)
    )
    path.with_suffix(".record.json").write_text(json.dumps(shard_record_to_json(record), indent=1) + "\n")
    return record


if __name__ == "__main__":
    write_release(Path(sys.argv[1]))
