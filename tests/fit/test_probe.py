"""Both probes against independent plain code, and on data whose answer is known."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from steercache.core.errors import UsageError
from steercache.core.selection import Selection
from steercache.fit import linear_probe, mean_shift
from steercache.fit.convex import STRENGTHS
from steercache.fit.sgd import logit_gradient
from tests.fit.arrays import ArraySource, CountingSource
from tests.fit.planted import cos, planted


def matrix(sel: Selection, layer: int) -> np.ndarray:
    return sel.source.gather("resid_post", layer, sel.rows).astype(np.float64)


def few_rows(sel: Selection, n: int) -> Selection:
    columns = ("rows", "label", "sample_idx", "position", "token_id")
    return replace(sel, **{name: getattr(sel, name)[:n] for name in columns})


@pytest.mark.parametrize("n_rows", [30, 540], ids=["fewer rows than dimensions", "more"])
def test_the_default_probe_is_scikit_learns(n_rows: int) -> None:
    sel = few_rows(planted()[0], n_rows)
    vector = linear_probe(sel)
    for i, layer in enumerate(vector.layers):
        c = vector.provenance["params"]["strength"][i]
        assert c in STRENGTHS
        pipeline = make_pipeline(
            StandardScaler(), LogisticRegression(C=c, class_weight="balanced", tol=1e-8, max_iter=10_000)
        ).fit(matrix(sel, layer), sel.label)
        expected = pipeline[-1].coef_[0] / pipeline[0].scale_
        assert np.linalg.norm(vector.values[i]) == pytest.approx(1, abs=1e-6)
        assert cos(vector.values[i], expected) > 1 - 1e-6


def test_weights_of_the_default_probe_are_scikit_learns_sample_weights() -> None:
    sel = planted()[0]
    weight = np.random.default_rng(1).integers(1, 4, len(sel)).astype(np.float32)
    vector = linear_probe(replace(sel, weight=weight), layers=[1])
    index = np.repeat(np.arange(len(sel)), weight.astype(int))
    pipeline = make_pipeline(
        StandardScaler(),
        LogisticRegression(
            C=vector.provenance["params"]["strength"][0], class_weight="balanced", tol=1e-8, max_iter=10_000
        ),
    ).fit(matrix(sel, 1)[index], sel.label[index])
    assert cos(vector.values[0], pipeline[-1].coef_[0] / pipeline[0].scale_) > 1 - 1e-6


def published_probe(x: np.ndarray, label: np.ndarray, n_sentences: int, seed: int) -> np.ndarray:
    """The paper's recipe in torch: PCA, one linear layer without bias, sigmoid, `BCELoss`, SGD, all in float32."""
    pca = PCA(n_components=max(n_sentences // 2, 10), svd_solver="full").fit(x)
    scores = torch.tensor(pca.transform(x), dtype=torch.float32)
    y = torch.tensor(label, dtype=torch.float32)
    layer = torch.nn.Linear(scores.shape[1], 1, bias=False)
    torch.nn.init.zeros_(layer.weight)
    loss_of, optimiser = torch.nn.BCELoss(), torch.optim.SGD(layer.parameters(), lr=0.003)
    generator = np.random.Generator(np.random.PCG64(seed))
    for _ in range(400):
        order = torch.tensor(generator.permutation(len(scores)))
        for rows in order.split(32):
            optimiser.zero_grad()
            loss_of(torch.sigmoid(layer(scores[rows]))[:, 0], y[rows]).backward()
            optimiser.step()
    direction = layer.weight.detach().double().numpy()[0] @ pca.components_
    return direction / np.linalg.norm(direction)


def exact_gradient_probe(x: np.ndarray, label: np.ndarray, n_sentences: int, seed: int) -> np.ndarray:
    """The same loop with the exact gradient in float64."""
    pca = PCA(n_components=max(n_sentences // 2, 10), svd_solver="full").fit(x)
    scores, w = pca.transform(x), np.zeros(pca.n_components_)
    generator = np.random.Generator(np.random.PCG64(seed))
    for _ in range(400):
        order = generator.permutation(len(scores))
        for start in range(0, len(order), 32):
            rows = order[start : start + 32]
            error = 0.5 * (1 + np.tanh(0.5 * (scores[rows] @ w))) - label[rows]
            w -= 0.003 / len(rows) * error @ scores[rows]
    direction = w @ pca.components_
    return direction / np.linalg.norm(direction)


def saturated() -> Selection:
    """Rows of which a few are massive along one direction, on both sides alike: their logits pass 17 on the wrong side."""
    sel = few_rows(planted(strength=3.0)[0], 26 * 9)
    rng = np.random.default_rng(5)
    massive = rng.random(len(sel)) < 0.06
    away = np.outer(massive * rng.choice([-100, 100], len(sel)), rng.normal(size=40))
    arrays = {k: (2 * x[: len(sel)] + away).astype(np.float32) for k, x in sel.source.arrays.items()}  # type: ignore[attr-defined]
    return replace(sel, source=ArraySource(arrays=arrays))


@pytest.mark.parametrize(("n_sentences", "seed"), [(4, 0), (26, 3)], ids=["fewer rows than dimensions", "more"])
def test_the_papers_probe_is_the_published_loop(n_sentences: int, seed: int) -> None:
    sel = few_rows(planted()[0], n_sentences * 9)
    vector = linear_probe(sel, recipe="paper", seed=seed)
    expected = published_probe(matrix(sel, 1), sel.label, n_sentences, seed)
    assert vector.provenance["params"]["n_components"] == max(n_sentences // 2, 10)
    np.testing.assert_allclose(vector.at(1), expected, atol=1e-5)


def test_the_papers_probe_is_the_published_loop_where_rows_are_saturated() -> None:
    sel = saturated()
    x = matrix(sel, 1)
    found = linear_probe(sel, recipe="paper", seed=3).at(1)
    published = published_probe(x, sel.label, 26, 3)
    assert cos(found, published) > 0.999
    # float64 with the exact gradient ends elsewhere
    assert cos(exact_gradient_probe(x, sel.label, 26, 3), published) < 0.9


def test_the_gradient_of_a_logit_is_torchs() -> None:
    logits = np.concatenate([np.linspace(-120, 120, 4001), [16.5, 16.7, 17.4, -27.5, -27.7]]).astype(np.float32)
    for target in (0.0, 1.0):
        x = torch.tensor(logits, requires_grad=True)
        y = torch.full_like(x, target)
        torch.nn.functional.binary_cross_entropy(torch.sigmoid(x), y, reduction="sum").backward()
        ours = logit_gradient(logits, y.numpy())
        np.testing.assert_allclose(ours, x.grad.numpy(), rtol=2e-4, atol=1e-7)  # type: ignore[union-attr]
    wrong = logit_gradient(np.array([15.0, 18.0, -26.0, -60.0], np.float32), np.array([0, 0, 1, 1], np.float32))
    np.testing.assert_allclose(wrong, [1, 0, -1, 0], atol=1e-6)


@pytest.mark.parametrize("recipe", ["default", "paper"])
def test_a_planted_direction_is_found_by_probe_and_mean_shift(recipe: str) -> None:
    sel, direction = planted(200, strength=4.0)
    found = linear_probe(sel, recipe=recipe, layers=[1])  # type: ignore[arg-type]
    spread = matrix(sel, 1)[sel.label == 0].std(axis=0)
    discriminant = direction / spread**2  # what separates best when dimensions differ in spread
    wanted = direction if recipe == "paper" else discriminant
    assert cos(found.at(1), wanted) > 0.7  # two random directions of 40 dimensions: 0.16
    assert cos(mean_shift(sel).at(1), direction) > 0.9
    assert abs(cos(linear_probe(sel, layers=[0]).at(0), direction)) < 0.5


@pytest.mark.parametrize("recipe", ["default", "paper"])
def test_probes_are_the_same_bytes_again_and_for_fewer_layers(recipe: str) -> None:
    sel = planted(30)[0]
    first, again = (linear_probe(sel, recipe=recipe) for _ in range(2))  # type: ignore[arg-type]
    assert first.vector_id == again.vector_id
    assert first.at(1).tobytes() == linear_probe(sel, recipe=recipe, layers=[1]).at(1).tobytes()  # type: ignore[arg-type]


@pytest.mark.parametrize("recipe", ["default", "paper"])
def test_what_does_not_fit_into_memory_gives_the_same_bytes(recipe: str) -> None:
    sel = planted(200)[0]
    source = CountingSource(arrays=sel.source.arrays)  # type: ignore[attr-defined]
    streamed = linear_probe(replace(sel, source=source), recipe=recipe, memory_mib=0)  # type: ignore[arg-type]
    assert streamed.values.tobytes() == linear_probe(sel, recipe=recipe).values.tobytes()  # type: ignore[arg-type]
    assert max(source.largest) <= 1024 < len(sel)


def test_another_seed_moves_the_papers_probe_a_little_and_ours_not_at_all() -> None:
    sel = planted(30)[0]
    a, b = (linear_probe(sel, recipe="paper", seed=seed, layers=[1]).at(1) for seed in (0, 1))
    assert 0.99 < cos(a, b) < 1 - 1e-9
    ours = [linear_probe(sel, seed=seed, layers=[1]).at(1).tobytes() for seed in (0, 1)]
    assert ours[0] == ours[1]


def test_scaling_a_dimension_scales_the_default_probe_inversely() -> None:
    sel = planted(40)[0]
    scale = np.exp(np.random.default_rng(2).normal(size=40)).astype(np.float32)
    source = CountingSource(arrays={k: v * scale for k, v in sel.source.arrays.items()})  # type: ignore[attr-defined]
    plain, scaled = linear_probe(sel, layers=[1]).at(1), linear_probe(replace(sel, source=source), layers=[1]).at(1)
    assert cos(scaled * scale, plain) > 1 - 1e-4


def test_constant_dimensions_and_massive_activations_do_no_harm() -> None:
    sel, _ = planted(60)
    arrays = {k: v.copy() for k, v in sel.source.arrays.items()}  # type: ignore[attr-defined]
    plain = linear_probe(sel, layers=[1]).at(1)
    for x in arrays.values():
        x[:, 3] = 7.0
        x[:, 5] = 20_000 + 100 * np.random.default_rng(0).normal(size=len(x))
    odd = linear_probe(replace(sel, source=CountingSource(arrays=arrays)), layers=[1]).at(1)
    assert abs(odd[3]) < 1e-6
    rest = np.setdiff1d(np.arange(40), (3, 5))
    assert cos(odd[rest], plain[rest]) > 0.9


def test_the_papers_recipe_refuses_weights_and_labels_are_needed() -> None:
    sel = planted(10)[0]
    with pytest.raises(UsageError, match="does not support weights"):
        linear_probe(replace(sel, weight=np.ones(len(sel), np.float32)), recipe="paper")
    with pytest.raises(UsageError, match="no labels"):
        linear_probe(replace(sel, label=None))


def test_shuffled_rows_of_the_published_loop_would_not_pass() -> None:
    """The oracle above can fail: another order of rows gives other weights than the 1e-5 it allows."""
    sel = few_rows(planted()[0], 26 * 9)
    x = matrix(sel, 1)
    order = np.random.default_rng(0).permutation(len(x))
    shuffled = published_probe(x[order], sel.label[order], 26, 3)
    assert np.abs(shuffled - linear_probe(sel, recipe="paper", seed=3).at(1)).max() > 5e-5


@pytest.mark.parametrize("recipe", ["default", "paper"])
def test_rows_that_are_all_the_same_are_an_error_that_says_so(recipe: str) -> None:
    sel, _ = planted()
    sel = replace(sel, source=ArraySource(arrays={0: np.ones((len(sel), 8), np.float32)}))
    with pytest.raises(UsageError, match="all rows are the same at layer 0"):
        linear_probe(sel, recipe=recipe)
