"""After any sequence of changes to the files, catching up gives the tables of a rebuild: every table, row by row."""

import atexit
import os
import shutil
import tempfile
from functools import cache as once
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test

from steercache.cache.catch_up import add_shards, catch_up, is_fresh
from steercache.cache.documents import read_shard_record, write_shard_record
from steercache.cache.entries import all_sweep_files, all_vector_rows
from steercache.cache.handle import CacheFolder, open_cache
from steercache.cache.sweep_files import write_searches
from steercache.cache.sweeps import add_answers, begin_sweep, finish_sweep, save_choices, save_sweep, sweep_id_of
from steercache.cache.vector_files import write_vector
from steercache.cache.vectors import save_vector
from steercache.core.layout import FileRecord
from steercache.core.trials import Answer, Cell, Choice
from steercache.core.vectors import SteeringVector
from steercache.index.database import Index
from steercache.index.files import over_files, rebuild
from tests.index.contents import every_table
from tests.index.small import Sentence, span
from tests.queries.small_cache import add_run

MAT, PEN = "the cat is on the mat", "two pens lie near the red book"
BOOKKEEPING = ("seen", "sources", "schema_migrations")
ROWS_OF_FILES = {"runs", "sites", "shards", "samples", "tokens", "vectors", "features"}
ROWS_OF_FILES |= {"sweeps", "cells", "answers", "searches", "choices"}
SAMPLES = ("x", "y", "z")


def labelled(concept: str, word: str) -> list[list[Sentence]]:
    """Two shards of one data set; what is said of the sentences depends on `concept` and `word`."""
    return [
        [Sentence(text=MAT, labels={"concept": concept, "anchors": [span(MAT, word)]}), Sentence(text="plain words")],
        [Sentence(text=PEN, labels={"concept": concept, "anchors": [span(PEN, "near")]}, kept=[1, 2])],
    ]


@once
def templates() -> Path:
    """Roots of one run each: the same run with labels of two kinds, with other tokens in a shard, and another run."""
    base = Path(tempfile.mkdtemp(prefix="steercache-templates-", dir=os.environ.get("PYTEST_DEBUG_TEMPROOT")))
    atexit.register(shutil.rmtree, base, ignore_errors=True)
    other_tokens = labelled("spatial", "cat")
    other_tokens[1] = [Sentence(text="one pen", labels={"concept": "counting"})]
    for name, shards in (
        ("one", labelled("spatial", "cat")),
        ("mended", labelled("entity", "mat")),
        ("retraced", other_tokens),
        ("two", [[Sentence(text="so glad", dataset="pairs", labels={"concept": "mood", "pair_id": "p"})]]),
    ):
        run_id = add_run(base / name, "two" if name == "two" else "one", shards)
        seal(open_cache(base / name), run_id)
    return base


def seal(cache: CacheFolder, run_id: str) -> None:
    """Put the Parquet files into the records of a run's shards, as a build does."""
    run = cache.run_paths(run_id)
    for path in run.shards("g0001").glob("*.json"):
        record = read_shard_record(path)
        tables = []
        for file in (run.tokens(record.shard_idx), run.samples(record.shard_idx)):
            data = file.read_bytes()
            name = file.relative_to(run.folder).as_posix()
            tables.append(FileRecord(path=name, n_bytes=len(data), crc32c=google_crc32c.value(data)))
        changed = {f: getattr(record, f) for f in record.__slots__} | {"files": (*record.files, *tables)}
        write_shard_record(path, type(record)(**changed))


def tables_of_index(cache: CacheFolder) -> dict[str, list[Any]]:
    with cache.index.read() as con:
        return every_table(con)


