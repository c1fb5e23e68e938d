"""Files of a root as rows of the index: the one place where the two meet."""

from collections.abc import Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from steercache.cache.codec_errors import layer_errors
from steercache.cache.documents import RunDocument
from steercache.cache.paths import FIRST_GENERATION, RootPaths, RunPaths
from steercache.cache.source import ShardRecords, StoredRecords, current_generation
from steercache.cache.sweep_files import MANIFEST, read_sweep_files
from steercache.cache.vector_files import StoredVector, read_vector, vector_rows
from steercache.core.layout import StoreLayout
from steercache.index.files import RunFiles, SweepFiles


def run_row(paths: RootPaths, document: RunDocument) -> dict[str, Any]:
    """One run as a row of `runs`, with its `sites` and `codec_errors`."""
    run = paths.run(document.run_id)
    generation = current_generation(run)
    committed = len(ShardRecords(run, generation))
    return {
        "run_id": document.run_id,
        "name": document.name,
        "model_id": document.model.model_id,
        "model_fingerprint": document.model.fingerprint,
        "backbone_run_id": document.backbone_run_id,
        "parent_run_id": document.parent_run_id,
        "modality": "text" if document.model.modality == "text" else "multimodal",  # models call the other one "image"
        "dtype": document.layout.dtype,
        "hidden_size": document.model.hidden_size,
        "n_layers": document.model.n_layers,
        "replayable": document.replayable,
        "row_kind": document.identity.get("kept", {}).get("row_kind", "token"),
        "complete": committed == len(document.shards),
        "generation": generation,
        "created_at": document.created_at,
        "manifest": document.manifest,
        "numerics": document.numerics,
        "datasets": [d.dataset for d in document.datasets],
        "sites": [
            {"site": site.site, "layer": layer, "layer_pos": pos, "width": site.width}
            for site in document.layout.sites
            for pos, layer in enumerate(site.layers)
        ],
        "codec_errors": _codec_error_rows(run, document.layout, generation),
    }


def _codec_error_rows(run: RunPaths, layout: StoreLayout, generation: str) -> list[dict[str, Any]]:
    """What a lossy codec did to the generation in force; a build writes the first one, whose rows are exact."""
    if generation == FIRST_GENERATION:
        return []
    places = {(site.site, layer) for site in layout.sites for layer in site.layers}
    errors = layer_errors(StoredRecords(run, generation), run.generation(generation))
    return [{"generation": generation, **asdict(one)} for one in errors if (one.site, one.layer) in places]


def run_files(paths: RootPaths, document: RunDocument) -> RunFiles:
    """A run with the files that its rows of the index are made from."""
    run = paths.run(document.run_id)
    shards = StoredRecords(run, current_generation(run))
    annotations = [paths.annotation(d.dataset, d.inputs_digest) for d in document.datasets]
    return RunFiles(
        run=run_row(paths, document),
        shards=shards,
        tokens=tuple(run.tokens(idx) for idx in shards.shard_idxs),
        samples=tuple(run.samples(idx) for idx in shards.shard_idxs),
        annotations=tuple(a for a in annotations if a.exists()),
    )


def vector_paths(paths: RootPaths) -> list[Path]:
    """Every vector's file, by name."""
    return sorted(paths.vectors.glob("*.safetensors")) if paths.vectors.is_dir() else []


def newest_of_each(vectors: Iterable[StoredVector]) -> list[StoredVector]:
    """One of every id, oldest first: of copies under other file names the one that was saved last."""
    by_time = sorted(vectors, key=lambda s: (s.created_at, s.vector.vector_id))  # stable: of equals the last name
    return sorted({s.vector.vector_id: s for s in by_time}.values(), key=lambda s: (s.created_at, s.vector.vector_id))


def all_vectors(paths: RootPaths) -> list[StoredVector]:
    """Every vector of the root, oldest first."""
    return newest_of_each(read_vector(path) for path in vector_paths(paths))


def all_vector_rows(paths: RootPaths) -> list[dict[str, Any]]:
    """Every vector of the root as rows of `vectors`, one per layer."""
    return [row for stored in all_vectors(paths) for row in vector_rows(stored)]


def all_sweep_files(paths: RootPaths) -> Iterator[SweepFiles]:
    """Every sweep with its parts of answers; a folder without a manifest is one whose writer was killed before it said what
    the sweep is."""
    for folder in paths.sweep_folders():
        if (folder / MANIFEST).exists():
            yield read_sweep_files(folder)
