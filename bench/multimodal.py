"""A multimodal build against the bare forward passes of the same batches: every layer, every row, image tokens included.

The shipped models on drawn scenes that lie on the disk as PNG files. Model loading is left out on both sides. On the bare side
the batches are ready, pictures decoded and laid out; planning, hashing, decoding, tokenizing, checksums, fsyncs and the index
are in ours.
"""

import json
import shutil
import sys
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
import yaml

from bench.build import batches_of, forget
from bench.turns import Row, fast_dtype, row_of, seconds
from steercache.cache.handle import open_cache
from steercache.cells.model import FoundModel, find_model
from steercache.core.errors import NotFoundError
from steercache.data import open_dataset
from steercache.manifests.dataset import DatasetManifest
from steercache.models.spec import LoadedModel
from steercache.runs.engine import build_run
from steercache.runs.job import PreparedTrace, prepare_trace
from steercache.runs.plan import plan_run
from steercache.trace.batches import PaddedBatch
from steercache.trace.capture import model_inputs

MODELS = ("demo",)  # of the tiny one a forward takes less than the index
N_QUESTIONS = {"bfloat16": 512, "float32": 256}  # a question takes several times as long in float32
TURNS = {"bfloat16": 5, "float32": 3}
TARGET = "<= 1.15"


def write_scenes(folder: Path, *, n: int) -> None:
    """Questions about `n` drawn scenes, with their pictures as files."""
    document = {"kind": "dataset", "version": 1, "name": "scenes", "source": {"type": "scenes", "seed": 0, "n": n}}
    scenes = open_dataset(DatasetManifest.model_validate_json(json.dumps(document)), base_dir=folder)
    rows = []
    for i, example in enumerate(scenes):
        (folder / f"{i:05d}.png").write_bytes(example.images[0].load())
        rows.append({"text": example.text, "image": f"{i:05d}.png"})
    (folder / "scenes.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def write_trace(folder: Path, found: FoundModel, *, chat: bool) -> Path:
    """A trace manifest of all layers and rows over the scenes of `folder`."""
    model = found.manifest.model_dump(mode="json") | {
        "backbone": None
    }  # the zoo's backbones have no manifest to look up
    model["source"]["folder"] = str((found.base_dir / model["source"]["folder"]).resolve())
    source = {"type": "jsonl", "path": "scenes.jsonl", "columns": {"image": "image"}}
    dataset: dict[str, Any] = {"kind": "dataset", "version": 1, "name": "scenes", "source": source}
    if chat:
        dataset["chat"] = {"apply": True}
    trace = {"kind": "trace", "version": 1, "name": "bench", "model": model, "datasets": [dataset]}
    path = folder / "trace.yaml"
    path.write_text(yaml.safe_dump(trace))
    return path


def bare_forwards(loaded: LoadedModel, batches: Sequence[PaddedBatch]) -> None:
    """Tower, connector and decoder, no head: the least work that yields these activations."""
    with torch.inference_mode():
        for batch in batches:
            loaded.model.model(**model_inputs(loaded, batch), use_cache=False)


def build(root: Path, prepared: PreparedTrace, loaded: LoadedModel) -> None:
    """Plan and build into an empty cache."""
    forget(prepared)
    cache = open_cache(root, create=True)
    ready = PreparedTrace(job=prepared.job, load=lambda: loaded, again=prepared.again)
    build_run(cache, plan_run(prepared.job, cache=cache), ready)


def measure(name: str, work: Path, *, n: int | None, turns: int | None) -> Row:
    """The line of one model, in the dtype that is faster here."""
    dtype = fast_dtype()
    n, turns = n or N_QUESTIONS[dtype], turns or TURNS[dtype]
    folder = work / name
    folder.mkdir()
    write_scenes(folder, n=n)
    found = find_model(name, work / "models")
    loaded = found.load(work / "models", device="cpu", dtype=dtype)
    chat = bool(getattr(loaded.processor, "chat_template", None))
    trace = write_trace(folder, found, chat=chat)
    prepared = prepare_trace(trace, cache_root=work / "models", device="cpu", dtype=dtype)
    plan = plan_run(prepared.job)
    batches = batches_of(prepared, loaded, plan)
    bare_forwards(loaded, batches[:2])
    times = []
    for turn in range(turns):
        shutil.rmtree(folder / "root", ignore_errors=True)
        calls = {
            "ours": partial(build, folder / "root", prepared, loaded),
            "bare": partial(bare_forwards, loaded, batches),
        }
        pair = {which: seconds(calls[which]) for which in (("ours", "bare"), ("bare", "ours"))[turn % 2]}
        times.append((pair["ours"], pair["bare"]))
    title = f"multimodal build of {name}, all {loaded.spec.n_layers} layers and rows, against bare forward passes"
    row = row_of(title, times, target=TARGET, faster=False)
    return row | {"dtype": dtype, "n_samples": n, "n_rows": plan.document.n_rows, "n_bytes": plan.n_bytes}


def run(
    folder: Path | None = None, *, models: Sequence[str] = MODELS, n: int | None = None, turns: int | None = None
) -> list[Row]:
    """One line per model that is installed."""
    work = Path(tempfile.mkdtemp(prefix="bench-multimodal-", dir=folder))
    rows = []
    try:
        for name in models:
            try:
                rows.append(measure(name, work, n=n, turns=turns))
            except NotFoundError as error:
                print(f"multimodal: {name} left out: {error}", file=sys.stderr)
    finally:
        shutil.rmtree(work)
    return rows


if __name__ == "__main__":
    print(json.dumps(run(), indent=2))
