"""What `make bench` keeps, and that the benches of the grid run: on the tiny model, for their answers and not for the clock."""

import importlib
import json
from pathlib import Path
from typing import Any

import pytest

from bench.__main__ import NAMES, keep, line_of


def row(name: str, **changes: Any) -> dict[str, Any]:
    return {"name": name, "ratio": 1.0, "target": "<= 2", "met": True} | changes


def test_rows_of_one_bench_take_the_place_of_its_older_ones_and_leave_those_of_others(tmp_path: Path) -> None:
    path = tmp_path / "results" / "latest.json"
    keep(path, "grid", [row("a"), row("b")])
    keep(path, "store", [row("c")])
    keep(path, "grid", [row("a", ratio=3.0)])
    rows = json.loads(path.read_text())["rows"]
    assert [(r["bench"], r["name"], r["ratio"]) for r in rows] == [("store", "c", 1.0), ("grid", "a", 3.0)]
    assert all(r["when"] for r in rows)


def test_a_line_says_what_was_measured_in_its_unit_and_whether_the_target_was_met() -> None:
    assert line_of(row("a")) == "ok   a: 1 x (target <= 2)"
    wide = {"name": "b", "value": 0.5, "target": ">= 0.9", "met": False}
    assert line_of(wide) == "MISS b: 0.5 (target >= 0.9)"


@pytest.mark.parametrize("name", NAMES)
def test_every_bench_can_be_run_by_name(name: str) -> None:
    pytest.importorskip("torch")
    assert callable(importlib.import_module(f"bench.{name}").run)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_the_grids_answers_are_those_of_generate_with_a_hook(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    bench = importlib.import_module("bench.grid")
    rows = list(bench.run(tmp_path, model="tiny", n=4, n_alone=1, n_equal=2, turns=1, targets=("image",)))
    (answers,) = [r for r in rows if r["name"].startswith("answers of the exact grid")]
    assert answers["n_different"] == 0
    assert answers["n_answers"] > 0
    assert all(r["flop_ratio"] > 1 for r in rows if "flop_ratio" in r)
    assert not list(tmp_path.iterdir())


def test_the_bench_of_the_index_writes_shards_as_a_build_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torch")
    index = importlib.import_module("bench.index")
    monkeypatch.setattr(index, "ROWS_PER_SHARD", 10 * index.TOKENS_PER_SAMPLE)
    monkeypatch.setattr(index, "REPEATS", 1)
    found = index.run(n_rows=2 * index.ROWS_PER_SHARD)
    assert all(row.get("value_s", row.get("value")) > 0 for row in found)
    assert any(row["name"].startswith("filter and group,") for row in found)
