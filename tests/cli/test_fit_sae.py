"""`steercache fit sae` and `steercache sae review` at the terminal: unverified, by a sheet, by a judge, and what is said."""

import csv
import json
import re
import shlex
import warnings
from pathlib import Path

import pytest

from steercache.core.errors import SteercacheWarning
from steercache.queries.session import open_session
from tests.cli.small import RUN, Terminal
from tests.sae.chat_server import says, serving, status
from tests.sae.coordinates import LAYER, coordinates_sae


@pytest.fixture
def line(work: Path) -> tuple[str, ...]:
    """A fit of one concept with an SAE that fits the run, less the way to verify."""
    d = open_session("cache").select("all_rows", run=RUN).gather(LAYER).shape[1]
    coordinates_sae(work / "my-sae", d, model="tiny")
    return ("--sae", "my-sae", "--concept", "counting", "--run", RUN, "--allow-foreign")


def test_a_vector_is_fitted_unverified_refitted_and_its_features_are_a_query(
    line: tuple[str, ...], terminal: Terminal
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SteercacheWarning)  # of a run without BOS
        assert terminal("fit", "sae", *line, "--unverified", "--no-diagnose", "--name", "mine") == 0, terminal.err
        assert "mine: 16 features at 1 layer (not verified), saved as" in terminal.err
        assert "select * from features" in terminal.err + terminal.out
        assert terminal("vectors", "refit", "mine") == 0, terminal.err
        assert terminal("vectors", "show", "mine") == 0, terminal.err
        assert re.search(r"SAE\s+│ my-sae", terminal.out)
        assert re.search(r"features\s+│ 16 of 16 that paper picked; not verified", terminal.out)
    query = "select count(*) filter (selected) as n, count(distinct vector_id) as v from features"
    assert terminal("query", query, "--json") == 0, terminal.err
    assert json.loads(terminal.out) == [{"n": 16, "v": 1}]


def test_a_sheet_is_written_and_its_verdicts_are_taken(line: tuple[str, ...], work: Path, terminal: Terminal) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SteercacheWarning)
        assert terminal("sae", "review", *line, "--out", "sheet", "--json") == 0, terminal.err
        assert json.loads(terminal.out) == {"csv": "sheet.csv", "markdown": "sheet.md"}
        assert terminal("sae", "review", *line, "--out", "new/sheet") == 0, terminal.err  # the folder is made
        fit = "fit sae --sae my-sae --concept counting --verdicts new/sheet.csv --selection paper"
        assert f"{fit} --run {RUN} --allow-foreign" in terminal.err + terminal.out
        assert terminal("fit", "sae", *line, "--verdicts", "sheet.csv") == 2
        assert "16 without a verdict" in terminal.err
        with (work / "sheet.csv").open(newline="") as file:
            rows = list(csv.DictReader(file))
        rows[0]["verdict"] = rows[1]["verdict"] = "yes"
        with (work / "sheet.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
        assert terminal("fit", "sae", *line, "--verdicts", "sheet.csv", "--no-diagnose") == 0, terminal.err
        assert "counting-sae: 2 features at 1 layer (sheet: 2 yes, 14 without a verdict)" in terminal.err
        again = (*line, "--selection", "firing_rate")
        assert terminal("sae", "review", *again, "--out", "other") == 0, terminal.err
        (said,) = [one for one in terminal.err.splitlines() if "--verdicts other.csv" in one]
        assert terminal(*shlex.split(said)[1:]) == 2, "the printed command is of the same features"
        assert (
            f"none of {len(list(csv.DictReader((work / 'other.csv').read_text().splitlines())))} picked features"
            in terminal.err
        )
        assert terminal("sae", "review", *line, "--out", "sheet") == 2
        assert "holds verdicts already" in terminal.err


def test_a_judge_is_asked_and_a_refusal_is_said(
    line: tuple[str, ...], terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STEERCACHE_JUDGE_KEY", "sk-secret-key")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SteercacheWarning)
        with serving(says("VERDICT: YES")) as server:
            asked = ("--judge", server.url, "--judge-model", "m", "--no-diagnose")
            assert terminal("fit", "sae", *line, *asked) == 0, terminal.err
            assert "(judge: 16 yes)" in terminal.err
            assert {r["headers"]["Authorization"] for r in server.seen} == {"Bearer sk-secret-key"}
        with serving(status(401, b'{"error": "sk-secret-key is wrong"}')) as server:
            asked = ("--judge", server.url, "--judge-model", "another", "--no-diagnose")
            assert terminal("fit", "sae", *line, *asked) == 2
            assert "16 without a verdict (HTTP 401: [key] is wrong)" in terminal.err
    assert "sk-secret" not in terminal.err + terminal.out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "one way to verify"),
        (("--unverified", "--verdicts", "x.csv"), "one way to verify"),
        (("--judge-model", "m", "--unverified"), "no endpoint"),
        (("--judge", "http://127.0.0.1:9/v1"), "has no name"),
        (("--judge", "nowhere", "--judge-model", "m"), "no address of an endpoint"),
        (("--judge", "http://x/v1", "--judge-model", "m", "--judge-parameters", "[1]"), "no JSON object"),
    ],
)
def test_words_that_contradict_each_other_are_refused_before_anything_is_read(
    words: tuple[str, ...], said: str, work: Path, terminal: Terminal
) -> None:
    assert terminal("fit", "sae", "--sae", "none", "--concept", "counting", *words) == 2
    assert said in terminal.err
