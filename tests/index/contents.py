"""Every table of an index as something that can be compared."""

from typing import Any

from steercache.index.database import Index
from steercache.index.files import RunFiles, SweepFiles
from steercache.index.ingest import ShardFiles, put_answers, put_cells, put_run, put_shards, put_sweep, put_vector
from tests.index.small import RUN_A, RUN_B, Sentence, answer_row, cell_row, run_row, span, vector_row, write_run
from tests.index.small import write_sweep as write_sweep_files

MAT = "the cat is on the mat"
PEN = "two pens lie near the red book"

LOSS = {"mean_relative": 0.01, "max_relative": 0.02, "max_abs": 0.5, "mean_cosine": 0.9999, "min_cosine": 0.999}


def every_table(con: Any) -> dict[str, list[Any]]:
    """Rows of every table and view, in an order that depends on their values alone."""
    names = [row[0] for row in con.execute("SHOW TABLES").fetchall() if not row[0].endswith("_file")]
    return {name: sorted(con.execute(f"SELECT * FROM {name}").fetchall(), key=repr) for name in names}


def some_runs(folder: Any) -> list[RunFiles]:
    """Two runs, three data sets: labels with and without anchors, dropped rows, one sentence in two data sets."""
    mat = {"concept": "spatial", "anchors": [span(MAT, "on")], "split": "train", "group_id": "g1"}
    pens = {
        "concept": "counting",
        "anchors": [span(PEN, "two"), span(PEN, "near")],
        "choices": ["a", "b"],
        "answer": "a",
        "meta": '{"k":1}',
    }
    pair = [
        {"pair_id": "p1", "polarity": 1, "concept": "mood"},
        {"pair_id": "p1", "polarity": -1, "concept": "mood"},
    ]
    first = [
        [Sentence(text=MAT, labels=mat), Sentence(text="nothing to see")],
        [Sentence(text=PEN, labels=pens, bos=True), Sentence(text=MAT, dataset="other")],
    ]
    second = [
        [Sentence(text="so glad", dataset="pairs", labels=pair[0], kept=[1])],
        [Sentence(text="so sad now", dataset="pairs", labels=pair[1], kept=[2])],
    ]
    lossy = [{"generation": "g0002", "site": "resid_post", "layer": i, "n_rows": 17, **LOSS} for i in range(2)]
    return [
        write_run(
            folder,
            run_row(RUN_A, "first", datasets=["concepts", "other"], generation="g0002", codec_errors=lossy),
            first,
        ),
        write_run(folder, run_row(RUN_B, "second", datasets=["pairs"], complete=False), second),
    ]


def some_vectors() -> list[dict[str, Any]]:
    return [
        vector_row("v1", 0),
        vector_row("v1", 1, auc=None),
        vector_row("v2", 0, control_kind="random", control_seed=7),
    ]


def some_sweeps(folder: Any) -> list[SweepFiles]:
    """Two sweeps that share the baseline cell."""
    base, steered = cell_row("c0", "s1"), cell_row("c1", "s1", vector_id="v1", layer=1, alpha=0.5)
    one = [answer_row("c0", "x", correct=True, margin=1.0), answer_row("c1", "x", correct=False, margin=-1.0)]
    two = [answer_row("c0", "x", correct=True, score=0.25), answer_row("c0", "y", status="failed", error="empty")]
    return [
        write_sweep_files(folder, "s1", [base, steered], one),
        write_sweep_files(folder, "s2", [base | {"sweep_id": "s2", "mode": "full", "exact": True}], two),
    ]


def fill(index: Index, runs: list[RunFiles], vectors: list[dict[str, Any]], sweeps: list[SweepFiles]) -> None:
    """Take everything in one by one, each in a transaction of its own, newest run first."""
    for run in reversed(runs):
        with index.write() as con:
            put_run(con, run.run)
        for part in reversed(list(zip(run.shards, run.tokens, run.samples, strict=True))):
            with index.write() as con:
                put_part(con, run, *part)
    with index.write() as con:
        for vector in vectors:
            put_vector(con, vector)
        for sweep in reversed(sweeps):
            put_sweep(con, sweep.sweep)
            put_cells(con, sweep.cells)
            for answers in sweep.answers:
                put_answers(con, sweep.sweep["sweep_id"], answers)


def put_part(con: Any, run: RunFiles, record: Any, tokens: Any, samples: Any) -> None:
    """One shard of a run."""
    shard = ShardFiles(record=record, tokens=tokens, samples=samples)
    put_shards(con, run.run["run_id"], [shard], annotations=run.annotations)