def assert_equal_to_a_rebuild(cache: CacheFolder) -> None:
    """Catch up, and compare with an index made anew and with the files read without one."""
    assert catch_up(cache.paths, wait_s=30) is None
    with cache.index.read() as con:
        assert is_fresh(cache.paths, con)
        found = every_table(con)
    other = cache.root / "other.duckdb"
    runs, sweeps = list(cache.run_files()), list(all_sweep_files(cache.paths))
    rebuild(other, runs, all_vector_rows(cache.paths), sweeps)
    anew = tables_of_index_at(other)
    con = over_files(runs, all_vector_rows(cache.paths), sweeps)
    read = every_table(con)
    con.close()
    other.unlink()
    assert found.keys() == anew.keys() == read.keys()
    assert found.keys() > ROWS_OF_FILES
    for name in found.keys() - {*BOOKKEEPING}:
        assert found[name] == anew[name], name
        assert found[name] == read[name], f"{name} of the files"


def tables_of_index_at(path: Path) -> dict[str, list[Any]]:
    with Index(path).read() as con:
        return every_table(con)


def vector(number: int, *, auc: float | None = None) -> SteeringVector:
    diagnostics = () if auc is None else tuple({"layer": layer, "auc": auc, "resid_norm": 9.0} for layer in (0, 1))
    return SteeringVector(
        name=f"v{number}",
        method="sae" if number % 2 else "mean_shift",
        concept="counting",
        site="resid_post",
        layers=(0, 1),
        values=np.full((2, 4), number + 1, dtype=np.float32),
        provenance={"params": {"number": number}} | (features(number) if number % 2 else {}),
        diagnostics=diagnostics,
    )


def features(number: int) -> dict[str, Any]:
    """What a fit of an SAE says of the features it considered; at layer 2 none was taken, so the vector lacks it."""
    columns = {
        "feature": [number, 40],
        "rank": [1, 2],
        "score": [1.5, 0.5],
        "selected": [True, False],
        "reason": ["a", "b"],
    }
    none = columns | {"selected": [False, False], "verdict": ["no", None]}
    return {
        "saes": {str(layer): {"sae_id": "ab"} for layer in (0, 1, 2)},
        "features": {"0": columns, "1": columns, "2": none},
    }


def cell(number: int) -> Cell:
    steered = {"vector_id": vector(number).vector_id, "layer": 1, "alpha": float(number)}
    plain = {"vector_id": None, "layer": None, "alpha": 0.0}
    return Cell(target="all", model_fingerprint="f" * 64, prompt_id="p", **(steered if number else plain))  # type: ignore[arg-type]


def answer(number: int, sample: str, raw: str = "A", **changes: Any) -> Answer:
    return Answer(cell_id=cell(number).cell_id, sample_id=sample, split="test", raw=raw, **({"mode": "full"} | changes))


def manifest_of(number: int) -> dict[str, Any]:
    return {"number": number}


answers_st = st.lists(
    st.builds(
        answer,
        st.integers(0, 2),
        st.sampled_from(SAMPLES),
        st.sampled_from("AB"),
        margin=st.sampled_from([None, 1.0, -2.0]),
        mode=st.sampled_from([None, "full", "replay", "branch"]),
    ),
    max_size=5,
)
which = st.integers(0, 1)


