"""The text side on SmolLM2-135M, command by command: what the demo's first half claims about two concepts holds here too."""

import json
from pathlib import Path

import pytest

from tests.cli.small import Terminal

LAYER = "6"


@pytest.mark.slow
def test_number_and_time_words_come_more_often_than_under_any_of_twenty_random_directions(
    tmp_path: Path, terminal: Terminal
) -> None:
    root = ("--root", str(tmp_path / "cache"))
    assert terminal("build", "smollm2-concepts", *root, "--json") == 0, terminal.err
    assert json.loads(terminal.out)["n_rows"] > 2000
    found = {}
    for concept in ("counting", "temporal"):
        fit = ("fit", "mean-shift", "--concept", concept, "--no-diagnose")
        assert terminal(*fit, *root) == 0, terminal.err
        asked = ("report", "words", concept, "--layer", LAYER, "--alpha", "4", "--random", "20")
        assert terminal(*asked, *root, "--json") == 0, terminal.err
        plain, steered = json.loads(terminal.out)["points"]
        assert plain["random_low"] == plain["random_high"] == plain["mass"]
        assert steered["mass"] > steered["random_high"], concept
        assert steered["p_random"] == pytest.approx(1 / 21)
        assert steered["low"] > plain["mass"], "beyond what 16 prompts leave open"
        found[concept] = (plain["mass"], steered["mass"], steered["random_high"])
    kept = "select count(distinct cell_id) as cells, count(*) as answers from answers"
    assert terminal("query", kept, *root, "--json") == 0, terminal.err
    assert json.loads(terminal.out) == [{"cells": 2 * (1 + 21), "answers": 2 * (1 + 21) * 16}], found
