"""Shards that other processes encode are those of one process, byte for byte; workers that cannot do that say why."""

import hashlib
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from steercache.cache.handle import open_cache
from steercache.core.errors import NotFoundError, UsageError
from steercache.engines.crew import EngineOptions
from steercache.sae.encode import encode_run
from steercache.sae.encode_shard import EncodedLayer
from steercache.sae.encode_workers import EncodingEngine, EncodingWorker, _Start, sae_numerics
from steercache.sae.loading import load_sae
from tests.sae.folders import inference, saved
from tests.sae.small_run import write_run

TWO = EngineOptions(workers=2)


def features_of(root: Path) -> dict[str, str]:
    """Checksums of what an encoding has written."""
    kept = [path for path in sorted((root / "sae").rglob("*")) if path.is_file() and path.name != "LOCK"]
    return {str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest() for path in kept}


@pytest.mark.slow
def test_shards_encoded_by_workers_are_those_of_one_process(tmp_path: Path) -> None:
    folder = saved(inference("jumprelu"), tmp_path / "small")
    sae, heard = load_sae(folder), list[int]()
    run_id = write_run(tmp_path / "here", finite=False)
    assert write_run(tmp_path / "there", finite=False) == run_id
    encode_run(open_cache(tmp_path / "here"), sae, run_id)
    cache, engine = open_cache(tmp_path / "there"), EncodingEngine(options=TWO, load=partial(load_sae, folder))
    done = encode_run(cache, sae, run_id, engine=engine, on_rows=lambda n, of: heard.append(n))
    assert features_of(tmp_path / "there") == features_of(tmp_path / "here")
    assert len(features_of(tmp_path / "here")) == 9  # a document, and of four shards a file and a record
    assert (done.n_rows_new, done.n_non_finite) == (192, 2)
    assert heard == [0, 48, 96, 144, 192]
    again = encode_run(cache, sae, run_id, engine=engine)  # starts no worker
    assert again.n_rows_new == 0


def test_workers_that_would_write_something_else_refuse(tmp_path: Path) -> None:
    folder = saved(inference("jumprelu"), tmp_path / "small")
    sae, run_id = load_sae(folder), write_run(tmp_path / "root")
    cache = open_cache(tmp_path / "root")
    with pytest.raises(UsageError, match="each worker loads the SAE itself"):
        encode_run(cache, sae, run_id, engine=EncodingEngine(options=TWO))
    done = encode_run(cache, sae, run_id)
    layer = EncodedLayer.of(done.encoding, cache.run_paths(run_id))
    start = _Start(partial(load_sae, folder), sae.spec.sae_id, layer, sae_numerics(sae))
    record = EncodingWorker(start).run(2)
    assert record == done.encoding.fresh[2]
    others: tuple[tuple[dict[str, Any], type[Exception], str], ...] = (
        ({"sae_id": "0" * 64}, UsageError, "another SAE than the caller's"),
        ({"numerics": {**sae_numerics(sae), "torch": "1.0"}}, UsageError, r"torch was '1\.0', is"),
        ({"layer": replace(layer, paths=cache.paths.encoding("0" * 64, run_id))}, NotFoundError, "does not see"),
    )
    for changes, kind, said in others:
        with pytest.raises(kind, match=said):
            EncodingWorker(replace(start, **changes))
