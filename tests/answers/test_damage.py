"""Damage against plain forwards: each prompt alone, a hook on the block, KL by torch in float64."""

import io
from collections.abc import Mapping
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from steercache.answers.damage import SEED, damage_of, kl_nats, neutral_inputs
from steercache.core.damage import Damage
from steercache.core.errors import UsageError
from steercache.data import scenes
from steercache.data.benchmarks import open_benchmark
from steercache.queries.session import Session
from steercache.steering.cells import BranchCell
from steercache.steering.effect_inputs import EffectInputs, prompt_inputs
from steercache.steering.neutral import CAPTIONS
from steercache.sweeps.evaluation import evaluate
from steercache.sweeps.find import read_sweep
from tests.steering.small import directions, padded_batch, small_model
from tests.steering.test_branch import steered
from tests.sweeps.small_run import options
from tests.world import World

WIDTH = 96


def delta(scale: float, *, seed: int = 0) -> np.ndarray[Any, Any]:
    values = np.random.default_rng(seed).standard_normal(WIDTH)
    return (scale * values / np.linalg.norm(values)).astype(np.float32)


def nats_by_hand(loaded: Any, cell: BranchCell, *, n: int) -> list[float]:
    """PaliGemma's prompt written out here, its processor, one picture at a time, and `kl_div`."""
    found = []
    for i, caption in enumerate(CAPTIONS[:n]):
        picture = Image.open(io.BytesIO(scenes.make_example(SEED, 2 * i).png())).convert("RGB")
        inputs = loaded.processor(images=[[picture]], text=[f"<image>answer en {caption}"], return_tensors="pt")
        inputs.pop("labels", None)
        ids = inputs["input_ids"][0]
        image = ids == loaded.config.image_token_id
        special = torch.isin(ids, torch.tensor(loaded.tokenizer.all_special_ids))
        mask = {"image": image, "text": ~image & ~special, "both": image | ~special}[str(cell.target)].clone()
        mask[-1] = False

        def hook(module: Any, args: Any, out: Any, mask: torch.Tensor = mask) -> Any:
            moved = out.clone()
            moved[0, mask] += torch.from_numpy(cell.delta_d)
            return moved

        with torch.no_grad():
            before = loaded.model(**inputs).logits[0, -1]
            handle = loaded.model.model.language_model.layers[cell.layer].register_forward_hook(hook)
            after = loaded.model(**inputs).logits[0, -1]
            handle.remove()
        p, q = before.double().log_softmax(-1), after.double().log_softmax(-1)
        found.append(float(torch.nn.functional.kl_div(q, p, log_target=True, reduction="sum")))
    return found


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # inside transformers' processor
def test_it_is_the_divergence_of_plain_forwards_one_prompt_at_a_time(world: World) -> None:
    cells = [
        BranchCell(key=f"{target}@{layer}", layer=layer, delta_d=delta(6.0), target=target)
        for target in ("image", "text", "both")
        for layer in (0, 3)
    ]
    found = damage_of(world.loaded, cells, neutral_inputs(world.loaded, tokens_per_batch=900))
    for cell in cells:
        by_hand = nats_by_hand(world.loaded, cell, n=len(CAPTIONS))
        assert found[cell.key].n == len(by_hand) == 16
        assert found[cell.key].mean_nats == pytest.approx(np.mean(by_hand), rel=1e-3, abs=1e-6)
        assert found[cell.key].max_nats == pytest.approx(max(by_hand), rel=1e-3, abs=1e-6)
    assert min(d.max_nats for d in found.values()) > 1e-4


def test_nothing_added_breaks_nothing_and_more_breaks_more(world: World) -> None:
    scales = (0.0, 0.5, 2.0, 8.0, 32.0)
    cells = [
        BranchCell(key=f"{scale}/{seed}", layer=2, delta_d=delta(scale, seed=seed), target="both")
        for scale in scales
        for seed in range(4)
    ]
    found = damage_of(world.loaded, cells, neutral_inputs(world.loaded))
    assert {found[f"0.0/{seed}"] for seed in range(4)} == {Damage(mean_nats=0.0, max_nats=0.0, n=16)}
    means = [np.mean([found[f"{scale}/{seed}"].mean_nats for seed in range(4)]) for scale in scales]
    assert all(a < b for a, b in pairwise(means))


