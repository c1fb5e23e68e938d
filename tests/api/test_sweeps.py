"""Evaluations, screenings and sweeps from Python: the same as the command line shows, on the shipped tiny model."""

import json
import re
from dataclasses import asdict
from pathlib import Path

import pytest

import steercache
from steercache.core.errors import UsageError
from tests.cli.conftest import built_once, terminal, work
from tests.cli.small import Terminal
from tests.cli.test_grid import write_sweep
from tests.tiny import sentences

__all__ = ["built_once", "terminal", "work"]

QUESTIONS = {"task": "Count", "form": "number", "n": 6, "allow_foreign": True}
WORDS = ("tiny", "scenes", "--task", "Count", "--form", "number", "--n", "6", "--allow-foreign", "--vector", "made")


@pytest.mark.slow
def test_python_and_the_command_line_predict_run_and_choose_the_same(work: Path, terminal: Terminal) -> None:
    write_sweep(alphas=[0.05, 0.1], splits=["search"])
    cache = steercache.open("cache")

    screened = cache.screen(
        "tiny", "scenes", vectors=["made"], layers=[1, 3], alphas=[0.05, 0.1], targets=["image", "text"],
        progress=False, **QUESTIONS,
    )  # fmt: skip
    grid = ("--layer", "1,3", "--alpha", "0.05,0.1", "--target", "image,text", "--json")
    assert terminal("screen", *WORDS, *grid) == 0, terminal.err
    (shown,) = json.loads(terminal.out)["tasks"]
    assert json.loads(json.dumps([asdict(row) for row in screened.grid.best(10)])) == shown["cells"]
    (of_sweep,) = cache.sweep("sweep.yaml").screen(progress=False)
    assert [row.shift for row in of_sweep.grid.best(10)] == [row.shift for row in screened.grid.best(10)]

    sweep = cache.sweep("sweep.yaml")
    result = sweep.run(nulls=2, null_kinds=("random",), progress=False)
    assert terminal("grid", "sweep.yaml", "--nulls", "2", "--null-kinds", "random", "--json") == 0, terminal.err
    (task,) = json.loads(terminal.out)["tasks"]
    assert (task["sweep_id"], task["n_computed_in_all"]) == (result.tasks[0].sweep_id, 0)
    (row,), (again,) = task["splits"][0]["rows"], result.tasks[0].choices
    assert (row["cell_id"], row["rank_p"], row["p_holm"]) == (again.cell_id, again.rank_p, again.p_holm)
    assert sweep.report("grid.html").exists()
    with pytest.raises(UsageError, match=r"not a \.html file"):
        sweep.report("grid.pdf")


def test_python_and_the_command_line_answer_and_report_the_same(work: Path, terminal: Terminal) -> None:
    write_sweep(alphas=[0.05, 0.1], splits=["search"])
    cache = steercache.open("cache")
    found = cache.evaluate(
        "tiny", "scenes", vectors=["made"], layers=1, alphas=0.1, targets="text", split="search", controls=2,
        control_kinds=["random"], prompting="", max_new_tokens=2, damage=False, mode="full", seed=1, progress=False,
        **QUESTIONS,
    )  # fmt: skip
    assert found.modes["search"].mode == "full"
    one = ("--layer", "1", "--alpha", "0.1", "--target", "text", "--split", "search", "--controls", "2", "--json")
    more = ("--control-kinds", "random", "--prompting", "", "--max-new-tokens", "2", "--no-damage", "--seed", "1")
    assert terminal("eval", *WORDS, *one, *more) == 0, terminal.err
    assert json.loads(terminal.out)["sweep_id"] == found.sweep_id
    assert cache.table(found).rows == cache.table(found.sweep_id).rows

    page = cache.report(found, "page.html").read_text()
    assert terminal("report", "html", found.sweep_id, "--out", "typed.html") == 0, terminal.err
    made_by = re.compile(r"<h3>This page</h3><pre>(.*?)</pre>", re.DOTALL)
    typed = Path("typed.html").read_text()
    assert made_by.sub("", typed) == made_by.sub("", page)
    assert made_by.findall(typed)[0].startswith(f"steercache report html {found.sweep_id} --out typed.html")
    assert "steercache eval tiny scenes" in typed


def test_a_race_promises_what_is_asked_of_it_and_shortcuts_need_the_whole_grid(work: Path) -> None:
    write_sweep(alphas=[0.05, 0.1], splits=["search"])
    sweep = steercache.open("cache").sweep("sweep.yaml")
    raced = sweep.run(race=True, tolerance=0.3, damage=False, progress=False).tasks[0]
    (row,) = raced.choices
    assert row.race is not None
    assert (row.rule, row.race["tolerance"]) == ("race", 0.3)
    with pytest.raises(UsageError, match="screened cells"):
        sweep.run(pilot=3)


def test_the_papers_further_questions_are_methods_of_the_cache(work: Path, terminal: Terminal) -> None:
    cache = steercache.open("cache")
    prompts = sentences(3)
    words = cache.words(
        "counting", layer=3, alphas=[1, 4], words=["two", "red"], prompts=prompts, n_random=3, progress=False
    )
    assert not words.from_cache
    line = ("report", "words", "counting", "--layer", "3", "--alpha", "1,4", "--words", "two,red", "--random", "3")
    read_on = [word for prompt in prompts for word in ("--prompt", prompt)]
    assert terminal(*line, *read_on, "--json") == 0, terminal.err
    assert json.loads(terminal.out)["sweep_id"] == words.sweep_id
    write_sweep()
    found = cache.colours(
        "tiny", "made", layer=1, alphas=[2.0], word="red", n=4, n_random=2, allow_foreign=True, progress=False
    )
    assert (found.word, found.n, [p.alpha for p in found.points]) == ("red", 4, [0.0, 2.0])
    with pytest.raises(steercache.core.errors.NotFoundError, match="mean_shift vector"):
        cache.own("tiny", "scenes", concept="no-such", layers=1, task="Count", progress=False)