class Files(RuleBasedStateMachine):
    """A root whose files are changed by the package, and by hand in every way that leaves a readable cache."""

    def __init__(self) -> None:
        super().__init__()
        self.root = Path(tempfile.mkdtemp(prefix="steercache-files-", dir=os.environ.get("PYTEST_DEBUG_TEMPROOT")))
        self.cache = open_cache(self.root, create=True)
        self.kept: dict[str, bytes] = {}  # what files held at some time

    @initialize()
    def begin_with_one_of_everything(self) -> None:
        """So that every later step changes something that the index has."""
        self.copy_a_run_in("one")
        for number in (0, 1):
            write_vector(self.cache.paths.vector(vector(number).vector_id), vector(number, auc=0.5))
            some = [answer(i, sample, margin=1.0) for i in (0, 2) for sample in SAMPLES]
            save_sweep(self.cache, "s", manifest=manifest_of(number), cells=[cell(0), cell(2)], answers=some)
            self.compare_a_sweep(number, 0.25)
            self.choose_in_a_sweep(number, 2)
        assert catch_up(self.cache.paths, wait_s=30) is None

    def teardown(self) -> None:
        assert_equal_to_a_rebuild(self.cache)
        shutil.rmtree(self.root)

    def paths_like(self, pattern: str) -> list[Path]:
        return sorted(self.root.glob(pattern))

    @rule(template=st.sampled_from(["one", "retraced", "two"]))
    def copy_a_run_in(self, template: str) -> None:
        source = templates() / template
        for run in (source / "runs").iterdir():
            shutil.rmtree(self.cache.paths.runs / run.name, ignore_errors=True)
            shutil.copytree(run, self.cache.paths.runs / run.name)
        shutil.copytree(source / "annotations", self.cache.paths.annotations, dirs_exist_ok=True)

    @rule()
    def remove_runs(self) -> None:
        for run in self.cache.paths.all_runs():
            shutil.rmtree(run.folder)

    @rule(template=st.sampled_from(["one", "mended"]))
    def mend_labels(self, template: str) -> None:
        shutil.copytree(templates() / template / "annotations", self.cache.paths.annotations, dirs_exist_ok=True)

    @rule()
    def remove_labels(self) -> None:
        shutil.rmtree(self.cache.paths.annotations, ignore_errors=True)

    @precondition(lambda self: self.paths_like("runs/*/shards/g0001/00001.json"))
    @rule()
    def uncommit_a_shard(self) -> None:
        self.paths_like("runs/*/shards/g0001/00001.json")[0].unlink()

    @precondition(lambda self: self.paths_like("runs/*/shards/g0001/00000.json"))
    @rule()
    def tell_of_a_shard_as_a_build_does(self) -> None:
        for run in self.cache.paths.all_runs():
            record = read_shard_record(run.shard("g0001", 0))
            assert add_shards(self.cache.paths, self.cache.run_document(run.folder.name), [record]) is None

    @rule(number=which, auc=st.sampled_from([None, 0.5, 0.75]), told=st.booleans())
    def save_a_vector(self, number: int, auc: float | None, told: bool) -> None:
        if told:
            save_vector(self.cache, vector(number, auc=auc))
        else:  # as while somebody holds the index
            write_vector(self.cache.paths.vector(vector(number).vector_id), vector(number, auc=auc))

    @rule(number=which)
    def copy_a_vector_to_another_name(self, number: int) -> None:
        write_vector(self.cache.paths.vectors / "mine.safetensors", vector(number, auc=0.25))

    @rule(
        pattern=st.sampled_from(
            [
                *("vectors/*", "sweeps/*/answers/*.parquet"),
                *(f"sweeps/*/{name}.json" for name in ("searches", "choices", "manifest")),
            ]
        ),
        which=st.integers(0, 9),
    )
    def remove_a_file(self, pattern: str, which: int) -> None:
        paths = self.paths_like(pattern)
        if paths:
            path = paths[which % len(paths)]
            self.kept[path.relative_to(self.root).as_posix()] = path.read_bytes()
            path.unlink()

    @rule()
    def write_old_content_in_place(self) -> None:
        for path in (p for p in self.paths_like("vectors/*") + self.paths_like("sweeps/*/*.json") if p.is_file()):
            name = path.relative_to(self.root).as_posix()
            now = path.read_bytes()
            if name in self.kept:
                with path.open("r+b") as file:  # no other file, no other entry of the folder
                    file.truncate()
                    file.write(self.kept[name])
            self.kept[name] = now

    @rule(number=which, answers=answers_st)
    def save_a_sweep(self, number: int, answers: list[Answer]) -> None:
        cells = [cell(i) for i in sorted({int(a.cell_id == cell(1).cell_id) for a in answers} | {0, 2})]
        save_sweep(self.cache, "s", manifest=manifest_of(number), cells=cells, answers=answers)

    @rule(number=which, answers=answers_st)
    def add_to_a_sweep(self, number: int, answers: list[Answer]) -> None:
        sweep_id = begin_sweep(self.cache, "s", manifest=manifest_of(number), cells=[cell(0)])
        add_answers(self.cache, sweep_id, answers)

    @rule(number=which, answers=answers_st)
    def finish_a_sweep(self, number: int, answers: list[Answer]) -> None:
        finish_sweep(self.cache, "s", manifest=manifest_of(number), cells=[cell(1)], answers=answers)

    @rule(number=which, gain=st.sampled_from([0.0, 0.5]))
    def compare_a_sweep(self, number: int, gain: float) -> None:
        folder = self.cache.paths.sweep(sweep_id_of("s", manifest_of(number)))
        if folder.is_dir():
            write_searches(folder, [search_row(gain)] if gain else [])

    @rule(number=which, chosen=st.integers(0, 2))
    def choose_in_a_sweep(self, number: int, chosen: int) -> None:
        if self.cache.paths.sweep(sweep_id_of("s", manifest_of(number))).is_dir():
            save_choices(self.cache, sweep_id_of("s", manifest_of(number)), choices_of(chosen))

    @rule(number=which)
    def remove_a_sweep(self, number: int) -> None:
        shutil.rmtree(self.cache.paths.sweep(sweep_id_of("s", manifest_of(number))), ignore_errors=True)

    @rule(number=which)
    def copy_a_sweep_to_another_name(self, number: int) -> None:
        folder = self.cache.paths.sweep(sweep_id_of("s", manifest_of(number)))
        if folder.is_dir():
            shutil.copytree(folder, folder.with_name(f"{folder.name}.bak"), dirs_exist_ok=True)

    @rule()
    def catch_up(self) -> None:
        assert catch_up(self.cache.paths, wait_s=30) is None

    @rule()
    def ask(self) -> None:
        with self.cache.connection() as con:
            con.execute("SELECT count(*) FROM answers").fetchall()

    @rule()
    def delete_the_index(self) -> None:
        self.cache.paths.index.unlink(missing_ok=True)

    @rule()
    def compare_with_a_rebuild(self) -> None:
        assert_equal_to_a_rebuild(self.cache)


