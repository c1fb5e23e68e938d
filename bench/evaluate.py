"""`steercache eval` of one setting against the usual way: one picture at a time through `generate` with a hook.

The shipped models on drawn scenes: the unsteered answers and one setting, every answer stored, indexed and compared with a
table on our side; on the other, only words. Both sides get the same opened questions and a loaded model. Answers must be the
same but for near-ties, which are listed. The damage guard, which the usual way has no counterpart of, is left out of the first
clock and in the second.
"""

import json
import shutil
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bench.loops import encode, mask_of
from bench.turns import Row, row_of, seconds
from steercache.benchmarks.task import ask, pick_rows
from steercache.cache.handle import open_cache
from steercache.cells.model import find_model
from steercache.cells.options import ControlOptions, EvalOptions, GridAxes
from steercache.core.errors import NotFoundError
from steercache.core.vectors import SteeringVector
from steercache.data.benchmarks import Benchmark, open_benchmark
from steercache.models.family import find_module
from steercache.models.spec import LoadedModel
from steercache.queries.session import Session, open_session
from steercache.sweeps.evaluation import evaluate
from steercache.sweeps.result import SweepResult

MODELS = ("tiny", "demo")
N_QUESTIONS = 32
TURNS = 3
TARGET = ">= 2.5"


def direction(loaded: LoadedModel) -> SteeringVector:
    """Any direction will do for the clock: a random one of unit length at every block."""
    values = np.random.default_rng(0).normal(size=(loaded.spec.n_layers, loaded.spec.hidden_size)).astype(np.float32)
    values /= np.linalg.norm(values, axis=1, keepdims=True)
    layers = tuple(range(loaded.spec.n_layers))
    return SteeringVector(
        name="bench",
        method="random",
        concept=None,
        site="resid_post",
        layers=layers,
        values=values,
        provenance={"seed": 0},
    )


def usual(loaded: LoadedModel, examples: Any, delta: Any, options: EvalOptions) -> list[str]:
    """One picture at a time: processor, `generate`, and for a steered run a hook on the image tokens of the prompt."""
    blocks = find_module(loaded.model, loaded.family.blocks)
    said = []
    for example in examples:
        inputs = encode(loaded, [example])
        ids = inputs["input_ids"]
        mask = mask_of(loaded, inputs, "image")[..., None]

        def hook(module: Any, args: Any, out: Any, mask: Any = mask) -> Any:
            return out if out.shape[1] != mask.shape[1] else torch.where(mask, (out.float() + delta).to(out.dtype), out)

        handle = None if delta is None else blocks[options.axes.layers[0]].register_forward_hook(hook)
        limit = options.decoding.limit_of(example.labels.meta["kind"])
        with torch.inference_mode():
            out = loaded.model.generate(**inputs, max_new_tokens=limit, do_sample=False)
        if handle is not None:
            handle.remove()
        said.append(loaded.tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True).strip())
    return said


def differences(
    found: SweepResult, ours: dict[tuple[str, str], str], theirs: dict[tuple[str, str], str]
) -> tuple[int, int]:
    """How many answers differ, and how many of those are no near-tie."""
    other = [key for key, words in theirs.items() if ours[key] != words]
    return len(other), len(set(other) - set(found.near_ties))


