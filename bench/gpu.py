"""One script for one GPU: `python -m bench.gpu` checks and measures steercache on models of real size with random weights.

Takes under eight minutes on one data-centre GPU, and needs no network: bfloat16 checkpoints of Gemma-2-2B, Llama-3.1-8B,
PaliGemma2-3B (448 px) and Idefics3-8B are made from their configurations. Prints one line as each thing is known, writes
`bench/results/gpu.json`, and exits with 1 if a check failed. `--size small --device cpu` runs the same code in a minute.

Checks: cached rows equal those of a plain forward, bit for bit; branch and replay equal the full steered pass, bit for bit in
the batch of the run. Measured: a build against bare forward passes, with all layers and with one, and where its time goes
(passes, capture and copy to the host, writing); the exact grid against the published loop; gradients for screening against the
grid; a mean shift from the cache against forward passes.
"""

import argparse
import json
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from bench.__main__ import line_of
from bench.build import batches_of, forget
from bench.cells import batch_of
from bench.gpu_models import MODELS, write_checkpoint
from bench.grid import bound_of, differing, make_task
from bench.loops import encode
from bench.multimodal import write_scenes
from bench.texts import write_texts
from bench.turns import Row, row_of
from steercache.cache.handle import CacheFolder, open_cache
from steercache.models.spec import LoadedModel
from steercache.runs.engine import build_run
from steercache.runs.job import PreparedTrace, prepare_trace
from steercache.runs.plan import Plan, plan_run
from steercache.runs.shard import capture_of
from steercache.steering.branch import BranchOptions, branch
from steercache.steering.cells import BranchCell
from steercache.steering.full import run_full
from steercache.steering.gradient import margin_gradients
from steercache.steering.prefill import run_prefill
from steercache.steering.replay import replay
from steercache.steering.stored_rows import GatheredBatch, RunFacts
from steercache.steering.targets import target_mask
from steercache.trace.batches import PaddedBatch
from steercache.trace.capture import model_inputs

RESULTS = Path("bench/results/gpu.json")
SITE = "resid_post"
ROWS = """SELECT s.sample_id, t.token_id, t.row_idx FROM tokens t JOIN samples s USING (run_id, sample_idx)
WHERE t.run_id = $run AND s.sample_id = $sample ORDER BY t.position"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """How much of each thing: texts, pictures, turns, questions of a grid, and its layers."""

    n_texts: int
    n_pictures: int
    turns: int
    n_questions: int
    every_layer: int  # of a grid: one layer in so many
    tokens_per_batch: int


SCALES = {
    "real": Scale(n_texts=2000, n_pictures=64, turns=3, n_questions=8, every_layer=2, tokens_per_batch=16_384),
    "small": Scale(n_texts=40, n_pictures=6, turns=1, n_questions=2, every_layer=1, tokens_per_batch=512),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Ready:
    """One model, loaded, with its trace planned and the very batches of it."""

    name: str
    loaded: LoadedModel
    prepared: PreparedTrace
    plan: Plan
    batches: Sequence[PaddedBatch]
    work: Path

    @property
    def pictures(self) -> bool:
        return self.loaded.family.modality == "image"

    def build(self, root: str, plan: Plan | None = None) -> CacheFolder:
        """Build into an empty cache."""
        shutil.rmtree(self.work / root, ignore_errors=True)
        forget(self.prepared)
        cache = open_cache(self.work / root, create=True)
        ready = replace(self.prepared, load=lambda: self.loaded)
        build_run(cache, plan or plan_run(ready.job, cache=cache), ready)
        return cache


def prepare(
    name: str, work: Path, *, size: str, device: str, layers: Any = "all", loaded: LoadedModel | None = None
) -> Ready:
    """Write the checkpoint (once) and the trace, load (unless it is `loaded`), and plan."""
    scale = SCALES[size]
    folder = work / name
    if not folder.exists():
        folder.mkdir()
        manifest = write_checkpoint(name, folder / "model", size=size, device=device, dtype=torch.bfloat16)
        (folder / "model.yaml").write_text(yaml.safe_dump(manifest))
        if MODELS[name] in _WITH_PICTURES:
            write_scenes(folder, n=scale.n_pictures)
        else:
            write_texts(folder, n=scale.n_texts, sentences=(3, 6))
    source: dict[str, Any] = {"type": "text", "path": "texts.txt"}
    if (folder / "scenes.jsonl").exists():
        source = {"type": "jsonl", "path": "scenes.jsonl", "columns": {"image": "image"}}
    trace = {
        "kind": "trace",
        "version": 1,
        "name": "gpu",
        "model": yaml.safe_load((folder / "model.yaml").read_text()),
        "datasets": [{"kind": "dataset", "version": 1, "name": "data", "source": source}],
        "layers": layers,
        "budget_gb": 200,
        "numerics": {"tokens_per_batch": scale.tokens_per_batch},
    }
    (folder / "trace.yaml").write_text(yaml.safe_dump(trace))
    prepared = prepare_trace(folder / "trace.yaml", cache_root=folder / "root", device=device, dtype="bfloat16")
    loaded = loaded or prepared.load()
    plan = plan_run(prepared.job)
    return Ready(
        name=name,
        loaded=loaded,
        prepared=prepared,
        plan=plan,
        batches=batches_of(prepared, loaded, plan),
        work=folder,
    )


_WITH_PICTURES = {MODELS["paligemma2-3b-448"], MODELS["idefics3-8b"]}


def timed(work: Callable[[], Any]) -> float:
    """Seconds of a call, with everything that the device still had to do before and after."""
    settle()
    start = time.perf_counter()
    work()
    settle()
    return time.perf_counter() - start


def settle() -> None:
    """Wait for the device."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


