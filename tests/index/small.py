"""A small index's files, made by hand: two runs over three data sets, with labels, vectors and a sweep."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from steercache.core.layout import FileRecord, ShardRecord
from steercache.index.files import RunFiles, SweepFiles
from steercache.index.schemas import ANNOTATIONS, ANSWERS, SAMPLES, TOKENS

RUN_A, RUN_B = "a" * 64, "b" * 64


@dataclass(frozen=True, kw_only=True)
class Sentence:
    """A sample for tests: words are tokens, after a BOS and image tokens if asked; `kept` are the positions with a row."""

    text: str
    dataset: str = "concepts"
    labels: dict[str, Any] | None = None
    bos: bool = False
    n_image: int = 0
    kept: Sequence[int] | None = None


def words_of(sentence: Sentence) -> list[tuple[str, int, int, str]]:
    """(piece, first character, one past the last, kind) of each token."""
    tokens = [("<image>", -1, -1, "image")] * sentence.n_image
    tokens += [("<s>", -1, -1, "special")] if sentence.bos else []
    at = 0
    for word in sentence.text.split(" "):
        tokens.append((word, at, at + len(word), "text"))
        at += len(word) + 1
    return tokens


def span(text: str, word: str) -> dict[str, int]:
    """The first occurrence of `word`, as an anchor."""
    start = text.index(word)
    return {"start": start, "end": start + len(word)}


def vocabulary(piece: str) -> int:
    """A token id that is the same for the same word everywhere."""
    return 1 + sum(ord(c) * 31**i for i, c in enumerate(piece)) % 997


def write_run(
    folder: Path, run: dict[str, Any], shards: Sequence[Sequence[Sentence]], *, rows_per_shard: int = 100
) -> RunFiles:
    """Write the Parquet files of one run; `shards` are lists of sentences."""
    base = folder / "runs" / run["run_id"]
    records, tokens, samples = [], [], []
    labels: dict[str, list[dict[str, Any]]] = {}
    ordinals: dict[str, int] = {}
    sample_idx = 0
    for shard_idx, sentences in enumerate(shards):
        token_rows, sample_rows, row = [], [], shard_idx * rows_per_shard
        first_sample = sample_idx
        for sentence in sentences:
            ordinal = ordinals.get(sentence.dataset, 0)
            ordinals[sentence.dataset] = ordinal + 1
            words = words_of(sentence)
            sample_id = f"id-{sentence.text}-{sentence.bos}"
            for position, (piece, start, end, kind) in enumerate(words):
                kept = sentence.kept is None or position in sentence.kept
                token_rows.append(
                    {
                        "sample_idx": sample_idx,
                        "position": position,
                        "row_idx": row if kept else None,
                        "token_id": vocabulary(piece),
                        "piece": piece,
                        "char_start": start,
                        "char_end": end,
                        "kind": kind,
                        "tile": 0 if kind == "image" else -1,
                        "patch_row": 0 if kind == "image" else -1,
                        "patch_col": position if kind == "image" else -1,
                    }
                )
                row += kept
            sample_rows.append(
                {
                    "sample_idx": sample_idx,
                    "ordinal": ordinal,
                    "sample_id": sample_id,
                    "dataset": sentence.dataset,
                    "text": sentence.text,
                    "n_tokens": len(words),
                    "batch_no": 0,
                    "slot": len(sample_rows),
                    "padded_len": 8,
                }
            )
            if sentence.labels is not None:
                row_labels = {"sample_id": sample_id, "ordinal": ordinal, "meta": "{}", **sentence.labels}
                labels.setdefault(sentence.dataset, []).append(row_labels)
            sample_idx += 1
        for kind_name, rows, schema, into in (
            ("rows", token_rows, TOKENS, tokens),
            ("samples", sample_rows, SAMPLES, samples),
        ):
            path = base / kind_name / f"{shard_idx:05d}.parquet"
            path.parent.mkdir(parents=True, exist_ok=True)
            pq.write_table(pa.Table.from_pylist(rows, schema=schema), path.absolute())
            into.append(path)
        records.append(
            ShardRecord(
                shard_idx=shard_idx,
                first_sample=first_sample,
                n_samples=len(sample_rows),
                n_rows=row - shard_idx * rows_per_shard,
                input_digest=f"{shard_idx}",
                files=(FileRecord(path=f"g0001/c.0.{shard_idx}.0", n_bytes=640, crc32c=shard_idx),),
            )
        )
    return RunFiles(
        run=run,
        shards=tuple(records),
        tokens=tuple(tokens),
        samples=tuple(samples),
        annotations=tuple(write_labels(folder, run, dataset, rows) for dataset, rows in labels.items()),
    )


def write_labels(folder: Path, run: dict[str, Any], dataset: str, rows: list[dict[str, Any]]) -> Path:
    """Write one annotation file."""
    path = folder / "annotations" / dataset / f"{run['run_id']}.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows, schema=ANNOTATIONS), path.absolute())
    return path


def run_row(run_id: str, name: str, **changes: Any) -> dict[str, Any]:
    """A run as `put_run` takes it: two layers of width 4."""
    return {
        "run_id": run_id,
        "name": name,
        "model_id": "tiny",
        "model_fingerprint": "f" * 64,
        "backbone_run_id": None,
        "parent_run_id": None,
        "modality": "text",
        "dtype": "float32",
        "hidden_size": 4,
        "n_layers": 2,
        "replayable": True,
        "complete": True,
        "generation": "g0001",
        "created_at": "2026-01-02T03:04:05+00:00",
        "manifest": {"name": name},
        "numerics": {"threads": 2},
        "datasets": ["concepts"],
        "sites": [{"site": "resid_post", "layer": i, "layer_pos": i, "width": 4} for i in range(2)],
    } | changes


def vector_row(vector_id: str, layer: int, **changes: Any) -> dict[str, Any]:
    """One layer of a vector as `put_vector` takes it."""
    return {
        "vector_id": vector_id,
        "name": "counting-shift",
        "method": "mean_shift",
        "concept": "counting",
        "site": "resid_post",
        "layer": layer,
        "norm": 2.0 + layer,
        "resid_norm": 10.0,
        "auc": 0.75,
        "run_id": RUN_A,
        "generation": "g0001",
        "query_name": "anchor_vs_control",
        "query_text": "select 1",
        "params": {"concept": "counting"},
        "control_kind": None,
        "control_seed": None,
        "created_at": "2026-02-03T04:05:06+00:00",
    } | changes


def write_sweep(folder: Path, sweep_id: str, cells: list[dict[str, Any]], answers: list[dict[str, Any]]) -> SweepFiles:
    """Write one sweep with one part of answers."""
    path = folder / "sweeps" / sweep_id / "answers" / "00000.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(answers, schema=ANSWERS), path)
    sweep = {"sweep_id": sweep_id, "name": "sweep", "manifest": {"alphas": [0, 1]}, "status": "complete"}
    return SweepFiles(sweep=sweep, cells=tuple(cells), answers=(path,))


def cell_row(cell_id: str, sweep_id: str, **changes: Any) -> dict[str, Any]:
    """A setting as `put_cells` takes it."""
    return {
        "sweep_id": sweep_id,
        "cell_id": cell_id,
        "vector_id": None,
        "layer": None,
        "alpha": 0.0,
        "alpha_unit": "raw",
        "target": "all",
        "site": "resid_post",
        "model_fingerprint": "f" * 64,
        "prompt_id": "p",
        "decoding": {},
    } | changes


def answer_row(cell_id: str, sample_id: str, **changes: Any) -> dict[str, Any]:
    """One answer as it stands in a part file."""
    return {"cell_id": cell_id, "sample_id": sample_id, "split": "test", "status": "ok"} | changes
