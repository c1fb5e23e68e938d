"""Screening: how fast thousands of vectors, and all features of an SAE, are screened with gradients in the store."""

import json
import shutil
import statistics
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from bench.turns import Row, seconds
from steercache.core.layout import ShardRecord, SiteLayout, StoreLayout
from steercache.screening.features import screen_features
from steercache.screening.gradient_plan import SITE
from steercache.screening.gradient_store import StoredGradients
from steercache.steering.screen import GradientScreen, each_layer_shifts, mean_shifts, predict
from steercache.store.generation import create_generation
from steercache.store.reader import GenerationReader, open_generation
from steercache.store.shard import ShardWriter

TURNS = 5
CURVE = (0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.5)  # strengths of an accuracy curve
N_FEATURES = 32_768
SIZE = (16, 10_000, 500, 576)  # layers, vectors, samples, width


def bench_speed(size: tuple[int, int, int, int], turns: int) -> list[Row]:
    """From gradients in a generation on disk to the effect of every vector: its mean, sample by sample, and on accuracy."""
    work = Path(tempfile.mkdtemp(prefix="bench-screening-"))
    try:
        with store_gradients(work / "g0001", size) as reader:
            rows = time_screening(reader, size, turns)
            return [*rows, time_features(reader, size, turns, n_features=N_FEATURES if size == SIZE else size[1])]
    finally:
        shutil.rmtree(work)


def store_gradients(path: Path, size: tuple[int, int, int, int]) -> GenerationReader:
    """Gradients of two options a sample, as a gradient run keeps them: a row each, float32, raw."""
    n_layers, _, n_samples, width = size
    n_rows = 2 * n_samples
    gradients = np.random.default_rng(0).normal(size=(n_layers, n_samples, 2, width)).astype(np.float32)
    gradients[:, :, 1] = -gradients[:, :, 0]
    layout = StoreLayout(
        sites=(SiteLayout(site=SITE, layers=tuple(range(n_layers)), width=width),),
        dtype="float32",
        n_shards=1,
        rows_per_shard=n_rows,
        chunk_rows=n_rows,
    )
    create_generation(path, layout, attributes={})
    writer = ShardWriter(path, layout, 0, n_rows=n_rows)
    for layer in range(n_layers):
        writer.write(SITE, layer, 0, gradients[layer].reshape(n_rows, width))
    column = np.arange(n_rows, dtype=np.int32)
    files = writer.finish(sample_idx=column, position=column, token_id=column)
    record = ShardRecord(shard_idx=0, first_sample=0, n_samples=n_samples, n_rows=n_rows, input_digest="", files=files)
    return open_generation(path, [record])


def time_screening(reader: GenerationReader, size: tuple[int, int, int, int], turns: int) -> list[Row]:
    """Seconds of each depth of screening, gathering from the store included."""
    n_layers, n_vectors, n_samples, width = size
    rows_nk = np.arange(2 * n_samples).reshape(n_samples, 2)
    rng = np.random.default_rng(1)
    margins = rng.normal(size=(n_samples, 1)).astype(np.float32) * np.array([[1, -1]], np.float32)
    vectors = rng.normal(size=(n_vectors, width)).astype(np.float32)
    screen = GradientScreen(
        layers=tuple(range(n_layers)),
        gradient_of=lambda layer: reader.gather(SITE, layer, rows_nk.reshape(-1)).reshape(n_samples, 2, width),
        margins=margins,
        right=np.zeros(n_samples, np.int64),
    )
    predict(screen, vectors[:100], [0.1])
    what = f"screening {n_layers} layers x {n_vectors:,} vectors x {n_samples} samples"
    calls: list[tuple[str, Callable[[], Any]]] = [
        ("mean shift", lambda: mean_shifts(screen, vectors)),
        ("shift of every sample", lambda: _by_sample(screen, vectors)),
        ("shift, accuracy, helped and hurt at one strength", lambda: predict(screen, vectors, [0.2])),
        (f"the same as curves of {len(CURVE)} strengths", lambda: predict(screen, vectors, CURVE)),
    ]
    rows = []
    for name, call in calls:
        value = statistics.median(seconds(call) for _ in range(turns))
        rows.append({"name": f"{what}: {name}", "value_s": value, "target": "< 2", "met": value < 2, "n": turns})
    return rows


def time_features(reader: GenerationReader, size: tuple[int, int, int, int], turns: int, *, n_features: int) -> Row:
    """Seconds of screening all features of an SAE per layer: shifts of all of them, accuracies of the best of each side."""
    n_layers, _, n_samples, width = size
    rows_nk = np.arange(2 * n_samples).reshape(n_samples, 2)
    rng = np.random.default_rng(1)
    decoder = rng.normal(size=(n_features, width)).astype(
        np.float32
    )  # read anew for each layer: larger than any CPU cache
    layers = tuple(range(n_layers))
    gradients = StoredGradients(
        document=SimpleNamespace(  # type: ignore[arg-type]
            model=SimpleNamespace(hidden_size=width), layout=SimpleNamespace(sites=[SimpleNamespace(layers=layers)])
        ),
        source=reader,  # type: ignore[arg-type]
        samples=(None,) * n_samples,  # type: ignore[arg-type]
        n_left_out=0,
        right=np.zeros(n_samples, np.int64),
        margins=rng.normal(size=(n_samples, 1)).astype(np.float32) * np.array([[1, -1]], np.float32),
        rows={"image": rows_nk},
        row_norms={"image": np.ones((n_layers, n_samples), np.float32)},
    )
    decoders = dict.fromkeys(layers, decoder)
    screen_features(gradients, {0: decoder[:512]}, "image")
    value = statistics.median(seconds(lambda: screen_features(gradients, decoders, "image")) for _ in range(turns))
    name = f"screening {n_layers} layers x {n_features:,} SAE features x {n_samples} samples"
    return {"name": name, "value_s": value, "target": "< 5", "met": value < 5, "n": turns}


def _by_sample(screen: GradientScreen, vectors: np.ndarray[Any, Any]) -> list[Any]:
    """Of every sample's shift the largest of each vector: something has to be read of each layer before the next."""
    return [shifts.max(axis=0) for _, shifts in each_layer_shifts(screen, vectors)]


def run(*, size: tuple[int, int, int, int] = SIZE, turns: int = TURNS) -> Iterator[Row]:
    """All lines."""
    yield from bench_speed(size, turns)


if __name__ == "__main__":
    for row in run():
        print(json.dumps(row), flush=True)
