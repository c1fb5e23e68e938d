"""A page over 200,000 answers: it is made, says how little of it is shown, and stays small."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from steercache.api.cache import open_cache_at
from steercache.benchmarks.questions import FILE_NAME, StoredQuestion
from steercache.cache.sweeps import save_choices, save_sweep
from steercache.core.trials import Answer, Cell, Choice
from tests.report.pages import outside_references, text_of

pytest.importorskip("altair", reason="the pictures of a page need the extra `plots`")
pytestmark = pytest.mark.slow

N, LAYERS, ALPHAS, VECTORS = 1980, 10, 5, 2  # 101 cells over the search split


def large_cache(root: Path) -> tuple[Any, int]:
    """A cache with one sweep of two vectors, and how many answers it has. Every cell is right at random."""
    cache = open_cache_at(root, create=True)
    target: Any = "image"
    base = Cell(vector_id=None, layer=None, alpha=0.0, target="all", model_fingerprint="m", prompt_id="plain")
    vectors = [f"{v:064x}" for v in range(1, VECTORS + 1)]
    cells = [
        Cell(vector_id=v, layer=layer, alpha=float(a + 1), target=target, model_fingerprint="m", prompt_id="plain")
        for v in vectors
        for layer in range(LAYERS)
        for a in range(ALPHAS)
    ]
    rng = np.random.default_rng(0)
    answers = [
        Answer(
            cell_id=cell_id,
            sample_id=f"{i:064x}",
            split=split,
            raw=f"word {i % 7}",
            parsed="AB"[int(r)],
            correct=bool(r),
        )
        for split, n, ids in (
            ("search", N, [base.cell_id, *(cell.cell_id for cell in cells)]),
            ("test", 300, [base.cell_id, cells[0].cell_id, cells[-1].cell_id]),
        )
        for cell_id in ids
        for i, r in enumerate(rng.random(n) < 0.6, start=0 if split == "search" else N)
    ]
    manifest = {
        "kind": "grid",
        "model": {"name": "m", "fingerprint": "m"},
        "task": {"benchmark": "large"},
        "grid": {"layers": list(range(LAYERS)), "alphas": [float(a + 1) for a in range(ALPHAS)], "targets": [target]},
        "seed": 0,
    }
    sweep_id = save_sweep(cache.folder, "large", manifest=manifest, cells=[base, *cells], answers=answers)
    choices = [Choice(arm="baseline", role="baseline", cell_id=base.cell_id, rule="single", n_cells=1)]
    for name, vector, cell in (("one", vectors[0], cells[0]), ("two", vectors[1], cells[-1])):
        n_cells = LAYERS * ALPHAS
        choices.append(
            Choice(arm=name, role="vector", cell_id=cell.cell_id, rule="exhaustive", n_cells=n_cells, vector_id=vector)
        )
    save_choices(cache.folder, sweep_id, choices)
    questions = [
        StoredQuestion(
            sample_id=f"{i:064x}",
            split="search" if i < N else "test",
            group_id=str(i // 2),
            right="A",
            place=f"row {i}",
            question=f"Question {i}?",
        )
        for i in range(N + 300)
    ]
    path = cache.folder.paths.sweep(sweep_id) / FILE_NAME
    path.write_text(json.dumps({"questions": [asdict(one) for one in questions]}))
    return cache, len(answers)


def test_a_page_over_two_hundred_thousand_answers_is_whole_small_and_says_what_it_shows(tmp_path: Path) -> None:
    cache, n = large_cache(tmp_path / "root")
    assert n > 200_000
    page = cache.report("large", tmp_path / "large.html").read_text(encoding="utf-8")
    text = text_of(page)
    assert f"answers kept {n:,}" in text
    assert "of 300 are shown" in text
    assert len(page) < 5_000_000
    assert page.count('class="card ') <= 64
    assert outside_references(page) == []
    assert "1980 questions" in text  # behind every cell of the map
    assert cache.sql("select count(*) from answers").fetchall() == [(n,)]
