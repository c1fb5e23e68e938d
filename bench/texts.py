"""Texts for benchmarks, made of the sentences that ship with the package, and the manifests that trace them."""

import random
from pathlib import Path
from typing import Any

import yaml

from steercache.data.concept_set import concept_rows
from steercache.data.rows import Row
from steercache.manifests.dataset import CONCEPTS


def write_texts(folder: Path, *, n: int, sentences: tuple[int, int]) -> Path:
    """`n` lines, each of a random number of our sentences between the two given."""
    known = [str(row.values["text"]) for row in concept_rows(CONCEPTS) if isinstance(row, Row)]
    chooser = random.Random(n)
    lines = (" ".join(chooser.sample(known, chooser.randint(*sentences))) for _ in range(n))
    path = folder / "texts.txt"
    path.write_text("".join(f"{line}\n" for line in lines))
    return path


def write_trace(folder: Path, **fields: Any) -> Path:
    """A trace manifest of SmolLM2 over the texts of `folder`."""
    dataset = {"kind": "dataset", "version": 1, "name": "texts", "source": {"type": "text", "path": "texts.txt"}}
    trace = {"kind": "trace", "version": 1, "name": "bench", "model": "smollm2-135m", "datasets": [dataset], **fields}
    path = folder / "trace.yaml"
    path.write_text(yaml.safe_dump(trace))
    return path
