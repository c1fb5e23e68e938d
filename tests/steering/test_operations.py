"""Every operation against its formula in numpy, and the same bits live, branched, replayed and in full."""

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

import steercache
from steercache.core.errors import UsageError
from steercache.core.operations import KINDS, OF_PLANES, OF_SUBSPACES, Operation, ProjectOut, read_operation
from steercache.core.vectors import SteeringVector
from steercache.models.spec import LoadedModel
from steercache.steering.branch import BranchOptions, branch
from steercache.steering.cells import ROUNDING, BranchCell
from steercache.steering.operations.apply import apply, as_applied
from steercache.steering.operations.change import change_of
from steercache.steering.recompute import recompute
from steercache.steering.replay import replay
from tests.steering.small import padded_batch, small_model
from tests.steering.test_replay import stored
from tests.steering.tiny import vector

Rows = npt.NDArray[np.float64]
TEXTS = (
    *("add", "project_out", "project_cap:bound=0.3", "clamp:value=-1.5", "replace", "rotate", "add_preserving_norm"),
    *("affine:scale=0.25,offset=2", "rotate_in_plane:angle=200", "rotate_in_plane_adaptive:angle=70"),
)
V = [vector(0, 1, 2, 3, scale=2.0), vector(0, 1, 2, 3, width=32, name="w"), vector(0, 1, 2, 3, name="x")]
for i, one in enumerate(V[1:]):
    one.values[:] = np.random.default_rng(i).normal(size=one.values.shape)


def strength_of(text: str) -> float:
    return 40.0 if text == "rotate" else 0.8


def by_formula(h: Rows, text: str, a: float, vectors: Rows) -> Rows:
    """What the docstrings of `core.operations` say, in float64."""
    name, _, rest = text.partition(":")
    n = {key: float(value) for key, value in (part.split("=") for part in rest.split(",") if part)}
    v, basis = vectors[0], np.linalg.qr(vectors.T)[0].T
    basis *= np.sign((basis * vectors).sum(1, keepdims=True))
    c = h @ basis.T
    if name == "add":
        return h + a * v
    if name == "replace":
        return (1 - a) * h + a * v
    if name == "add_preserving_norm":
        m = h + a * v
        return m * np.linalg.norm(h, axis=1, keepdims=True) / np.linalg.norm(m, axis=1, keepdims=True)
    if name == "rotate":  # by polar coordinates in the plane
        u = basis[0]
        w = h - c * u
        s = np.linalg.norm(w, axis=1, keepdims=True)
        angle = np.arctan2(s, c) - np.radians(a)
        return np.linalg.norm(h, axis=1, keepdims=True) * (np.cos(angle) * u + np.sin(angle) * w / s)
    if name in OF_PLANES:  # by polar coordinates in the plane
        angle, radius = np.arctan2(c[:, 1], c[:, 0]), np.linalg.norm(c, axis=1)
        way = (np.radians(n["angle"]) - angle + np.pi) % (2 * np.pi) - np.pi
        turned = radius[:, None] * np.stack([np.cos(angle + a * way), np.sin(angle + a * way)], axis=1)
        return np.where((c[:, :1] > 0) | (name == "rotate_in_plane"), h + (turned - c) @ basis, h)
    target = {
        "project_out": lambda: 0 * c,
        "project_cap": lambda: np.minimum(c, n["bound"]),
        "clamp": lambda: np.full_like(c, n["value"]),
        "affine": lambda: n["scale"] * c + n["offset"],
    }[name]()
    return h + a * (target - c) @ basis


def plane_by_hand(one: SteeringVector) -> Rows:
    """The central direction and the first principal component of a vector's directions, turned to the side of their mean."""
    rows = one.values.astype(np.float64)
    cosines = np.array([[a @ b / np.linalg.norm(a) / np.linalg.norm(b) for b in rows] for a in rows])
    first = rows[cosines.mean(1).argmax()]
    component = np.linalg.eigh(np.cov(rows.T))[1][:, -1]
    rest = component - component @ first / (first @ first) * first
    return np.stack([first, component * np.sign(rows.mean(0) @ rest)])


def applied(h: Rows, text: str, a: float, vectors: Any, *, dtype: torch.dtype = torch.float64) -> Rows:
    change = as_applied([change_of(vectors, 1, alpha=a, operation=read_operation(text))])
    rows = torch.from_numpy(h).to(dtype)[None]
    return apply(rows, change, torch.ones(1, len(h), dtype=torch.bool))[0].double().numpy()


HIDDEN: Rows = np.random.default_rng(3).normal(size=(50, 32)) * 3


