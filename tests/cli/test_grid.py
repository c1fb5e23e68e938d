"""`steercache grid` at the terminal."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from steercache.core.vectors import SteeringVector
from steercache.queries.session import open_session
from tests.cli.small import Terminal


def write_sweep(**changes: Any) -> None:
    """`sweep.yaml` in the current folder, and a vector of tiny's width in its cache."""
    values = np.random.default_rng(0).standard_normal((6, 96)).astype(np.float32)
    vector = SteeringVector(
        name="made", method="made", concept=None, site="resid_post", layers=tuple(range(6)), values=values
    )
    open_session(Path("cache")).save(vector)
    known: dict[str, Any] = {
        "kind": "sweep",
        "version": 1,
        "name": "small",
        "model": {"zoo": "tiny"},
        "vectors": ["made"],
        "layers": [1, 3],
        "alphas": [1, 2],
        "targets": ["image", "text"],
        "tasks": [{"benchmark": "scenes", "task": "Count", "form": "number"}],
        "n": 6,
        "decoding": {"max_new_tokens": 2},
        "allow_foreign": True,
    }
    Path("sweep.yaml").write_text(yaml.safe_dump(known | changes))


def test_a_sweep_prints_its_maps_cells_and_choice_or_json(work: Path, terminal: Terminal) -> None:
    write_sweep()
    assert terminal("grid", "sweep.yaml", "--no-test") == 0, terminal.err
    for words in ("made, image tokens: gain in points", "made, text tokens", "best 8 of 8 cells", "not asked"):
        assert words in terminal.out
    assert terminal.out.count("*") == 1  # the chosen cell, in one of the maps
    assert "54 answers computed" in terminal.err
    assert "unknown lineage" in terminal.err
    assert "looked at" not in terminal.err
    assert terminal("grid", "sweep.yaml", "--json") == 0, terminal.err
    (task,) = json.loads(terminal.out)["tasks"]
    assert (task["n_computed"], task["n_reused"], task["n_looks"]) == (2 * 6, 9 * 6, 1)
    assert {split["split"]: split["n"] for split in task["splits"]} == {"search": 6, "test": 6}
    (tested,) = task["splits"][1]["rows"]
    assert tested["comparison"]["n"] == 6
    assert terminal("grid", "sweep.yaml", "--race", "--tolerance", "0.3") == 0, terminal.err
    assert "promised with probability 0.95" in terminal.err
    assert "at most 0.3 below it" in terminal.err
    assert "0 answers computed" in terminal.err


@pytest.mark.slow
def test_a_manifest_that_asks_for_a_race_is_raced_unless_told_otherwise(work: Path, terminal: Terminal) -> None:
    write_sweep(race={"tolerance": 0.2}, splits=["search"])
    assert terminal("grid", "sweep.yaml", "--json") == 0, terminal.err
    (row,) = json.loads(terminal.out)["tasks"][0]["splits"][0]["rows"]
    assert (row["rule"], row["race"]["tolerance"]) == ("race", 0.2)
    assert terminal("grid", "sweep.yaml", "--no-race", "--json") == 0, terminal.err
    (row,) = json.loads(terminal.out)["tasks"][0]["splits"][0]["rows"]
    assert (row["rule"], row["race"]) == ("exhaustive", None)


@pytest.mark.parametrize(
    ("changes", "options", "code", "message"),
    [
        ({"alphas": [0]}, (), 3, "alphas"),
        ({"vectors": ["nobody"]}, (), 4, "nobody"),
        ({"layers": [7]}, (), 2, "7"),
        ({"allow_foreign": False}, (), 2, "does not say its origin"),
        ({"model": "no-such-model"}, (), 3, "no-such-model"),
        ({}, ("--memory", "1"), 8, "MiB"),
        ({}, ("--tolerance", "1"), 2, "tolerance"),
    ],
)
def test_a_wrong_sweep_says_what_is_wrong(
    changes: dict[str, Any], options: tuple[str, ...], code: int, message: str, work: Path, terminal: Terminal
) -> None:
    write_sweep(**changes)
    assert terminal("grid", "sweep.yaml", *options) == code, terminal.err
    assert message in terminal.err
    assert "try:" in terminal.err


def test_a_sweep_that_is_not_there_is_said(work: Path, terminal: Terminal) -> None:
    assert terminal("grid", "tiny-scene") == 4
    assert "did you mean `tiny-scenes`?" in terminal.err
