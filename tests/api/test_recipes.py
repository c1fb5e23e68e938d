"""Recipes of papers on a small run of pairs: what they fit, against plain arithmetic, and the use that they give."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import steercache
from steercache.api.recipes import shipped_recipes
from steercache.core.errors import NotFoundError, UsageError
from steercache.fit import diagnose
from steercache.manifests.recipe import RecipeManifest
from tests.tiny import sentences
from tests.tracing import SmallTrace, write_small_trace


@pytest.fixture(scope="module")
def trace(tmp_path_factory: pytest.TempPathFactory) -> SmallTrace:
    folder = tmp_path_factory.mktemp("recipes") / "t"
    folder.mkdir()
    texts = sentences(26)
    rows = [
        {"positive": f"{a} left of", "negative": f"{b} right of"} for a, b in zip(texts[:13], texts[13:], strict=True)
    ]
    (folder / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    source = {"type": "pairs", "path": "pairs.jsonl"}
    dataset = {"kind": "dataset", "version": 1, "name": "pairs", "source": source, "concept": "side"}
    trace = write_small_trace(folder, datasets=[dataset], sites=["resid_post", "head_out"])
    trace.build(folder / "root")
    return trace


@pytest.fixture(scope="module")
def cache(trace: SmallTrace) -> steercache.Cache:
    return steercache.open(trace.folder / "root")


def hidden(trace: SmallTrace, *, at: int) -> np.ndarray:
    """Outputs of the blocks (pair, side, layer, d) at one position from the end, by a plain forward; side 0 is positive."""
    model = AutoModelForCausalLM.from_pretrained(trace.folder / "model").eval()
    tokenizer = AutoTokenizer.from_pretrained(trace.folder / "model")
    seen: list[torch.Tensor] = []
    for block in model.model.layers:
        block.register_forward_hook(lambda m, a, out: seen.append(out[0, at]))
    for line in (trace.folder / "pairs.jsonl").read_text().splitlines():
        for side in ("positive", "negative"):
            with torch.no_grad():
                model(**tokenizer(json.loads(line)[side], return_tensors="pt"))
    return torch.stack(seen).reshape(13, 2, 3, -1).double().numpy()


def test_caa_is_the_mean_of_paired_differences_at_the_answers_letter(
    cache: steercache.Cache, trace: SmallTrace
) -> None:
    (vector,) = cache.fit_recipe("caa", concept="side")
    rows = hidden(trace, at=-2)
    np.testing.assert_allclose(vector.values, (rows[:, 0] - rows[:, 1]).mean(axis=0), atol=1e-5)
    assert vector.name == "side-caa"
    assert vector.use is not None
    assert (vector.use.operation, vector.use.phase, vector.use.layers) == ("add", "generated", None)
    assert vector.use.source["recipe"] == "caa"
    kept = cache.vector("side-caa").use
    assert kept is not None
    assert (kept.phase, kept.source) == (vector.use.phase, vector.use.source)
    (last,) = cache.fit_recipe("caa", concept="side", bindings={"from_end": 0}, name="last")
    rows = hidden(trace, at=-1)
    np.testing.assert_allclose(last.values, (rows[:, 0] - rows[:, 1]).mean(axis=0), atol=1e-5)


def test_ablation_projects_one_layers_difference_out_at_every_layer(cache: steercache.Cache, trace: SmallTrace) -> None:
    (plain,) = cache.fit("mean_shift", concept="side", query="contrast_last", name="plain")
    best = max(plain.diagnostics, key=lambda d: d["auc"])["layer"]
    layer = (best + 1) % 3
    (vector,) = cache.fit_recipe("refusal-ablation", concept="side", from_layer=layer, diagnose=False)
    rows = hidden(trace, at=-1)
    direction = (rows[:, 0] - rows[:, 1]).mean(axis=0)[layer]
    np.testing.assert_allclose(vector.values, np.tile(direction, (3, 1)), atol=1e-5)
    assert vector.use is not None
    assert (vector.use.operation, vector.use.layers, vector.use.strength) == ("project_out", (0, 1, 2), 1.0)
    assert cache.refit(vector.name).vector_id == vector.vector_id

    model = AutoModelForCausalLM.from_pretrained(trace.folder / "model").eval()
    unit = torch.from_numpy(direction / np.linalg.norm(direction)).float()
    left: list[float] = []
    with torch.no_grad(), steercache.steered(model, vector):
        handles = [
            block.register_forward_hook(lambda m, args, out: left.append(float((out @ unit).abs().max())))
            for block in model.model.layers
        ]
        model(torch.tensor([[3, 5, 7]]))
    for handle in handles:
        handle.remove()
    assert len(left) == 3
    assert max(left) < 1e-5

    (chosen,) = cache.fit_recipe("refusal-ablation", concept="side", name="chosen")
    assert chosen.provenance["spread_from"] == best
    assert np.array_equal(chosen.at(0), plain.at(best))
    measured = {d["layer"]: d for d in chosen.diagnostics}
    assert measured[best]["auc"] == pytest.approx({d["layer"]: d for d in plain.diagnostics}[best]["auc"])
    assert measured[0]["held_out"]


def test_intervention_at_heads_is_steered_by_what_the_recipe_says(cache: steercache.Cache, trace: SmallTrace) -> None:
    (vector,) = cache.fit_recipe("iti", concept="side")
    assert vector.use is not None
    assert (vector.use.place, vector.use.target, vector.use.phase, vector.use.strength) == (
        "head_out",
        "last",
        "both",
        15.0,
    )
    model = AutoModelForCausalLM.from_pretrained(trace.folder / "model").eval()
    ids = torch.tensor([[3, 5, 7, 9]])
    for layer in vector.layers:
        delta = 15 * torch.from_numpy(vector.at(layer))

        def add(module: torch.nn.Module, args: tuple[torch.Tensor], delta: torch.Tensor = delta) -> tuple[torch.Tensor]:
            moved = args[0].clone()
            moved[:, -1] += delta
            return (moved,)

        model.model.layers[layer].self_attn.o_proj.register_forward_pre_hook(add)
    fresh = AutoModelForCausalLM.from_pretrained(trace.folder / "model").eval()
    with torch.no_grad():
        torch.testing.assert_close(
            steercache.steered(fresh, vector)(ids).logits, model(ids).logits, atol=1e-4, rtol=1e-4
        )


@pytest.mark.parametrize(
    "recipe",
    [one for one in shipped_recipes() if (one.fit.reads, one.fit.layers) == ("text", "own")],
    ids=lambda one: one.name,
)
def test_every_other_recipe_is_carried_out_on_pairs(recipe: RecipeManifest, cache: steercache.Cache) -> None:
    if recipe.fit.method == "sae":
        with pytest.raises(UsageError, match="takes features of an SAE"):
            cache.fit_recipe(recipe, concept="side")
        return
    if recipe.name == "mass-mean":  # the small model's rows vary too little for its bound
        with pytest.raises(UsageError, match="has a variance above"):
            cache.fit_recipe(recipe, concept="side")
        return
    query = "contrast_last" if recipe.fit.query == "anchor_vs_control" else None
    condition = None if recipe.condition is None else "side"
    (vector,) = cache.fit_recipe(recipe, concept="side", query=query, condition=condition, diagnose=False)
    assert vector.method == recipe.fit.method
    assert vector.site == recipe.fit.site
    assert vector.use is not None
    assert vector.use.operation == recipe.use.operation.partition(":")[0]


def test_the_own_vector_of_a_multimodal_model_is_fitted_on_its_run(cache: steercache.Cache) -> None:
    with pytest.raises(UsageError, match="the run's model reads text"):
        cache.fit_recipe("own-mean-shift", concept="side", run="small")
    with pytest.raises(NotFoundError, match="multimodal"):
        cache.fit_recipe("own-mean-shift", concept="side")


def test_what_a_recipe_does_not_have_is_refused(cache: steercache.Cache, tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="no recipe manifest named 'caaa'; did you mean `caa`"):
        cache.fit_recipe("caaa")
    with pytest.raises(UsageError, match="a direction of its own at every layer"):
        cache.fit_recipe("caa", concept="side", from_layer=1)
    with pytest.raises(UsageError, match="no layer can be chosen"):
        cache.fit_recipe("refusal-ablation", concept="side", diagnose=False)
    with pytest.raises(UsageError, match="has no layer 7"):
        cache.fit_recipe("refusal-ablation", concept="side", from_layer=7)


def test_a_recipe_of_ones_own_is_a_file(cache: steercache.Cache, tmp_path: Path) -> None:
    document = {
        "kind": "recipe",
        "version": 1,
        "name": "mine",
        "summary": "a turn",
        "paper": {"title": "none"},
        "formula": "v = m1 - m0",
        "fit": {"method": "mean_shift", "query": "contrast_last"},
        "use": {"operation": "clamp:value=2", "target": "last", "phase": "prompt"},
    }
    (tmp_path / "mine.yaml").write_text(json.dumps(document))
    (vector,) = cache.fit_recipe(tmp_path / "mine.yaml", concept="side")
    assert vector.name == "side-mine"
    assert vector.use is not None
    assert dict(vector.use.parameters) == {"value": 2.0}
    sel = cache.select("contrast_last", concept="side", run="small")
    assert diagnose(sel, vector, n_draws=2).diagnostics
