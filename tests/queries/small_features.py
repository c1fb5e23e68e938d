"""Features of the small cache's rows, written by hand: which feature fires where can be said in one line each."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from steercache.cache.feature_files import (
    EncodingDocument,
    FeatureShard,
    begin_encoding,
    write_feature_shard,
)
from steercache.cache.feature_rows import Entries, FeatureFileWriter
from steercache.cache.handle import open_cache
from steercache.cache.source import committed_shards
from steercache.core.saes import SaeSpec
from steercache.store.durable import make_folder

N_FEATURES = 6
SAE_ID = "5ae" + "0" * 61
# feature -> {row: activation}; rows as in tests/queries/conftest.py
TEXT_FEATURES: dict[int, dict[int, float]] = {
    0: {3: 2.0, 8: 5.0, 66: 1.0, 0: 99.0},  # the anchors, and a first position
    1: dict.fromkeys((1, 2, 3, 4, 5, 7, 8, 9, 10), 0.5),  # every other token of the spatial sentences
    4: {9: 3.0},
}
PICTURE_FEATURES: dict[int, dict[int, float]] = {2: {0: 1.0, 2: 4.0}, 3: {2: 5.0}, 5: {3: 7.0}}


def spec(name: str = "planted", sae_id: str = SAE_ID) -> SaeSpec:
    return SaeSpec(
        sae_id=sae_id,
        name=name,
        source={"folder": "nowhere"},
        architecture="standard",
        d_in=4,
        d_sae=N_FEATURES,
        model_name="tiny",
        site="resid_post",
        layer=1,
        prepend_bos=False,
    )


def plant_features(root: Path, run_id: str, features: Mapping[int, Mapping[int, float]]) -> None:
    """Commit an encoding of a run in which exactly `features` fire."""
    cache = open_cache(root)
    paths, run = cache.paths.encoding(SAE_ID, run_id), cache.run_paths(run_id)
    make_folder(paths.records)
    begin_encoding(paths, EncodingDocument(sae=spec(), run_id=run_id, site="resid_post", layer=1))
    per_shard = cache.run_document(run_id).layout.rows_per_shard
    for source in committed_shards(run, "g0001"):
        first = source.shard_idx * per_shard
        fires = sorted(
            (row - first, feature, value)
            for feature, rows in features.items()
            for row, value in rows.items()
            if first <= row < first + per_shard
        )
        path = paths.acts(source.shard_idx)
        with FeatureFileWriter(path, first_row=first, n_features=N_FEATURES) as writer:
            slot, feature, value = (np.array(column) for column in zip(*fires, strict=True)) if fires else ([], [], [])
            writer.add(
                [
                    Entries(
                        slot=np.asarray(slot, dtype=np.int32),
                        feature=np.asarray(feature, dtype=np.int32),
                        value=np.asarray(value, dtype=np.float32),
                    )
                ]
            )
            file = writer.finish(below=paths.folder)
        write_feature_shard(
            paths,
            FeatureShard(
                shard_idx=source.shard_idx,
                generation="g0001",
                source_digest=source.digest(),
                lossy=False,
                n_rows=source.n_rows,
                n_non_finite=0,
                n_entries=len(fires),
                file=file,
            ),
        )
