"""Encoding cached rows with an SAE, against sae-lens' own `encode` of the same rows in memory, and against recomputing them.

Ours reads the rows from the cache, finds what fires, and writes it durably as sparse files; sae-lens' dense result is thrown
away. Both encode in float32, sae-lens in the batch size that is quicker for it. SAEs are JumpReLU with random weights, their
thresholds set so that about 64 features fire per row: 8x wide on rows of SmolLM2's layer 15, and of the size of Gemma Scope's
smallest on random rows. Forward passes stop behind the layer; the ratio to whole ones is stated beside.

Memory is the peak of a process of its own (VmHWM) above one that imports the same and loads the SAE.
"""

import json
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bench.build import batches_of
from bench.texts import write_texts, write_trace
from bench.turns import Row, fast_dtype, seconds, take_turns
from steercache.cache.documents import (
    PlannedShard,
    RunDocument,
    RunModel,
    run_id_of,
    write_run_document,
    write_shard_record,
)
from steercache.cache.handle import CacheFolder, open_cache
from steercache.core.layout import ShardRecord, SiteLayout, StoreLayout
from steercache.models.spec import LoadedModel
from steercache.runs.engine import build_run
from steercache.runs.job import PreparedTrace, prepare_trace
from steercache.runs.plan import plan_run
from steercache.sae.encode import encode_run
from steercache.sae.library import sae_lens
from steercache.sae.loaded import LoadedSae
from steercache.sae.loading import load_sae
from steercache.sae.sparse import batch_rows
from steercache.sae.tensors import as_float32
from steercache.store.generation import create_generation, set_complete
from steercache.store.shard import ShardWriter
from steercache.trace.batches import PaddedBatch

MIB = 2**20
LAYER = 15
L0 = 64
TURNS = 5
ALLOWED_MIB = 500
N_TEXTS = 600
MEMORY_ROWS = (100_000, 1_000_000)
GEMMA = (2304, 16_384, 4096)  # width, features, rows
SHARD_ROWS = 100_000
CODE = """
import sys
from pathlib import Path
from steercache.cache.handle import open_cache
from steercache.sae.encode import encode_run
from steercache.sae.loading import load_sae
cache, sae = open_cache(Path(sys.argv[1])), load_sae(sys.argv[2])
if sys.argv[3] != "none":
    encode_run(cache, sae, cache.resolve_run(sys.argv[3]))
status = Path("/proc/self/status").read_text()
print(int(status.partition("VmHWM:")[2].split()[0]) * 1024)
"""


def random_sae(folder: Path, x: torch.Tensor, d_sae: int, *, model: str, layer: int) -> LoadedSae:
    """A JumpReLU SAE of random weights in a folder, of which about `L0` features fire in rows like `x` (n, d)."""
    from sae_lens.saes.sae import SAEMetadata

    sae_class, config_class = sae_lens().registry.get_sae_class("jumprelu")
    said = SAEMetadata(model_name=model, hook_name=f"blocks.{layer}.hook_resid_post", prepend_bos=None)
    module = sae_class(config_class(d_in=x.shape[1], d_sae=d_sae, apply_b_dec_to_input=False, metadata=said))
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        module.W_enc.copy_(torch.randn(module.W_enc.shape, generator=draw) / x.shape[1] ** 0.5)
        module.W_dec.copy_(torch.nn.functional.normalize(module.W_enc.T, dim=1))
        module.b_enc.zero_()
        pre = x[torch.randperm(len(x), generator=draw)[:512]] @ module.W_enc
        module.threshold.copy_(torch.quantile(pre, 1 - L0 / d_sae, dim=0).clamp(min=0))
    module.save_model(folder)
    return load_sae(folder)


