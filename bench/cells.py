"""What the benches of the grid share: the shipped model, questions about drawn scenes, and a grid over layers and strengths.

The published layers (5 to 20, 16 in all) and seven strengths, in median norms of the rows that are steered, up to half of one.
"""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bench.turns import fast_dtype
from steercache.answers.batches import Runner
from steercache.answers.store import Key, SweepWriter
from steercache.benchmarks.task import EncodedQuestion, ask, pick_rows
from steercache.cells.arms import Arm, ArmCell, settings_of
from steercache.cells.model import find_model
from steercache.cells.options import ComputeOptions, ControlOptions, DecodingOptions, EvalOptions, GridAxes
from steercache.core.trials import Answer, Target
from steercache.core.vectors import SteeringVector
from steercache.data.benchmarks import open_benchmark
from steercache.models.spec import LoadedModel
from steercache.queries.session import Session
from steercache.steering.prefill import run_prefill
from steercache.steering.targets import target_mask
from steercache.trace.batches import PaddedBatch, pad_batch

LAYERS = range(5, 21)
ALPHAS = (0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5)
FORMS: dict[str, Any] = {"Relation": "letter", "Count": "number"}


@dataclass(frozen=True, kw_only=True)
class Questions:
    """The same questions as rows of the benchmark, for loops of one's own, and encoded."""

    examples: tuple[Any, ...] = field(repr=False)
    asked: tuple[EncodedQuestion, ...] = field(repr=False)


def open_model(name: str, root: Path, *, dtype: str = "auto") -> LoadedModel:
    """A model of the zoo, built below `root`. Raises NotFoundError where its weights are not in this installation."""
    return find_model(name, root).load(root, device="cpu", dtype=dtype)


def layers_of(loaded: LoadedModel) -> tuple[int, ...]:
    """The published layers; of a smaller model all but the last, whose image tokens nothing reads."""
    n_layers = loaded.spec.n_layers
    return tuple(LAYERS) if n_layers > LAYERS.stop else tuple(range(n_layers - 1))


def questions(loaded: LoadedModel, task: str, *, n: int, skip: int = 0) -> Questions:
    """`n` questions of the search split about drawn scenes; `skip` leaves out those that a call for so many gives."""
    bench = open_benchmark("scenes", task=task, form=FORMS[task])
    rows = pick_rows(bench, "search", n=n + skip, orphans="search")
    left_out = {row.place for row in pick_rows(bench, "search", n=skip, orphans="search")} if skip else set()
    chosen = tuple(row for row in rows if row.place not in left_out)
    return Questions(examples=chosen, asked=ask(chosen, loaded.bundle, split="search"))


def batch_of(loaded: LoadedModel, asked: Sequence[EncodedQuestion]) -> PaddedBatch:
    """All of the questions as one batch, padded on the left."""
    encoded = [one.encoded for one in asked if one.encoded is not None]
    return pad_batch(encoded, padding_side="left", pad_id=loaded.tokenizer.pad_token_id or 0)


@torch.inference_mode()
def row_norms(loaded: LoadedModel, asked: Sequence[EncodedQuestion], target: Target) -> np.ndarray[Any, Any]:
    """Median norm of the rows that a target steers, at every layer of the grid."""
    prefill = run_prefill(loaded, batch_of(loaded, asked), layers=layers_of(loaded))
    mask_bt = target_mask(target, prefill.prompts.tokens, vocabulary=prefill.parts.vocabulary)
    norms = [float(prefill.outputs[k][mask_bt].float().norm(dim=-1).median()) for k in layers_of(loaded)]
    return np.array(norms, dtype=np.float32)


def in_norms(
    name: str, directions_ld: np.ndarray[Any, Any], norms: np.ndarray[Any, Any], loaded: LoadedModel, *, method: str
) -> SteeringVector:
    """A vector whose raw strength 1 adds one median norm along the direction of every layer of the grid."""
    lengths = np.linalg.norm(directions_ld, axis=1, keepdims=True)
    return SteeringVector(
        name=name,
        method=method,
        concept=None,
        site="resid_post",
        layers=layers_of(loaded),
        values=np.ascontiguousarray(directions_ld / lengths * norms[:, None], dtype=np.float32),
        provenance={"bench": name},
    )


def random_vector(loaded: LoadedModel, norms: np.ndarray[Any, Any], *, seed: int = 0) -> SteeringVector:
    """One random direction per layer."""
    shape = (len(norms), loaded.spec.hidden_size)
    drawn = np.random.default_rng(seed).normal(size=shape)
    return in_norms(f"random {seed}", drawn, norms, loaded, method="random")


@dataclass(frozen=True, kw_only=True)
class Grid:
    """A vector's cells, and the baseline."""

    options: EvalOptions
    baseline: ArmCell
    arm: Arm
    settings: tuple[ArmCell, ...] = field(repr=False)


def asked_and_vectors(
    model: str, folder: Path | None, *, n: int
) -> tuple[LoadedModel, Questions, list[SteeringVector]]:
    """A model in the dtype that is faster here, `n` questions about relations, and four random vectors."""
    with tempfile.TemporaryDirectory(prefix="bench-cells-", dir=folder) as work:
        loaded = open_model(model, Path(work), dtype=fast_dtype())
    asked = questions(loaded, "Relation", n=n)
    norms = row_norms(loaded, asked.asked, "text")
    return loaded, asked, [random_vector(loaded, norms, seed=seed) for seed in range(4)]


def make_grid(
    loaded: LoadedModel,
    vector: SteeringVector,
    target: Target,
    *,
    layers: Sequence[int] | None = None,
    alphas: Sequence[float] = ALPHAS,
    max_new_tokens: int | None = None,
    memory_mib: int = 2048,
) -> Grid:
    """Every layer and strength of one vector on one target; `max_new_tokens` None takes the usual limit of an answer."""
    options = EvalOptions(
        axes=GridAxes(layers=tuple(layers or layers_of(loaded)), alphas=tuple(alphas), targets=(target,)),
        controls=ControlOptions(count=0),
        prompting="",
        decoding=DecodingOptions(max_new_tokens=max_new_tokens),
        compute=ComputeOptions(memory_mib=memory_mib),
        allow_foreign=True,
    )
    arm = Arm(name=vector.name, role="vector", vector=vector)
    (baseline,) = settings_of(Arm(name="baseline", role="baseline"), loaded, options)
    return Grid(options=options, baseline=baseline, arm=arm, settings=settings_of(arm, loaded, options))


@dataclass(frozen=True, kw_only=True)
class Answered:
    """Every answer, and those (cell, sample) that another batching may answer otherwise."""

    answers: dict[Key, Answer] = field(repr=False)
    near_ties: frozenset[Key] = field(repr=False)


def run_exactly(
    session: Session,
    loaded: LoadedModel,
    asked: Sequence[EncodedQuestion],
    grid: Grid,
    settings: Sequence[ArmCell] | None = None,
) -> Answered:
    """The baseline and every cell (or `settings`) over the questions, as `steercache grid` runs them: branched, every answer
    stored and indexed."""
    writer = SweepWriter(cache=session.cache, name=f"bench {grid.arm.name}", manifest={"kind": "bench"})
    runner = Runner(loaded=loaded, options=grid.options, writer=writer, known={})
    cells = [grid.baseline, *(grid.settings if settings is None else settings)]
    answers = runner.run(asked, cells)
    writer.flush()
    writer.save(status="complete")
    return Answered(answers=answers, near_ties=frozenset(runner.tally.near_ties))
