"""What the README shows can be typed: commands, the manifest, the SQL and the names of the Python door."""

import ast
import re
import shlex
import subprocess
import sys
from pathlib import Path

import click
import pytest

import steercache
from steercache.cells.model import find_model
from steercache.cli.main import COMMANDS
from steercache.cli.main import steercache as program
from steercache.data.benchmarks import BENCHMARKS
from steercache.data.concept_set import FOLDER
from steercache.manifests.load import find_manifest, parse_manifest
from steercache.manifests.resolve import resolve_sweep
from steercache.queries.library import load_library
from tests.cli.small import Terminal

README = (Path(__file__).parents[2] / "README.md").read_text()
LINES = re.findall(r"^    (steercache .*)$", README, re.MULTILINE)
BLOCKS = dict(re.findall(r"^```(yaml|python)\n(.*?)^```$", README, re.MULTILINE | re.DOTALL))
MAKE = re.findall(r"`?make ([a-z-]+)", README)


@pytest.mark.parametrize("line", LINES)
def test_a_command_has_words_and_options_that_exist(line: str) -> None:
    words = shlex.split(line, comments=True)[1:]
    command: click.Command = program
    context = click.Context(command)
    called = words.copy()
    while isinstance(command, click.Group):
        found = command.get_command(context, called.pop(0))
        assert found is not None, line
        command = found
    assert command.make_context("readme", called.copy()).params
    kind = {"plan": None, "build": "trace", "grid": "sweep", "screen": "sweep"}
    if words[0] in kind:
        assert find_manifest(words[1], kind=kind[words[0]])
    if words[0] == "query":
        assert words[1] in load_library()


def option(words: list[str], name: str) -> str | None:
    return words[words.index(name) + 1] if name in words else None


@pytest.mark.parametrize("line", LINES)
def test_every_name_in_a_command_is_one_that_the_commands_before_it_make(line: str) -> None:
    words = shlex.split(line, comments=True)[1:]
    vectors = {path.stem for path in FOLDER.glob("*.jsonl")}  # a vector is named after its concept
    named = {"steer": words[1:2], "vectors": words[2:3] if words[1:2] == ["show"] else []}.get(words[0], [])
    named += [name for name in (option(words, "--vector"), option(words, "--concept")) if name]
    assert set(named) <= vectors
    if words[0] == "eval":
        assert find_model(words[1], Path("cache"))
        benchmark = BENCHMARKS[words[2]]
        assert option(words, "--task") in benchmark.tasks
    if words[:2] == ["report", "html"]:  # resolved by the name of the sweep manifest: tests/sweeps/test_sweep_report.py
        sweep = resolve_sweep(words[2]).sweep
        assert len(sweep.tasks) == 1
        assert any(each.split()[1:3] == ["grid", words[2]] for each in LINES)


def test_commands_named_in_the_text_exist() -> None:
    named = set(re.findall(r"`steercache ([a-z]+)", README))
    assert len(LINES) > 8
    assert named <= set(COMMANDS)
    targets = set(re.findall(r"^([a-z-]+):", (Path(__file__).parents[2] / "Makefile").read_text(), re.MULTILINE))
    assert set(MAKE) <= targets


def test_the_manifest_is_valid_and_names_what_ships() -> None:
    trace = parse_manifest(BLOCKS["yaml"], file="README.md")
    assert trace.kind == "trace"
    assert find_manifest(str(trace.model), kind="model")
    assert all(find_manifest(str(name), kind="dataset") for name in trace.datasets)


def test_the_notebook_uses_names_of_the_door_and_sql_that_runs(work: Path, terminal: Terminal) -> None:
    tree = ast.parse(BLOCKS["python"])
    uses = [n for n in ast.walk(tree) if isinstance(n, ast.Attribute) and isinstance(n.value, ast.Name)]
    door = {n.attr for n in uses if n.value.id == "steercache"}  # type: ignore[attr-defined]
    assert {"open", "steer", "fit"} <= door <= set(steercache.__all__)
    (sql,) = [c.value for c in ast.walk(tree) if isinstance(c, ast.Constant) and str(c.value).startswith("select")]
    assert terminal("query", str(sql), "--json") == 0, terminal.err
    names = [c.value for c in ast.walk(tree) if isinstance(c, ast.Constant) and c.value in load_library()]
    assert names == ["anchor_vs_control"]


@pytest.mark.slow
def test_the_notebook_is_typed_and_completes(tmp_path: Path) -> None:
    snippet = tmp_path / "snippet.py"
    snippet.write_text("from typing import Any\n\nmodel: Any = None\n" + BLOCKS["python"])
    checked = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--no-error-summary", "--cache-dir", str(tmp_path), str(snippet)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (checked.returncode, checked.stdout) == (0, "")
    assert {"open", "fit", "steer"} <= set(dir(steercache))
    assert not {name for name in dir(steercache) if name not in steercache.__all__} - {"__version__"}
