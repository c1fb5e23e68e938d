"""The steps of `steercache demo`: each command exists with its options, what it names is shipped, and what is said of it holds.

`make demo` runs them.
"""

import base64
import re
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner
from PIL import Image

from steercache.cli import demo
from steercache.cli.demo_steps import FEATURE, Shown, Step, picture_steps, sae_steps, text_steps
from steercache.cli.main import steercache
from steercache.manifests.load import find_manifest
from steercache.report.demo_page import PageStep, demo_page

FLOAT32 = ("--dtype", "float32")


def lines(own: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """The command lines of all parts."""
    return [words for step in all_steps(own) for words in step.commands]


def all_steps(own: tuple[str, ...] = ()) -> tuple[Step, ...]:
    return (*text_steps(own), *sae_steps(own), *picture_steps(FLOAT32))


def parsed(args: list[str]) -> None:
    """Parse a command line down to its last option, and run nothing."""
    command: click.Command = steercache
    words, context = list(args), click.Context(command)
    while isinstance(command, click.Group):
        found = command.get_command(context, words.pop(0))
        assert found is not None, args
        command = found
    assert command.make_context("demo", words).params


class Reader(click.Group):
    """Stands for the program: parses what it is given, prints a line, and makes the files that reports are asked for."""

    lines: list[list[str]]

    def main(self, args: Any = None, **_: Any) -> Any:
        parsed(list(args))
        self.lines.append(list(args))
        if "--out" in args:
            path = Path(args[args.index("--out") + 1])
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"<h1>a &amp; b</h1>" if path.suffix == ".html" else b"picture")
        click.echo(f"ran {args[0]}: 0.1 -> 0.2 at alpha 1, its best")


def test_manifests_that_it_names_are_shipped() -> None:
    kinds = {"build": "trace", "grid": "sweep", "screen": "sweep"}
    named = {(kinds[words[0]], words[1]) for words in lines() if words[0] in kinds}
    assert len(named) >= 3
    for kind, name in named:
        assert find_manifest(name, kind=kind)


def test_null_directions_are_screened_and_not_searched_exactly() -> None:
    for words in lines():
        if words[0] == "grid":
            assert "--nulls" not in words
        if words[0] == "screen":
            assert int(dict(pairwise(words))["--nulls"]) >= 100
    assert {"grid", "screen"} <= {words[0] for words in lines()}


def test_where_bfloat16_is_emulated_every_model_is_run_in_float32() -> None:
    models = {"build", "steer", "grid", "screen"}
    loading = [w for w in lines(FLOAT32) if w[0] in models or w[:2] in (("report", "words"), ("report", "colours"))]
    assert len(loading) >= 7
    assert all(FLOAT32 in pairwise(words) for words in loading)


