"""A working folder as a person has one: a trace manifest, a model, a cache with a run and vectors in it."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import yaml

from steercache.cli.main import run
from tests.tiny import sentences, write_tiny_model

RUN = "smollm2-concepts"  # as the examples of the commands call it, so that they can be run on the small model
CONCEPTS = ("counting", "negation")


@dataclass(kw_only=True)
class Terminal:
    """Types a command line as the installed program gets it; keeps what was printed."""

    capsys: pytest.CaptureFixture[str]
    out: str = field(default="")
    err: str = field(default="")

    def __call__(self, *words: str) -> int:
        self.capsys.readouterr()
        code = run(words)
        self.out, self.err = self.capsys.readouterr()
        assert "Traceback" not in self.out + self.err
        return code


def write_work_folder(folder: Path) -> Path:
    """`folder` with `model/`, `tiny.yaml`, `words.jsonl`, `my-trace.yaml`; the cache is built by `build_cache`."""
    folder.mkdir(parents=True)
    write_tiny_model(folder / "model", n_layers=8)  # as deep as the examples ask
    rows = [
        {"text": text, "anchor": text.split()[1], "concept": CONCEPTS[i % 2]} for i, text in enumerate(sentences(40))
    ]
    (folder / "words.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    model = {"kind": "model", "version": 1, "name": "tiny", "source": {"type": "path", "folder": "model"}}
    source = {"type": "jsonl", "path": "words.jsonl", "columns": {"anchor": "anchor", "concept": "concept"}}
    words = {"kind": "dataset", "version": 1, "name": "words", "source": source, "first_position": "allow"}
    trace = {
        "kind": "trace",
        "version": 1,
        "name": RUN,
        "model": "tiny",
        "datasets": [words],
        "chunk_rows": 16,
        "rows_per_shard": 64,
        "numerics": {"tokens_per_batch": 64, "threads": 1},
    }
    (folder / "tiny.yaml").write_text(yaml.safe_dump(model))
    (folder / "my-trace.yaml").write_text(yaml.safe_dump(trace))
    return folder


def build_cache(folder: Path) -> None:
    """Build `folder/cache`, and fit the vectors that the examples name."""
    root = ("--root", str(folder / "cache"))
    commands: Sequence[tuple[str, ...]] = (
        ("build", str(folder / "my-trace.yaml")),
        ("fit", "mean-shift", "--concept", "counting", "--no-diagnose"),
        ("fit", "probe", "--concept", "counting", "--no-diagnose", "--name", "counting-probe"),
    )
    for command in commands:
        assert run([*command, *root]) == 0, command