def measure(name: str, work: Path) -> list[Row]:
    """The lines of one model: the clock without and with the damage guard, and the answers."""
    loaded = find_model(name, work / "models").load(work / "models", device="cpu", dtype="float32")
    bench = open_benchmark("scenes", task="Count", form="number", limit=4 * N_QUESTIONS)
    vector = direction(loaded)
    options = EvalOptions(
        axes=GridAxes(layers=(loaded.spec.n_layers // 2,), alphas=(4.0,)), split="search", n=N_QUESTIONS,
        controls=ControlOptions(count=0), prompting="",
        allow_foreign=True, damage=False,
    )  # fmt: skip
    examples = pick_rows(bench, "search", n=N_QUESTIONS, orphans="search")
    delta = torch.from_numpy(vector.at(options.axes.layers[0]) * np.float32(options.axes.alphas[0]))
    made: dict[str, Any] = {}
    turns: list[tuple[float, float]] = []
    guarded: list[tuple[float, float]] = []
    for turn in range(TURNS + 1):
        session = fresh_session(work)

        def ours() -> None:
            made["ours"] = evaluate(session, loaded, bench, vectors=[vector], options=options)  # noqa: B023

        def theirs() -> None:
            made["theirs"] = [usual(loaded, examples, shift, options) for shift in (None, delta)]

        pair = timed(ours, theirs, swap=bool(turn % 2))
        answers = session.sql("select cell_id, sample_id, raw from answers").fetchall()
        session = fresh_session(work)
        guard = replace(options, damage=True)
        guarded_s = seconds(lambda: evaluate(session, loaded, bench, vectors=[vector], options=guard))  # noqa: B023
        if turn:  # the first warms up
            turns.append(pair)
            guarded.append((guarded_s, pair[1]))
    found: SweepResult = made["ours"]
    n_other, n_unexplained = compare_answers(made, found, loaded, examples, answers, bench)
    clock = row_of(f"eval of one setting on {name}, against generate with a hook", turns, target=TARGET, faster=True)
    clock |= {
        "samples_per_s": 2 * N_QUESTIONS / clock["ours_s"],
        "peer_samples_per_s": 2 * N_QUESTIONS / clock["peer_s"],
    }
    title = f"the same on {name} with the damage guard, which the loop has not"
    with_guard = row_of(title, guarded, target=">= 1", faster=True)
    same = {
        "name": f"answers on {name} that differ from one at a time and are no near-tie",
        "ratio": float(n_unexplained),
        "target": "<= 0",
        "met": n_unexplained == 0,
        "n": 2 * N_QUESTIONS,
        "n_different": n_other,
        "near_ties": [list(key) for key in found.near_ties],
    }
    return [clock, with_guard, same]


def compare_answers(
    made: dict[str, Any], found: SweepResult, loaded: LoadedModel, examples: Any, answers: Any, bench: Benchmark
) -> tuple[int, int]:
    """Differences between the stored answers and those of the usual way."""
    asked = ask(examples, loaded.bundle, split="search")
    steered = found.rows[0].cell.cell_id
    (baseline,) = {cell for cell, _, _ in answers} - {steered}
    ours = {(cell, sample): raw for cell, sample, raw in answers}
    theirs = {
        (cell, one.sample_id): words
        for cell, said in zip((baseline, steered), made["theirs"], strict=True)
        for one, words in zip(asked, said, strict=True)
    }
    return differences(found, ours, theirs)


def timed(ours: Callable[[], None], theirs: Callable[[], None], *, swap: bool) -> tuple[float, float]:
    """Seconds of both, in either order."""
    took = [0.0, 0.0]
    for which in (1, 0) if swap else (0, 1):
        took[which] = seconds((ours, theirs)[which])
    return took[0], took[1]


def fresh_session(work: Path) -> Session:
    """An empty cache."""
    shutil.rmtree(work / "root", ignore_errors=True)
    open_cache(work / "root", create=True)
    return open_session(work / "root")


def run(folder: Path | None = None, models: tuple[str, ...] = MODELS) -> list[Row]:
    """Every line of the table; a model whose weights are not here yet is left out, and said."""
    rows: list[Row] = []
    for name in models:
        work = Path(tempfile.mkdtemp(prefix="bench-eval-", dir=folder))
        try:
            rows += measure(name, work)
        except NotFoundError as error:
            print(error, file=sys.stderr)
        finally:
            shutil.rmtree(work)
    return rows


if __name__ == "__main__":
    print(json.dumps(run(models=tuple(sys.argv[1:]) or MODELS), indent=2))
