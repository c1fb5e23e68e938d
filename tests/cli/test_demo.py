"""The commands of `steercache demo`: each exists with its options, and what it names is shipped. `make demo` runs them."""

from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import click
import pytest

from steercache.cli import demo
from steercache.cli.main import steercache
from steercache.manifests.load import find_manifest


class Reader(click.Group):
    """Parses every command line down to its last option, and runs none."""

    lines: list[list[str]]

    def main(self, args: Any = None, **_: Any) -> Any:
        self.lines.append(list(args))
        command: click.Command = steercache
        words = list(args)
        context = click.Context(command)
        while isinstance(command, click.Group):
            found = command.get_command(context, words.pop(0))
            assert found is not None, args
            command = found
        assert command.make_context("demo", words).params
        cell = SimpleNamespace(layer=9, alpha=0.3, alpha_unit="resid_norm", target="image")
        choice = SimpleNamespace(cell=cell, vector_id="0123456789ab")
        return SimpleNamespace(tasks=[SimpleNamespace(choices=[choice], sweep_id="ba9876543210")])


@pytest.fixture(params=[(), ("--dtype", "float32")], ids=["own", "float32"])
def lines(request: pytest.FixtureRequest, tmp_path: Path) -> list[list[str]]:
    """The command lines of both halves."""
    program = Reader("steercache")
    program.lines = []
    guide = demo.Guide(program=program, root=tmp_path, quick="float32", own=request.param)
    demo.text_side(guide)
    demo.picture_side(guide)
    assert len(guide.pictures) == len({picture.name for picture in guide.pictures})
    return program.lines


def test_every_command_parses_and_stays_in_its_cache(lines: list[list[str]], tmp_path: Path) -> None:
    assert len(lines) > 15
    assert all(words[words.index("--root") + 1] == str(tmp_path) for words in lines)


def test_manifests_that_it_names_are_shipped(lines: list[list[str]]) -> None:
    kinds = {"build": "trace", "grid": "sweep"}
    named = {(kinds[words[0]], words[1]) for words in lines if words[0] in kinds}
    assert len(named) >= 6
    for kind, name in named:
        assert find_manifest(name, kind=kind)


def test_the_chosen_cell_is_what_the_shifted_set_is_asked_with(lines: list[list[str]]) -> None:
    asked = [words for words in lines if words[0] == "eval"]
    assert len(asked) == len(demo.TASKS)
    for words in asked:
        given = dict(pairwise(words))
        assert (given["--layer"], given["--alpha"], given["--unit"]) == ("9", "0.3", "resid_norm")
        assert (given["--vector"], given["--target"]) == ("0123456789ab", "image")


@pytest.mark.parametrize("lines", [("--dtype", "float32")], indirect=True)
def test_where_bfloat16_is_emulated_every_model_is_run_in_float32(lines: list[list[str]]) -> None:
    loading = [
        w
        for w in lines
        if w[0] in ("build", "steer", "grid", "eval") or w[:2] in (["report", "words"], ["report", "colours"])
    ]
    assert len(loading) >= 11
    assert all(("--dtype", "float32") in pairwise(words) for words in loading)
