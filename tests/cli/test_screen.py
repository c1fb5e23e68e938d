"""`steercache screen` at the terminal."""

import json
from pathlib import Path

import pytest

from tests.cli.small import Terminal
from tests.cli.test_grid import write_sweep

WORDS = ("screen", "tiny", "scenes", "--task", "Count", "--form", "number", "--vector", "made", "--n", "6")
SMALL = (*WORDS, "--layer", "1,3", "--alpha", "0.1,2", "--allow-foreign")


def test_a_sweep_is_predicted_and_run_in_part(work: Path, terminal: Terminal) -> None:
    write_sweep(layers=[1, 3], alphas=[0.05, 0.1], splits=["search"])
    assert terminal("screen", "sweep.yaml", "--json", "--top", "3") == 0, terminal.err
    (task,) = json.loads(terminal.out)["tasks"]
    assert (task["n_samples"], task["n_cells"], len(task["cells"])) == (6, 8, 3)
    shifts = [cell["shift"] for cell in task["cells"]]
    assert shifts == sorted(shifts, reverse=True)
    assert terminal("query", "select count(*) as n from gradients", "--format", "json") == 0
    assert json.loads(terminal.out)[0]["n"] == 6 * 2 * 5
    assert terminal("grid", "sweep.yaml", "--screen-first", "2", "--json") == 0, terminal.err
    run = json.loads(terminal.out)["tasks"][0]
    assert {row["cell"]["layer"] for row in run["cells"]} <= {cell["layer"] for cell in task["cells"]}
    assert (len(run["cells"]), run["n_screened_out"]) == (2, 6)
    assert (run["n_pilot"], run["n_pilot_answers"]) == (0, 0), "6 questions are too few for a pilot of a third"


@pytest.mark.slow
def test_a_screened_sweep_is_corrected_by_a_pilot_and_compared_once_the_grid_is_run(
    work: Path, terminal: Terminal
) -> None:
    write_sweep(layers=[1, 3], alphas=[0.05, 0.1], splits=["search"])
    assert terminal("screen", "sweep.yaml", "--pilot", "3", "--json") == 0, terminal.err
    (bent,) = json.loads(terminal.out)["tasks"]
    assert (bent["n_pilot"], bent["n_pilot_answers"] % 3, bent["n_cells"]) == (3, 0, 8)
    assert bent["n_pilot_answers"] > 0
    assert terminal("screen", "sweep.yaml", "--pilot", "3", "--samples", "1") == 0, terminal.err
    assert "answers to 3 of the questions corrected the predictions; samples and ranks are not" in terminal.err
    for pilot, said in (
        ("0", "no pilot: predictions are straight lines"),
        ("3", "answers to 3 of the questions corrected"),
    ):
        assert terminal("grid", "sweep.yaml", "--screen-first", "2", "--pilot", pilot) == 0, terminal.err
        assert said in terminal.err
    assert terminal("screen", "sweep.yaml", "--compare") == 2, "only a part of the grid was run"
    assert "run the grid" in terminal.err
    assert terminal("grid", "sweep.yaml", "--json") == 0, terminal.err
    assert terminal("screen", "sweep.yaml", "--compare", "--resamples", "5") == 0, terminal.err
    for words in ("screen-first + racing", "random cells", "gain in margin", "gain in accuracy"):
        assert words in terminal.out
    assert "what_replaces_the_grid" in terminal.err
    assert terminal("query", "what_replaces_the_grid", "-p", "measure=margin", "--format", "json") == 0
    assert {row["way"] for row in json.loads(terminal.out)} >= {"exhaustive", "screening", "racing"}