def choices_of(chosen: int) -> list[Choice]:
    """Two arms of a sweep; the vector's took cell number `chosen`."""
    plain = Choice(arm="baseline", role="baseline", cell_id=cell(0).cell_id, rule="single", n_cells=1)
    details = {"damage": {"mean_nats": 0.5}, "family": []}
    took = cell(chosen).cell_id
    return [
        plain,
        Choice(arm="v", role="vector", vector_id="v", cell_id=took, rule="race", n_cells=3, details=details),
    ]


def search_row(gain: float) -> dict[str, Any]:
    numbers = {"n_cells": 1, "n_samples": 1, "n_run": 1.0, "answers": 1.0, "answers_share": 1.0, "work": 1.0}
    names = {"vector_id": "v", "way": "exhaustive", "measure": "accuracy", "cell_id": cell(1).cell_id}
    return names | numbers | {"work_share": 1.0, "n_resamples": 10, "gain": gain, "params": {"seed": 0}}


@pytest.mark.parametrize(
    ("examples", "steps"), [(2, 5), pytest.param(40, 25, marks=pytest.mark.slow)], ids=["a-few", "many"]
)
def test_catching_up_equals_rebuilding_after_any_changes(examples: int, steps: int) -> None:
    checks = [HealthCheck.too_slow, HealthCheck.data_too_large]
    run_state_machine_as_test(
        Files,
        settings=settings(
            max_examples=examples, stateful_step_count=steps, deadline=None, suppress_health_check=checks
        ),
    )
