"""Vectors from the cache are those of a fresh forward pass, and are fitted again from what they carry, to the same bytes."""

import json

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from transformers import AutoModelForCausalLM, AutoTokenizer

from steercache.fit import linear_probe, mean_shift, refit
from steercache.queries.session import Session, open_session
from tests.tracing import SmallTrace, write_small_trace

DATASET = {
    "kind": "dataset",
    "version": 1,
    "name": "words",
    "source": {"type": "jsonl", "path": "data.jsonl", "columns": {"anchor": "anchor"}},
    "concept": "counting",
    "first_position": "allow",
}


@pytest.fixture(scope="module")
def trace(tmp_path_factory: pytest.TempPathFactory) -> SmallTrace:
    trace = write_small_trace(tmp_path_factory.mktemp("cached") / "t", n=40, datasets=[DATASET])
    trace.build(trace.folder / "root")
    return trace


@pytest.fixture(scope="module")
def session(trace: SmallTrace) -> Session:
    return open_session(trace.folder / "root")


@pytest.fixture(scope="module")
def fresh(trace: SmallTrace) -> tuple[np.ndarray, np.ndarray]:
    """Block outputs (l, n, d) of all anchor and control tokens, by hooks on one sentence at a time, and which are anchors."""
    model = AutoModelForCausalLM.from_pretrained(trace.folder / "model").eval()
    tokenizer = AutoTokenizer.from_pretrained(trace.folder / "model")
    seen: list[torch.Tensor] = []
    for block in model.model.layers:
        block.register_forward_hook(lambda m, a, out: seen.append((out[0] if isinstance(out, tuple) else out).clone()))
    states, label = [], []
    for line in (trace.folder / "data.jsonl").read_text().splitlines():
        row = json.loads(line)
        seen.clear()
        with torch.no_grad():
            model(**tokenizer(row["text"], return_tensors="pt"))
        states.append(torch.cat(seen)[:, 1:].numpy())  # position 0 is neither
        label += [word == row["anchor"] for word in row["text"].split()[1:]]
    return np.concatenate(states, axis=1).astype(np.float64), np.array(label)


def test_mean_shift_equals_that_of_a_fresh_forward_pass_at_every_layer(
    session: Session, fresh: tuple[np.ndarray, np.ndarray]
) -> None:
    vector = mean_shift(session.select("anchor_vs_control", concept="counting"))
    states_lnd, label = fresh
    assert vector.provenance["rows"]["n"] == len(label) > 100
    for layer, x_nd in enumerate(states_lnd):
        expected = x_nd[label].mean(0) - x_nd[~label].mean(0)
        np.testing.assert_allclose(vector.at(layer), expected, atol=2e-5)
        assert np.linalg.norm(expected) > 1e-3


def test_the_probe_equals_scikit_learns_on_a_fresh_forward_pass(
    session: Session, fresh: tuple[np.ndarray, np.ndarray]
) -> None:
    vector = linear_probe(session.select("anchor_vs_control", concept="counting"))
    for layer, x_nd in enumerate(fresh[0]):
        c = vector.provenance["params"]["strength"][layer]
        logistic = LogisticRegression(C=c, class_weight="balanced", tol=1e-8, max_iter=10_000)
        pipeline = make_pipeline(StandardScaler(), logistic).fit(x_nd, fresh[1])
        expected = pipeline[-1].coef_[0] / pipeline[0].scale_
        assert vector.at(layer) @ expected / np.linalg.norm(expected) > 1 - 1e-4


@pytest.mark.parametrize("fit", [mean_shift, linear_probe])
@pytest.mark.parametrize("recipe", ["default", "paper"])
def test_fitted_again_through_the_cache_by_its_provenance_it_has_the_same_bytes(
    fit: object, recipe: str, trace: SmallTrace, session: Session
) -> None:
    first = fit(session.select("anchor_vs_control", concept="counting"), recipe=recipe)  # type: ignore[operator]
    again = refit(first, open_session(trace.folder / "root"))
    assert again.values.tobytes() == first.values.tobytes()
    assert again.vector_id == first.vector_id
