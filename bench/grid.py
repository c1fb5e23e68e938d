"""The exact grid against the published loop, against a batched loop of full forwards, and against what FLOPs allow.

The shipped model in the dtype that is faster here, 16 layers, seven strengths of one vector, questions about drawn scenes. Ours
is what `steercache grid` runs, every answer stored and indexed, in an empty cache each time. The loops get ready encodings and
take turns with ours over a part of the cells that goes through all layers (what a full forward costs does not hang on the
layer); compared is the time per cell and question. The published loop runs in the dtype that is faster for *it*: where units
for bfloat16 make large batches many times faster, float32 may still suit a batch of one. Answers are compared in one dtype:
they must be the same but for near-ties, which are counted.
"""

import json
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from bench.cells import (
    Answered,
    Grid,
    Questions,
    make_grid,
    open_model,
    questions,
    random_vector,
    row_norms,
    run_exactly,
)
from bench.loops import Said, encode, generate_all, mask_of
from bench.turns import Row, fast_dtype, row_of
from steercache.cache.handle import open_cache
from steercache.cells.arms import ArmCell
from steercache.core.errors import NotFoundError
from steercache.core.trials import Target
from steercache.models.family import find_module
from steercache.models.spec import LoadedModel
from steercache.queries.session import open_session

TARGETS: tuple[Target, ...] = ("image", "text")
TURNS = 3
N_QUESTIONS = 12
N_ALONE = 2  # questions that the published loop gets in a turn
N_EQUAL = 3  # questions whose answers are compared
EVERY = 8  # so that the part has one cell in each of 14 layers


@dataclass(frozen=True, kw_only=True)
class Task:
    """One target's grid on one loaded model, with the questions as each side reads them."""

    loaded: LoadedModel = field(repr=False)
    asked: Questions = field(repr=False)
    grid: Grid
    part: tuple[ArmCell, ...] = field(repr=False)
    target: Target

    @property
    def kind(self) -> str:
        """How answers are read."""
        return self.asked.asked[0].kind

    def ours(self, work: Path, settings: Sequence[ArmCell] | None = None) -> Answered:
        """The grid into an empty cache."""
        shutil.rmtree(work / "root", ignore_errors=True)
        open_cache(work / "root", create=True)
        return run_exactly(open_session(work / "root"), self.loaded, self.asked.asked, self.grid, settings)

    def loop(self, encodings: Sequence[Any]) -> Said:
        """The part of the cells through `generate` with a hook."""
        return generate_all(
            self.loaded, self.part, encodings, target=self.target, options=self.grid.options, kind=self.kind
        )


