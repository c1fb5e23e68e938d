"""A small multimodal trace with everything on disk: model, pictures, questions, manifest."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from steercache.core.examples import Example, ImageRef
from tests.models.tiny_images import picture, write_tiny_images
from tests.tracing import SmallTrace

SIZES = ((50, 80), (90, 30), (32, 32))
# (text, number of its picture): two pictures with several questions each, not side by side, and a sentence without one
QUESTIONS: tuple[tuple[str, int | None], ...] = (
    ("The cat is on the table", 0),
    ("The cat is under the bridge", 0),
    ("Two dogs ran", 1),
    ("A sentence without a picture", None),
    ("The cat is on the mat", 0),
    ("Two dogs ran over the bridge", 1),
    ("Two dogs ran", 1),
    ("The dog", 2),
)


def write_pictures_trace(
    folder: Path, family: str, *, questions: Sequence[tuple[str, int | None]] = QUESTIONS, **trace: Any
) -> SmallTrace:
    """Write model, pictures, questions and manifest below `folder`; `trace` overrides fields of the trace manifest."""
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "model").exists():
        write_tiny_images(family, folder / "model")
    for i, size in enumerate(SIZES):
        (folder / f"{i}.png").write_bytes(picture(*size, seed=i).load())
    rows = [{"text": text, "image": None if i is None else f"{i}.png"} for text, i in questions]
    (folder / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    source = {"type": "jsonl", "path": "data.jsonl", "columns": {"image": "image"}}
    manifest = {
        "kind": "trace",
        "version": 1,
        "name": "pictures",
        "model": {
            "kind": "model",
            "version": 1,
            "name": "tiny",
            "attention": "eager",
            "source": {"type": "path", "folder": "model"},
        },
        "datasets": [{"kind": "dataset", "version": 1, "name": "questions", "source": source}],
        "chunk_rows": 16,
        "numerics": {"tokens_per_batch": 1, "threads": 1},
        **trace,
    }
    (folder / "trace.yaml").write_text(yaml.safe_dump(manifest))
    return SmallTrace(folder=folder)


def example_of(folder: Path, question: tuple[str, int | None]) -> Example:
    """A question as the data set yields it, made by hand."""
    text, i = question
    refs = () if i is None else (ImageRef(name=f"{i}.png", load=(folder / f"{i}.png").read_bytes),)
    return Example(dataset="questions", place="here", text=text, images=refs)
