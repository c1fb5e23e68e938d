"""Recipes carried out on the pairs that ship and then tried: conditional steering, and intervention at attention heads in a
grid, against forward passes written here."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import steercache
from steercache.api.recipes import find_recipe
from steercache.benchmarks.task import ask, pick_rows
from steercache.core.errors import UsageError
from steercache.core.shipped import shipped_folder
from steercache.data.benchmarks import open_benchmark
from steercache.manifests.recipe import RecipeManifest

OTHERS = ["Where can I buy good flour and butter?", "The ship left the harbour at noon.", "A knife for cutting bread"]


def requests() -> list[dict[str, str]]:
    path = shipped_folder("manifests") / "datasets" / "data" / "requests.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> steercache.Cache:
    cache = steercache.open(tmp_path_factory.mktemp("cast") / "root", create=True)
    cache.build("tiny-recipes", device="cpu", dtype="float32")
    return cache


@pytest.fixture(scope="module")
def vector(cache: steercache.Cache) -> Any:
    (found,) = cache.fit_recipe("cast", concept="politeness", condition="cooking")
    return found


def last_rows(loaded: Any, texts: list[str]) -> np.ndarray:
    """Outputs of the blocks at the last token of each text, (text, layer, d), each text in a pass of its own."""
    found = []
    for text in texts:
        seen: list[torch.Tensor] = []
        handles = [
            block.register_forward_hook(
                lambda m, a, out, seen=seen: seen.append((out[0] if isinstance(out, tuple) else out)[0, -1].double())
            )
            for block in loaded.model.model.layers
        ]
        with torch.no_grad():
            loaded.model(**loaded.tokenizer(text, return_tensors="pt"))
        for handle in handles:
            handle.remove()
        found.append(torch.stack(seen))
    return torch.stack(found).numpy()


def test_prompts_that_meet_the_condition_are_steered_and_no_others(cache: steercache.Cache, vector: Any) -> None:
    loaded = cache.model("tiny-backbone", dtype="float32")
    pairs = requests()
    wanted, unwanted = [one["about_cooking"] for one in pairs], [one["about_other_things"] for one in pairs]
    rows = last_rows(loaded, wanted + unwanted)
    differences = rows[: len(pairs)] - rows[len(pairs) :]
    condition = cache.vector("cooking-cast-condition")
    for layer in condition.layers:  # the first eigenvector of sum_i d_i d_i^T, towards the prompts that meet it
        first = np.linalg.eigh(differences[:, layer].T @ differences[:, layer])[1][:, -1]
        first *= np.sign(np.sign(differences[:, layer] @ first).sum())
        np.testing.assert_allclose(condition.at(layer), first, atol=1e-3)

    met, at = meets(cache, vector, last_rows(loaded, [*wanted, *unwanted, *OTHERS]))
    assert 0 < met.sum() < len(met)
    found = f1(met[: 2 * len(pairs)], len(pairs))
    assert found == pytest.approx(vector.use.source["condition_f1"], abs=1e-4)
    assert found == pytest.approx(max(every_f1(rows, condition, len(pairs))), abs=1e-4)

    layer = min(at + 1, loaded.spec.n_layers - 1)
    inputs = loaded.tokenizer([*wanted, *unwanted, *OTHERS], return_tensors="pt", padding=True, padding_side="left")
    plain = loaded.model(**inputs).logits[:, -1]
    target = cache.target(vector.use.target)
    on = steercache.steered(loaded, vector, layer=layer, alpha=30.0, target=target)
    with torch.no_grad():
        steered = on(**inputs).logits[:, -1]
    assert ((steered - plain).abs().amax(1) > 1e-3).tolist() == met.tolist()
    with torch.no_grad(), steercache.steer(loaded, vector, layer=layer, alpha=30.0):
        every = loaded.model(**inputs).logits[:, -1]
    torch.testing.assert_close(steered[met], every[met])
    assert torch.equal(steered[~met], plain[~met])


def meets(cache: steercache.Cache, vector: Any, rows: np.ndarray) -> tuple[np.ndarray, int]:
    """Which texts meet the condition that a vector's use states in words, and the layer that it looks at."""
    words = vector.use.source["condition"].split()
    layer, side, threshold = int(words[7]), words[8], float(words[9])
    c = cache.vector("cooking-cast-condition").at(layer).astype(np.float64)
    cosine = rows[:, layer] @ c / np.linalg.norm(rows[:, layer], axis=1) / np.linalg.norm(c)
    return (cosine > threshold) == (side == "above"), layer


def f1(met: np.ndarray, n: int) -> float:
    return float(2 * met[:n].sum() / (met.sum() + n))


def every_f1(rows: np.ndarray, condition: Any, n: int) -> list[float]:
    found = []
    for layer in condition.layers:
        c = condition.at(layer).astype(np.float64)
        cosine = rows[:, layer] @ c / np.linalg.norm(rows[:, layer], axis=1) / np.linalg.norm(c)
        for threshold in np.round(np.arange(-1, 1, 0.01), 2):
            found += [f1(cosine > threshold, n), f1(cosine <= threshold, n)]
    return [round(one, 4) for one in found]


