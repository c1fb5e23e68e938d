"""Rotary scaling that depends on length: what a sample gives in a batch is what it gives alone, for every type there is."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from steercache.core.errors import UsageError
from steercache.core.examples import EncodedSample
from steercache.core.vectors import SteeringVector
from steercache.models.load import load_model
from steercache.models.rope import STATIC, any_length, length_rule
from steercache.models.spec import LoadedModel
from steercache.steering.costs import measure_costs
from steercache.steering.effect_inputs import prompt_inputs
from steercache.steering.generate import SteeringSetting, generate_side_by_side
from steercache.steering.ties import measure_tie_nats
from steercache.trace.batches import pad_batch, plan_batches
from steercache.trace.capture import capture
from tests.models.tiny import manifest_of
from tests.models.tiny_images import write_tiny_images
from tests.runs.pictures import write_pictures_trace
from tests.tiny import WORDS, sentences, write_tiny_model
from tests.tracing import write_small_trace

ORIGINAL = 7  # positions up to which the angles are the original ones
LENGTHS = (3, 12, 7, 8, 5, 12, 6, 10)
PARAMETERS: dict[str, dict[str, Any]] = {
    "default": {},
    "linear": {"factor": 4.0},
    "dynamic": {"factor": 4.0},
    "yarn": {"factor": 4.0, "original_max_position_embeddings": ORIGINAL},
    "longrope": {
        "short_factor": [1.0, 1.0, 1.0, 1.0],
        "long_factor": [1.0, 8.0, 20.0, 40.0],
        "factor": 4.0,
        "original_max_position_embeddings": ORIGINAL,
    },
    "llama3": {
        "factor": 4.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": ORIGINAL,
    },
    "proportional": {"factor": 4.0, "partial_rotary_factor": 0.5},
}


def write_model(folder: Path, rope_type: str) -> Path:
    """The tiny Llama with another rotary scaling, whose angles reach far."""
    write_tiny_model(folder)
    config = json.loads((folder / "config.json").read_text())
    config["rope_parameters"] = {"rope_type": rope_type, "rope_theta": 10.0, **PARAMETERS[rope_type]}
    config["max_position_embeddings"] = ORIGINAL if rope_type == "dynamic" else 64
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def load(folder: Path) -> LoadedModel:
    return load_model(manifest_of(folder), cache_dir=folder / "cache", device="cpu")


def rows_alone(folder: Path, input_ids: torch.Tensor) -> torch.Tensor:
    """The last block's output of one sequence (t, d), by a model that has seen nothing else."""
    model = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager")
    found = []
    model.model.layers[-1].register_forward_hook(lambda module, args, out: found.append(out))
    with torch.inference_mode():
        model(input_ids=input_ids[None])
    return found[0][0]  # type: ignore[no-any-return]


def sample(n_tokens: int, seed: int) -> EncodedSample:
    ids = np.random.default_rng(seed).integers(3, 20, n_tokens).astype(np.int32)
    nowhere, neither = np.full(n_tokens, -1, np.int32), np.zeros(n_tokens, bool)
    return EncodedSample(
        text="",
        input_ids=ids,
        char_start=nowhere,
        char_end=nowhere,
        kind=np.zeros(n_tokens, np.int8),
        is_anchor=neither,
        is_control=neither,
        tile=nowhere,
        patch_row=nowhere,
        patch_col=nowhere,
    )


def test_every_type_that_transformers_has_is_tried_here() -> None:
    assert {"default", *ROPE_INIT_FUNCTIONS} == set(PARAMETERS)


@pytest.mark.parametrize("rope_type", PARAMETERS)
def test_neighbours_in_a_batch_do_not_reach_a_sample(rope_type: str, tmp_path: Path) -> None:
    folder = write_model(tmp_path, rope_type)
    loaded, samples = load(folder), [sample(n, i) for i, n in enumerate(LENGTHS)]
    rule = length_rule(loaded.bundle)
    assert (rule is any_length) == (rope_type in STATIC)
    alone = [rows_alone(folder, torch.from_numpy(s.input_ids.astype(np.int64))) for s in samples]
    for side in ("left", "right"):
        for members in plan_batches(LENGTHS, tokens_per_batch=10_000, rule=rule):
            batch = pad_batch([samples[i] for i in members], padding_side=side, pad_id=0)  # type: ignore[arg-type]
            (states,) = capture(loaded, batch, sites=["resid_post"], layers=[2])["resid_post"]
            for slot, i in enumerate(members):
                got = states[slot, batch.starts[slot] : batch.starts[slot] + LENGTHS[i]]
                torch.testing.assert_close(got, alone[i], atol=2e-5, rtol=1e-4)


def test_the_batches_are_as_few_as_the_rule_allows(tmp_path: Path) -> None:
    plans = {}
    for rope_type in ("yarn", "longrope", "dynamic"):
        rule = length_rule(load(write_model(tmp_path / rope_type, rope_type)).bundle)
        plans[rope_type] = plan_batches(LENGTHS, tokens_per_batch=10_000, rule=rule)
    lengths = {name: [[LENGTHS[i] for i in members] for members in plan] for name, plan in plans.items()}
    assert lengths["yarn"] == [[12, 12, 10, 8, 7, 6, 5, 3]]
    assert lengths["longrope"] == [[12, 12, 10, 8], [7, 6, 5, 3]]
    assert lengths["dynamic"] == [[12, 12], [10], [8], [7, 6, 5, 3]]


