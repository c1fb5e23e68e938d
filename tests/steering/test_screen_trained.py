"""Screening on a trained model: counting questions put to *tiny*, every predicted shift against the exact one."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

from bench.zoo.evaluate import held_out, put
from bench.zoo.turns import make_turn
from steercache.manifests.model import ModelManifest
from steercache.models.load import load_model
from steercache.models.spec import LoadedModel
from steercache.steering.branch import BranchOptions, branch_from
from steercache.steering.cells import BranchCell
from steercache.steering.gradient import margin_gradients
from steercache.steering.prefill import run_prefill
from steercache.steering.screen import GradientScreen, answer_margins, predict
from steercache.trace.batches import PaddedBatch
from steercache.zoo.shelf import build

N, LAYERS = 24, (0, 1, 2, 3, 4)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    folder = tmp_path_factory.mktemp("zoo")
    source = {"type": "path", "folder": str(build("tiny", folder / "tiny"))}
    document = {"kind": "model", "version": 1, "name": "tiny", "source": source, "attention": "eager"}
    manifest = ModelManifest.model_validate_json(json.dumps(document))
    return load_model(manifest, cache_dir=Path(folder) / "cache", device="cpu", dtype="float32")


def questions(loaded: LoadedModel) -> tuple[PaddedBatch, list[list[int]], np.ndarray[Any, Any]]:
    """A batch of counting questions, the first tokens of "1" to "5", and which of them is right."""
    examples = held_out("Count", N)
    turns = [make_turn(example.question, "number") for example in examples]
    loaded.processor.tokenizer.padding_side = "left"  # type: ignore[union-attr]
    made: Any = loaded.processor
    encoding = made(
        text=[put(made, turn.body) for turn in turns],
        images=[[example.image()] for example in examples],
        padding=True,
    )
    inputs = {name: torch.from_numpy(np.array(x)) for name, x in encoding.items()}
    mask = inputs["attention_mask"]
    lengths = tuple(mask.sum(1).tolist())
    batch = PaddedBatch(
        input_ids=inputs["input_ids"],
        attention_mask=mask,
        starts=tuple(mask.shape[1] - n for n in lengths),
        lengths=lengths,
        position_ids=(mask.cumsum(1) - 1).clamp(min=0),
        extra={"token_type_ids": inputs["token_type_ids"]},
        pixels={"pixel_values": inputs["pixel_values"]},
    )
    words = ["1", "2", "3", "4", "5"]
    first = [loaded.tokenizer(word, add_special_tokens=False)["input_ids"][0] for word in words]
    return batch, [first] * N, np.array([words.index(turn.answer) for turn in turns])


@pytest.mark.slow
def test_predicted_shifts_rank_cells_as_exact_ones_do_while_strengths_are_weak(tiny: LoadedModel) -> None:
    batch, options, right = questions(tiny)
    prefill = run_prefill(tiny, batch, layers=LAYERS)
    assert prefill.obstacle is None
    image = batch.input_ids == tiny.config.image_token_id
    found = margin_gradients(tiny, batch, options, layers=LAYERS, targets={"image": "image"})
    screen = GradientScreen(
        layers=LAYERS,
        gradient_of=lambda layer: found.values[LAYERS.index(layer), :, 0],
        margins=found.margins,
        right=right,
    )
    rng = np.random.default_rng(3)
    vectors = np.stack([_directions(prefill.outputs[layer][image].numpy(), rng) for layer in LAYERS])
    norms = {layer: float(prefill.outputs[layer][image].norm(dim=-1).median()) for layer in LAYERS}
    predicted, exact = {}, {}
    for share in (0.1, 0.25, 0.5):
        cells = [
            BranchCell(key=f"{layer}:{i}", layer=layer, delta_d=np.float32(share * norms[layer]) * v, target="image")
            for li, layer in enumerate(LAYERS)
            for i, v in enumerate(vectors[li])
        ]
        margins = {
            answer.key: _mean_margin(answer.logits_bv[:, options[0]].numpy(), right)
            for answer in branch_from(prefill, cells, BranchOptions(max_new_tokens=1))
        }
        exact[share] = np.array([margins[cell.key] for cell in cells]) - answer_margins(screen).mean()
        shifts = [predict(screen, vectors, [share * norms[layer]]).shift[i, :, 0] for i, layer in enumerate(LAYERS)]
        predicted[share] = np.concatenate(shifts)
    rho = {share: spearmanr(predicted[share], exact[share]).statistic for share in exact}
    assert rho[0.1] >= 0.95
    assert rho[0.25] >= 0.9
    assert rho[0.1] > rho[0.25] > rho[0.5] > 0.7  # a line, and the margin bends: screening is for weak strengths


def _directions(rows_nd: np.ndarray[Any, Any], rng: np.random.Generator) -> np.ndarray[Any, Any]:
    """Ten unit directions as fits give them: differences of means of two random groups of image rows."""
    made = []
    for _ in range(10):
        order = rng.permutation(len(rows_nd))
        made.append(rows_nd[order[:10]].mean(0) - rows_nd[order[10:20]].mean(0))
    stacked = np.stack(made)
    return (stacked / np.linalg.norm(stacked, axis=1, keepdims=True)).astype(np.float32)


def _mean_margin(logits_bk: np.ndarray[Any, Any], right: np.ndarray[Any, Any]) -> float:
    rows = torch.from_numpy(logits_bk)
    others = rows.scatter(1, torch.from_numpy(right)[:, None], -torch.inf)
    return float((rows[torch.arange(len(right)), right] - others.amax(1)).mean())
