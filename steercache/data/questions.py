"""Benchmarks and drawn scenes as a data set: what a trace reads is what `steercache eval` asks."""

from collections.abc import Iterable
from dataclasses import replace
from functools import partial
from pathlib import Path

from steercache.core.errors import Problem
from steercache.core.examples import Example
from steercache.data.benchmarks.catalogue import open_benchmark
from steercache.data.benchmarks.drawn import drawn_question
from steercache.data.benchmarks.examples import as_example
from steercache.data.benchmarks.own import is_own_file
from steercache.data.benchmarks.questions import FailedRow
from steercache.data.examples import RowReader
from steercache.data.rows import Row, Rows
from steercache.data.scenes import Difficulty, iter_examples, set_name
from steercache.manifests.dataset import BenchmarkSource, DatasetManifest, ScenesSource


def benchmark_rows(source: BenchmarkSource, base_dir: Path) -> Rows:
    """The questions of a benchmark; a row that cannot be used is a problem, before the others."""
    folder = None if source.path is None else base_dir / source.path
    name = str(base_dir / source.benchmark) if is_own_file(source.benchmark) else source.benchmark
    bench = open_benchmark(name, folder, task=source.task, rule=source.rule, form=source.form)
    for failed in bench.failures:
        if source.split in (None, failed.split) or failed.split is None:
            yield _problem(failed)
    yield from _rows(bench.examples if source.split is None else bench.part(source.split))


def scene_rows(source: ScenesSource) -> Rows:
    """Drawn questions, the first `n` of the seed."""
    said = source.difficulty
    level = Difficulty.of(said) if isinstance(said, float) else Difficulty(**said.model_dump())
    name = set_name(shifted=source.shifted, difficulty=level)
    made = iter_examples(source.seed, source.n, tasks=source.tasks, shifted=source.shifted, difficulty=level)
    return _rows(as_example(name, drawn_question(scene, source.form), None) for scene in made)


def question_reader(manifest: DatasetManifest, prefix: str | None) -> RowReader:
    """Reads one row as its question, in the words and the chat of the manifest."""
    chat = manifest.chat is not None and manifest.chat.apply
    system = manifest.chat.system if manifest.chat else None
    return partial(_read, manifest=manifest, prefix=prefix or "", chat=chat, system=system)


def _read(
    row: Row, *, manifest: DatasetManifest, prefix: str, chat: bool, system: str | None
) -> list[Example] | list[Problem]:
    example: Example = row.values["example"]
    labels = replace(example.labels, concept=manifest.concept)
    return [
        replace(example, dataset=manifest.name, text=prefix + example.text, chat=chat, system=system, labels=labels)
    ]


def _rows(examples: Iterable[Example]) -> Rows:
    for i, example in enumerate(examples, start=1):
        yield Row(file=example.place.rpartition(":")[0] or example.place, line=i, values={"example": example})


def _problem(failed: FailedRow) -> Problem:
    return Problem(loc=failed.place, kind=failed.kind, message=failed.message)