def test_a_benchmark_is_screened_with_named_vectors_and_says_who_is_helped(work: Path, terminal: Terminal) -> None:
    write_sweep()
    assert terminal(*SMALL, "--samples", "2", "--nulls", "20") == 0, terminal.err
    for words in ("the best 4 of 4 cells", "samples most helped", "samples most hurt", "How many"):
        assert words in terminal.out
    assert "cannot be fitted again" in " ".join(terminal.out.replace("│", " ").split())
    assert "gradients: tiny-scenes-gradients" in terminal.err
    assert terminal(*SMALL, "--by", "accuracy", "--json", "--gradients", "tiny-scenes-gradients") == 0, terminal.err
    (task,) = json.loads(terminal.out)["tasks"]
    right = [cell["accuracy"] for cell in task["cells"]]
    assert right == sorted(right, reverse=True)
    assert terminal(*SMALL, "--pilot", "3") == 2
    assert "steercache screen SWEEP --pilot" in terminal.err
    assert terminal(*SMALL[:-1], "--all-vectors") == 2
    assert "does not say its origin" in terminal.err
    everything = [word for word in SMALL if word not in ("--vector", "made")]
    assert terminal(*everything, "--all-vectors", "--json") == 0, terminal.err
    assert [v["vector"] for v in json.loads(terminal.out)["tasks"][0]["vectors"]] == [
        "made"
    ]  # of three, two of other width


@pytest.mark.slow
def test_strengths_in_norms_of_the_steered_rows_mean_the_same_to_screen_grid_and_eval(
    work: Path, terminal: Terminal
) -> None:
    write_sweep(alphas=[0.05, 0.4], alpha_unit="target_norm", splits=["search"])
    assert terminal("screen", "sweep.yaml", "--nulls", "5") == 0, terminal.err
    (kept,) = Path("cache/row_norms").iterdir()
    measured = kept.read_bytes()
    assert terminal("grid", "sweep.yaml", "--json") == 0, terminal.err
    done = json.loads(terminal.out)["tasks"][0]
    assert (done["n_computed"], done["n_reused"]) == (8 * 6, 6)  # the screening answered the baseline
    asked = (
        "--layer",
        "1,3",
        "--alpha",
        "0.05,0.4",
        "--target",
        "image,text",
        "--allow-foreign",
        "--unit",
        "target_norm",
    )
    assert terminal("screen", *WORDS[1:], *asked, "--json") == 0, terminal.err
    assert json.loads(terminal.out)["tasks"][0]["cells"][0]["alpha_unit"] == "target_norm"
    alone = (
        "--split",
        "search",
        "--controls",
        "0",
        "--prompting",
        "",
        "--max-new-tokens",
        "2",
        "--no-damage",
        "--json",
    )
    assert terminal("eval", *WORDS[1:], *asked, *alone) == 0, terminal.err
    answered = json.loads(terminal.out)
    assert (answered["n_computed"], answered["n_reused"]) == (0, 9 * 6)
    assert terminal("grid", "sweep.yaml", "--json") == 0, terminal.err
    assert json.loads(terminal.out)["tasks"][0]["n_computed"] == 0
    assert terminal("screen", "sweep.yaml", "--compare", "--resamples", "5") == 0, terminal.err
    assert [path.read_bytes() for path in Path("cache/row_norms").iterdir()] == [measured]


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (("screen", "tiny", "scenes", "more"), 2, "3 words"),
        (("screen", "tiny", "nothing", "--vector", "made"), 2, "unknown benchmark"),
        (("screen", "tiny", "scenes"), 2, "no vector to screen"),
        (("screen", "sweep.yaml", "--vector", "made"), 2, "names its own vectors"),
        (("screen", "tiny", "scenes", "--compare"), 2, "reads the answers of a sweep"),
        (("screen", "no-such-sweep"), 4, "no-such-sweep"),
        ((*SMALL, "--layer", "9"), 2, "no layer 9"),
        ((*SMALL, "--alpha", "strong"), 2, "not a list of numbers"),
        ((*SMALL, "--target", "picture"), 2, "no target named picture"),
        ((*SMALL, "--gradients", "nothing"), 4, "nothing"),
        ((*SMALL, "--gradients", "smollm2-concepts"), 2, "holds no gradients"),
    ],
)
def test_wrong_words_say_what_is_wrong(
    words: tuple[str, ...], code: int, message: str, work: Path, terminal: Terminal
) -> None:
    write_sweep()
    assert terminal(*words) == code, terminal.err
    assert message in terminal.err
    assert "try:" in terminal.err
