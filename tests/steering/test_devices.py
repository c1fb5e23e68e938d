"""Tensors are made on the device of the model's own: with another default device (`meta`) every path computes the same.

A model on an accelerator meets the default device, the CPU, wherever `device=` was forgotten. Here the model is on the CPU
and the package's own default device is `meta`, which holds no values: a forgotten `device=` fails or loses the numbers.
"""

import ast
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.overrides import TorchFunctionMode

import steercache
from steercache.core.vectors import SteeringVector
from steercache.models.spec import LoadedModel
from steercache.steering.branch import BranchOptions, branch
from steercache.steering.cells import CellAnswers
from steercache.steering.gradient import margin_gradients
from steercache.steering.recompute import recompute
from steercache.steering.replay import replay
from steercache.steering.row_norms import row_norms
from steercache.steering.screen import GradientScreen, predict, sample_shifts
from steercache.trace.batches import PaddedBatch
from steercache.trace.capture import model_inputs
from tests.steering.small import IMAGE, N_LAYERS, WIDTH, directions, padded_batch, small_model
from tests.steering.test_branch import cells_for
from tests.steering.test_replay import stored

PACKAGE = Path(steercache.__file__).parent
MAKERS = {"arange", "empty", "eye", "full", "linspace", "ones", "rand", "randint", "randn", "tensor", "zeros"}
LENGTHS = {"unpadded": (9, 9), "padded": (9, 12, 7)}
FAMILIES = ("llama", "qwen2_5_vl")
Way = Callable[[LoadedModel, PaddedBatch], Any]


class MetaByDefault(TorchFunctionMode):
    """Tensors that the package makes without `device=` are on `meta`; transformers' own stay where they are."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__name__", "") in MAKERS and "device" not in kwargs:
            caller = sys._getframe(1).f_code.co_filename
            if Path(caller).is_relative_to(PACKAGE):
                kwargs = {**kwargs, "device": "meta"}
        return func(*args, **kwargs)


def answers(found: Any) -> list[tuple[str, Any, torch.Tensor, torch.Tensor]]:
    rows: list[CellAnswers] = sorted(found, key=lambda a: str(a.key))
    return [(a.key, a.tokens, a.logits_bv, a.near_tie_b) for a in rows]


def branched(loaded: LoadedModel, batch: PaddedBatch) -> Any:
    return answers(branch(loaded, batch, cells_for(loaded.spec.family), BranchOptions(max_new_tokens=4)))


def in_full(loaded: LoadedModel, batch: PaddedBatch) -> Any:
    return answers(recompute(loaded, batch, cells_for(loaded.spec.family)[::5], BranchOptions(max_new_tokens=4)))


def gradients(loaded: LoadedModel, batch: PaddedBatch) -> Any:
    options = [[20, 30, 40], [21, 31], [50]][: len(batch.lengths)]
    found = margin_gradients(loaded, batch, options, layers=(0, N_LAYERS - 1), targets={"all": "all", "text": "text"})
    return [found.values, found.margins, found.n_steered, found.row_norms]


def norms(loaded: LoadedModel, batch: PaddedBatch) -> Any:
    return [row_norms(loaded, batch, targets=("all", "last", "text"))]


def live(loaded: LoadedModel, batch: PaddedBatch) -> Any:
    v = SteeringVector(name="v", method="m", concept=None, site="resid_post", layers=(1,), values=directions(1))
    found = []
    for target in ("all", "last", "text", *(("image",) if loaded.spec.family in IMAGE else ())):
        with torch.inference_mode(), steercache.steer(loaded, v, layer=1, alpha=2.0, target=target):
            found.append(loaded.model(**model_inputs(loaded, batch)).logits)
    return found


PATHS: dict[str, Way] = {"branch": branched, "full": in_full, "gradient": gradients, "norms": norms, "live": live}


def assert_same(found: Any, expected: Any) -> None:
    if isinstance(expected, list | tuple):
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            assert_same(one, other)
    elif isinstance(expected, torch.Tensor):
        assert found.device.type == "cpu"
        assert torch.equal(found, expected)
    elif isinstance(expected, np.ndarray):
        np.testing.assert_array_equal(found, expected)
    else:
        assert found == expected


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("lengths", LENGTHS.values(), ids=LENGTHS)
@pytest.mark.parametrize("family", FAMILIES)
def test_another_default_device_changes_nothing(family: str, lengths: tuple[int, ...], path: str) -> None:
    loaded, batch = small_model(family), padded_batch(family, lengths=lengths)
    expected = PATHS[path](loaded, batch)
    with MetaByDefault():
        assert_same(PATHS[path](loaded, batch), expected)


@pytest.mark.parametrize("lengths", LENGTHS.values(), ids=LENGTHS)
@pytest.mark.parametrize("family", FAMILIES)
def test_another_default_device_changes_no_replay(family: str, lengths: tuple[int, ...]) -> None:
    loaded, batch = small_model(family), padded_batch(family, lengths=lengths)
    rows, cells = stored(loaded, batch), cells_for(family)
    expected = answers(replay(loaded, batch, cells, stored=rows))
    with MetaByDefault():
        assert_same(answers(replay(loaded, batch, cells, stored=rows)), expected)


def test_another_default_device_changes_no_prediction() -> None:
    rng = np.random.default_rng(0)
    gradient_nkd = rng.normal(size=(5, 3, WIDTH)).astype(np.float32)
    screen = GradientScreen(
        layers=(0,),
        gradient_of=lambda layer: gradient_nkd,
        margins=rng.normal(size=(5, 3)).astype(np.float32),
        right=np.array([0, 1, 2, 0, 1]),
    )

    def predictions() -> list[Any]:
        found = predict(screen, directions(2), (0.5, -1.0))
        return [found.shift, found.accuracy, found.helped, sample_shifts(screen, directions(2), 0)]

    expected = predictions()
    with MetaByDefault():
        assert_same(predictions(), expected)


def test_every_tensor_that_is_made_says_on_which_device() -> None:
    """What no test runs: every call of a maker of torch's in the package (training scripts of the zoo apart)."""
    silent = []
    for path in PACKAGE.rglob("*.py"):
        if "zoo" in path.relative_to(PACKAGE).parts:
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
                continue
            made_by_torch = isinstance(node.func.value, ast.Name) and node.func.value.id == "torch"
            if made_by_torch and node.func.attr in MAKERS and "device" not in {k.arg for k in node.keywords}:
                silent.append(f"{path.relative_to(PACKAGE)}:{node.lineno}")
    assert silent == []
