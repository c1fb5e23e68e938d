"""Our mean shift, from the cache, against the `steering-vectors` package, from the model: where their definitions meet."""

import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

import steercache
from tests.tiny import sentences
from tests.tracing import write_small_trace

REPOSITORY = Path(__file__).resolve().parents[2]
PEERS = REPOSITORY / ".venv-peers" / "bin" / "python"


def for_transformers_4(model: Path, target: Path) -> Path:
    """The same checkpoint with the names that transformers 4 knows: `rope_theta`, and the tokenizer's old class."""
    shutil.copytree(model, target)
    config = json.loads((target / "config.json").read_text())
    config["rope_theta"] = config.pop("rope_parameters")["rope_theta"]
    (target / "config.json").write_text(json.dumps(config))
    tokenizer = json.loads((target / "tokenizer_config.json").read_text())
    tokenizer["tokenizer_class"] = "PreTrainedTokenizerFast"
    (target / "tokenizer_config.json").write_text(json.dumps(tokenizer))
    return target


def by_peer(model: Path, pairs: list[tuple[str, str]], folder: Path) -> dict[int, np.ndarray]:
    (folder / "pairs.json").write_text(json.dumps(pairs))
    script = Path(__file__).with_name("with_steering_vectors.py")
    command = [PEERS, script, for_transformers_4(model, folder / "model4"), folder / "pairs.json", folder / "peer.npz"]
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return {int(layer): values for layer, values in np.load(folder / "peer.npz").items()}


@pytest.mark.slow
def test_mean_shift_of_pairs_at_the_last_token_equals_steering_vectors_at_every_layer(tmp_path: Path) -> None:
    assert PEERS.exists(), "make peers"
    texts = sentences(24)
    pairs = list(zip(texts[:12], texts[12:], strict=True))
    assert len({len(text.split()) for text in texts}) > 4, "lengths differ, so both sides have to pad"
    (tmp_path / "trace").mkdir()
    rows = [json.dumps({"positive": positive, "negative": negative}) for positive, negative in pairs]
    (tmp_path / "trace" / "pairs.jsonl").write_text("\n".join(rows) + "\n")
    source = {"type": "pairs", "path": "pairs.jsonl"}
    dataset = {"kind": "dataset", "version": 1, "name": "pairs", "source": source, "concept": "counting"}
    trace = write_small_trace(tmp_path / "trace", datasets=[dataset])
    trace.build(tmp_path / "root")

    selection = steercache.open(tmp_path / "root").select("contrast_last", concept="counting")
    ours = steercache.fit.mean_shift(selection)
    peer = by_peer(trace.folder / "model", pairs, tmp_path)

    assert tuple(peer) == ours.layers == (0, 1, 2)
    for layer, values in zip(ours.layers, ours.values, strict=True):
        assert np.linalg.norm(peer[layer]) > 0.01
        np.testing.assert_allclose(values, peer[layer], rtol=1e-4, atol=1e-6)
