"""Answers beside the baseline's in SQL: each once, beside that of its own sweep, prompt and decoding, and counted by hand."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pytest

from steercache.benchmarks.comparison import wrong_way
from steercache.cache.handle import open_cache
from steercache.cache.sweeps import save_sweep
from steercache.cache.vectors import save_vector
from steercache.core.trials import Answer, Cell
from steercache.core.vectors import SteeringVector
from steercache.index.ingest import put_vector
from steercache.index.migrate import MIGRATIONS, migrate
from steercache.index.seen import read_seen, read_sources, write_seen, write_sources
from steercache.queries.session import Session, open_session

MEASURED = {"layer": 1, "auc": 0.9, "d_prime": 1.5, "difference_cosine": 0.25, "difference_cosine_std": 0.125}
EAST = SteeringVector(
    name="east",
    method="made",
    concept=None,
    site="resid_post",
    layers=(0, 1, 2),
    values=np.eye(3, dtype=np.float32),
    diagnostics=(MEASURED, {"layer": 2, "d_prime": "odd"}),
)
BASELINE = Cell(vector_id=None, layer=None, alpha=0.0, target="all", model_fingerprint="f" * 64, prompt_id="plain")
IN_WORDS = replace(BASELINE, prompt_id="attend")
STEERED = replace(BASELINE, vector_id=EAST.vector_id, layer=1, alpha=2.0, target="image")
LATER = replace(STEERED, layer=2)


def answers(cell: Cell, right: str, margins: tuple[float | None, ...], **more: Any) -> list[Answer]:
    """Answers to samples 0, 1, ...: right (+), wrong (-), or failed (x)."""
    return [
        Answer(
            cell_id=cell.cell_id,
            sample_id=str(i),
            split="test" if i > 2 else "search",
            raw=None if one == "x" else "A",
            parsed=None if one == "x" else "AB"[one == "-"],
            correct=None if one == "x" else one == "+",
            margin=margin,
            margin_of=more.get("of"),
            status="failed" if one == "x" else "ok",
        )
        for i, (one, margin) in enumerate(zip(right, margins, strict=True))
    ]


WAS = answers(BASELINE, "++-+x", (1.0, 0.5, -1.0, 2.0, None))
NOW = answers(STEERED, "+-+-+", (0.5, -1.0, -1.0, None, 3.0))
AFTER = answers(LATER, "+++++", (1.0, 0.5, 0.0, 2.5, 1.0), of="other")


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> Session:
    cache = open_cache(tmp_path_factory.mktemp("beside") / "root", create=True)
    save_vector(cache, EAST)
    asked = answers(IN_WORDS, "-----", (None,) * 5)
    cells = [BASELINE, IN_WORDS, STEERED, LATER]
    save_sweep(cache, "one", manifest={"at": 1}, cells=cells, answers=[*WAS, *asked, *NOW, *AFTER])
    other = [replace(one, correct=False, parsed="B") for one in WAS if one.status == "ok"]
    save_sweep(cache, "two", manifest={"at": 2}, cells=[BASELINE, STEERED], answers=[*other, *NOW])
    save_sweep(cache, "three", manifest={"at": 3}, cells=[STEERED], answers=NOW)  # without a baseline
    return open_session(cache.root)


def test_every_steered_answer_stands_once_beside_the_baseline_of_its_own_sweep(session: Session) -> None:
    rows = session.sql(
        "select sweep, layer, sample_id, baseline_correct, correct, wrong_way from answers_with_baseline order by all"
    ).fetchall()
    right = {"+": True, "-": False, "x": None}
    was, now = "++-+x", {1: "+-+-+", 2: "+++++"}
    wanted = [
        ("one", layer, str(i), right[b], right[a], None if b == "x" else (b == "+" and a == "-"))
        for layer in (1, 2)
        for i, (b, a) in enumerate(zip(was, now[layer], strict=True))
    ]
    assert rows == wanted + [("two", 1, str(i), False, right[a], False) for i, a in enumerate("+-+-")]


def test_the_view_has_the_shares_that_tables_have(session: Session) -> None:
    names = ["sweep", "layer", "split", "n", "wrong_way", "n_margins", "margin_wrong_way", "before", "after"]
    found = session.sql(f"select {', '.join(names)} from trials_with_baseline").fetchall()
    assert len(found) == 6
    for row in (dict(zip(names, values, strict=True)) for values in found):
        if row["sweep"] == "two":
            continue
        steered = NOW if row["layer"] == 1 else AFTER
        pairs = [(b, a) for b, a in zip(WAS, steered, strict=True) if a.split == row["split"]]
        wanted = wrong_way(pairs)
        assert (row["n"], row["n_margins"]) == (wanted.n, wanted.n_margins)
        assert row["wrong_way"] == pytest.approx(wanted.share)
        assert row["margin_wrong_way"] == (None if wanted.margin_share is None else pytest.approx(wanted.margin_share))
        known = [(b, a) for b, a in pairs if "failed" not in (a.status, b.status)]
        assert row["before"] == pytest.approx(np.mean([bool(b.correct) for b, _ in known]))
        assert row["after"] == pytest.approx(np.mean([bool(a.correct) for _, a in known]))
    (two,) = [values for values in found if values[0] == "two" and values[2] == "search"]
    assert two[3:5] == (3, 0.0)


def test_by_hand(session: Session) -> None:
    rows = session.query("moved_wrong_way", sweep="one").fetchall()
    # layer 1, search: samples 0, 1, 2 are ++-, then +-+: one of three lost; margins fall, fall, stay
    assert rows[0][:12] == (
        *("one", "search", "east", 1, "image", 2.0, 3),
        *(pytest.approx(1 / 3), 3, pytest.approx(2.5 / 3)),
        *(pytest.approx((-0.5 - 1.5 + 0) / 3), pytest.approx(np.std([-0.5, -1.5, 0.0]))),
    )
    changed = session.query("answers_changed", sweep="one").fetchall()
    assert [(row[1], row[5], row[9]) for row in changed if row[1] == 1] == [
        (1, "1", "broken"),
        (1, "2", "mended"),
        (1, "3", "broken"),
        (1, "4", "changed"),
    ]


def test_numbers_of_the_fit_stand_beside_the_cells_of_a_vector(session: Session) -> None:
    names = "d_prime, difference_cosine, difference_cosine_std"
    found = session.sql(f"select layer, {names} from vectors order by layer").fetchall()
    assert found == [(0, None, None, None), (1, 1.5, 0.25, 0.125), (2, None, None, None)]
    beside = session.sql(f"select distinct layer, {names} from trials_with_baseline order by layer").fetchall()
    assert beside == found[1:]
    assert session.query("best_layers").fetchall()[0][4:9] == (1, pytest.approx(0.9), 1.5, 0.25, 0.125)


def test_an_older_index_gets_the_numbers_of_vectors_that_it_has(tmp_path: Path) -> None:
    cache = open_cache(tmp_path / "root", create=True)
    save_vector(cache, EAST)
    asked = "select * from vectors order by layer"
    rows = open_session(cache.root).sql(asked).fetchall()
    with duckdb.connect(str(cache.paths.index), read_only=True) as con:
        seen, sources = read_seen(con), read_sources(con)
    cache.paths.index.unlink()
    (number,) = (m.version for m in MIGRATIONS if m.name == "wrong_way")
    with duckdb.connect(str(cache.paths.index)) as con:
        migrate(con, migrations=MIGRATIONS[: number - 1])
        for layer in EAST.layers:
            put_vector(con, {"vector_id": EAST.vector_id, "layer": layer, "name": "east"})
        write_seen(con, seen)
        write_sources(con, sources)
    assert open_session(cache.root).sql(asked).fetchall() == rows
    assert rows[1][-3:] == (1.5, 0.25, 0.125)