def test_the_first_token_of_bare_sentences_is_left_alone() -> None:
    loaded, batch = small_model("llama"), padded_batch("llama")
    inputs = EffectInputs(
        batches=lambda: (batch,), sample_ids=("a", "b", "c"), texts=("a", "b", "c"), prompt_id="p", skip_first=True
    )
    cell = BranchCell(key="x", layer=1, delta_d=directions(1)[0], target="all")
    found = damage_of(loaded, [cell], inputs)
    by_hand = []
    for row, start in zip(batch.input_ids, batch.starts, strict=True):
        ids = row[None, start:]
        mask = torch.ones_like(ids, dtype=torch.bool)
        mask[:, 0] = False
        with torch.no_grad():
            before = loaded.model(ids).logits[:, -1]
            with steered(loaded, replace(cell, target=mask)):
                after = loaded.model(ids).logits[:, -1]
        by_hand.append(float(kl_nats(before, after)))
    assert found["x"].mean_nats == pytest.approx(np.mean(by_hand), rel=1e-3)
    assert found["x"].max_nats == pytest.approx(max(by_hand), rel=1e-3)


def test_a_model_without_pictures_has_no_image_tokens_to_break() -> None:
    loaded = small_model("llama")
    inputs = prompt_inputs(loaded, ["w5", "w6"])
    with pytest.raises(UsageError, match="no image tokens"):
        damage_of(loaded, [BranchCell(key="x", layer=1, delta_d=directions(1)[0], target="image")], inputs)


def test_cells_share_one_pass_of_the_prompts(world: World) -> None:
    seen: list[int] = []
    tower = world.loaded.model.model.vision_tower
    handle = tower.register_forward_hook(lambda *args: seen.append(1))
    cells = [
        BranchCell(key=str(i), layer=i % 5, delta_d=delta(1.0, seed=i), target=("image", "text")[i % 2])
        for i in range(20)
    ]
    damage_of(world.loaded, cells, neutral_inputs(world.loaded))
    handle.remove()
    assert len(seen) == 1


def test_the_table_has_the_damage_of_what_was_chosen_and_of_its_controls(own_session: Session, world: World) -> None:
    asked = options(layers=(1, 3), alphas=(3.0, 9.0), controls=2, control_kinds=("random",), n=6, damage=True)
    bench = open_benchmark("scenes", task="Count", form="number", limit=60)
    vector = own_session.vector("counting")
    found = evaluate(own_session, world.loaded, bench, vectors=[vector], options=asked)
    rows = {(row.split, row.role): row for row in found.rows}
    row = rows["test", "vector"]
    assert row.cell.layer is not None
    cell = BranchCell(
        key="x", layer=row.cell.layer, delta_d=vector.at(row.cell.layer) * np.float32(row.cell.alpha), target="text"
    )
    expected: Mapping[str, Damage] = damage_of(world.loaded, [cell], neutral_inputs(world.loaded))
    assert row.damage is not None
    assert row.damage.mean_nats == pytest.approx(expected["x"].mean_nats, rel=1e-3)
    assert rows["search", "vector"].damage == row.damage
    assert rows["test", "prompting"].damage is None
    assert all(control.damage is not None and control.damage.max_nats > 0 for control in row.controls)
    again = evaluate(own_session, world.loaded, bench, vectors=[vector], options=replace(asked, damage=False))
    assert (again.sweep_id, again.choices[0].damage) == (found.sweep_id, None)
    stored = read_sweep(own_session, found.sweep_id)  # what was measured of the same cell stays in the cache
    assert repr(stored.rows) == repr(found.rows)