@pytest.mark.parametrize("n", [1, 3])
@pytest.mark.parametrize("text", TEXTS)
def test_an_operation_is_its_formula(text: str, n: int) -> None:
    name = text.partition(":")[0]
    if n > 1 and name not in OF_SUBSPACES:
        with pytest.raises(UsageError, match=r"takes one vector|vectors span none"):
            change_of(V, 1, alpha=1.0, operation=read_operation(text))
        n = 2 if name in OF_PLANES else n
        if n > 2:
            return
    a, values = strength_of(text), np.stack([one.at(1) for one in V[:n]]).astype(np.float64)
    if name in OF_PLANES and n == 1:
        values = plane_by_hand(V[0])
    expected = by_formula(HIDDEN, text, a, values)
    assert np.abs(expected - HIDDEN).max() > 0.1
    np.testing.assert_allclose(applied(HIDDEN, text, a, V[:n]), expected, rtol=1e-5, atol=2e-6)
    for dtype in (torch.float32, torch.bfloat16):
        rounded = torch.from_numpy(HIDDEN).to(dtype).double().numpy()
        found = applied(rounded, text, a, V[:n], dtype=dtype)
        step = torch.finfo(dtype).eps * np.abs(by_formula(rounded, text, a, values)).max()
        assert np.abs(found - by_formula(rounded, text, a, values)).max() <= max(step, 4e-6)


def test_projecting_twice_is_projecting_once_and_leaves_nothing_along_the_vectors() -> None:
    once = applied(HIDDEN, "project_out", 1.0, V)
    np.testing.assert_allclose(applied(once, "project_out", 1.0, V), once, atol=1e-6)
    for one in V:
        assert np.abs(once @ (one.at(1) / np.linalg.norm(one.at(1)))).max() < 1e-5
    clamped = applied(HIDDEN, "clamp:value=2", 1.0, V[0])
    np.testing.assert_allclose(applied(clamped, "clamp:value=2", 1.0, V[0]), clamped, atol=1e-6)
    capped = applied(HIDDEN, "project_cap:bound=0.3", 1.0, V[0]) @ (V[0].at(1) / np.linalg.norm(V[0].at(1)))
    assert capped.max() <= 0.3 + 1e-5
    assert capped.min() < -0.3


@pytest.mark.parametrize("text", ["rotate", "add_preserving_norm"])
def test_norms_are_kept(text: str) -> None:
    for a in (-200.0, -3.0, 1.0, 90.0):
        found = applied(HIDDEN, text, a, V[0])
        np.testing.assert_allclose(np.linalg.norm(found, axis=1), np.linalg.norm(HIDDEN, axis=1), rtol=1e-5)
    along = 2.0 * V[0].at(1)[None].astype(np.float64)
    assert np.isfinite(applied(along, text, 30.0, V[0])).all()
    assert np.isfinite(applied(-along / 2, text, 1.0, V[0])).all()  # h + v is zero


