"""A build against the bare forward passes of the same batches, and against the ways people do it today.

SmolLM2-135M in the dtype that is faster here, all 30 layers, all rows, durable, 1,000 texts of some 4,500 sentences (in float32
1,500). Model loading is left out on every side; planning, tokenizing, checksums, fsyncs and the index are in ours.
"""

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch

from bench.beside import build_and_bare
from bench.texts import write_texts, write_trace
from bench.turns import Row, fast_dtype, row_of, seconds
from steercache.cache.handle import CacheFolder, open_cache
from steercache.models.rope import length_rule
from steercache.models.spec import LoadedModel
from steercache.runs.engine import BuildOptions, build_run
from steercache.runs.inputs import InputStream
from steercache.runs.job import PreparedTrace, prepare_trace
from steercache.runs.plan import plan_run
from steercache.trace.batches import PaddedBatch, pad_batch, plan_batches

N_TEXTS = 1000
SENTENCES = {"bfloat16": (3, 6), "float32": (1, 2)}
TURNS = 3
LAYER = 15  # that sae-lens is given
PEERS = Path(".venv-peers/bin/python")


def batches_of(prepared: PreparedTrace, loaded: LoadedModel, plan: Any) -> list[PaddedBatch]:
    """The very batches that the build runs."""
    inputs = InputStream(prepared.job.datasets, prepared.job.bundle, max_tokens=None)
    made = []
    for shard in plan.document.shards:
        samples = [s.encoded for s in inputs.take(shard.first_sample, shard.n_samples)]
        budget = prepared.job.manifest.numerics.padded_tokens
        for members in plan_batches(
            [s.n_tokens for s in samples], tokens_per_batch=budget, rule=length_rule(loaded.bundle)
        ):
            padded = pad_batch(
                [samples[i] for i in members], padding_side="right", pad_id=loaded.tokenizer.pad_token_id or 0
            )
            made.append(padded)
    return made


def forget(prepared: PreparedTrace) -> None:
    """Drop what encoding has kept of an earlier turn: a build begins with nothing."""
    for kept in (prepared.job.bundle.layouts, prepared.job.bundle.forms, prepared.job.bundle.tokens):
        kept.clear()


def bare_forwards(loaded: LoadedModel, batches: list[PaddedBatch]) -> None:
    """The decoder alone, no head: the least work that yields these activations."""
    for batch in batches:
        bare_forward(loaded, batch)


@torch.inference_mode()
def bare_forward(loaded: LoadedModel, batch: PaddedBatch) -> None:
    """One batch through the decoder."""
    loaded.model.model(input_ids=batch.input_ids, attention_mask=batch.attention_mask, use_cache=False)


def torch_save(loaded: LoadedModel, batches: list[PaddedBatch], folder: Path) -> None:
    """`output_hidden_states=True` and one file per batch."""
    folder.mkdir()
    with torch.inference_mode():
        for i, batch in enumerate(batches):
            out = loaded.model(
                input_ids=batch.input_ids,
                attention_mask=batch.attention_mask,
                use_cache=False,
                output_hidden_states=True,
            )
            torch.save(torch.stack(out.hidden_states), folder / f"{i}.pt")


def run(folder: Path | None = None) -> Iterator[Row]:
    """Every line of the build's table."""
    work = Path(tempfile.mkdtemp(prefix="bench-build-", dir=folder))
    try:
        dtype = fast_dtype()
        texts = write_texts(work, n=N_TEXTS, sentences=SENTENCES[dtype])
        prepared = prepare_trace(write_trace(work), cache_root=work / "models", device="cpu", dtype=dtype)
        loaded = prepared.load()
        plan = plan_run(prepared.job)
        batches = batches_of(prepared, loaded, plan)
        ready = PreparedTrace(job=prepared.job, load=lambda: loaded, again=prepared.again)
        bare_forwards(loaded, batches[:2])
        told = {"dtype": dtype, "n_samples": N_TEXTS, "n_rows": plan.document.n_rows, "n_bytes": plan.n_bytes}

        def ours(after_batch: Callable[[int], None]) -> None:
            _build(open_cache(work / "root", create=True), ready, after_batch)

        bare, saved_s = [], []
        todo = [
            lambda: bare.append(build_and_bare(ours, partial(bare_forward, loaded), batches)),
            lambda: saved_s.append(seconds(partial(torch_save, loaded, batches, work / "saved"))),
        ]
        for turn in range(TURNS):
            for name in ("root", "saved"):
                shutil.rmtree(work / name, ignore_errors=True)
            for measure in todo[:: 1 if turn % 2 else -1]:
                os.sync()  # what torch.save left to be written later would be written in the next one's time
                measure()
        saved = [(ours_s, peer_s) for (ours_s, _), peer_s in zip(bare, saved_s, strict=True)]
        yield row_of("build, all 30 layers, against bare forward passes", bare, target="<= 1.10", faster=False) | told
        yield row_of("build against output_hidden_states + torch.save", saved, target=">= 1", faster=True) | told
        yield sae_lens(work, texts, prepared, loaded) | told
    finally:
        shutil.rmtree(work)


def _build(
    cache: CacheFolder, ready: PreparedTrace, after_batch: Callable[[int], None] = lambda n_tokens: None
) -> None:
    forget(ready)
    build_run(cache, plan_run(ready.job, cache=cache), ready, BuildOptions(on_tokens=after_batch))


def for_transformers_4(folder: Path) -> None:
    """Name the tokenizer's class as the peers' transformers knows it."""
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"tokenizer_class": "PreTrainedTokenizerFast"}))


def sae_lens(work: Path, texts: Path, prepared: PreparedTrace, loaded: LoadedModel) -> Row:
    """One layer by sae-lens' CacheActivationsRunner, in its own environment, against our build of that layer and of all 30.

    Compared is the time per token. Both stop a forward pass behind that layer, so all 30 are twice the computing: their ratio
    is stated beside.
    """
    loaded.model.save_pretrained(work / "hf")
    loaded.tokenizer.save_pretrained(work / "hf")
    for_transformers_4(work / "hf")
    dtype = str(loaded.model.dtype).removeprefix("torch.")
    one = prepare_trace(write_trace(work, layers=[LAYER]), cache_root=work / "models", device="cpu", dtype=dtype)
    n_rows = plan_run(one.job).document.n_rows
    times: dict[str, list[tuple[float, float]]] = {"build of one layer": [], "build of all 30 layers": []}
    for turn in range(3):
        shutil.rmtree(work / "root", ignore_errors=True)
        command = [PEERS, "bench/peers/sae_lens_cache.py", work / "hf", texts, work / f"sae{turn}", dtype]
        said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        answer = json.loads(said.splitlines()[-1])
        theirs = answer["seconds"] * n_rows / answer["n_tokens"]  # it leaves out what does not fill a batch
        for what, asked in zip(times, (one, prepared), strict=True):
            cache = open_cache(work / "root", create=True)
            ready = PreparedTrace(job=asked.job, load=lambda: loaded, again=asked.again)
            ours = seconds(partial(_build, cache, ready))
            times[what].append((ours, theirs))
    name = "against sae-lens' CacheActivationsRunner on one"
    of_one, of_all = (row_of(f"{what} {name}", pairs, target=">= 1", faster=True) for what, pairs in times.items())
    return of_one | {"ratio_all_layers": of_all["ratio"]}


if __name__ == "__main__":
    print(json.dumps([*run()], indent=2))