@torch.inference_mode()
def bare(ready: Ready) -> None:
    """Tower, connector and decoder over all batches, no head: the least work that yields these activations."""
    for batch in ready.batches:
        ready.loaded.model.model(**model_inputs(ready.loaded, batch), use_cache=False)


@torch.inference_mode()
def captured(ready: Ready) -> None:
    """The same with every layer's output copied to the host, as a build does it, and dropped there."""
    begin = capture_of(ready.loaded, ready.plan.document)
    before = None
    for batch in ready.batches:
        captured = begin(batch)
        if before is not None:
            before.states()  # as a build does: one batch's copies are under way while the next one computes
        before = captured
    if before is not None:
        before.states()


def equal_rows(ready: Ready, cache: CacheFolder) -> Row:
    """Rows of the first batch, from the cache, against the hidden states of a plain forward of transformers."""
    batch, run = ready.batches[0], ready.plan.document.run_id
    with torch.inference_mode():
        out = ready.loaded.model(**model_inputs(ready.loaded, batch), output_hidden_states=True)
    states = out.hidden_states
    source = cache.source(run)
    n_rows = n_other = 0
    for slot, (_, rows) in enumerate(stored_rows(cache, run, batch)):
        start = batch.starts[slot]
        for layer in range(ready.loaded.spec.n_layers - 1):  # the last of the hidden states is behind the final norm
            wanted = states[layer + 1][slot, start : start + batch.lengths[slot]].cpu()
            found = np.ascontiguousarray(source.gather(SITE, layer, rows)).view(np.int16)
            n_rows += len(rows)
            n_other += int((torch.from_numpy(found.copy()) != wanted.view(torch.int16)).any(-1).sum())
    return check(f"{ready.name}: cached rows that are not those of a plain forward, of {n_rows:,}", n_other)


def stored_rows(cache: CacheFolder, run: str, batch: PaddedBatch) -> list[tuple[np.ndarray[Any, Any], Any]]:
    """Token ids and rows of every sample of a batch."""
    found = []
    with cache.connection() as con:
        for sample in batch.sample_ids():
            table = con.sql(ROWS, params={"run": run, "sample": sample}).fetchnumpy()
            n = batch.lengths[len(found)]  # of a sample that is there twice, the first
            found.append((table["token_id"][:n].astype(np.int32), table["row_idx"][:n].astype(np.int64)))
    return found