def test_an_evaluation_takes_the_condition_as_its_target(cache: steercache.Cache, vector: Any, tmp_path: Path) -> None:
    path = tmp_path / "questions.jsonl"
    rows = [
        {"question": one, "choices": ["yes", "no"], "answer": "yes", "split": "search"}
        for pair in requests()
        for one in pair.values()
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    loaded = cache.model("tiny-backbone", dtype="float32")
    found = cache.evaluate(
        loaded,
        path,
        vectors=[vector],
        layers=[5],
        alphas=[30.0],
        targets=[vector.use.target],
        controls=0,
        prompting="",
        damage=False,
        split="search",
        mode="branch",
    )
    (row,) = [one for one in found.table.rows if one.role == "vector"]
    selected = cache.steered_tokens(row.cell.cell_id)
    asked = ask(pick_rows(open_benchmark(str(path)), "search", n=None, orphans="search"), loaded.bundle, split="search")
    prompts = {one.sample_id: one.encoded for one in asked if one.encoded is not None}
    assert selected.keys() == prompts.keys()
    rows_nld = last_rows(loaded, [one.text for one in prompts.values()])
    met, _ = meets(cache, vector, rows_nld)
    assert [bool(selected[one].any()) for one in prompts] == met.tolist()
    for name, prompt in prompts.items():
        assert selected[name].sum() in (0, prompt.n_tokens)


def test_intervention_at_heads_is_tried_by_a_grid_as_its_recipe_says(cache: steercache.Cache, tmp_path: Path) -> None:
    (vector,) = cache.fit_recipe("iti", concept="cooking", diagnose=False)
    assert vector.use is not None
    at, alpha = vector.layers[0], vector.use.strength
    assert (vector.use.place, vector.use.target, alpha) == ("head_out", "last", 15.0)
    asked = [one["about_cooking"] for one in requests()]
    rows = [{"question": one, "answer": "rice", "split": "search"} for one in asked]
    (tmp_path / "questions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    manifest = {
        "kind": "sweep",
        "version": 1,
        "name": "iti",
        "model": "tiny-backbone",
        "vectors": [vector.name],
        "combinations": [
            {"name": "whole", "parts": [{"vector": vector.name, "layer": layer} for layer in vector.layers]}
        ],
        "layers": [at],
        "alphas": [alpha],
        "targets": ["last"],
        "tasks": [{"benchmark": "questions.jsonl", "form": "word"}],
        "splits": ["search"],
        "decoding": {"max_new_tokens": 1},
    }
    (tmp_path / "iti.yaml").write_text(json.dumps(manifest))
    found = cache.sweep(tmp_path / "iti.yaml", dtype="float32").run(damage=False, mode="branch").tasks[0]
    answers = cache.sql(
        "select a.sample_id, a.raw, c.site, c.vector_id from answers a join cells c using (sweep_id, cell_id)"
        f" where sweep_id = '{found.sweep_id}'"
    ).fetchall()
    assert {site for *_, site, of in answers if of is not None} == {"head_out"}
    alone = {sample: raw for sample, raw, _, of in answers if of == vector.vector_id}
    whole = {sample: raw for sample, raw, _, of in answers if of not in (None, vector.vector_id)}
    assert len(alone) == len(whole) == len(asked)
    assert len(vector.layers) > 1

    loaded = cache.model("tiny-backbone", dtype="float32")
    benchmark = open_benchmark(str(tmp_path / "questions.jsonl"), form="word")
    questions = ask(pick_rows(benchmark, "search", n=None, orphans="search"), loaded.bundle, split="search")
    for layers, answered in (((at,), alone), (vector.layers, whole)):
        handles = [
            loaded.model.model.layers[layer].self_attn.o_proj.register_forward_pre_hook(
                added_at_last(alpha * torch.from_numpy(vector.at(layer)))
            )
            for layer in layers
        ]
        expected = {}
        for one in questions:
            assert one.encoded is not None
            with torch.no_grad():
                best = loaded.model(torch.tensor(one.encoded.input_ids.tolist())[None]).logits[0, -1].argmax()
            expected[one.sample_id] = loaded.tokenizer.decode([int(best)], skip_special_tokens=True).strip()
        for handle in handles:
            handle.remove()
        assert answered == expected


def added_at_last(delta: torch.Tensor) -> Any:
    def add(module: Any, args: tuple[torch.Tensor]) -> tuple[torch.Tensor]:
        moved = args[0].clone()
        moved[:, -1] += delta
        return (moved,)

    return add


def test_a_condition_is_for_recipes_that_have_one(cache: steercache.Cache) -> None:
    with pytest.raises(UsageError, match="steers prompts that meet a condition"):
        cache.fit_recipe("cast", concept="politeness")
    with pytest.raises(UsageError, match="steers every prompt"):
        cache.fit_recipe("caa", concept="politeness", condition="cooking")
    known = find_recipe("cast").model_dump(mode="json")
    with pytest.raises(ValueError, match="about a prompt"):
        RecipeManifest.model_validate_json(json.dumps(known | {"use": known["use"] | {"phase": "both"}}))
