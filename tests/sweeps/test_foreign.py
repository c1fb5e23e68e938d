"""Vectors of unknown or other lineage: refused, or steered with and said wherever the result is read."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from steercache.cli.main import run
from steercache.core.vectors import SteeringVector
from steercache.queries.session import Session
from steercache.sweeps.evaluation import evaluate
from steercache.sweeps.find import read_sweep
from tests.sweeps.small_run import options, vector
from tests.sweeps.small_sweep import small_grid
from tests.sweeps.test_run import counts
from tests.world import World


def stranger() -> SteeringVector:
    return vector(np.random.default_rng(3).normal(size=(6, 96)).astype(np.float32), name="stranger")


def test_a_vector_of_unknown_lineage_is_taken_only_when_allowed_and_then_said(
    own_session: Session, capsys: pytest.CaptureFixture[str]
) -> None:
    own_session.save(stranger())
    own_session.save(replace(stranger(), name="narrow", values=stranger().values[:, :48]))
    words = ["eval", "tiny", "scenes", "--task", "Count", "--form", "number", "--n", "3", "--split", "search"]
    words += ["--layer", "2", "--alpha", "4", "--target", "text", "--controls", "0", "--prompting", "", "--no-damage"]
    words += ["--root", str(own_session.cache.root)]
    assert run([*words, "--vector", "stranger"]) == 2
    refused = capsys.readouterr().err
    assert "does not say its origin" in refused
    assert "--allow-foreign" in refused
    assert run([*words, "--vector", "narrow", "--allow-foreign"]) == 2  # no flag makes a width fit
    assert "48 wide and tiny is 96" in capsys.readouterr().err
    assert run([*words, "--vector", "stranger", "--allow-foreign"]) == 0
    assert "stranger: a vector of unknown lineage" in capsys.readouterr().err
    assert run([*words, "--vector", "stranger", "--allow-foreign", "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)["splits"][0]["rows"]
    assert (row["name"], row["lineage"]) == ("stranger", "unknown")


def test_the_lineage_of_every_vector_stays_with_the_sweep(own_session: Session, world: World) -> None:
    native = own_session.vector("counting")
    asked = options(n=3, controls=1, control_kinds=("random",), prompting="", split="search", allow_foreign=True)
    found = evaluate(own_session, world.loaded, counts(), vectors=[native, stranger()], options=asked)
    ((kept,),) = own_session.sql("select manifest from sweeps where sweep_id = $s", s=found.sweep_id).fetchall()
    arms = json.loads(kept)["arms"]
    said = {arm["name"]: arm["lineage"] for arm in arms if arm["role"] == "vector"}
    assert said == {"counting": "backbone", "stranger": "unknown"}
    assert [row.lineage for row in found.rows] == ["backbone", "unknown"]
    (split,) = read_sweep(own_session, found.sweep_id).splits
    assert [row.lineage for row in split.rows] == ["backbone", "unknown"]


def test_the_lineage_of_a_vector_stays_with_a_grid(own_session: Session, world: World, tmp_path: Path) -> None:
    own_session.save(stranger())
    changes = {"vectors": ["counting", "stranger"], "allow_foreign": True, "layers": [2], "alphas": [4]}
    (task,) = small_grid(own_session, world.loaded, tmp_path, n=3, **changes).tasks
    (split, *_) = read_sweep(own_session, task.sweep_id).splits
    assert [row.lineage for row in split.rows] == [choice.lineage for choice in task.choices] == ["backbone", "unknown"]
