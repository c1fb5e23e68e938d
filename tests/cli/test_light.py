"""Help and completion of every command import nothing heavy; every command takes one frozen options object or typed values."""

import inspect
import json
import shutil
import subprocess
import sys
import tomllib
from dataclasses import fields
from pathlib import Path
from typing import Any

import click
import pytest
from click.shell_completion import ShellComplete

from steercache.cli.main import steercache as program
from tests.cli.small import RUN, Terminal

HEAVY = ("torch", "transformers", "duckdb", "numpy", "zarr", "pyarrow", "pydantic", "rich")
IN_ONE_PROCESS = """
import contextlib, io, json, sys
from steercache.cli.main import run
found = {}
for words in json.loads(sys.argv[1]):
    with contextlib.redirect_stdout(io.StringIO()) as out:
        code = run([*words, "--help"])
    assert code == 0 and "Usage: steercache" in out.getvalue(), words
    found[" ".join(words)] = [name for name in json.loads(sys.argv[2]) if name in sys.modules]
print(json.dumps(found))
"""
COMPLETED = """
import json, sys
from click.shell_completion import ShellComplete
from steercache.cli.main import steercache
complete = ShellComplete(steercache, {}, "steercache", "_X")
found = [[item.value for item in complete.get_completions(*typed)] for typed in json.loads(sys.argv[1])]
print(json.dumps([found, [name for name in json.loads(sys.argv[2]) if name in sys.modules]]))
"""
TYPED: dict[tuple[tuple[str, ...], str], list[str]] = {
    (("vectors", "show"), ""): ["counting", "counting-probe"],
    (("steer",), "counting-"): ["counting-probe"],
    (("cache", "verify"), ""): [RUN],
    (("query",), "concept_"): ["concept_counts", "concept_vs_other_concepts"],
    (("fit", "probe", "--query"), "contrast"): ["contrast_from_end", "contrast_last"],
    (("manifest", "show"), "my-"): ["my-trace.yaml"],
    (("build",), "my-"): ["my-trace.yaml"],
    (("build", "x.csv", "--model"), "smollm2-135m"): ["smollm2-135m"],
    (("build",), "words"): ["words.jsonl"],
    (("fit", "mean-shift", "--concept"), "c"): ["counting"],
}


def commands(
    command: click.Command = program, words: tuple[str, ...] = ()
) -> list[tuple[tuple[str, ...], click.Command]]:
    """Every command, with the words that call it."""
    found = [(words, command)]
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            inner = command.get_command(context, name)
            assert inner is not None
            found += commands(inner, (*words, name))
    return found


def named(value: Any) -> str:
    return " ".join(value) if isinstance(value, tuple) else ""


def asked_of_python(code: str, *words: str) -> Any:
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_help_of_no_command_imports_a_heavy_library() -> None:
    calls = [list(words) for words, _ in commands()]
    loaded = asked_of_python(IN_ONE_PROCESS, json.dumps(calls), json.dumps(HEAVY))
    assert len(loaded) > 39
    assert {words: names for words, names in loaded.items() if names} == {}


@pytest.mark.parametrize("words", [("build",), ("report", "own")], ids=" ".join)
def test_help_of_one_command_imports_nothing_heavy_in_a_process_of_its_own(words: tuple[str, ...]) -> None:
    assert asked_of_python(IN_ONE_PROCESS, json.dumps([words]), json.dumps(HEAVY)) == {" ".join(words): []}


def test_names_are_completed_from_files_alone(work: Path) -> None:
    found, loaded = asked_of_python(COMPLETED, json.dumps(list(TYPED)), json.dumps(HEAVY))
    assert dict(zip(TYPED, found, strict=True)) == TYPED
    assert loaded == []


