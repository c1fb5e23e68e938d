"""`steercache plan` of a sweep, against what the grid then does."""

import json
from pathlib import Path

from tests.cli.small import Terminal
from tests.cli.test_grid import write_sweep

LONGER = (
    "cached rows give an answer's first token only, and answers may have 2 tokens; limited to one, they can be replayed"
)


def test_a_plan_of_a_sweep_counts_what_the_grid_will_compute(work: Path, terminal: Terminal) -> None:
    write_sweep()
    assert terminal("plan", "sweep.yaml", "--json") == 0, terminal.err
    (task,) = json.loads(terminal.out)["tasks"]
    assert not list(Path("cache").glob("sweeps/*"))  # nothing was begun
    planned = {split: mode["n_to_compute"] for split, mode in task["modes"].items()}
    assert planned == {"search": 9 * 6, "test": 2 * 6}
    assert task["modes"]["search"]["barred"] == {"replay": LONGER}
    assert set(task["modes"]["search"]["seconds"]) == {"branch", "full"}
    assert terminal("grid", "sweep.yaml", "--json") == 0, terminal.err
    (ran,) = json.loads(terminal.out)["tasks"]
    assert ran["sweep_id"] == task["sweep_id"]
    assert ran["n_computed"] == sum(planned.values())
    assert ran["modes"]["search"]["mode"] == task["modes"]["search"]["mode"]
    assert ran["modes"]["search"]["seconds"] == task["modes"]["search"]["seconds"]  # measured once
    assert terminal("plan", "sweep.yaml") == 0, terminal.err
    assert "search split: all 54 answers are in the cache" in terminal.err
    assert "steercache grid sweep.yaml" in terminal.err


def test_a_way_can_be_asked_for_and_its_absence_is_said(work: Path, terminal: Terminal) -> None:
    write_sweep(splits=["search"])
    assert terminal("plan", "sweep.yaml", "--mode", "full", "--json") == 0, terminal.err
    (task,) = json.loads(terminal.out)["tasks"]
    assert (task["modes"]["search"]["mode"], task["modes"]["search"]["forced"]) == ("full", True)
    assert terminal("plan", "sweep.yaml", "--mode", "replay") == 2
    assert f"replaying is not possible here: {LONGER}" in terminal.err


def test_a_name_that_is_nothing_is_said(work: Path, terminal: Terminal) -> None:
    assert terminal("plan", "tiny-scene") == 4
    assert "try:" in terminal.err