def write_random_run(
    cache: CacheFolder, name: str, *, n_rows: int, width: int, dtype: str = "float32", shard_rows: int = SHARD_ROWS
) -> str:
    """A run of one layer of random rows, without texts: what an encoding needs to see. Returns its id.

    Every shard has the same rows: drawing a million takes longer than writing them.
    """
    n_shards = -(-n_rows // shard_rows)
    chunk = min(512, shard_rows)
    layout = StoreLayout(
        sites=(SiteLayout(site="resid_post", layers=(0,), width=width),),
        dtype=dtype,  # type: ignore[arg-type]
        n_shards=n_shards,
        rows_per_shard=-(-shard_rows // chunk) * chunk,
        chunk_rows=chunk,
    )
    sizes = [min(shard_rows, n_rows - shard_rows * i) for i in range(n_shards)]
    identity = {"bench": name, "rows": n_rows, "width": width}
    model = RunModel(
        name="random",
        model_id="random",
        fingerprint="0" * 64,
        modality="text",
        dtype=dtype,
        hidden_size=width,
        n_layers=1,
    )
    document = RunDocument(
        run_id=run_id_of(identity),
        name=name,
        created_at="2026-01-01T00:00:00+00:00",
        model=model,
        datasets=(),
        identity=identity,
        numerics={},
        manifest={"name": name},
        layout=layout,
        shards=tuple(
            PlannedShard(shard_idx=i, first_sample=0, n_samples=0, n_rows=n, n_tokens=0, input_digest="")
            for i, n in enumerate(sizes)
        ),
        replayable=False,
    )
    paths, draw = cache.run_paths(document.run_id), np.random.default_rng(0)
    drawn = draw.standard_normal((max(sizes), width), dtype=np.float32)
    create_generation(paths.generation("g0001"), layout, attributes={"run_id": document.run_id})
    paths.current.write_text("g0001\n")
    write_run_document(paths.document, document)
    paths.shards("g0001").mkdir(parents=True)
    for i, n in enumerate(sizes):
        writer = ShardWriter(paths.generation("g0001"), layout, i, n_rows=n)
        writer.write("resid_post", 0, 0, drawn[:n])
        none = np.zeros(n, dtype=np.int32)
        files = writer.finish(sample_idx=none, position=none, token_id=none)
        record = ShardRecord(shard_idx=i, first_sample=0, n_samples=0, n_rows=n, input_digest="", files=files)
        write_shard_record(paths.shard("g0001", i), record)
    set_complete(paths.generation("g0001"), True)
    return document.run_id


def encode_anew(cache: CacheFolder, sae: LoadedSae, run_id: str) -> None:
    """What `steercache sae encode` does, into a folder where nothing is yet."""
    encode_run(cache, LoadedSae(sae.module, replace(sae.spec, sae_id=secrets.token_hex(32))), run_id)


@torch.inference_mode()
def encode_in_memory(sae: LoadedSae, x: torch.Tensor, batch: int) -> None:
    """sae-lens' own encode of rows (n, d) in memory, batch by batch."""
    for part in x.split(batch):
        sae.module.encode(part)


def quicker_batch(sae: LoadedSae, x: torch.Tensor) -> int:
    """The batch size in which sae-lens is quicker: its trainer's 4,096, or ours."""
    sizes = dict.fromkeys((batch_rows(sae.spec.d_sae), 4096))
    return min(sizes, key=lambda size: min(seconds(partial(encode_in_memory, sae, x, size)) for _ in range(2)))


def against_memory(cache: CacheFolder, sae: LoadedSae, run_id: str, x: torch.Tensor, *, turns: int) -> Row:
    """Ours from the cache against sae-lens from memory."""
    batch = quicker_batch(sae, x)
    name = f"encode of {len(x):,} cached rows, {sae.spec.d_in:,} -> {sae.spec.d_sae:,}, against sae-lens' in memory"
    encode_anew(cache, sae, run_id)
    row = take_turns(
        name,
        partial(encode_anew, cache, sae, run_id),
        partial(encode_in_memory, sae, x, batch),
        n=turns,
        target=">= 1",
    )
    return row | {"batch_of_peer": batch, "rows_per_s": round(len(x) / row["ours_s"])}


class _StopError(Exception):
    """The layer that is wanted has been computed."""


@torch.inference_mode()
def recompute_and_encode(
    loaded: LoadedModel, sae: LoadedSae, batches: list[PaddedBatch], batch_size: int, *, whole: bool = False
) -> None:
    """A forward pass of each batch up to the layer and no further (or `whole`), then sae-lens' own encode of its rows."""

    def keep(module: Any, args: Any, output: Any) -> None:
        found.append(output[0] if isinstance(output, tuple) else output)
        if not whole:
            raise _StopError

    handle = loaded.model.model.layers[LAYER].register_forward_hook(keep)
    try:
        for batch in batches:
            found: list[torch.Tensor] = []
            with suppress(_StopError):
                loaded.model.model(input_ids=batch.input_ids, attention_mask=batch.attention_mask, use_cache=False)
            encode_in_memory(sae, found[0][batch.attention_mask.bool()].to(torch.float32), batch_size)
    finally:
        handle.remove()


def on_smollm2(work: Path, *, n_texts: int, turns: int) -> Iterator[Row]:
    """The two lines on real rows."""
    dtype = fast_dtype()
    write_texts(work, n=n_texts, sentences=(3, 6))
    prepared = prepare_trace(write_trace(work, layers=[LAYER]), cache_root=work / "root", device="cpu", dtype=dtype)
    loaded = prepared.load()
    cache = open_cache(work / "root", create=True)
    plan = plan_run(prepared.job, cache=cache)
    batches = batches_of(prepared, loaded, plan)
    build_run(cache, plan, PreparedTrace(job=prepared.job, load=lambda: loaded, again=prepared.again))
    run_id = plan.document.run_id
    views = cache.source(run_id).layer_views("resid_post", LAYER)
    x = torch.cat([as_float32(rows) for _, rows in views])
    sae = random_sae(work / "sae", x, 8 * x.shape[1], model="smollm2-135m", layer=LAYER)
    told = {"dtype": dtype, "n_rows": len(x)}
    yield against_memory(cache, sae, run_id, x, turns=turns) | told
    batch = quicker_batch(sae, x)
    peer = partial(recompute_and_encode, loaded, sae, batches, batch)
    name = f"the same, against forward passes to layer {LAYER} and sae-lens' encode"
    row = take_turns(name, partial(encode_anew, cache, sae, run_id), peer, n=min(turns, 3), target=">= 20")
    whole_s = seconds(partial(recompute_and_encode, loaded, sae, batches, batch, whole=True))
    yield row | told | {"ratio_whole_model": whole_s / row["ours_s"]}


def of_gemma_size(work: Path, *, size: tuple[int, int, int], turns: int) -> Row:
    """Ours against sae-lens at the size of a Gemma Scope SAE."""
    width, d_sae, n_rows = size
    cache = open_cache(work / "gemma", create=True)
    run_id = write_random_run(cache, "gemma-size", n_rows=n_rows, width=width, shard_rows=max(512, n_rows // 4))
    x = torch.cat([as_float32(rows) for _, rows in cache.source(run_id).layer_views("resid_post", 0)])
    sae = random_sae(work / "gemma-sae", x, d_sae, model="random", layer=0)
    return against_memory(cache, sae, run_id, x, turns=turns)


def memory(work: Path, *, rows: tuple[int, ...], width: int = 576, d_sae: int = 2304) -> Iterator[Row]:
    """Peak of an encoding above a process that only loads the SAE, for each number of rows."""
    cache = open_cache(work / "memory", create=True)
    x = torch.from_numpy(np.random.default_rng(0).standard_normal((512, width), dtype=np.float32))
    random_sae(work / "memory-sae", x, d_sae, model="random", layer=0)

    def peak(what: str) -> int:
        command = [sys.executable, "-c", CODE, str(cache.root), str(work / "memory-sae"), what]
        return int(
            subprocess.run(command, check=True, capture_output=True, text=True, env={**os.environ}).stdout.split()[-1]
        )

    floor = peak("none")
    for n in rows:
        run_id = write_random_run(cache, f"rows-{n}", n_rows=n, width=width)
        mib = (peak(f"rows-{n}") - floor) / MIB
        shutil.rmtree(cache.run_paths(run_id).folder)  # gigabytes
        yield {
            "name": f"peak memory of an encoding above the loaded SAE, {n:,} rows",
            "value_mib": round(mib, 1),
            "target": f"<= {ALLOWED_MIB} MiB",
            "met": mib <= ALLOWED_MIB,
        }


def run(
    folder: Path | None = None,
    *,
    n_texts: int = N_TEXTS,
    gemma: tuple[int, int, int] = GEMMA,
    rows: tuple[int, ...] = MEMORY_ROWS,
    turns: int = TURNS,
) -> Iterator[Row]:
    """Every line of the table."""
    work = Path(tempfile.mkdtemp(prefix="bench-sae-", dir=folder))
    try:
        yield from on_smollm2(work, n_texts=n_texts, turns=turns)
        yield of_gemma_size(work, size=gemma, turns=turns)
        yield from memory(work, rows=rows)
    finally:
        shutil.rmtree(work)


if __name__ == "__main__":
    print(json.dumps([*run()], indent=2))