@pytest.mark.parametrize("rope_type", ["dynamic", "longrope"])
@pytest.mark.parametrize("runs_alone", [False, True])
def test_ties_and_times_are_measured_on_batches_that_such_a_model_runs(
    rope_type: str, runs_alone: bool, tmp_path: Path
) -> None:
    loaded = load(write_model(tmp_path, rope_type))
    if runs_alone:  # as Qwen2.5-VL, whose largest position depends on the pictures
        family = dataclasses.replace(loaded.family, positions="internal")
        loaded = dataclasses.replace(loaded, bundle=dataclasses.replace(loaded.bundle, family=family))
    samples = [sample(n, i) for i, n in enumerate(LENGTHS)]
    nats = measure_tie_nats(loaded, samples)
    assert nats is not None
    assert 0 < nats < 1e-3
    assert measure_costs(loaded, samples).block_token_s >= 0


def test_a_batch_made_by_hand_of_lengths_that_differ_in_it_is_refused(tmp_path: Path) -> None:
    loaded = load(write_model(tmp_path, "longrope"))
    for lengths, fits in (((7, 3), True), ((8, 12), True), ((7, 8), False)):
        batch = pad_batch([sample(n, n) for n in lengths], padding_side="right", pad_id=0)
        if fits:
            capture(loaded, batch, sites=["resid_post"], layers=[0])
        else:
            with pytest.raises(UsageError, match="samples of 7 and 8 tokens cannot share a batch"):
                capture(loaded, batch, sites=["resid_post"], layers=[0])


def test_prompts_that_cross_the_threshold_while_they_are_continued_run_with_their_equals(tmp_path: Path) -> None:
    loaded = load(write_model(tmp_path, "longrope"))
    rule = length_rule(loaded.bundle, n_new=3)
    assert [rule(n) == rule(3) for n in (1, 4, 5, 7, 8)] == [True, True, False, False, False]
    assert rule(5) != rule(6)
    assert rule(8) == rule(40)


def test_a_build_of_such_a_model_keeps_what_each_sample_gives_alone(tmp_path: Path) -> None:
    write_model(tmp_path / "t" / "model", "longrope")
    texts = [text for text in sentences(24) if 3 <= len(text.split()) <= 12]
    cache = write_small_trace(tmp_path / "t", texts=texts, rows_per_shard=512).cache(tmp_path / "root")
    rows, first = cache.source(cache.resolve_run("small")), 0
    tokenizer = load(tmp_path / "t" / "model").tokenizer
    for text in texts:
        ids = torch.tensor(tokenizer(text)["input_ids"])
        got = torch.from_numpy(rows.gather("resid_post", 2, np.arange(first, first + len(ids))))
        torch.testing.assert_close(got, rows_alone(tmp_path / "t" / "model", ids), atol=2e-5, rtol=1e-4)
        first += len(ids)


@pytest.mark.parametrize("rope_type", ["longrope", "dynamic"])
def test_prompts_continued_together_read_as_each_continued_alone(rope_type: str, tmp_path: Path) -> None:
    loaded = load(write_model(tmp_path, rope_type))
    vector = SteeringVector(
        name="v",
        method="given",
        concept=None,
        site="resid_post",
        layers=(0,),
        values=np.ones((1, 32), np.float32),
    )
    prompts = [" ".join(WORDS[:n]) for n in (2, 4, 6, 7)]
    settings = [SteeringSetting(layer=0, alpha=0.0)]

    def texts(some: list[str]) -> list[str]:
        found = generate_side_by_side(loaded, vector, some, settings=settings, max_new_tokens=12)
        return [one.continuations[0].text for one in found]

    assert texts(prompts) == [texts([prompt])[0] for prompt in prompts]
    assert prompt_inputs(loaded, prompts).texts == tuple(prompts)


@pytest.mark.parametrize("sites", [["resid_post"], ["vision_out"]])
def test_pictures_go_through_such_a_model_too(sites: list[str], tmp_path: Path) -> None:
    write_tiny_images("llava", tmp_path / "model")
    path = tmp_path / "model" / "config.json"
    config = json.loads(path.read_text())
    n_angles = load(tmp_path / "model").model.model.language_model.rotary_emb.inv_freq.shape[0]
    factors = {"short_factor": [1.0] * n_angles, "long_factor": [2.0] * n_angles}
    config["text_config"]["rope_parameters"] = {
        "rope_type": "longrope",
        "rope_theta": 10.0,
        "factor": 4.0,
        "original_max_position_embeddings": 22,
        **factors,
    }
    path.write_text(json.dumps(config))
    numerics = {"tokens_per_batch": 10_000, "threads": 1}
    together = write_pictures_trace(tmp_path, "llava", sites=sites, numerics=numerics).cache(tmp_path / "together")
    alone = write_pictures_trace(tmp_path, "llava", sites=sites).cache(tmp_path / "alone")
    rows = [cache.source(cache.resolve_run("pictures")) for cache in (together, alone)]
    with together.connection() as con:
        n_batches = {n for (n,) in con.execute("select count(distinct batch_no) from samples").fetchall()}
        lengths = [n for (n,) in con.execute("select n_tokens from samples").fetchall()]
    if sites == ["resid_post"]:
        assert (n_batches, min(lengths) <= 22 < max(lengths)) == ({2}, True)
    layer = 1 if sites == ["resid_post"] else -1
    got, expected = (source.gather(sites[0], layer, np.arange(sum(lengths))) for source in rows)
    np.testing.assert_allclose(got, expected, atol=2e-5, rtol=1e-4)