def test_the_import_contract_of_the_command_line_names_every_other_package() -> None:
    repository = Path(__file__).parents[2]
    contracts = tomllib.loads((repository / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    (ours,) = [one for one in contracts if one["name"].startswith("The command line imports only")]
    packages = {f"steercache.{path.parent.name}" for path in (repository / "steercache").glob("*/__init__.py")}
    assert set(ours["forbidden_modules"]) == packages - {
        "steercache.api",
        "steercache.core",
        "steercache.cli",
        "steercache.explorer",  # above api: what the command `serve` starts
    }


def test_what_cannot_be_read_is_not_offered_and_is_no_error(work: Path) -> None:
    (vector, *_) = (work / "cache" / "vectors").iterdir()
    vector.write_bytes(b"\xff" * 40)
    (work / "cache" / "vectors" / "short.safetensors").write_bytes(b"")
    next(work.glob("cache/runs/*/run.json")).write_text("[]")
    complete = ShellComplete(program, {}, "steercache", "_X")
    assert [item.value for item in complete.get_completions(["cache", "rm"], "")] == []
    assert len(complete.get_completions(["vectors", "show"], "")) <= 2
    shutil.rmtree(work / "cache")
    assert complete.get_completions(["vectors", "show"], "") == []


def test_sweeps_are_completed_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from steercache.api.completion import sweep_names
    from steercache.cache.handle import open_cache
    from steercache.cache.sweeps import save_sweep

    cache = open_cache(tmp_path / "cache", create=True)
    save_sweep(cache, "eval-tiny", manifest={"kind": "evaluation"}, cells=[], answers=[])
    save_sweep(cache, "pairs-count", manifest={"kind": "grid", "sweep": "pairs"}, cells=[], answers=[])
    assert sweep_names(tmp_path / "cache") == ["eval-tiny", "pairs", "pairs-count"]
    complete = ShellComplete(program, {}, "steercache", "_X")
    found = complete.get_completions(["report", "html", "--root", str(tmp_path / "cache")], "pa")
    assert [item.value for item in found] == ["pairs", "pairs-count"]


@pytest.mark.parametrize(
    ("words", "command"), commands(), ids=lambda value: " ".join(value) if isinstance(value, tuple) else ""
)
def test_every_command_takes_a_frozen_options_object_or_typed_values(
    words: tuple[str, ...], command: click.Command
) -> None:
    callback = command.callback
    assert callback is not None
    typed = {parameter.name for parameter in command.params if parameter.expose_value}
    options_type = getattr(callback, "options_type", None)
    if options_type is not None:
        assert options_type.__dataclass_params__.frozen
        assert typed <= {field.name for field in fields(options_type)}
        return
    taken = inspect.signature(callback).parameters.values()
    assert all(parameter.kind is not inspect.Parameter.VAR_KEYWORD for parameter in taken)
    assert len(typed) <= 6, "so many values are one options object"


@pytest.mark.parametrize(
    ("words", "former", "now"),
    [
        (("eval", "m", "scenes"), ("--unit", "target_norm"), ("--alpha-unit", "target_norm")),
        (("screen", "m", "scenes"), ("--unit", "target_norm"), ("--alpha-unit", "target_norm")),
        (("steer", "v", "p", "--layer", "1"), ("--tokens", "last"), ("--target", "last")),
        (("steer", "v", "p", "--layer", "1"), ("--unit", "resid_norm"), ("--alpha-unit", "resid_norm")),
        (("report", "words", "v", "--layer", "1"), ("--tokens", "last"), ("--target", "last")),
        (("fit", "mean-shift"), ("--layers", "5-7"), ("--layer", "5-7")),
        (("report", "drift", "r", "s"), ("--layers", "5-7"), ("--layer", "5-7")),
        (
            ("report", "colours", "m", "--vector", "v", "--layer", "1"),
            ("--unit", "resid_norm"),
            ("--alpha-unit", "resid_norm"),
        ),
    ],
)
def test_former_names_of_options_still_work_and_are_not_shown(
    words: tuple[str, ...], former: tuple[str, str], now: tuple[str, str]
) -> None:
    def parsed(*given: str) -> dict[str, Any]:
        command: click.Command = program
        rest = [*words, *given]
        while isinstance(command, click.Group):
            found = command.get_command(click.Context(command), rest.pop(0))
            assert found is not None
            command = found
        return command.make_context("x", rest).params

    assert parsed(*former) == parsed(*now)
    shown = next(
        command for each, command in commands() if each == words[: len(each)] and not isinstance(command, click.Group)
    )
    text = shown.get_help(click.Context(shown))
    assert f"{now[0]} " in text
    assert f"{former[0]} " not in text


def test_a_data_file_is_built_without_a_manifest_and_pairs_are_fitted_by_themselves(
    work: Path, terminal: Terminal
) -> None:
    rows = ["positive,negative,concept", *(f"be happy {i},be sad {i},joy" for i in range(8))]
    Path("joy.csv").write_text("\n".join(rows) + "\n")
    assert terminal("build", "joy.csv", "--root", "other") == 2
    assert "--model smollm2-135m" in terminal.err
    assert terminal("build", "my-trace.yaml", "--model", "tiny", "--root", "other") == 2
    assert not Path("other").exists()
    assert terminal("plan", "joy.csv", "--model", "tiny", "--root", "other") == 0, terminal.err
    assert terminal("build", "joy.csv", "--model", "tiny", "--root", "other") == 0, terminal.err
    assert "steercache fit mean-shift --query contrast_last --concept joy" in terminal.err
    for line in (("--concept", "joy"), ("--all-concepts",), ()):
        assert terminal("fit", "mean-shift", *line, "--no-diagnose", "--json", "--root", "other") == 0, terminal.err
        (vector,) = json.loads(terminal.out)
        assert (vector["name"], vector["concept"], vector["provenance"]["query"]["name"]) == (
            "joy",
            "joy",
            "contrast_last",
        )


def test_pairs_without_a_concept_are_named_by_their_run(work: Path, terminal: Terminal) -> None:
    Path("mood.csv").write_text("positive,negative\n" + "".join(f"be happy {i},be sad {i}\n" for i in range(8)))
    assert terminal("build", "mood.csv", "--model", "tiny", "--root", "other") == 0, terminal.err
    assert terminal("fit", "mean-shift", "--recipe", "paper", "--no-diagnose", "--json", "--root", "other") == 0, (
        terminal.err
    )
    assert json.loads(terminal.out)[0]["name"] == "mood-paper"