def test_turning_by_an_angle_and_back_is_nothing() -> None:
    np.testing.assert_allclose(applied(applied(HIDDEN, "rotate", 25.0, V[0]), "rotate", -25.0, V[0]), HIDDEN, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("text", TEXTS)
@torch.inference_mode()
def test_strength_zero_and_rows_that_are_no_target_keep_their_bits(text: str, dtype: torch.dtype) -> None:
    hidden = torch.from_numpy(HIDDEN).to(dtype)[None].clone()
    hidden[0, 0, :4] = torch.tensor([-0.0, 0.0, 1e-30, -1e-30], dtype=dtype)
    bits = hidden.view(torch.int16 if dtype == torch.bfloat16 else torch.int32)
    nothing = as_applied([change_of(V[0], 1, alpha=0.0, operation=read_operation(text))])
    if text != "add":  # a delta of zeros is never run
        assert torch.equal(apply(hidden, nothing, torch.ones(1, 50, dtype=torch.bool)).view(bits.dtype), bits)
    something = as_applied([change_of(V[0], 1, alpha=1.0, operation=read_operation(text))])
    assert torch.equal(apply(hidden, something, torch.zeros(1, 50, dtype=torch.bool)).view(bits.dtype), bits)

    loaded, batch = small_model("llama", dtype), padded_batch("llama")
    inputs = {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask}
    with steercache.steer(loaded, V[0], layer=1, alpha=0.0, operation=text):
        assert sum(len(block._forward_hooks) for block in loaded.model.model.layers) == 0
        steered = loaded.model(**inputs).logits
    assert torch.equal(steered, loaded.model(**inputs).logits)
    cell = cell_of(text, alpha=0.0)
    (answer,) = branch(loaded, batch, [cell], BranchOptions(max_new_tokens=1, same_batch=True))
    (baseline,) = branch(
        loaded,
        batch,
        [BranchCell(key="", layer=1, delta_d=np.zeros(32, np.float32))],
        BranchOptions(max_new_tokens=1, same_batch=True),
    )
    assert torch.equal(answer.logits_bv, baseline.logits_bv)


def cell_of(text: str, *, alpha: float | None = None, layer: int = 1, n: int = 1) -> BranchCell:
    a = strength_of(text) if alpha is None else alpha
    change = change_of(V[:n], layer, alpha=a, operation=read_operation(text))
    return BranchCell(key=f"{text} {layer} {a} {n}", layer=layer, delta_d=change.delta_d, target="text", change=change)


@torch.inference_mode()
def live_logits(loaded: LoadedModel, batch: Any, text: str, *, layer: int, a: float, n: int) -> torch.Tensor:
    inputs = {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask, "position_ids": batch.position_ids}
    with steercache.steer(loaded, V[:n], layer=layer, alpha=a, operation=text, target="text"):
        return loaded.model(**inputs, use_cache=True, logits_to_keep=1).logits[:, -1].float()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_live_branch_replay_and_full_give_the_same_bits_and_a_stack_the_same_values(dtype: torch.dtype) -> None:
    loaded, batch = small_model("llama", dtype), padded_batch("llama")
    wanted = [(text, layer, n) for text in TEXTS for layer in (1, 2) for n in (1, 3)]
    wanted = [one for one in wanted if one[2] == 1 or one[0].partition(":")[0] in OF_SUBSPACES]
    cells = {cell.key: (cell, one) for one in wanted for cell in [cell_of(one[0], layer=one[1], n=one[2])]}
    only = [cell for cell, _ in cells.values()]
    exact = BranchOptions(max_new_tokens=1, same_batch=True)
    branched = {a.key: a for a in branch(loaded, batch, only, exact)}
    full = {a.key: a for a in recompute(loaded, batch, only, exact)}
    replayed = {a.key: a for a in replay(loaded, batch, only, stored=stored(loaded, batch), options=exact)}
    together = {a.key: a for a in branch(loaded, batch, only, BranchOptions(max_new_tokens=1))}
    assert len(branched) == len(full) == len(replayed) == len(together) == len(cells)
    for key, (_, (text, layer, n)) in cells.items():
        expected = live_logits(loaded, batch, text, layer=layer, a=strength_of(text), n=n)
        for mode, found in (("branch", branched), ("full", full), ("replay", replayed)):
            assert found[key].mode == mode
            assert torch.equal(found[key].logits_bv, expected), (key, mode)
        worst = (together[key].logits_bv - expected).abs().amax(1)
        assert (worst <= ROUNDING[dtype] * expected.abs().amax(1)).all(), key


def test_numbers_count_in_the_unit_of_strength() -> None:
    norms = tuple({"layer": i, "resid_norm": 4.0} for i in range(4))
    measured = vector(0, 1, 2, 3, scale=2.0, diagnostics=norms)
    for text, raw in (("clamp:value=0.5", "clamp:value=2"), ("project_cap:bound=1", "project_cap:bound=4")):
        in_norms = change_of(measured, 1, alpha=1.0, alpha_unit="resid_norm", operation=read_operation(text))
        plain = change_of(measured, 1, alpha=1.0, operation=read_operation(raw))
        assert in_norms.numbers == plain.numbers
    put = change_of(measured, 1, alpha=1.0, alpha_unit="target_norm", row_norm=3.0, operation=read_operation("replace"))
    assert np.linalg.norm(put.rows_kd) == pytest.approx(3.0, rel=1e-6)
    with pytest.raises(UsageError, match="degrees"):
        change_of(measured, 1, alpha=10.0, alpha_unit="resid_norm", operation=read_operation("rotate"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        *(
            ("twist", "no operation"),
            ("clamp", "cannot read"),
            ("clamp:value=nan", "finite"),
            ("add:value=1", "cannot read"),
        ),
        *(("clamp:value=x", "is none"), ("clamp:value=1,value=2", "cannot read"), ("affine:scale=1", "cannot read")),
    ],
)
def test_a_text_that_is_no_operation_says_how_it_is_written(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        read_operation(text)


def test_a_subspace_needs_vectors_that_span_it() -> None:
    operation: Operation = ProjectOut()
    with pytest.raises(UsageError, match="lies in the span"):
        change_of([V[0], V[0]], 1, alpha=1.0, operation=operation)
    with pytest.raises(UsageError, match="is zero"):
        change_of(vector(0, 1, scale=0.0), 1, alpha=1.0, operation=operation)
    assert {read_operation(text).name for text in TEXTS} == set(KINDS)
