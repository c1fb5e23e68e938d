"""`steercache fit` and what becomes of a fitted vector: which run, which name, what is said next."""

import json
import shlex
from pathlib import Path

import pytest
import yaml

from steercache.core.errors import SteercacheWarning, UsageError
from steercache.fit import diagnose, mean_shift
from steercache.queries.session import open_session
from tests.cli.small import CONCEPTS, RUN, Terminal


def test_the_run_may_be_bound_like_any_other_value(work: Path, terminal: Terminal) -> None:
    line = ("fit", "mean-shift", "--concept", "counting", "--no-diagnose", "--json")
    assert terminal(*line, "-p", f"run={RUN}") == 0, terminal.err
    bound = json.loads(terminal.out)
    assert terminal(*line, "--run", RUN) == 0, terminal.err
    assert [v["vector_id"] for v in bound] == [v["vector_id"] for v in json.loads(terminal.out)]
    assert terminal(*line, "--run", RUN, "-p", f"run={RUN}") == 2
    assert "the run is given twice" in terminal.err


def test_all_concepts_are_those_of_one_run_which_is_named(work: Path, terminal: Terminal) -> None:
    trace = (work / "my-trace.yaml").read_text()
    other = trace.replace(f"name: {RUN}", "name: other").replace("words.jsonl", "other.jsonl")
    (work / "other.yaml").write_text(other.replace("name: words", "name: others"))
    rows = [json.loads(line) for line in (work / "words.jsonl").read_text().splitlines()]
    text = "".join(json.dumps(row | {"concept": f"new {row['concept']}"}) + "\n" for row in rows)
    (work / "other.jsonl").write_text(text)
    assert terminal("build", "other.yaml") == 0, terminal.err
    line = ("fit", "mean-shift", "--all-concepts", "--no-diagnose", "--json")
    for run, found in (("other", [f"new {c}" for c in CONCEPTS]), (RUN, [*CONCEPTS])):
        assert terminal(*line, *(("--run", run) if run == RUN else ())) == 0, terminal.err
        assert [v["concept"] for v in json.loads(terminal.out)] == found
        assert run == RUN or "run other" in terminal.err


def test_a_vector_keeps_its_name_and_what_was_measured_about_it(work: Path, terminal: Terminal) -> None:
    session = open_session("cache")
    sel = session.select("anchor_vs_control", concept="negation", run=RUN)
    session.save(diagnose(sel, mean_shift(sel, name="kept")))
    session.save(mean_shift(sel, name="kept"))
    assert session.vector("kept").diagnostics
    with pytest.raises(UsageError, match="saved already, under the name 'kept'"):
        session.save(mean_shift(sel, name="another"))
    assert session.vector("kept").vector_id == mean_shift(sel).vector_id
    assert terminal("fit", "mean-shift", "--concept", "negation", "--run", RUN, "--no-diagnose", "--name", "third") == 2
    assert "'kept'" in terminal.err


def test_what_comes_next_is_asked_of_the_same_cache(work: Path, terminal: Terminal) -> None:
    line = ("fit", "mean-shift", "--concept", "counting", "--no-diagnose")
    assert terminal(*line) == 0, terminal.err
    assert "  steercache vectors show counting\n" in terminal.err
    assert terminal(*line, "--root", str(work / "cache")) == 0, terminal.err
    shown = next(each for each in terminal.err.splitlines() if "vectors show" in each)
    assert terminal(*shown.split()[1:]) == 0, terminal.err


def test_vectors_compare_by_what_they_are_and_can_be_kept_in_sets(work: Path) -> None:
    session = open_session("cache")
    one, same = session.vector("counting"), session.vector("counting")
    assert one == same != session.vector("counting-probe")
    assert len({one, same}) == 1
    row = one.at(3)
    row /= 2
    assert one == same
    assert repr(one) == f"<SteeringVector 'counting': mean_shift, 8 layers of {one.hidden_size}, {one.vector_id[:12]}>"
    assert "rows of 'counting'" in repr(session.select("anchor_vs_control", concept="counting"))
    assert repr(session) == "<cache 'cache'>"


def test_words_are_those_that_the_tokens_write(work: Path) -> None:
    session = open_session("cache")
    sel = session.select("anchor_vs_control", concept="counting", run=RUN)
    rows = session.sql(
        "select row_idx, piece from tokens join runs using (run_id) where name = $run", run=RUN
    ).fetchall()
    written = {row: piece.lstrip("Ġ▁ ").lower() for row, piece in rows if row is not None}
    assert sel.words is not None
    numbers = sel.words()
    assert numbers.shape == sel.rows.shape
    pairs = {(int(number), written[int(row)]) for number, row in zip(numbers, sel.rows, strict=True)}
    assert len(pairs) == len({number for number, _ in pairs}) == len({word for _, word in pairs})


@pytest.mark.parametrize("inside", [False, True], ids=["model by name", "model inside the trace"])
def test_the_steer_command_that_a_fit_prints_runs_from_another_folder(
    inside: bool, work: Path, terminal: Terminal, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    trace = yaml.safe_load((work / "my-trace.yaml").read_text())
    trace |= {"model": yaml.safe_load((work / "tiny.yaml").read_text())} if inside else {}
    (work / "my-trace.yaml").write_text(yaml.safe_dump(trace))
    monkeypatch.chdir(tmp_path)
    root = ("--root", "work/a cache")
    assert terminal("build", "work/my-trace.yaml", *root) == 0, terminal.err
    assert terminal("fit", "mean-shift", "--concept", "counting", "--no-diagnose", *root) == 0, terminal.err
    shown = [line.strip() for line in terminal.err.splitlines() if line.startswith("  steercache")]
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    for line in shown:
        assert terminal(*shlex.split(line)[1:]) == 0, (line, terminal.err)
    assert len(shown) == 2
    assert shown[1].startswith("steercache steer counting ")


def test_of_two_runs_of_one_name_the_newest_is_named(work: Path, terminal: Terminal) -> None:
    (older,) = [path.name for path in (work / "cache" / "runs").iterdir()]
    (work / "words.jsonl").write_text("".join((work / "words.jsonl").read_text().splitlines(keepends=True)[:30]))
    assert terminal("build", "my-trace.yaml") == 0, terminal.err
    with pytest.warns(SteercacheWarning, match="2 runs are named") as caught:
        assert terminal("cache", "verify", RUN) == 0, terminal.err
    message = str(caught[0].message)
    (newer,) = {path.name for path in (work / "cache" / "runs").iterdir()} - {older}
    assert f"{newer[:12]}, the newest, is meant; older ones by id: {older[:12]}" in message
    assert terminal("cache", "verify", older[:12]) == 0, terminal.err