def make_task(loaded: LoadedModel, target: Target, *, n: int) -> Task:
    """A random direction's grid over questions of relations."""
    asked = questions(loaded, "Relation", n=n)
    grid = make_grid(loaded, random_vector(loaded, row_norms(loaded, asked.asked, target)), target)
    return Task(loaded=loaded, asked=asked, grid=grid, part=grid.settings[EVERY // 2 - 1 :: EVERY], target=target)


def suited_to_the_loop(models: Sequence[LoadedModel]) -> LoadedModel:
    """The one of two copies of a model, in two dtypes, with which the published loop answers a few cells sooner."""
    took = []
    for loaded in models:
        task = make_task(loaded, "image", n=1)
        alone, few = [encode(loaded, task.asked.examples)], replace(task, part=task.part[:3])
        few.loop(alone)
        took.append(statistics.median(seconds(lambda few=few, alone=alone: few.loop(alone))[0] for _ in range(5)))
    return models[took.index(min(took))]


def bound_of(task: Task, n_new: float) -> float:
    """How many times the multiply-adds of a full forward per cell are those of branching, from sizes of weights alone.

    `n_new` tokens an answer. A cell runs the blocks above its layer, in causal families from the first steered column on.
    """
    model, family = task.loaded.model, task.loaded.family
    blocks = find_module(model, family.blocks)
    n_blocks, block = len(blocks), sum(p.numel() for p in blocks[0].parameters())
    head = model.get_output_embeddings().weight.numel()
    vision = model.config.vision_config
    tower = sum(p.numel() for p in find_module(model, family.vision or "").parameters())
    tower *= (vision.image_size // vision.patch_size) ** 2
    inputs = encode(task.loaded, task.asked.examples)
    n_tokens = inputs["input_ids"].shape[1]
    causal = family.token_types is None or family.token_types[1] != "suffix"
    start = int(mask_of(task.loaded, inputs, task.target).any(0).nonzero()[0, 0]) if causal else 0
    answer = head + (n_new - 1) * (n_blocks * block + head)
    full = tower + n_blocks * block * n_tokens + answer
    branched = [(n_blocks - 1 - (s.cell.layer or 0)) * block * (n_tokens - start) + answer for s in task.grid.settings]
    return float(full * len(branched) / (full + sum(branched)))


def bench_clock(task: Task, work: Path, *, for_loop: LoadedModel, turns: int, n_alone: int) -> list[Row]:
    """Three ways through the grid, in turns; the published loop has a copy of the model of its own."""
    together = [encode(task.loaded, task.asked.examples)]
    alone = [encode(for_loop, [example]) for example in task.asked.examples[:n_alone]]
    theirs = replace(task, loaded=for_loop)
    n, n_cells, n_part = len(task.asked.asked), len(task.grid.settings), len(task.part)
    task.ours(work, task.grid.settings[:2])
    theirs.loop(alone[:1])
    replace(task, part=task.part[:1]).loop(together)
    published, batched = [], []
    found: Answered | None = None
    said = said_alone = Said(words=[], n_new=[1])
    for turn in range(turns):
        for which in (0, 1, 2) if turn % 2 == 0 else (2, 1, 0):
            if which == 0:
                ours_s, found = seconds(lambda: task.ours(work))
            elif which == 1:
                published_s, said_alone = seconds(lambda: theirs.loop(alone))
            else:
                batched_s, said = seconds(lambda: task.loop(together))
        per_pair = ours_s / ((n_cells + 1) * n)  # the baseline is answered too
        published.append((per_pair, published_s / (n_part * n_alone)))
        batched.append((per_pair, batched_s / (n_part * n)))
    assert found is not None
    bound = bound_of(task, statistics.mean(said_alone.n_new))
    ratio = statistics.median(loop_s / ours_s for ours_s, loop_s in batched)
    name = f"exact grid on {task.target} tokens, {n_cells} cells x {n} questions"
    dtypes = {"dtype": task.loaded.spec.dtype, "loop_dtype": for_loop.spec.dtype}
    counts = {"n_cells": n_cells, "n_samples": n, "flop_ratio": bound, **dtypes}
    share = {
        "name": f"{name}: share of the bound from block FLOPs",
        "ratio": ratio / bound,
        "target": ">= 0.75",
        "met": ratio / bound >= 0.75,
    }
    return [
        row_of(
            f"{name}, against the published loop (FLOPs alone: {bound:.2f} x)", published, target=">= 6", faster=True
        )
        | counts
        | (differing(task, found, said_alone) if for_loop is task.loaded else {}),
        row_of(f"{name}, against batched full forwards", batched, target=">= 1.6", faster=True)
        | counts
        | differing(task, found, said),
        share | counts,
    ]


def bench_answers(task: Task, work: Path) -> Row:
    """Answers of the part, in the task's dtype, against those of the published loop, question by question."""
    alone = [encode(task.loaded, [example]) for example in task.asked.examples]
    found, said = task.ours(work, task.part), task.loop(alone)
    counts = differing(task, found, said)
    return {
        "name": f"answers of the exact grid on {task.target} tokens that are not the published loop's, and no near-tie",
        "ratio": float(counts["n_different_clear"]),
        "target": "<= 0",
        "met": counts["n_different_clear"] == 0,
        "dtype": str(task.loaded.model.dtype),
        **counts,
    }


def differing(task: Task, found: Answered, said: Said) -> Row:
    """How many answers of the part differ from a loop's, and how many of those are no near-ties."""
    keys, words = [], []
    for setting, row in zip(task.part, said.words, strict=True):
        keys += [(setting.cell.cell_id, one.sample_id) for one in task.asked.asked[: len(row)]]
        words += row
    different = [key for key, text in zip(keys, words, strict=True) if found.answers[key].raw != text]
    clear = [key for key in different if key not in found.near_ties]
    near = sum(key in found.near_ties for key in keys)
    return {
        "n_answers": len(keys),
        "n_near_ties": near,
        "n_different": len(different),
        "n_different_clear": len(clear),
    }


def seconds(call: Callable[[], Any]) -> tuple[float, Any]:
    """How long a call takes, and what it returns."""
    start = time.perf_counter()
    result = call()
    return time.perf_counter() - start, result


def run(
    folder: Path | None = None,
    *,
    model: str = "demo",
    n: int = N_QUESTIONS,
    n_alone: int = N_ALONE,
    n_equal: int = N_EQUAL,
    turns: int = TURNS,
    targets: Sequence[Target] = TARGETS,
) -> Iterator[Row]:
    """All lines, each when it is measured: about five minutes on two quiet cores."""
    work = Path(tempfile.mkdtemp(prefix="bench-grid-", dir=folder))
    try:
        loaded, other = (
            open_model(model, work / "models", dtype=dtype)
            for dtype in sorted(("float32", "bfloat16"), key=lambda dtype: dtype != fast_dtype())
        )
        for_loop = suited_to_the_loop([loaded, other])
        for target in targets:
            task = make_task(loaded, target, n=n)
            yield from bench_clock(task, work, for_loop=for_loop, turns=turns, n_alone=n_alone)
        for target in targets:
            yield bench_answers(make_task(loaded, target, n=n_equal), work)
    except NotFoundError as error:
        print(f"grid: left out: {error}", file=sys.stderr)
    finally:
        shutil.rmtree(work)


if __name__ == "__main__":
    for row in run():
        print(json.dumps(row), flush=True)