def equal_answers(ready: Ready, cache: CacheFolder) -> Iterator[Row]:
    """First-token logits of steered cells: branched and replayed against the full steered pass, in the run's own batch."""
    loaded, batch = ready.loaded, ready.batches[0]
    n_layers, width = loaded.spec.n_layers, loaded.spec.hidden_size
    rng = np.random.default_rng(0)
    scale = float(np.median(np.linalg.norm(_some_rows(ready, cache), axis=1))) / width**0.5
    target: Any = "image" if ready.pictures else "all"
    cells = [
        BranchCell(key=str(k), layer=k, delta_d=(rng.normal(size=width) * scale).astype(np.float32), target=target)
        for k in sorted({0, n_layers // 2, n_layers - 2})
    ]
    prefill = run_prefill(loaded, batch, layers=[cell.layer for cell in cells])
    ends: frozenset[int] = frozenset()
    full = {}
    for cell in cells:
        mask_bt = target_mask(cell.target, prefill.prompts.tokens, vocabulary=prefill.parts.vocabulary)
        full[cell.key] = run_full(prefill, cell, [mask_bt], max_new_tokens=1, ends=ends).logits_bv
    options = BranchOptions(max_new_tokens=1, ends=ends, same_batch=True)
    found = stored_rows(cache, ready.plan.document.run_id, batch)
    document = ready.plan.document
    stored = GatheredBatch(
        facts=RunFacts(
            name=document.name,
            fingerprint=document.model.fingerprint,
            tokenizer_digest=loaded.spec.tokenizer_digest,
            dtype="bfloat16",
            stored_dtype=document.layout.dtype,
            replayable=document.replayable,
            lossy=False,
            numerics=document.numerics,
        ),
        padded_len=int(batch.input_ids.shape[1]),
        as_recorded=True,
        sample_ids=batch.sample_ids(),
        token_ids=[ids for ids, _ in found],
        rows=[rows for _, rows in found],
        source=cache.source(document.run_id),
    )
    ways = {
        "branched": branch(loaded, batch, cells, options),
        "replayed": replay(loaded, batch, cells, stored=stored, options=options),
    }
    for name, answers in ways.items():
        n_other = sum(int((a.logits_bv != full[a.key]).any(-1).sum()) for a in answers)
        n = len(cells) * len(batch.lengths)
        yield check(
            f"{ready.name}: {name} answers whose logits are not those of the full steered pass, of {n}", n_other
        )


def _some_rows(ready: Ready, cache: CacheFolder) -> np.ndarray[Any, Any]:
    layer = ready.loaded.spec.n_layers // 2
    return cache.source(ready.plan.document.run_id).gather(SITE, layer, np.arange(64)).astype(np.float32)


def check(name: str, n_wrong: int) -> Row:
    """A line that counts what must not be."""
    return {"name": name, "value": n_wrong, "target": "<= 0", "met": n_wrong == 0}


def build_rows(ready: Ready, *, turns: int) -> Iterator[Row]:
    """A build in turns with bare passes, and the parts of its time."""
    bare(replace(ready, batches=ready.batches[:1]))
    ours, passes, copied = [], [], []
    for turn in range(turns):
        todo = [
            lambda: ours.append(timed(lambda: ready.build("root"))),
            lambda: passes.append(timed(partial(bare, ready))),
            lambda: copied.append(timed(partial(captured, ready))),
        ]
        for measure in todo[:: 1 if turn % 2 else -1]:
            measure()
    n_layers = len(ready.plan.document.layout.sites[0].layers)
    name = f"{ready.name}: build of {n_layers} layers ({ready.plan.n_bytes / 1e9:.1f} GB)"
    sizes = {"n_rows": ready.plan.document.n_rows, "n_bytes": ready.plan.n_bytes}
    pairs = list(zip(ours, passes, strict=True))
    yield row_of(f"{name}, against bare forward passes", pairs, target="<= 1.5", faster=False) | sizes
    whole, alone, with_copy = (statistics.median(x) for x in (ours, passes, copied))
    copy_s = max(with_copy - alone, 1e-9)
    yield {
        "name": f"{name}: of its time, passes {alone / whole:.0%}, capture and copy to the host {copy_s / whole:.0%} "
        f"({ready.plan.n_bytes / copy_s / 1e9:.1f} GB/s), tables, writing and index {(whole - with_copy) / whole:.0%}",
        "value_s": whole,
        "target": "-",
        "met": True,
        "passes_s": alone,
        "copy_s": copy_s,
        "rest_s": whole - with_copy,
    }


def fit_row(ready: Ready, cache: CacheFolder) -> Row:
    """The mean of the last tokens' rows of every layer from the cache, against the passes that make them."""
    run = ready.plan.document.run_id
    with cache.connection() as con:
        rows = con.sql(
            "SELECT max(row_idx) AS row FROM tokens WHERE run_id = $run GROUP BY sample_idx", params={"run": run}
        ).fetchnumpy()["row"]
    source = cache.source(run)
    rows = np.sort(rows.astype(np.int64))

    def means() -> None:
        for layer in source.layers(SITE):
            source.gather(SITE, layer, rows).astype(np.float32).mean(0)

    pairs = [(timed(means), timed(partial(bare, ready))) for _ in range(3)]
    name = f"{ready.name}: means of {len(rows):,} rows in every layer from the cache, against forward passes"
    return row_of(name, pairs, target=">= 1", faster=True)


def grid_rows(ready: Ready, scale: Scale) -> Iterator[Row]:
    """The exact grid against the published loop over a part of its cells, and gradients for screening against the grid."""
    loaded = ready.loaded
    layers = range(0, loaded.spec.n_layers - 1, scale.every_layer)
    task = make_task(loaded, "image", n=scale.n_questions)
    chosen = tuple(s for s in task.grid.settings if s.cell.layer in layers)
    task = replace(task, grid=replace(task.grid, settings=chosen), part=chosen[3::8])
    alone = [encode(loaded, [task.asked.examples[0]])]
    task.ours(ready.work, chosen[:2])
    replace(task, part=task.part[:1]).loop(alone)
    n, n_cells = len(task.asked.asked), len(chosen)
    ours_s = timed(lambda: task.ours(ready.work))
    found = task.ours(ready.work, task.part)
    said: list[Any] = []
    loop_s = timed(lambda: said.append(task.loop(alone)))
    name = f"{ready.name}: exact grid on image tokens, {n_cells} cells x {n} questions"
    counts = differing(task, found, said[0]) | {"flop_ratio": bound_of(task, statistics.mean(said[0].n_new))}
    pair = (ours_s / ((n_cells + 1) * n), loop_s / len(task.part))
    yield row_of(f"{name}, against the published loop", [pair], target=">= 6", faster=True) | counts
    batch = [one for one in task.asked.asked if one.encoded is not None]
    options = [[int(t) for t in (10, 11)] for _ in batch]
    padded = batch_of(loaded, batch)
    work = partial(margin_gradients, loaded, padded, options, layers=tuple(layers), targets={"image": "image"})
    gradients_s = timed(work)
    yield row_of(
        f"{name}: gradients for screening, as a share of it", [(gradients_s, ours_s)], target="<= 0.2", faster=False
    )


def run(
    *, size: str = "real", device: str = "cuda", names: Sequence[str] = tuple(MODELS), folder: Path | None = None
) -> Iterator[Row]:
    """Every line, each when it is known."""
    scale = SCALES[size]
    work = Path(tempfile.mkdtemp(prefix="bench-gpu-", dir=folder))
    try:
        for name in names:
            started = time.perf_counter()
            ready = prepare(name, work, size=size, device=device)
            seconds = time.perf_counter() - started
            yield {"name": f"{name}: made, hashed, loaded and planned", "value_s": seconds, "target": "-", "met": True}
            yield from build_rows(ready, turns=scale.turns)
            cache = open_cache(ready.work / "root")
            yield equal_rows(ready, cache)
            yield from equal_answers(ready, cache)
            yield fit_row(ready, cache)
            if ready.pictures:
                yield from grid_rows(ready, scale)
            middle = [ready.loaded.spec.n_layers // 2]
            one = prepare(name, work, size=size, device=device, layers=middle, loaded=ready.loaded)
            yield from build_rows(one, turns=1)
            del ready, one, cache
            shutil.rmtree(work / name)
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
    finally:
        shutil.rmtree(work, ignore_errors=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--size", choices=sorted(SCALES), default="real")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--models", nargs="+", choices=sorted(MODELS), default=list(MODELS))
    parser.add_argument(
        "--folder", type=Path, help="Where checkpoints and caches lie for the length of the run (60 GB)."
    )
    parser.add_argument("--out", type=Path, default=RESULTS)
    asked = parser.parse_args()
    place = torch.cuda.get_device_name() if asked.device.startswith("cuda") else asked.device
    told: dict[str, Any] = {"device": place, "torch": torch.__version__, "size": asked.size, "rows": []}
    started = time.perf_counter()
    for row in run(size=asked.size, device=asked.device, names=asked.models, folder=asked.folder):
        told["rows"].append(row)
        told["seconds"] = time.perf_counter() - started
        print(line_of(row), flush=True)
        asked.out.parent.mkdir(parents=True, exist_ok=True)
        asked.out.write_text(json.dumps(told, indent=2) + "\n")
    print(f"{told['seconds']:.0f} s on {place}; written to {asked.out}", file=sys.stderr)
    sys.exit(any(row["target"] == "<= 0" and not row["met"] for row in told["rows"]))


if __name__ == "__main__":
    main()
