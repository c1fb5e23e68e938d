"""Principal components of pairs' differences, from the cache, against those of repeng and steering-vectors, from the model."""

import json
from pathlib import Path

import numpy as np
import pytest

import steercache
from tests.peers.test_exports import run
from tests.peers.test_steering_vectors import PEERS, for_transformers_4
from tests.tiny import sentences
from tests.tracing import write_small_trace


@pytest.mark.slow
def test_pca_of_pairs_at_the_last_token_equals_repengs_and_that_of_steering_vectors(tmp_path: Path) -> None:
    texts = sentences(26)
    pairs = list(zip(texts[:13], texts[13:], strict=True))
    (tmp_path / "trace").mkdir()
    rows = [json.dumps({"positive": positive, "negative": negative}) for positive, negative in pairs]
    (tmp_path / "trace" / "pairs.jsonl").write_text("\n".join(rows) + "\n")
    (tmp_path / "pairs.json").write_text(json.dumps(pairs))
    source = {"type": "pairs", "path": "pairs.jsonl"}
    dataset = {"kind": "dataset", "version": 1, "name": "pairs", "source": source, "concept": "counting"}
    trace = write_small_trace(tmp_path / "trace", datasets=[dataset])
    trace.build(tmp_path / "root")
    selection = steercache.open(tmp_path / "root").select("contrast_last", concept="counting")
    ours = {"pca_diff": steercache.fit.pca_diff(selection), "pca_center": steercache.fit.pca_center(selection)}

    model = for_transformers_4(trace.folder / "model", tmp_path / "model4")
    run(PEERS, "with_pca.py", model, tmp_path / "pairs.json", tmp_path / "peer.npz")
    theirs = np.load(tmp_path / "peer.npz")
    assert len(theirs.files) == 2 + 2 + 3
    shift = steercache.fit.mean_shift(selection)
    for key in theirs.files:
        tool, method, layer = key.rsplit(" ", 2)
        found = ours[method].at(int(layer))
        if tool == "steering-vectors":  # its sign is that of the mean difference, and not that of most pairs
            found = found * np.sign(found @ shift.at(int(layer)))
        np.testing.assert_allclose(found, theirs[key], atol=2e-4, err_msg=key)
