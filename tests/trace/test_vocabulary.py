"""A tokenizer that knows more tokens than the model has embeddings: a clear error on every path that encodes a prompt."""

import json
from pathlib import Path

import numpy as np
import pytest

from steercache.core.errors import SteercacheError
from steercache.core.examples import Example
from steercache.core.vectors import SteeringVector
from steercache.models.load import load_bundle, load_model
from steercache.steering.generate import SteeringSetting, generate_side_by_side
from steercache.trace.encode import EncodingProblem, encode_example
from tests.models.tiny import N_LAYERS, WIDTH, manifest_of, write_tiny

BEYOND = r"the model's 330 embeddings do not have: '<extra>' \(400\)"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of 330 embeddings whose tokenizer has a token 400."""
    folder = write_tiny("llama", tmp_path_factory.mktemp("vocabulary") / "model")
    path = folder / "tokenizer.json"
    document = json.loads(path.read_text())
    extra = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": False}
    document["added_tokens"].append({"id": 400, "content": "<extra>", **extra})
    document["model"]["vocab"]["<extra>"] = 400
    path.write_text(json.dumps(document))
    return folder


def test_a_trace_names_the_token(folder: Path) -> None:
    bundle = load_bundle(manifest_of(folder), cache_dir=folder.parent / "cache")
    assert len(encode_example(Example(dataset="d", place="d:1", text="The cat"), bundle).input_ids)
    with pytest.raises(EncodingProblem, match=BEYOND) as caught:
        encode_example(Example(dataset="d", place="d:2", text="The <extra> cat"), bundle)
    assert (caught.value.kind, caught.value.place) == ("vocabulary", "d:2")
    assert "resize_token_embeddings" in str(caught.value.hint)


def test_live_steering_names_the_token(folder: Path) -> None:
    loaded = load_model(manifest_of(folder), cache_dir=folder.parent / "cache", device="cpu")
    vector = SteeringVector(
        name="v",
        method="by_hand",
        concept=None,
        site="resid_post",
        layers=tuple(range(N_LAYERS)),
        values=np.ones((N_LAYERS, WIDTH), dtype=np.float32),
    )
    settings = (SteeringSetting(layer=1, alpha=1.0, alpha_unit="raw", target="all", when="prefill", skip_first=False),)
    with pytest.raises(SteercacheError, match=BEYOND):
        generate_side_by_side(loaded, vector, ["The <extra> cat"], settings=settings, max_new_tokens=2)