@pytest.fixture
def guide(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> demo.Guide:
    program = Reader("steercache")
    program.lines = []
    monkeypatch.setattr(demo, "machine_scale", lambda: 0.5)
    return demo.Guide(program=program, root=tmp_path)


def quiet_steps() -> tuple[Step, ...]:
    """All parts, with meanings that need no cache."""
    steps = all_steps()
    return tuple(
        Step(
            key=s.key,
            title=s.title,
            commands=s.commands,
            cpu_s=s.cpu_s,
            meaning=lambda shown: f"{len(shown.outputs)} commands mean <this>.",
            pictures=s.pictures,
            page=s.page,
        )
        for s in steps
    )


def test_it_ends_in_one_page_that_holds_everything(guide: demo.Guide, capsys: pytest.CaptureFixture[str]) -> None:
    steps = quiet_steps()
    path = demo.run_steps(guide, steps)
    said = capsys.readouterr().out
    program: Any = guide.program
    assert [tuple(line[: len(words)]) for line, words in zip(program.lines, lines(), strict=True)] == lines()
    assert all(words[words.index("--root") + 1] == str(guide.root) for words in program.lines)
    page = path.read_text()
    for step in steps:
        assert step.title in said
        assert f"{len(step.commands)} commands mean &lt;this&gt;." in page
    assert page.count(base64.b64encode(b"picture").decode()) == sum(len(s.pictures) for s in steps) == 2
    assert 'srcdoc="&lt;h1&gt;a &amp;amp; b&lt;/h1&gt;"' in page
    assert len(re.findall(r"ran (build|query|fit|sae|steer|report|screen|grid): 0.1", page)) == len(lines())
    assert not re.search(r"(src|href)=\"(https?:)?//|<script|@import", page)  # no network, no script


def test_the_estimate_comes_first_and_the_second_time_it_is_seconds(
    guide: demo.Guide, capsys: pytest.CaptureFixture[str]
) -> None:
    steps = quiet_steps()
    before = demo.Forecast(guide.root, steps)
    assert before.expected_s == pytest.approx(0.5 * sum(step.cpu_s for step in steps))
    demo.run_steps(guide, steps)
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith(f"{len(steps)} steps, about ")
    assert all("left)" in line for line in said if re.match(r"\(\d", line) and line != said[-3])
    after = demo.Forecast(guide.root, steps)
    assert after.read == {step.key for step in steps}
    assert after.expected_s <= 3 * len(steps)
    assert "are read from the cache" in after.sentence()


def test_time_left_follows_what_the_first_steps_took(guide: demo.Guide) -> None:
    steps = quiet_steps()
    clock = demo.Forecast(guide.root, steps)
    rest = sum(0.5 * step.cpu_s for step in steps[1:])
    clock.done(steps[0], 3 * 0.5 * steps[0].cpu_s)  # three times as long as expected
    assert clock.left_s() == pytest.approx(3 * rest)


def test_the_estimate_fits_the_promise_on_two_cores() -> None:
    text, whole = (sum(s.cpu_s for s in some) for some in ((*text_steps(()), *sae_steps(())), all_steps()))
    assert text / 2 < 90
    assert whole / 2 < 300


def test_what_the_cache_had_is_counted() -> None:
    assert demo.cache_sentence(["everything was cached already", "0 computed: all", "new"]).startswith(
        "2 of 3 commands"
    )
    assert demo.cache_sentence(["traced 1 shards"]) == ""


def test_what_words_do_is_said_as_it_came_out() -> None:
    words = text_steps(())[-1]

    def meaning(printed: str) -> str:
        return words.meaning(Shown(outputs=(printed,), rows=lambda sql: []))

    found = "0.03 -> 0.15 at alpha 4, its best; beyond all 20 random directions at their best (p = 0.048)"
    assert meaning(f"table\n{found}\n/a.png").startswith(
        f"The effect comes from the direction, not from its norm: {found}"
    )
    assert "no effect to claim" in meaning("0.03 -> 0.04 at alpha 4, its best; 3 of 20 random directions do as well")
    assert "no effect to claim" in meaning("0.03 -> 0.02 at alpha 1, its best; no strength tried raises it")


def test_what_the_feature_does_is_said_as_it_came_out() -> None:
    (step,) = sae_steps(())
    assert f"feature={FEATURE}" in step.commands[3]
    table = "feature ┃ rate_anchor ┃ rate_control\n━━━━━━━━╇━━━━━━━\n    572 │      0.8621 │      0.04091 │ 25\n"
    said = step.meaning(Shown(outputs=("", "", table, "", "", ""), rows=lambda sql: []))
    assert "fires on 86% of the number words and 4% of the others" in said
    assert "compare with alpha 0" in said


def test_without_sae_lens_the_step_is_left_out_and_said(
    guide: demo.Guide, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: list[str] = []
    monkeypatch.setattr(demo, "run_steps", lambda guide, steps: taken.extend(s.key for s in steps) or tmp_path)
    for installed in (True, False):
        monkeypatch.setattr(demo, "has_sae_lens", lambda installed=installed: installed)
        found = CliRunner().invoke(steercache, ["demo", "--text-only", "--root", str(tmp_path)])
        assert found.exit_code == 0, found.output
        assert ("sae-lens is not installed" in found.output) is not installed
    assert taken.count("features") == 1


def test_colours_of_a_terminal_are_not_on_the_page(guide: demo.Guide, capsys: pytest.CaptureFixture[str]) -> None:
    with demo._kept(guide.printed):
        sys.stdout.write("\x1b[1mbold\x1b[0m text")
    assert guide.printed == ["bold text"]
    assert "bold" in capsys.readouterr().out


def test_a_step_without_files_has_no_figures() -> None:
    page = demo_page([PageStep(title="t", commands=("c",), outputs=("o",), meaning="m", seconds=1.0)])
    assert "<img" not in page
    assert "<iframe" not in page


@pytest.mark.parametrize("size", [(1996, 842), (640, 200)])
def test_a_picture_has_half_its_own_width(size: tuple[int, int], tmp_path: Path) -> None:
    Image.new("RGB", size).save(tmp_path / "a.png")
    step = PageStep(title="t", commands=(), outputs=(), meaning="m", seconds=1.0, pictures=(tmp_path / "a.png",))
    assert f'width="{size[0] // 2}" src=' in demo_page([step])


def test_help_says_what_it_does() -> None:
    said = CliRunner().invoke(steercache, ["demo", "--help"]).output
    assert "--text-only" in said
    assert "HTML page" in said
